"""The daemon, its identities and its folders are those of tests/integration: its conftest is loaded under a name of its own."""
import importlib.util
import os
import pathlib
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "matrix")]  # matrix: the RPC table


def _load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


_suite = _load("integration_suite", HERE.parent / "integration" / "conftest.py")
base, template, copies, fresh, World = _suite.base, _suite.template, _suite.copies, _suite.fresh, _suite.World

import driving  # noqa: E402
import rows  # noqa: E402

not_sanitized = pytest.mark.skipif(rows.SANITIZED, reason="under sanitizers memory is kept, not wiped, and terabytes of it are their own")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may look into the memory of a process that is not dumpable")


@pytest.fixture(scope="module")
def driven(copies):
    """A daemon that has seen everything. Its clients are still connected until part()."""
    instance = copies()
    instance.configure(log_level="debug")
    instance.start()
    made = driving.Driven(instance, World)
    yield made
    assert instance.stop() == 0, instance.log
