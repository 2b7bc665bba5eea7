"""The real daemon, one for all attacks of a module; an arena around it (arena.py)."""
import pathlib
import shutil
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "integration")]

from kit.instance import Instance, scratch  # noqa: E402  (first: the stubs)
from arena import Arena  # noqa: E402


@pytest.fixture(scope="session")
def instance():
    folder = scratch("clv-h-")
    made = Instance.create(folder / "i")
    made.configure(handshake_timeout="2s")  # the one thing that is not as shipped: else slow handshakes take the suite's time
    yield made
    made.stop()
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def arena(instance):
    instance.start()
    a = Arena(instance)
    start = a.rss_mb()
    yield a
    grown = a.rss_mb() - start
    a.close()
    assert instance.stop() == 0, instance.log[-3000:]
    assert "Sanitizer" not in instance.log and "runtime error" not in instance.log, instance.log[-3000:]
    print(f"all attacks together: {grown:.1f} MB")
