"""Keys get new versions: by one call, by their schedule, and by kmsctl over whole rings; over deaths of the process that does it."""
import collections
import os
import signal
import time

import grpc
import pytest

from claviger.lifecycle.v1 import lifecycle_pb2 as life
from conftest import World, msg
from google.protobuf import duration_pb2, timestamp_pb2
from kit.client import AuditLog
from kit.instance import until
from kit.wire import Code, refused
from test_kmsctl import ABSENT, DENIED, USAGE, Ctl

DAY = 24 * 3600


def rotate(who, name, **kw):
    return who.life.RotateKey(life.RotateKeyRequest(name=name), **kw)


def key_of(world, name):
    return world.keyadmin.kms.GetCryptoKey(msg.GetCryptoKeyRequest(name=name))


def sealed(world, name):
    """(version, ciphertext)"""
    done = world.orders.kms.Encrypt(msg.EncryptRequest(name=name, plaintext=b"jane@example.com"))
    return done.name, done.ciphertext


def scheduled(world, ring, due, period=DAY):
    return world.key(ring, rotation_period=duration_pb2.Duration(seconds=period),
                     next_rotation_time=timestamp_pb2.Timestamp(seconds=int(due), nanos=int(due % 1 * 1e9)))


def test_one_call(world, ring):
    key, audit = world.key(ring), AuditLog(world.admin)
    start, (_, old) = audit.position(), sealed(world, key)
    done = rotate(world.keyadmin, key)
    assert (done.name, done.replaced) == (f"{key}/cryptoKeyVersions/2", f"{key}/cryptoKeyVersions/1")
    version, new = sealed(world, key)
    assert version == done.name and key_of(world, key).primary.name == done.name
    assert world.decrypt(key, old) == world.decrypt(key, new) == b"jane@example.com"
    event = audit.one(start, action="kms.cryptoKeys.rotate", resource=key, outcome="ok", key_version=done.name, principal="acme-keyadmin")
    assert '"primary":1,' in event.event.before and '"primary":2,' in event.event.after


def test_once_for_an_idempotency_key(world, ring):
    key, used = world.key(ring), [("claviger-idempotency-key", world.word("rotate"))]
    assert rotate(world.keyadmin, key, metadata=used) == rotate(world.keyadmin, key, metadata=used)
    assert key_of(world, key).primary.name.endswith("/2")


def test_who_may_not(world, ring):
    key = world.key(ring)
    for who, code in ((world.orders, Code.PERMISSION_DENIED), (world.billing, Code.PERMISSION_DENIED), (world.admin, Code.PERMISSION_DENIED)):
        with refused(code):
            rotate(who, key)
    with refused(Code.NOT_FOUND):
        rotate(world.keyadmin, key + "x")
    for wrong in (ring, key + "/cryptoKeyVersions/1", "nonsense", ""):
        with refused(Code.INVALID_ARGUMENT, field="name"):
            rotate(world.keyadmin, wrong)
    assert key_of(world, key).primary.name.endswith("/1")


def test_a_key_without_a_version_gets_its_first(world, ring):
    made = world.keyadmin.kms.CreateCryptoKey(msg.CreateCryptoKeyRequest(
        parent=ring, crypto_key_id=world.word("bare"), crypto_key=dict(purpose=1), skip_initial_version_creation=True))
    done = rotate(world.keyadmin, made.name)
    assert done.name == f"{made.name}/cryptoKeyVersions/1" and done.replaced == ""


@pytest.fixture
def steady(fresh):
    """A daemon that takes its clock for steady at once."""
    fresh.configure(clock_settle="0s")
    return World(fresh.start())


def test_by_schedule(steady):
    ring, audit = steady.ring(), AuditLog(steady.admin)
    start, due = audit.position(), time.time() + 2
    key, later, never = scheduled(steady, ring, due), scheduled(steady, ring, due + DAY), steady.key(ring)
    _, old = sealed(steady, key)
    until(lambda: key_of(steady, key).primary.name.endswith("/2"), what="a rotation by schedule")
    assert time.time() >= due
    now = key_of(steady, key)
    assert now.next_rotation_time.seconds == int(due) + DAY and now.rotation_period.seconds == DAY
    assert sealed(steady, key)[0].endswith("/2") and steady.decrypt(key, old) == b"jane@example.com"
    event = audit.one(start, action="kms.cryptoKeys.rotate", principal="system:rotation", outcome="ok")
    assert event.event.resource == key and event.event.key_version == f"{key}/cryptoKeyVersions/2" and event.event.active_tenant == "acme"
    assert not event.event.auth_method and not event.event.address
    assert key_of(steady, later).primary.name.endswith("/1") and key_of(steady, never).primary.name.endswith("/1")


