"""A wrong bit from the token: in a key, in a signature, in what was stored. Never used, refused in words, found in the log."""
import os

import grpc
import pytest

from claviger.tenants.v1 import tenants_pb2 as ten
from kit.instance import until
from kit.wire import Code, Details, refused
from service import Service
from kit.suite import World

SEEDS = 1000 if os.environ.get("LONG") else 40


def create(s, name):
    return s.world.admin.tenants.CreateTenant(ten.CreateTenantRequest(tenant_id=name, tenant=dict(location="eu")))


def derivations(shim, mark):
    """How often the module signed since: the fault's own lines tell where in the row it fell."""
    return len(shim.hits(mark, "C_Sign"))


def test_at_a_tenants_birth(service):
    """Two derivations and a stored answer after each: whichever signature is wrong, no tenant comes of it, or the right one."""
    s, made, no = service, [], []
    for seed in range(SEEDS):
        name, n = f"flip-{seed}", 1 + seed % 4
        mark = s.shim.plan(f"C_Sign flip:{seed} nth:{n}")
        try:
            create(s, name)
            made.append(name)
        except grpc.RpcError as e:
            assert e.code() == Code.UNAVAILABLE and Details(e).reason == "HSM_UNAVAILABLE", e
            no.append(name)
        assert derivations(s.shim, mark) == 1, (seed, n)
    s.shim.lift()
    s.back()
    # A wrong key is refused; a wrong known answer is asked again, and the key that comes after it is right.
    assert len(no) == SEEDS // 2 and len(made) == SEEDS // 2, (len(no), len(made))
    assert s.instance.log.count("derived two different KEKs from one input") >= len(no)
    for name in no[:5]:
        create(s, name)  # nothing of the refused ones is there
    s.unharmed()


def test_a_bit_that_is_stuck(service):
    """The same wrong bit each time: two derivations agree. The stored answer of the master does not."""
    s = service
    mark = s.shim.plan("C_Sign bit:77 always")
    for _ in range(3):
        assert s.cold() is not None
    assert len(s.shim.hits(mark, "C_Sign")) > 3
    s.cached()
    until(lambda: s.health()[0] == "degraded", 5, "degraded")
    until(lambda: "stored challenge" in s.health()[1], 5, "the reason")
    s.shim.lift()
    s.back()
    s.unharmed()


@pytest.fixture
def cold_service(shim, fresh):
    """After a restart nothing is cached: a key of each tenant, and what was sealed under it."""
    s = Service(World(fresh.start()), shim)
    key = s.world.key2()
    sealed = s.world.encrypt(key, b"theirs", who=s.world.billing)
    fresh.restart()
    s.world = type(s.world)(fresh)
    s.pids = fresh.children()
    return s, key, sealed


def test_in_a_key_that_is_derived_again(cold_service):
    """Of any bit of the 256, at any time after the birth: the check value finds it."""
    s, key, sealed = cold_service
    for seed in range(SEEDS):
        mark = s.shim.plan(f"C_Sign flip:{seed} nth:1")
        with refused(Code.DATA_LOSS, "KEY_CHECK_FAILED"):
            s.world.decrypt(key, sealed, who=s.world.billing)
        assert derivations(s.shim, mark) == 1
    s.shim.lift()
    assert s.world.decrypt(key, sealed, who=s.world.billing) == b"theirs"
    assert "derived another KEK for tenant globex than its check value says" in s.instance.log
    s.unharmed()
    s.everything_opens()


def test_in_the_store_key_of_a_core_that_starts_again(cold_service):
    """A wrong store key would make the whole store look damaged, and end the daemon: it is derived twice, and asked for again."""
    s, key, sealed = cold_service
    for n in (1, 2, 3):
        mark = s.shim.plan(f"C_Sign flip:{n} nth:{n}")
        before = s.instance.children()
        os.kill(before["core"], 9)
        until(lambda: s.instance.children().get("core") not in (None, before["core"]), 10, "a new core")
        until(lambda: derivations(s.shim, mark) == 1, 10, "the wrong bit")
        s.world = type(s.world)(s.instance)
        until(lambda: opens(s, key, sealed), 10, "service")
    s.shim.lift()
    assert s.instance.process.poll() is None


def opens(s, key, sealed):
    try:
        assert s.world.decrypt(key, sealed, who=s.world.billing) == b"theirs"
        return True
    except grpc.RpcError as e:
        assert e.code() == Code.UNAVAILABLE, e
        return False
