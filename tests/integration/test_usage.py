"""What versions are used for, and by whom: counted exactly, over threads and deaths; and what keeps a version in use from being destroyed."""
import collections
import contextlib
import os
import signal
import sqlite3
import threading

import grpc
import pytest

from claviger.envelope.v1 import envelope_pb2 as env
from claviger.lifecycle.v1 import lifecycle_pb2 as life
from claviger.policy.v1 import policy_pb2 as pol
from conftest import msg, res
from kit.client import DEADLINE, AuditLog, connect, in_threads
from kit.instance import PATIENCE, until
from kit.wire import Code, refused
from test_kmsctl import ABSENT, DENIED, USAGE, Ctl

DAY = 24 * 3600


def usage(world, name, who=None, **fields):
    """Of a version, or of a key's versions."""
    stub = (who or world.keyadmin).life

    def counted():  # it counts again after a death, and says that it has not done so yet
        r = stub.GetUsage(life.GetUsageRequest(name=name)) if "/cryptoKeyVersions/" in name else stub.ListUsage(life.ListUsageRequest(parent=name, **fields))
        assert "what this server has seen" in r.meaning
        return r if r.complete else None
    return until(counted, what="usage that is complete")


def of_version(world, key, n=1):
    [found] = usage(world, f"{key}/cryptoKeyVersions/{n}").versions
    return found


def figures(v):
    return v.encrypted, v.decrypted, v.wrapped, v.unwrapped


def destroy(world, key, n=1, **kw):
    return world.keyadmin.kms.DestroyCryptoKeyVersion(msg.DestroyCryptoKeyVersionRequest(name=f"{key}/cryptoKeyVersions/{n}"), **kw)


def guarded(world, *lines):
    """The policy in force, and these guards: "id resource days"."""
    now = world.admin.policy.GetPolicy(pol.GetPolicyRequest())
    text = "version: 1\nguards:\n" + "".join("  - {{id: {}, resources: [\"{}\"], unused_days: {}}}\n".format(*line.split()) for line in lines)
    documents = [d for d in now.documents if d.name != "guards.yaml"] + [pol.Document(name="guards.yaml", yaml=text.encode())]
    return world.admin.policy.ApplyPolicy(pol.ApplyPolicyRequest(documents=documents, expected_version=now.version))


# ---- counting ------------------------------------------------------------------------------------------------------------------
def test_each_kind_of_use(world, ring):
    key = world.key(ring)
    v = of_version(world, key)
    assert figures(v) == (0, 0, 0, 0) and not v.HasField("last_use") and not v.callers and v.state == "ENABLED"
    sealed = world.encrypt(key)
    world.decrypt(key, sealed), world.decrypt(key, sealed)
    wrapped = world.orders.env.Wrap(env.WrapRequest(name=key, plaintext_key=b"k" * 32)).wrapped_key
    world.orders.env.GenerateDataKey(env.GenerateDataKeyRequest(name=key))
    world.orders.env.Unwrap(env.UnwrapRequest(name=key, wrapped_key=wrapped))
    v = of_version(world, key)
    assert figures(v) == (1, 2, 2, 1)
    assert [c.principal for c in v.callers] == ["acme-orders"] and not v.more_callers
    assert v.callers[0].last_use == v.last_use and v.counted_since.seconds > 0

    world.rotate(key)
    moved = world.orders.env.Rewrap(env.RewrapRequest(name=key, ciphertext=sealed)).ciphertext
    world.orders.env.Rewrap(env.RewrapRequest(name=key, ciphertext=moved))  # is there already: opened, and no more
    r = usage(world, key)
    assert r.primary == f"{key}/cryptoKeyVersions/2"
    assert [figures(v) for v in r.versions] == [(1, 3, 2, 1), (1, 1, 0, 0)]
    assert [v.opened_since_rotation for v in r.versions] == [1, 1]


