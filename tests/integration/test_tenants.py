"""Tenants: suspended, deleted and back, seen by their own people, by strangers and by the platform; exported; and where they may be served."""
import json
import pathlib
import queue
import time

import pytest

from claviger.audit.v1 import audit_pb2
from claviger.envelope.v1 import envelope_pb2 as env
from claviger.identity.v1 import identity_pb2 as idy
from claviger.lifecycle.v1 import lifecycle_pb2 as life
from claviger.policy.v1 import policy_pb2 as pol
from claviger.tenants.v1 import tenants_pb2 as ten
from conftest import World, msg
from google.protobuf import duration_pb2
from jsonschema import Draft202012Validator, FormatChecker
from kit import certs
from kit.client import DEADLINE, AuditLog, connect
from kit.instance import SLOWER, TRUST_DOMAIN, at_best, until
from kit.wire import Code, refused
from test_kmsctl import ABSENT, CONFLICT, DENIED, INVALID, USAGE, Ctl

DAY = 24 * 3600
ROOT = pathlib.Path(__file__).resolve().parents[2]
State = ten.Tenant
ACME, GLOBEX = "projects/acme", "projects/globex"


def get(w, name=ACME):
    return w.admin.tenants.GetTenant(ten.GetTenantRequest(name=name))


def suspend(w, name=ACME, **kw):
    return w.admin.tenants.SuspendTenant(ten.SuspendTenantRequest(name=name, **kw))


def resume(w, name=ACME, **kw):
    return w.admin.tenants.ResumeTenant(ten.ResumeTenantRequest(name=name, **kw))


def delete(w, name=ACME, days=30, etag=None, **kw):
    return w.admin.tenants.DeleteTenant(ten.DeleteTenantRequest(
        name=name, retention=duration_pb2.Duration(seconds=int(days * DAY)), etag=get(w, name).etag if etag is None else etag), **kw)


def restore(w, name=ACME, **kw):
    return w.admin.tenants.RestoreTenant(ten.RestoreTenantRequest(name=name, **kw))


class Feed:
    """What a stream's client sends, as the test decides."""

    def __init__(self):
        self.queue = queue.Queue()

    def push(self, message):
        self.queue.put(message)

    def end(self):
        self.queue.put(None)

    def __iter__(self):
        return iter(self.queue.get, None)


@pytest.fixture(scope="module")
def mine(copies):
    """A daemon of this file's own: its tenants come and go. The tests leave acme and globex ACTIVE."""
    instance = copies().start()
    w = World(instance)
    w.made_key = w.key()
    w.sealed = w.encrypt(w.made_key)
    yield w
    assert instance.stop() == 0, instance.log


@pytest.fixture(autouse=True)
def _as_it_was(request):
    yield
    if "mine" in request.fixturenames:
        w = request.getfixturevalue("mine")
        if get(w).state == State.DELETED:
            restore(w)
        if get(w).state == State.SUSPENDED:
            resume(w)


def calls_of_acme(w):
    """One call of each kind that acme's own people may make."""
    key, ring = w.made_key, w.made_key.rsplit("/", 2)[0]
    return {
        "encrypt": lambda: w.encrypt(key),
        "decrypt": lambda: w.decrypt(key, w.sealed),
        "wrap": lambda: w.orders.env.Wrap(env.WrapRequest(name=key, plaintext_key=b"k" * 32)),
        "batch": lambda: w.orders.env.BatchEncrypt(env.BatchEncryptRequest(name=key, items=[dict(plaintext=b"x")] * 3)),
        "stream": lambda: list(w.orders.env.EncryptStream(iter([env.EncryptStreamRequest(name=key, items=[dict(plaintext=b"x")])]), timeout=DEADLINE)),
        "random": lambda: w.orders.kms.GenerateRandomBytes(msg.GenerateRandomBytesRequest(location=w.location, length_bytes=8, protection_level=2)),
        "read": lambda: w.orders.kms.GetCryptoKey(msg.GetCryptoKeyRequest(name=key)),
        "list": lambda: w.keyadmin.kms.ListCryptoKeys(msg.ListCryptoKeysRequest(parent=ring)),
        "create": lambda: w.key(ring),
        "rotate": lambda: w.keyadmin.life.RotateKey(life.RotateKeyRequest(name=key)),
        "destroy": lambda: w.keyadmin.kms.DestroyCryptoKeyVersion(msg.DestroyCryptoKeyVersionRequest(name=key + "/cryptoKeyVersions/1")),
        "absent": lambda: w.keyadmin.kms.GetCryptoKey(msg.GetCryptoKeyRequest(name=key + "x")),
    }


