"""The real daemon, one for all attacks of a module; an arena around it (arena.py)."""
import os
import pathlib
import shutil
import sys
import tempfile

import pytest

HERE = pathlib.Path(__file__).resolve().parent
BUILD = pathlib.Path(os.environ.get("CLV_BUILD", HERE.parents[1] / "build/dev")).resolve()
sys.path[:0] = [str(HERE), str(HERE.parent / "integration"), str(BUILD / "pygen")]
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from arena import Arena  # noqa: E402
from kit.instance import Instance  # noqa: E402


@pytest.fixture(scope="session")
def instance():
    # In memory where there is room: other work on the same disk must not look like an attack's success.
    shared = pathlib.Path("/dev/shm")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="clv-h-", dir=shared if os.access(shared, os.W_OK) else None))
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
