"""The daemon, its identities and its folders are those of tests/integration (its kit)."""
import os
import pathlib
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "matrix"), str(HERE.parent / "integration")]  # matrix: the RPC table

from kit.suite import World, base, copies, fresh, template  # noqa: E402,F401

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