@pytest.mark.parametrize("close, reason", [(suspend, "TENANT_SUSPENDED"), (delete, "TENANT_DELETED")])
def test_closed_to_its_own_people_from_the_next_call_on(mine, close, reason):
    w = mine
    assert w.decrypt(w.made_key, w.sealed) == b"jane@example.com"  # in the cache
    close(w)
    for what, call in calls_of_acme(w).items():
        with refused(Code.FAILED_PRECONDITION, reason):
            call()
            pytest.fail(what)
    # What is not theirs, or not permitted, they hear of in the same words as ever.
    for call in (lambda: w.encrypt(w.made_key.replace("acme", "globex").replace("/eu/", "/us/")), lambda: w.encrypt(w.made_key, who=w.keyadmin)):
        with refused(Code.PERMISSION_DENIED, "PERMISSION_DENIED"):
            call()
    # Others do not notice.
    other = w.key2()
    assert w.encrypt(other, who=w.billing)
    with refused(Code.PERMISSION_DENIED, "PERMISSION_DENIED") as closed:
        w.encrypt(w.made_key, who=w.billing)
    (resume if close is suspend else restore)(w)
    with refused(Code.PERMISSION_DENIED, "PERMISSION_DENIED") as open_again:
        w.encrypt(w.made_key, who=w.billing)
    assert closed.shape == open_again.shape
    assert w.decrypt(w.made_key, w.sealed) == b"jane@example.com"
    for what in ("encrypt", "wrap", "batch", "stream", "read", "list"):
        calls_of_acme(w)[what]()


def test_open_streams_end_within_a_second(mine):
    w, auditor = mine, _auditor(mine)
    item = env.EncryptStreamRequest(name=w.made_key, items=[dict(plaintext=b"x")])

    def seconds():
        feed = Feed()
        both = w.orders.env.EncryptStream(iter(feed), timeout=60 * SLOWER)
        feed.push(item)
        assert len(next(both).results) == 1
        tail = auditor.audit.Tail(audit_pb2.TailRequest(tenant=ACME, follow=True), timeout=60 * SLOWER)
        next(tail)
        start = time.monotonic()
        suspend(w)
        feed.push(item)
        with refused(Code.FAILED_PRECONDITION, "TENANT_SUSPENDED"):
            next(both)
        feed.end()
        with refused(Code.FAILED_PRECONDITION, "TENANT_SUSPENDED"):
            for _ in tail:
                pass
        return time.monotonic() - start
    assert at_best(lambda: (seconds(), resume(w))[0], 1 * SLOWER) < 1 * SLOWER
    suspend(w)
    # The platform's own reading of the tenant's log goes on.
    for entry in w.admin.audit.Tail(audit_pb2.TailRequest(tenant=ACME, limit=1), timeout=DEADLINE):
        assert entry.tenant == ACME


def _auditor(w):
    """acme's auditor, registered and bound once."""
    if not hasattr(w, "auditor"):
        folder = w.instance.dir / "more"
        folder.mkdir()
        pair = certs.issue(folder, "acme-reader", certs.load(w.instance.dir / "certs", "ca"), uris=[f"spiffe://{TRUST_DOMAIN}/acme-reader"])
        w.admin.identity.CreatePrincipal(idy.CreatePrincipalRequest(principal_id="acme-reader", principal=idy.Principal(
            tenant=ACME, san=f"spiffe://{TRUST_DOMAIN}/acme-reader")))
        now = w.admin.policy.GetPolicy(pol.GetPolicyRequest())
        extra = pol.Document(name="reader.yaml", yaml=b"version: 1\nbindings:\n  - {role: tenant-auditor, tenant: acme, principals: [acme-reader]}\n")
        w.admin.policy.ApplyPolicy(pol.ApplyPolicyRequest(documents=[*now.documents, extra], expected_version=now.version))
        w.auditor = connect(w.instance, None, cert=pair[0], key=pair[1])
    return w.auditor