def test_items_count_and_failures_do_not(world, ring):
    key, other = world.key(ring), world.key(ring)
    items = [dict(plaintext=b"%d" % i) for i in range(1000)]
    sealed = [r.ciphertext for r in world.orders.env.BatchEncrypt(env.BatchEncryptRequest(name=key, items=items)).results]
    assert figures(of_version(world, key)) == (1000, 0, 0, 0)
    mixed = [dict(ciphertext=s) for s in sealed[:10]] + [dict(ciphertext=s[:-1] + bytes([s[-1] ^ 1])) for s in sealed[:5]] + \
        [dict(ciphertext=b"nonsense"), dict(name=other, ciphertext=sealed[0]), dict(name="projects/globex/locations/us/keyRings/r/cryptoKeys/k", ciphertext=sealed[0])]
    assert world.orders.env.BatchDecrypt(env.BatchDecryptRequest(name=key, items=mixed)).failed == 8
    assert figures(of_version(world, key)) == (1000, 10, 0, 0)
    with refused(Code.INVALID_ARGUMENT):
        world.decrypt(key, sealed[0][:-1] + bytes([sealed[0][-1] ^ 1]))
    with refused(Code.PERMISSION_DENIED):
        world.encrypt(key, who=world.keyadmin)
    with refused(Code.INVALID_ARGUMENT):
        world.orders.env.Unwrap(env.UnwrapRequest(name=key, wrapped_key=sealed[0]))
    answers = list(world.orders.env.EncryptStream(iter([env.EncryptStreamRequest(name=key, sequence=i, items=items[:7]) for i in range(3)]), timeout=DEADLINE))
    assert len(answers) == 3
    assert figures(of_version(world, key)) == (1021, 10, 0, 0)
    assert figures(of_version(world, other)) == (0, 0, 0, 0)


def test_keys_on_the_token_count_alike(world, ring):
    key = world.key(ring, version_template=dict(protection_level=res.HSM, algorithm=res.CryptoKeyVersion.GOOGLE_SYMMETRIC_ENCRYPTION))
    sealed = world.encrypt(key)
    world.decrypt(key, sealed), world.decrypt(key, sealed)
    world.orders.env.GenerateDataKey(env.GenerateDataKeyRequest(name=key))
    with refused(Code.INVALID_ARGUMENT):
        world.decrypt(key, sealed[:-1] + bytes([sealed[-1] ^ 1]))
    v = of_version(world, key)
    assert figures(v) == (1, 2, 1, 0) and [c.principal for c in v.callers] == ["acme-orders"]


def test_a_batch_over_many_keys_counts_each(world, ring):
    keys = [world.key(ring) for _ in range(5)]
    plan = [keys[i * i % 5] for i in range(200)]
    world.orders.env.BatchEncrypt(env.BatchEncryptRequest(items=[dict(name=k, plaintext=b"x") for k in plan]))
    wanted = collections.Counter(plan)
    assert {k: of_version(world, k).encrypted for k in keys} == {k: wanted[k] for k in keys}


