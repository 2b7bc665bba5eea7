"""The daemon, its identities and its folders are those of tests/integration: its conftest is loaded under a name of its own."""
import importlib.util
import pathlib
import shutil
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent


def _load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


_suite = _load("integration_suite", HERE.parent / "integration" / "conftest.py")
base, template, copies, fresh, World = _suite.base, _suite.template, _suite.copies, _suite.fresh, _suite.World
sys.path.insert(0, str(HERE))

from kit import certs  # noqa: E402
from kit.client import connect  # noqa: E402
from kit.instance import TRUST_DOMAIN  # noqa: E402

import rows  # noqa: E402
import walk  # noqa: E402

# A registered identity -> its tenant; "" is the platform's.
IDENTITIES = {"admin": "", "acme-keyadmin": "acme", "acme-orders": "acme", "globex-keyadmin": "globex", "globex-billing": "globex"}


@pytest.fixture(scope="session")
def daemon(copies):
    instance = copies()
    instance.configure(log_level="error")  # some thousand refusals, each a line of the log
    instance.start()
    yield instance
    assert instance.stop() == 0, instance.log


@pytest.fixture(scope="session")
def world(daemon):
    return World(daemon)


@pytest.fixture(scope="session")
def table():
    return rows.table()


@pytest.fixture(scope="session")
def clients(daemon, base):
    """Every registered identity, and a certificate of our CA that no principal has."""
    made = {name: connect(daemon, name) for name in IDENTITIES}
    folder = base / "nobody"
    folder.mkdir()
    pair = certs.issue(folder, "nobody", certs.load(daemon.dir / "certs", "ca"), uris=[f"spiffe://{TRUST_DOMAIN}/nobody"])
    made["nobody"] = connect(daemon, None, cert=pair[0], key=pair[1])
    yield made
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def places(world):
    """Something of every kind in both tenants."""
    made = {}
    for tenant, who, location in (("acme", world.keyadmin, "eu"), ("globex", world.keyadmin2, "us")):
        key = world.key(world.ring(who, f"projects/{tenant}/locations/{location}"), versions=2, who=who)
        made[tenant] = walk.Place(tenant, location, key)
    return made


@pytest.fixture(scope="session")
def walked(table, clients, places, world):
    return walk.Walk(table, clients, IDENTITIES, places, world.admin).all()