def test_what_the_platform_still_does(mine):
    """Sees it, lists it, reads its log; makes and disables principals while it is suspended, and none in what is deleted."""
    w = mine
    person = lambda n: idy.CreatePrincipalRequest(principal_id=n, principal=dict(tenant=ACME, san=f"spiffe://{TRUST_DOMAIN}/{n}"))  # noqa: E731
    suspend(w)
    assert get(w).state == State.SUSPENDED
    assert {t.name: t.state for t in w.admin.tenants.ListTenants(ten.ListTenantsRequest()).tenants} == {ACME: State.SUSPENDED, GLOBEX: State.ACTIVE}
    w.admin.identity.CreatePrincipal(person(w.word("late")))
    assert w.admin.identity.ListPrincipals(idy.ListPrincipalsRequest(tenant=ACME)).principals
    resume(w)
    delete(w)
    assert get(w).state == State.DELETED
    assert w.admin.identity.ListPrincipals(idy.ListPrincipalsRequest(tenant=ACME)).principals
    with refused(Code.FAILED_PRECONDITION, "TENANT_DELETED"):
        w.admin.identity.CreatePrincipal(person(w.word("late")))
    with refused(Code.ALREADY_EXISTS):
        w.admin.tenants.CreateTenant(ten.CreateTenantRequest(tenant_id="acme", tenant=dict(location="eu")))


def test_refusals_of_a_closed_tenant_are_counted_not_waited_for(new_world):
    w, audit = new_world, AuditLog(new_world.admin)
    suspend(w)
    start = audit.position()
    for _ in range(40):
        with refused(Code.FAILED_PRECONDITION, "TENANT_SUSPENDED"):
            w.orders.kms.ListKeyRings(msg.ListKeyRingsRequest(parent=w.location))
    want = dict(principal="acme-orders", action="kms.keyRings.list", reason="TENANT_SUSPENDED", outcome="refused", code="STATE")
    until(lambda: len(audit.find(start, **want)) == 10, 10, "the first ten; the rest comes as a count, at the end of the minute")


# ---- moves -------------------------------------------------------------------------------------------------------------------
def test_each_move_is_on_record(mine):
    w, audit = mine, AuditLog(mine.admin)
    start = audit.position()
    for action, call, before, after in (("suspend", suspend, "ACTIVE", "SUSPENDED"), ("resume", resume, "SUSPENDED", "ACTIVE"),
                                        ("delete", delete, "ACTIVE", "DELETED"), ("restore", restore, "DELETED", "ACTIVE")):
        call(w)
        event = audit.one(start, action=f"tenants.{action}", outcome="ok", principal="admin").event
        was, now = json.loads(event.before), json.loads(event.after)
        assert (was["tenant"], was["state"], now["state"]) == ("acme", before, after) and was["id"] == now["id"] and len(now["id"]) == 32
        assert event.resource == ACME and event.active_tenant == "acme" and bool(now["purge_time"]) == (after == "DELETED")


def test_a_deletion_says_when_and_comes_back_as_what_it_was(mine):
    w = mine
    for days in (30, 90):
        for first in (None, suspend):
            before = first(w) if first else get(w)
            at = time.time()
            gone = delete(w, days=days)
            assert gone.state == State.DELETED and abs(gone.purge_time.ToSeconds() - at - days * DAY) < 60
            assert abs(gone.delete_time.ToSeconds() - at) < 60 and gone.etag != before.etag
            back = restore(w)
            assert back.state == before.state and not back.HasField("purge_time") and not back.HasField("delete_time")
            if first:
                resume(w)


def test_what_is_refused(mine):
    w = mine
    now = get(w)
    for call in (resume, restore):
        with refused(Code.FAILED_PRECONDITION, "TENANT_STATE"):
            call(w)
    for days in (0, 1, 29, 31, 89, 91, 365, -30, 30.5):
        with refused(Code.INVALID_ARGUMENT, field="retention"):
            delete(w, days=days)
    with refused(Code.INVALID_ARGUMENT, field="retention"):
        w.admin.tenants.DeleteTenant(ten.DeleteTenantRequest(name=ACME, etag=now.etag))
    with refused(Code.INVALID_ARGUMENT, field="etag"):
        delete(w, etag="")
    for call in (lambda: delete(w, etag="1"), lambda: delete(w, etag=get(w, GLOBEX).etag), lambda: suspend(w, etag="x")):
        with refused(Code.ABORTED, "TENANT_CHANGED"):
            call()
    for name, code in (("projects/absent", Code.NOT_FOUND), ("projects/", Code.INVALID_ARGUMENT), ("acme", Code.INVALID_ARGUMENT),
                       (w.location, Code.INVALID_ARGUMENT), ("", Code.INVALID_ARGUMENT)):
        for call in (suspend, resume, restore, lambda w, n: delete(w, n, etag="x")):
            with refused(code):
                call(w, name)
    assert get(w) == now
    suspended = suspend(w, etag=now.etag)
    with refused(Code.ABORTED, "TENANT_CHANGED"):
        resume(w, etag=now.etag)
    with refused(Code.FAILED_PRECONDITION, "TENANT_STATE"):
        suspend(w)
    assert get(w) == suspended


