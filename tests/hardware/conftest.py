"""Daemons on a token that fails: the identities and folders of tests/integration, with the shim between hsm and SoftHSM2."""
import pathlib
import shutil
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "integration")]

from kit.instance import scratch  # noqa: E402
from kit.suite import World, copies, fresh, template  # noqa: E402,F401

from faults import Shim  # noqa: E402
from service import Service, hsm_timeout  # noqa: E402


@pytest.fixture(scope="session")
def base():
    folder = scratch("clv-w-")
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
