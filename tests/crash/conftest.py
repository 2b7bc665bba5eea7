"""Instances in memory where there is room; nothing is left behind."""
import pathlib
import shutil
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import rig  # noqa: E402


@pytest.fixture(scope="session")
def folder():
    made = rig.scratch()
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="session")
def template(folder):
    return rig.make_template(folder / "template")


@pytest.fixture
def tmp_path(folder):  # pytest's own would stay
    made = folder / "tmp"
    made.mkdir(exist_ok=True)
    yield made
    shutil.rmtree(made)