MOVES = {"suspend": suspend, "resume": resume, "delete": delete, "restore": restore}


@pytest.mark.parametrize("state, way, legal", [
    ("ACTIVE", [], {"suspend", "delete"}), ("SUSPENDED", [suspend], {"resume", "delete"}), ("DELETED", [delete], {"restore"}),
    ("DELETED", [suspend, delete], {"restore"})])
def test_every_move_from_every_state(mine, state, way, legal):
    w = mine
    for step in way:
        step(w)
    is_ = get(w)
    assert State.State.Name(is_.state) == state
    for move in MOVES.keys() - legal:
        with refused(Code.FAILED_PRECONDITION, "TENANT_STATE"):
            MOVES[move](w)
        assert get(w) == is_
    for move in sorted(legal):
        moved = MOVES[move](w)
        assert moved.state != is_.state and moved.etag != is_.etag and get(w) == moved
        if move == "delete":
            assert restore(w).state == is_.state
        elif move == "restore":
            assert moved.state == (State.SUSPENDED if suspend in way else State.ACTIVE)
        else:
            (resume if move == "suspend" else suspend)(w)
            assert get(w).state == is_.state


def test_who_may_not(mine):
    w = mine
    for who in (w.orders, w.keyadmin, w.keyadmin2):
        t = who.tenants
        for call in (lambda: t.SuspendTenant(ten.SuspendTenantRequest(name=ACME)), lambda: t.ResumeTenant(ten.ResumeTenantRequest(name=ACME)),
                     lambda: t.DeleteTenant(ten.DeleteTenantRequest(name=ACME)), lambda: t.RestoreTenant(ten.RestoreTenantRequest(name=ACME)),
                     lambda: list(t.ExportTenant(ten.ExportTenantRequest(name=ACME), timeout=DEADLINE))):
            with refused(Code.PERMISSION_DENIED, "PERMISSION_DENIED"):
                call()
    assert get(w).state == State.ACTIVE


def test_once_for_an_idempotency_key(mine):
    w, used = mine, [("claviger-idempotency-key", mine.word("delete"))]
    etag = get(w).etag
    first = delete(w, etag=etag, metadata=used)
    assert delete(w, etag=etag, metadata=used) == first
    restore(w)
    assert delete(w, etag=etag, metadata=used) == first and get(w).state == State.ACTIVE  # the answer of then, and no second deletion


def test_it_holds_over_a_restart(fresh):
    w = World(fresh.start())
    key = w.key()
    suspend(w)
    fresh.restart()
    w = World(fresh)
    with refused(Code.FAILED_PRECONDITION, "TENANT_SUSPENDED"):
        w.encrypt(key)
    resume(w)
    assert w.encrypt(key)


# ---- where it is served ---------------------------------------------------------------------------------------------------------
def test_a_location_that_is_not_configured_any_more(fresh):
    w = World(fresh.start())
    key, other = w.key(), w.key2()
    sealed = w.encrypt(key)
    assert fresh.stop() == 0
    fresh.configure(locations="us")
    w = World(fresh.start())
    w.made_key, w.sealed = key, sealed
    for what, call in calls_of_acme(w).items():
        with refused(Code.FAILED_PRECONDITION, "LOCATION_NOT_SERVED"):
            call()
            pytest.fail(what)
    assert w.encrypt(other, who=w.billing)
    assert get(w).location == "eu" and len(w.admin.tenants.ListTenants(ten.ListTenantsRequest()).tenants) == 2
    with refused(Code.INVALID_ARGUMENT, field="tenant.location"):
        w.admin.tenants.CreateTenant(ten.CreateTenantRequest(tenant_id="elsewhere", tenant=dict(location="eu")))
    assert fresh.stop() == 0
    fresh.configure(locations="us,eu")
    w = World(fresh.start())
    assert w.decrypt(key, sealed) == b"jane@example.com"


