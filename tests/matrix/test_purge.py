"""The day of a tenant's end, by a clock that is ours: nothing is left of it in the store or on the token, whatever died meanwhile; its log adds
up; an older store does not bring it back."""
import os
import pathlib
import shutil
import signal
import sqlite3
import sys

import grpc
import pytest
from claviger.audit.v1 import audit_pb2
from claviger.lifecycle.v1 import certificates_pb2 as cert
from claviger.tenants.v1 import tenants_pb2 as ten
from conftest import World
from google.cloud.kms.v1 import service_pb2 as msg
from google.protobuf import duration_pb2
from kit.client import DEADLINE, AuditLog
from kit.instance import until
from kit.wire import Code, refused

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "conformance"))
from verify_certificate import Refused, verify  # noqa: E402

import rows
from clock import REAL, SteppedInstance

pytestmark = pytest.mark.skipif(rows.SANITIZED, reason="libfaketime and sanitizers both want to be first")
DAY = 24 * 3600
ACME = "projects/acme"


@pytest.fixture
def world(copies):
    instance = SteppedInstance(copies().dir)
    instance.configure(clock_settle="0s", anchor_file="anchor", items_per_tenant_day="100000")
    w = World(instance.start())
    yield w
    assert instance.stop() == 0, instance.log
    shutil.rmtree(instance.dir, ignore_errors=True)


def furnish(w):
    """Keys that were used, versions in every state; returns what they sealed."""
    ring = w.ring()
    keys = [w.key(ring, versions=3) for _ in range(6)]
    sealed = {k: w.encrypt(k) for k in keys}
    w.set_state(keys[0] + "/cryptoKeyVersions/1", 2)
    w.keyadmin.kms.DestroyCryptoKeyVersion(msg.DestroyCryptoKeyVersionRequest(name=keys[1] + "/cryptoKeyVersions/1"))
    w.keyadmin.kms.CreateKeyRing(msg.CreateKeyRingRequest(parent=w.location, key_ring_id="repeated"),
                                 metadata=[("claviger-idempotency-key", "purge-repeat")])
    return sealed


def database(w, sql, *args):
    d = sqlite3.connect(f"file:{w.instance.state}/store.db?mode=ro", uri=True, timeout=60)
    try:
        return d.execute(sql, args).fetchall()
    finally:
        d.close()


def traces(w):
    """What would show that acme was there: its id, every id, name and sealed body of its rows. Of a stopped instance."""
    tenant, = {r[0] for r in database(w, "SELECT tenant FROM record WHERE kind = 3 AND instr(name, ?) = 1", b"projects/acme/")}
    found = {tenant, tenant.hex().encode(), b"projects/acme", b"acme-orders", b"acme-keyadmin"}
    for id_, name, body in database(w, "SELECT id, name, body FROM record WHERE tenant = ?", tenant):
        found |= {bytes(x) for x in (name, body) if x}
    body, = database(w, "SELECT body FROM record WHERE kind = 2 AND id = ?", b"acme")[0]
    return tenant, {t for t in found | {bytes(body)} if len(t) >= 8}


def hits(w, marks):
    """Files of store and token in which any of them lies."""
    found = {}
    for folder in (w.instance.state, w.instance.dir / "tokens"):
        for file in folder.rglob("*"):
            if not file.is_file() or "journal" in file.relative_to(folder).parts[0]:
                continue
            content = file.read_bytes()
            for m in marks:
                if m in content:
                    found.setdefault(file.name, []).append(m)
    return found


def delete(w, days=30):
    etag = w.admin.tenants.GetTenant(ten.GetTenantRequest(name=ACME)).etag
    w.admin.tenants.DeleteTenant(ten.DeleteTenantRequest(name=ACME, retention=duration_pb2.Duration(seconds=days * DAY), etag=etag))


def gone(w):
    return "a tenant was purged" in w.instance.log


def look(w):
    """Clients again: their certificates are good in real time."""
    w.instance.step(REAL)
    w.instance.close_clients()

    def serves():
        try:
            again = World(w.instance)
            again.admin.tenants.ListTenants(ten.ListTenantsRequest())
            return again
        except (grpc.RpcError, FileNotFoundError):  # core may have been killed behind its last word
            w.instance.close_clients()
    return until(serves, what="service")


def purge_events(w):
    """Of the purge, to its last: the store has a change before the journal has its event."""
    def whole():
        events = [e.event for e in AuditLog(w.admin).read() if e.event.principal == "system:purge"]
        return events if events and '"PURGED"' in events[-1].after else None
    return until(whole, what="the last event of the purge")