def test_a_clock_that_may_be_wrong_rotates_nothing(new_world):
    """As shipped: ten minutes of a steady clock come first. What is late says so."""
    ring = new_world.ring()
    key = scheduled(new_world, ring, time.time() + 1)
    ctl = Ctl(new_world)
    until(lambda: any("overdue" in row["note"] for row in ctl.json("keys", "due", "acme/eu")["due"]))
    assert key_of(new_world, key).primary.name.endswith("/1")


def test_over_deaths_each_key_rotates_once(steady):
    """Forty keys fall due while core is killed again and again; each gets one version, and there is one event for each."""
    instance, ring, audit = steady.instance, steady.ring(), AuditLog(steady.admin)
    start = audit.position()
    keys = [scheduled(steady, ring, time.time() + 3 + n / 20) for n in range(40)]
    deaths = set()

    def rotated():
        try:
            return sum(key_of(steady, k).primary.name.endswith("/2") for k in keys)
        except grpc.RpcError as e:
            assert e.code() == Code.UNAVAILABLE
            return -1
    for wanted in (1, 10, 20, 30):
        until(lambda: rotated() >= wanted, what=f"{wanted} rotations")
        pid = instance.children()["core"]
        os.kill(pid, signal.SIGKILL)
        deaths.add(pid)
        until(lambda: instance.children().get("core", pid) != pid)
    until(lambda: rotated() == len(keys), 120)
    assert len(deaths) == 4
    for k in keys:
        versions = steady.keyadmin.kms.ListCryptoKeyVersions(msg.ListCryptoKeyVersionsRequest(parent=k)).crypto_key_versions
        assert len(versions) == 2, k
    found = until(lambda: len(found := audit.find(start, action="kms.cryptoKeys.rotate", principal="system:rotation")) >= len(keys) and found)
    assert collections.Counter(e.event.resource for e in found) == dict.fromkeys(keys, 1)


def test_kmsctl_over_a_ring(world):
    ctl, ring = Ctl(world), world.ring()
    short = f"acme/eu/{ring.rsplit('/', 1)[1]}"
    keys = sorted(world.key(ring) for _ in range(3))
    ctl("keys", "create", f"{short}/bare", "--no-version")
    dry = ctl.json("keys", "rotate", short, "--dry-run")["rotated"]
    assert [r["name"] for r in dry if r["note"] == "would be rotated"] == keys
    assert [r["note"] for r in dry if r["name"].endswith("/bare")] == ["skipped: it has no primary version"]
    assert all(key_of(world, k).primary.name.endswith("/1") for k in keys)
    done = ctl.json("keys", "rotate", short)["rotated"]
    assert sorted(r["name"] for r in done if r["replaced"]) == [f"{k}/cryptoKeyVersions/2" for k in keys]
    one = f"{short}/{keys[0].rsplit('/', 1)[1]}"
    assert "@3" in ctl.text("keys", "rotate", one)
    assert "would be rotated" in ctl.text("keys", "rotate", "acme/eu", "--dry-run")
    assert "covers one change" in ctl("keys", "rotate", short, "--idempotency-key", "x", code=USAGE)
    certs = dict(KMS_KEYADMIN_CERT=ctl.env["KMS_SERVICE_CERT"], KMS_KEYADMIN_KEY=ctl.env["KMS_SERVICE_KEY"])
    ctl("keys", "rotate", one, code=DENIED, **certs)
    assert key_of(world, keys[0]).primary.name.endswith("/3")


def test_what_is_due(world):
    ctl, ring = Ctl(world), world.ring()
    short = f"acme/eu/{ring.rsplit('/', 1)[1]}"
    soon, late = scheduled(world, ring, time.time() + 2 * DAY), scheduled(world, ring, time.time() + 60 * DAY)
    doomed = world.key(ring, versions=2)
    ctl("versions", "destroy", f"{short}/{doomed.rsplit('/', 1)[1]}@1", "--confirm", f"{short}/{doomed.rsplit('/', 1)[1]}@1")
    due = ctl.json("keys", "due", short, "--within", "31d")["due"]
    assert [(r["what"], r["name"], r["note"]) for r in due] == [("rotation", soon, ""), ("destruction", f"{doomed}/cryptoKeyVersions/1", "")]
    assert {r["name"] for r in ctl.json("keys", "due", short, "--within", "90d")["due"]} == {soon, late, f"{doomed}/cryptoKeyVersions/1"}
    assert ctl.json("keys", "due", short, "--within", "1d")["due"] == []
    assert "--within" in ctl("keys", "due", short, "--within", "soon", code=USAGE)
    ctl("keys", "due", short + "x", code=ABSENT)