# ---- export ------------------------------------------------------------------------------------------------------------------------
SECTIONS = ["tenant", "key_rings", "crypto_keys", "crypto_key_versions", "principals", "bindings", "budgets", "usage", "certificates", "audit"]


@pytest.fixture(scope="module")
def schema():
    loaded = json.loads((ROOT / "docs/tenant-export.schema.json").read_text())
    Draft202012Validator.check_schema(loaded)
    return Draft202012Validator(loaded, format_checker=FormatChecker())


def test_everything_that_is_held(mine, schema):
    w, ctl = mine, Ctl(mine)
    ring = w.ring()
    keys = [w.key(ring, labels={"team": "web", "tier": "1"}) for _ in range(70)]  # more than a message holds
    w.rotate(keys[0])
    w.keyadmin.kms.DestroyCryptoKeyVersion(msg.DestroyCryptoKeyVersionRequest(name=keys[0] + "/cryptoKeyVersions/1"))
    foreign = w.key2()
    document = json.loads(ctl("tenants", "export", "acme"))
    schema.validate(document)
    mine_ = [e for e in AuditLog(w.admin).read() if e.tenant == ACME]
    audit, = document["audit"]
    assert len(mine_) - audit["events"] in range(0, 4) and audit["first_index"] == mine_[0].index  # the export itself came after
    assert list(document) == ["format", *SECTIONS] and document["format"] == "claviger.tenant-export/v1"
    held = {s: {i.get("name"): i for i in document[s]} for s in SECTIONS}
    tenant = held["tenant"][ACME]
    assert tenant["location"] == "eu" and tenant["state"] == "ACTIVE" and len(tenant["id"]) == 32
    assert ring in held["key_rings"] and set(keys) <= set(held["crypto_keys"]) and held["crypto_keys"][keys[1]]["labels"] == {"team": "web", "tier": "1"}
    assert held["crypto_key_versions"][keys[0] + "/cryptoKeyVersions/1"]["state"] == "DESTROY_SCHEDULED"
    assert len([v for v in document["crypto_key_versions"] if v["name"].startswith(keys[0] + "/")]) == 2
    assert held["principals"]["acme-orders"]["san"] == f"spiffe://{TRUST_DOMAIN}/acme-orders"
    kvid = held["crypto_key_versions"][w.made_key + "/cryptoKeyVersions/1"]["kvid"]
    used = until(lambda: {u["kvid"]: u for u in json.loads(ctl("tenants", "export", "acme"))["usage"]}.get(kvid), 15, "figures of its use")
    assert used["encrypted"] >= 1 and used["callers"] == ["acme-orders"]
    assert any(b["role"] == "service" and b["principals"] == ["acme-orders"] for b in document["bindings"])
    text = json.dumps(document)
    assert foreign not in text and "globex" not in text.replace('"tenant": "*"', "")
    # Every object of a kind that the API shows is there, once.
    for s in ("key_rings", "crypto_keys", "crypto_key_versions", "principals"):
        assert len(held[s]) == len(document[s])
    rings = w.keyadmin.kms.ListKeyRings(msg.ListKeyRingsRequest(parent=w.location)).key_rings
    assert {r.name for r in rings} == set(held["key_rings"])


def test_the_schema_can_fail(mine, schema):
    document = json.loads(Ctl(mine)("tenants", "export", "globex"))
    assert schema.is_valid(document)

    def bent(change):
        other = json.loads(json.dumps(document))
        change(other)
        return schema.is_valid(other)
    assert not bent(lambda d: d.pop("principals"))
    assert not bent(lambda d: d.update(format="claviger.tenant-export/v2"))
    assert not bent(lambda d: d["tenant"][0].update(wrapped="00"))
    assert not bent(lambda d: d["tenant"][0].update(state="GONE"))
    assert not bent(lambda d: d["audit"][0].update(events="many"))
    assert not bent(lambda d: d.update(extra=[]))