def test_a_batch_whose_uses_make_a_long_event(world, ring):
    """More versions in one call than an ordinary event has room for: all of them are on record, and counted."""
    n, audit = 330, AuditLog(world.admin)
    made = in_threads(6, lambda i: [world.keyadmin.kms.CreateCryptoKey(msg.CreateCryptoKeyRequest(
        parent=ring, crypto_key_id=f"many-{i}-{k}", crypto_key=dict(purpose=1))).name for k in range(n // 6)])
    keys, start = sum(made, []), audit.position()
    assert len(keys) == n
    done = world.orders.env.BatchEncrypt(env.BatchEncryptRequest(items=[dict(name=k, plaintext=b"x") for k in keys]))
    assert done.failed == 0
    event = audit.one(start, action="envelope.encrypt", outcome="ok")
    assert len(event.bytes) > 8192 and len(event.event.uses) == n and {u.items for u in event.event.uses} == {0}
    assert all(u.kvid in r.ciphertext for u, r in zip(event.event.uses, done.results))
    assert figures(of_version(world, keys[0])) == figures(of_version(world, keys[-1])) == (1, 0, 0, 0)


def test_the_event_says_what_was_used(world, key):
    audit = AuditLog(world.admin)
    start = audit.position()
    sealed = world.encrypt(key)
    use = audit.one(start, action="kms.cryptoKeys.encrypt", outcome="ok").event.uses
    assert len(use) == 1 and (use[0].what, use[0].items) == (1, 0) and use[0].kvid in sealed  # the id in the ciphertext's header
    with refused(Code.INVALID_ARGUMENT):
        world.decrypt(key, sealed[:-1] + b"?")
    assert not audit.one(start, action="kms.cryptoKeys.decrypt", outcome="error").event.uses


def test_eight_threads(world, ring):
    key = world.key(ring)
    sealed = world.encrypt(key)

    def work(i):
        for n in range(50):
            if (i + n) % 2:
                world.decrypt(key, sealed)
            else:
                world.encrypt(key)
        return 50
    assert in_threads(8, work) == [50] * 8
    assert figures(of_version(world, key)) == (201, 200, 0, 0)


def test_pages(world, ring):
    key = world.key(ring, versions=5)
    names, token = [], ""
    while True:
        r = usage(world, key, page_size=2, page_token=token)
        assert len(r.versions) <= 2
        names += [v.name for v in r.versions]
        token = r.next_page_token
        if not token:
            break
    assert names == [f"{key}/cryptoKeyVersions/{n}" for n in range(1, 6)]
    for wrong, field in ((dict(page_size=-1), "page_size"), (dict(page_token="x"), "page_token")):
        with refused(Code.INVALID_ARGUMENT, field=field):
            usage(world, key, **wrong)


def test_who_may_ask(world, ring):
    key = world.key(ring)
    for who, code in ((world.orders, Code.PERMISSION_DENIED), (world.admin, Code.PERMISSION_DENIED), (world.keyadmin2, Code.PERMISSION_DENIED)):
        for name in (key, key + "/cryptoKeyVersions/1"):
            with refused(code):
                usage(world, name, who)
    for absent in (key + "x", key + "/cryptoKeyVersions/9"):
        with refused(Code.NOT_FOUND):
            usage(world, absent)
    for wrong in (ring, key + "/cryptoKeyVersions/1", "nonsense", ""):
        with refused(Code.INVALID_ARGUMENT, field="parent"):
            world.keyadmin.life.ListUsage(life.ListUsageRequest(parent=wrong))
    for wrong in (key, "nonsense", ""):
        with refused(Code.INVALID_ARGUMENT, field="name"):
            world.keyadmin.life.GetUsage(life.GetUsageRequest(name=wrong))


def test_over_deaths_exactly_what_was_answered(new_world):
    """Eight threads use a key while core is killed again and again: what was answered is counted, and at most what was asked."""
    world, instance = new_world, new_world.instance
    key = world.key()
    sealed = world.encrypt(key)
    answered, asked, progress, stop = collections.Counter(), collections.Counter(), [0] * 8, threading.Event()
    clients = [connect(instance, "acme-orders") for _ in range(8)]

    def kills():
        deaths = set()
        for n in range(3):
            goal = sum(progress) + 300
            until(lambda: sum(progress) > goal)
            if n == 1:
                usage(world, key)  # all is kept, and then more comes
            pid = instance.children()["core"]
            os.kill(pid, signal.SIGKILL)
            deaths.add(pid)
            until(lambda: instance.children().get("core", pid) != pid)
            until(up)
        return len(deaths)

    def up():
        try:
            world.keyadmin.kms.GetCryptoKey(msg.GetCryptoKeyRequest(name=key))
            return True
        except grpc.RpcError:
            return False

    def work(i):
        mine, tried = collections.Counter(), collections.Counter()
        while not stop.is_set():
            what = "decrypted" if tried.total() % 3 else "encrypted"
            tried[what] += 1
            try:
                world.decrypt(key, sealed, who=clients[i]) if what == "decrypted" else world.encrypt(key, who=clients[i])
                mine[what] += 1
                progress[i] += 1
            except grpc.RpcError as e:
                assert e.code() in (Code.UNAVAILABLE, Code.CANCELLED, Code.RESOURCE_EXHAUSTED), e
        return mine, tried
    results = [None] * 8
    threads = [threading.Thread(target=lambda i=i: results.__setitem__(i, work(i))) for i in range(8)]
    for t in threads:
        t.start()
    try:
        assert kills() == 3
    finally:
        stop.set()
        for t in threads:
            t.join(PATIENCE)
    for mine, tried in results:
        answered += mine
        asked += tried
    assert asked.total() > answered.total() > 900  # some were lost to each death
    v = of_version(world, key)
    assert answered["encrypted"] + 1 <= v.encrypted <= asked["encrypted"] + 1
    assert answered["decrypted"] <= v.decrypted <= asked["decrypted"]
    # and it is what the log says, to the last one
    events = AuditLog(world.admin).read()
    told = collections.Counter()
    for e in events:
        for use in e.event.uses:
            told[use.what] += use.items or 1
    assert (v.encrypted, v.decrypted) == (told[1], told[2])


def test_over_an_orderly_restart(new_world):
    key = new_world.key()
    sealed = new_world.encrypt(key)
    for _ in range(5):
        new_world.decrypt(key, sealed)
    before = of_version(new_world, key)
    new_world.instance.restart()
    world = type(new_world)(new_world.instance)
    assert of_version(world, key) == before
    world.decrypt(key, sealed)
    assert figures(of_version(world, key)) == (1, 6, 0, 0)


# ---- the guard -----------------------------------------------------------------------------------------------------------------
def test_a_guard_keeps_what_is_in_use(new_world):
    world, audit = new_world, AuditLog(new_world.admin)
    pii, logs = world.ring(), world.ring()
    key, free, unused = world.key(pii, versions=2), world.key(logs, versions=2), world.key(pii, versions=2)
    for k in (key, free):
        sealed = world.orders.kms.Encrypt(msg.EncryptRequest(name=f"{k}/cryptoKeyVersions/1", plaintext=b"x")).ciphertext
        world.decrypt(k, sealed)
    guarded(world, f"pii.unused {pii}/** 90")
    start = audit.position()
    with refused(Code.FAILED_PRECONDITION, "KEY_VERSION_IN_USE") as r:
        destroy(world, key)
    assert "90 days" in r.error.details() and "acme-orders" not in r.error.details()
    assert world.keyadmin.kms.GetCryptoKeyVersion(msg.GetCryptoKeyVersionRequest(name=f"{key}/cryptoKeyVersions/1")).state == res.CryptoKeyVersion.ENABLED
    event = audit.one(start, action="kms.cryptoKeyVersions.destroy", resource=f"{key}/cryptoKeyVersions/1").event
    assert (event.outcome, event.reason, event.rule) == ("error", "KEY_VERSION_IN_USE", "pii.unused")
    assert '"guard":"pii.unused","unused_days":90,"last_use":"20' in event.before
    # where it does not reach, and what nobody has used
    assert destroy(world, free).state == res.CryptoKeyVersion.DESTROY_SCHEDULED
    start = audit.position()
    assert destroy(world, unused).state == res.CryptoKeyVersion.DESTROY_SCHEDULED
    event = audit.one(start, action="kms.cryptoKeyVersions.destroy", outcome="ok").event
    assert '"state":"ENABLED","guard":"pii.unused","unused_days":90,"last_use":""' in event.before and '"state":"DESTROY_SCHEDULED"' in event.after
    # asked again it is the state that is wrong, not the use
    with refused(Code.FAILED_PRECONDITION) as r:
        destroy(world, free)
    assert r.details.reason != "KEY_VERSION_IN_USE"
    # a death does not make it forget
    os.kill(world.instance.children()["core"], signal.SIGKILL)

    def again():
        with pytest.raises(grpc.RpcError) as caught:
            destroy(world, key)
        return caught.value.code() == Code.FAILED_PRECONDITION and "KEY_VERSION_IN_USE" in str(caught.value.trailing_metadata())
    until(again)
    # without the guard: as before
    now = world.admin.policy.GetPolicy(pol.GetPolicyRequest())
    world.admin.policy.ApplyPolicy(pol.ApplyPolicyRequest(documents=[d for d in now.documents if d.name != "guards.yaml"], expected_version=now.version))
    assert destroy(world, key).state == res.CryptoKeyVersion.DESTROY_SCHEDULED


def test_what_cannot_be_told_is_not_destroyed(new_world):
    """Somebody else holds the store, so that a use that was answered is in no record yet: a guard lets nothing go on a guess, not even
    what nobody has used. Then all is counted, and it is told apart."""
    world, audit = new_world, AuditLog(new_world.admin)
    key = world.key(versions=2)
    idle, busy = f"{key}/cryptoKeyVersions/1", f"{key}/cryptoKeyVersions/2"
    state = lambda name: world.keyadmin.kms.GetCryptoKeyVersion(msg.GetCryptoKeyVersionRequest(name=name)).state  # noqa: E731
    guarded(world, f"pii.unused {key.rsplit('/', 2)[0]}/** 90")
    world.encrypt(key)  # from now on without the store
    assert figures(of_version(world, key, 2)) == (1, 0, 0, 0)
    start = audit.position()
    with contextlib.closing(sqlite3.connect(world.instance.state / "store.db", timeout=60, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        world.encrypt(key)
        for n in (1, 2):
            with refused(Code.UNAVAILABLE, "USAGE_UNKNOWN") as r:
                destroy(world, key, n, timeout=60)
            assert r.details.retry is not None
        assert state(idle) == state(busy) == res.CryptoKeyVersion.ENABLED
        db.execute("ROLLBACK")
    events = audit.find(start, action="kms.cryptoKeyVersions.destroy")
    assert [(e.event.resource, e.event.outcome, e.event.reason) for e in events] == [(idle, "error", "USAGE_UNKNOWN"), (busy, "error", "USAGE_UNKNOWN")]
    until(lambda: world.keyadmin.life.GetUsage(life.GetUsageRequest(name=busy)).complete, what="all uses counted")
    assert figures(of_version(world, key, 2)) == (2, 0, 0, 0)
    assert destroy(world, key, 1).state == res.CryptoKeyVersion.DESTROY_SCHEDULED
    with refused(Code.FAILED_PRECONDITION, "KEY_VERSION_IN_USE"):
        destroy(world, key, 2)


def test_a_record_of_usage_that_is_damaged(new_world):
    """What it was used for cannot be read: not destroyed. Used again its record begins anew, and says since when."""
    world = new_world
    key, other = world.key(versions=2), world.key(versions=2)
    guarded(world, f"pii.unused {world.location}/** 90")
    kvid = world.encrypt(key)[8:24]
    assert figures(of_version(world, key, 2)) == (1, 0, 0, 0)

    def edit(by):
        with contextlib.closing(sqlite3.connect(world.instance.state / "store.db", timeout=60)) as db, db:
            assert db.execute("UPDATE record SET count = count + ? WHERE kind = 14 AND id = ?", (by, kvid)).rowcount == 1
    edit(1)
    with refused(Code.DATA_LOSS, "RECORD_TAMPERED"):
        destroy(world, key, 2)
    assert destroy(world, other, 1).state == res.CryptoKeyVersion.DESTROY_SCHEDULED  # the twin: its figures are known
    edit(-1)
    with refused(Code.FAILED_PRECONDITION, "KEY_VERSION_IN_USE"):
        destroy(world, key, 2)
    edit(1)
    world.encrypt(key)
    until(lambda: recorded(world, f"{key}/cryptoKeyVersions/2"), what="a record that begins anew")
    v = of_version(world, key, 2)
    assert figures(v) == (1, 0, 0, 0) and v.counted_since.seconds >= v.last_use.seconds > 0
    with refused(Code.FAILED_PRECONDITION, "KEY_VERSION_IN_USE"):
        destroy(world, key, 2)


def recorded(world, name):
    try:
        return world.keyadmin.life.GetUsage(life.GetUsageRequest(name=name)).complete
    except grpc.RpcError as e:
        assert e.code() == Code.DATA_LOSS, e
        return False


# ---- kmsctl --------------------------------------------------------------------------------------------------------------------
def test_kmsctl(world):
    ctl, ring = Ctl(world), world.ring()
    key = world.key(ring)
    short = f"acme/eu/{ring.rsplit('/', 1)[1]}/{key.rsplit('/', 1)[1]}"
    sealed = world.encrypt(key)
    world.rotate(key)
    for _ in range(3):
        world.decrypt(key, sealed)
    world.decrypt(key, world.encrypt(key))
    shown = ctl.json("versions", "usage", short)
    assert [(v["name"], v["encrypted"], v["decrypted"], v["share"]) for v in shown["usage"]] == \
        [(f"{key}/cryptoKeyVersions/1", 1, 3, "75.0%"), (f"{key}/cryptoKeyVersions/2", 1, 1, "25.0%")]
    assert shown["primary"] == f"{key}/cryptoKeyVersions/2" and shown["complete"] and "has seen" in shown["meaning"]
    text = ctl.text("versions", "usage", short)
    assert "acme-orders" in text and "75.0%" in text and "This is what this server has seen" in text
    one = ctl.json("versions", "usage", f"{short}@1")["usage"]
    assert len(one) == 1 and "share" not in one[0]
    ctl("versions", "usage", short + "x", code=ABSENT)
    said = ctl("versions", "destroy", f"{short}@1", code=USAGE)
    assert "last used: 20" in said and "by: acme-orders" in said and "decrypted 3" in said and "--confirm" in said and "what this server has seen" in said
    as_service = dict(KMS_KEYADMIN_CERT=ctl.env["KMS_SERVICE_CERT"], KMS_KEYADMIN_KEY=ctl.env["KMS_SERVICE_KEY"])
    said = ctl("versions", "destroy", f"{short}@1", code=USAGE, **as_service)
    assert "What it was used for is not known: PERMISSION_DENIED" in said and "--confirm" in said and "acme-orders" not in said
    ctl("versions", "usage", short, code=DENIED, **as_service)
    assert "DESTROY_SCHEDULED" in ctl.text("versions", "destroy", f"{short}@1", "--confirm", f"{short}@1")
    never = world.key(ring, versions=2)
    said = ctl("versions", "destroy", f"acme/eu/{ring.rsplit('/', 1)[1]}/{never.rsplit('/', 1)[1]}@1", code=USAGE)
    assert "last used: never" in said and "by: nobody" in said
