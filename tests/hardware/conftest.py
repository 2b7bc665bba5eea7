"""Daemons on a token that fails: the identities and folders of tests/integration, with the shim between hsm and SoftHSM2."""
import importlib.util
import os
import pathlib
import shutil
import sys
import tempfile

import pytest

HERE = pathlib.Path(__file__).resolve().parent


def _load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


_suite = _load("integration_suite", HERE.parent / "integration" / "conftest.py")
template, copies, fresh, World = _suite.template, _suite.copies, _suite.fresh, _suite.World
sys.path.insert(0, str(HERE))

from faults import Shim  # noqa: E402
from service import Service, hsm_timeout  # noqa: E402


@pytest.fixture(scope="session")
def base():
    """In memory where there is room: what other work on the same disk costs must not look like a slow token."""
    shared = pathlib.Path("/dev/shm")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="clv-w-", dir=shared if os.access(shared, os.W_OK) else None))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def shim(fresh):
    """The shim in front of a stopped daemon of one's own; nothing fails yet."""
    return Shim(fresh)


@pytest.fixture(scope="module")
def service(copies):
    """One daemon on the shim that the tests of a module share: each lifts its faults and leaves it serving."""
    instance = copies()
    shim = Shim(instance)
    instance.configure(hsm_timeout=hsm_timeout())
    s = Service(World(instance.start()), shim)
    yield s
    shim.lift()
    assert instance.stop() == 0, instance.log[-3000:]
