"""One daemon that most tests share; for those that break things, the throw-away copies of kit/suite.py."""
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from kit import BUILD  # noqa: E402,F401
from kit.suite import ENCRYPT_DECRYPT, World, base, copies, fresh, msg, res, template  # noqa: E402,F401


@pytest.fixture(scope="session")
def daemon(copies):
    """The daemon that most tests share: started once; a test that stops or damages it takes `fresh` instead."""
    instance = copies().start()
    yield instance
    assert instance.stop() == 0, instance.log


@pytest.fixture(scope="session")
def world(daemon):
    return World(daemon)


@pytest.fixture
def new_world(fresh):
    """(instance, world) of one's own, started."""
    return World(fresh.start())


@pytest.fixture(scope="module")
def ring(world):
    return world.ring()


@pytest.fixture(scope="module")
def key(world, ring):
    return world.key(ring)