def test_an_export_ends_when_the_right_does(fresh):
    """Each message asks again: an administrator who is disabled half way gets no more, on the stream that is open."""
    w = World(fresh.start())
    ring, labels = w.ring(), {f"l{n:02}": "x" * 63 for n in range(64)}
    for _ in range(300):  # one and a half megabytes, of which a few windows' worth is under way
        w.key(ring, labels=labels)
    folder = fresh.dir / "more"
    folder.mkdir()
    pair = certs.issue(folder, "second", certs.load(fresh.dir / "certs", "ca"), uris=[f"spiffe://{TRUST_DOMAIN}/second"])
    w.admin.identity.CreatePrincipal(idy.CreatePrincipalRequest(principal_id="second", principal=dict(san=f"spiffe://{TRUST_DOMAIN}/second")))
    now = w.admin.policy.GetPolicy(pol.GetPolicyRequest())
    extra = pol.Document(name="second.yaml", yaml=b"version: 1\nbindings:\n  - {role: administrator, tenant: platform, principals: [second]}\n")
    w.admin.policy.ApplyPolicy(pol.ApplyPolicyRequest(documents=[*now.documents, extra], expected_version=now.version))
    second = connect(fresh, None, cert=pair[0], key=pair[1], options=[("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65535)])
    ask = lambda: second.tenants.ExportTenant(ten.ExportTenantRequest(name=ACME), timeout=30 * SLOWER)  # noqa: E731
    whole = list(ask())
    assert list(dict.fromkeys(p.section for p in whole)) == SECTIONS and sum(p.ByteSize() for p in whole) > 1400000
    part, heard = ask(), []
    heard.append(next(part))
    w.admin.identity.UpdatePrincipal(idy.UpdatePrincipalRequest(principal=idy.Principal(name="principals/second", state=idy.Principal.DISABLED),
                                                                update_mask={"paths": ["state"]}))
    with refused(Code.UNAUTHENTICATED):
        for p in part:
            heard.append(p)
    assert len(heard) < len(whole) and heard[-1].section == "crypto_keys"
    with refused(Code.UNAUTHENTICATED):
        next(ask())


def test_export_of_what_is_closed_or_absent(mine, schema):
    w, ctl = mine, Ctl(mine)
    delete(w)
    document = json.loads(ctl("tenants", "export", "acme"))
    schema.validate(document)
    assert document["tenant"][0]["state"] == "DELETED" and document["tenant"][0]["deleted_by"] == "admin"
    restore(w)
    ctl("tenants", "export", "absent", code=ABSENT)
    ctl("tenants", "export", "no/name", code=INVALID)


# ---- kmsctl ------------------------------------------------------------------------------------------------------------------------
def test_kmsctl(mine):
    ctl = Ctl(mine)
    assert ctl.json("tenants", "suspend", "acme")["state"] == "SUSPENDED"
    assert "SUSPENDED" in ctl.text("tenants", "list") and "SUSPENDED" in ctl.text("tenants", "get", "acme")
    ctl("tenants", "suspend", "acme", code=CONFLICT)
    ctl("encrypt", mine.made_key, data=b"x", code=CONFLICT)
    assert ctl.json("tenants", "resume", "projects/acme")["state"] == "ACTIVE"
    assert "--confirm acme" in ctl("tenants", "delete", "acme", "--retention", "30d", code=USAGE)
    assert "another tenant" in ctl("tenants", "delete", "acme", "--retention", "30d", "--confirm", "globex", code=USAGE)
    assert "--retention" in ctl("tenants", "delete", "acme", "--confirm", "acme", code=USAGE)
    ctl("tenants", "delete", "acme", "--confirm", "acme", "--retention", "31d", code=INVALID)
    ctl("tenants", "delete", "absent", "--confirm", "absent", "--retention", "30d", code=ABSENT)
    assert ctl.json("tenants", "get", "acme")["state"] == "ACTIVE"
    assert ctl.json("tenants", "delete", "acme", "--retention", "90d", "--confirm", "projects/acme")["state"] == "DELETED"
    assert ctl.json("tenants", "restore", "acme")["state"] == "ACTIVE"
    ctl("tenants", "restore", "acme", code=CONFLICT)
    orders = dict(KMS_OPERATOR_CERT=ctl.env["KMS_SERVICE_CERT"], KMS_OPERATOR_KEY=ctl.env["KMS_SERVICE_KEY"])
    ctl("tenants", "suspend", "acme", code=DENIED, **orders)
    ctl("tenants", "export", "acme", code=DENIED, **orders)