def test_nothing_is_left(world):
    w = world
    furnish(w)
    assert w.instance.stop() == 0
    tenant, marks = traces(w)
    assert len(marks) > 40 and hits(w, marks)  # the scan finds what is there
    w = World(w.instance.start())
    delete(w, days=90)
    w.instance.step("+89d")
    until(lambda: database(w, "SELECT id FROM record WHERE kind = 15 AND tenant = ? AND state = 2", tenant), what="the version's certificate, signed")
    assert not gone(w)
    w.instance.step("+91d")
    until(lambda: gone(w), 30, "the purge")
    until(lambda: database(w, "SELECT id FROM record WHERE kind = 15 AND tenant = zeroblob(16) AND state = 2"), 10, "its certificate, signed")
    w = look(w)
    with refused(Code.NOT_FOUND):
        w.admin.tenants.GetTenant(ten.GetTenantRequest(name=ACME))
    with refused(Code.UNAUTHENTICATED):
        w.encrypt(ACME + "/locations/eu/keyRings/x/cryptoKeys/y")
    other = w.key2()
    assert w.encrypt(other, who=w.billing)
    events = purge_events(w)
    # Eighteen versions, of which one was scheduled to be destroyed, and was, before the tenant's own day.
    assert '"state":"PURGING"' in events[0].after and '"state":"PURGED"' in events[-1].after and '"versions":17' in events[-1].after, events
    signed = w.admin.certificates.GetTenantCertificate(cert.GetTenantCertificateRequest(name=ACME))
    facts = verify(signed.note.encode(), signed.audit_key)
    assert (facts["kind"], facts["name"], facts["tenant"], facts["requested-by"]) == ("tenant", ACME, tenant.hex(), "admin")
    assert [facts[n] for n in ("key-rings", "keys", "versions", "principals", "token-objects")] == ["2", "6", "17", "2", "0"]
    with pytest.raises(Refused):
        verify(signed.note.replace("versions: 17", "versions: 18").encode(), signed.audit_key)
    assert '"bindings_left":2,' in events[-1].after  # of its key administrator and its service, for people to take out
    assert all(e.tenant != ACME for e in AuditLog(w.admin).read())
    with refused(Code.NOT_FOUND):
        list(w.admin.audit.Tail(audit_pb2.TailRequest(tenant=ACME), timeout=DEADLINE))
    # The name again: a new tenant, in which nothing of old is.
    assert w.admin.tenants.CreateTenant(ten.CreateTenantRequest(tenant_id="globex-too", tenant=dict(location="eu")))
    assert w.instance.stop() == 0
    assert not hits(w, marks), hits(w, marks)
    assert not database(w, "SELECT kind FROM record WHERE tenant = ? OR instr(id, ?) OR instr(name, ?)", tenant, tenant, b"acme")
    assert not database(w, "SELECT seq FROM outbox WHERE tenant = ?", tenant)
    assert len(database(w, "SELECT id FROM record WHERE kind = 16")) == 1
    code, said = w.instance.run("fsck", timeout=60)
    assert code == 0 and "0 findings" in said, said
    assert int(said.split(" of purged tenants")[0].rsplit(" ", 1)[1]) > 20, said
    w.instance.start()


def test_over_deaths_and_an_older_store(world):
    """kill -9 of core again and again while it goes on; then the store of before comes back, and it is purged again."""
    w = world
    sealed = furnish(w)
    key = next(iter(sealed))
    assert w.instance.stop() == 0
    older = w.instance.dir / "older"
    older.mkdir()
    for file in w.instance.state.glob("store.db*"):
        shutil.copy2(file, older / file.name)
    w = World(w.instance.start())
    w.admin.tenants.SuspendTenant(ten.SuspendTenantRequest(name=ACME))
    delete(w, 90)
    os.kill(w.instance.children()["core"], signal.SIGSTOP)  # nothing is done before somebody has died
    w.instance.step("+91d")
    deaths = 0
    while not gone(w):
        pid = w.instance.children().get("core")
        if pid:
            os.kill(pid, signal.SIGKILL)
            deaths += 1
        until(lambda: w.instance.children().get("core", pid) != pid or gone(w), 20)
        if deaths >= 5:
            until(lambda: gone(w), 30, "the purge")
    assert deaths >= 1
    w = look(w)
    with refused(Code.NOT_FOUND):
        w.admin.tenants.GetTenant(ten.GetTenantRequest(name=ACME))
    assert len([e for e in purge_events(w) if '"PURGED"' in e.after]) == 1
    assert w.instance.stop() == 0
    for file in w.instance.state.glob("store.db*"):
        file.unlink()
    for file in older.iterdir():
        shutil.copy2(file, w.instance.state / file.name)
    code, said = w.instance.run()
    assert code == 1 and "STORE_ROLLED_BACK" in said, said
    code, said = w.instance.run("accept-rollback", "--reason", "a test", timeout=60)
    assert code == 0 and f"stays as it was last: {ACME} PURGED" in said, said
    log = len(w.instance.log)
    w = World(w.instance.start())
    until(lambda: "a tenant was purged" in w.instance.log[log:], 30, "the second purge")
    with refused(Code.NOT_FOUND):
        w.admin.tenants.GetTenant(ten.GetTenantRequest(name=ACME))
    with refused(Code.UNAUTHENTICATED):
        w.decrypt(key, sealed[key])
