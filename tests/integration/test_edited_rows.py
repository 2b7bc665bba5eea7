"""Every kind of row, edited in every way while kmsd runs: refused with DATA_LOSS where it is read, named in the log with its kind, its
id and the reason, and nothing else harmed; put back as it was, it is right again."""
import contextlib
import re
import sqlite3

import pytest

from claviger.identity.v1 import identity_pb2 as idy
from claviger.policy.v1 import policy_pb2 as pol
from claviger.tenants.v1 import tenants_pb2 as ten
from conftest import World, msg, res
from kit.wire import Code, refused

META, TENANT, RING, KEY, VERSION, SAN, PRINCIPAL, POLICY = 1, 2, 3, 4, 5, 6, 7, 8
COLUMNS = "kind, tenant, id, revision, name, state, time, count, epoch, body"


class Table:
    """The rows of a running instance's store, under somebody else's hands."""

    def __init__(self, instance):
        self.path = instance.state / "store.db"

    @contextlib.contextmanager
    def _open(self):
        d = sqlite3.connect(self.path, timeout=60)
        try:
            yield d
            d.commit()
        finally:
            d.close()

    def rows(self, kind, called=None):
        """Of this kind, by id or name."""
        with self._open() as d:
            found = d.execute(f"SELECT {COLUMNS} FROM record WHERE kind = ? ORDER BY tenant, id", (kind,)).fetchall()
        return [r for r in found if called is None or called in (r[2], r[4])]

    def one(self, kind, called):
        found = self.rows(kind, called)
        assert len(found) == 1, (kind, called, len(found))
        return found[0]

    def put(self, row):
        with self._open() as d:
            d.execute(f"INSERT OR REPLACE INTO record ({COLUMNS}) VALUES ({', '.join('?' * 10)})", row)

    def remove(self, row):
        with self._open() as d:
            assert d.execute("DELETE FROM record WHERE kind = ? AND tenant = ? AND id = ?", row[:3]).rowcount == 1


def with_body(row, other):
    """This row's place, the other one's content."""
    return row[:3] + other[3:4] + row[4:5] + other[5:]


@pytest.fixture(scope="module")
def edited(copies):
    """Two of everything, an older revision of everything that has one, and how each is asked for."""
    w = World(copies().start())
    t = Table(w.instance)
    old, ring = {}, w.ring()
    a, _between, b = (w.key(ring, versions=1) for _ in range(3))
    other_ring = w.ring()
    foreign = w.key2()
    for san in ("one", "two", "three"):
        w.admin.identity.CreatePrincipal(idy.CreatePrincipalRequest(principal_id=f"p-{san}", principal=dict(san=f"spiffe://dev.claviger/{san}")))
    for name in ("hooli", "initech"):
        w.admin.tenants.CreateTenant(ten.CreateTenantRequest(tenant_id=name, tenant=dict(location="eu")))
    version = f"{a}/cryptoKeyVersions/1"
    old[KEY], old[VERSION], old[PRINCIPAL] = t.one(KEY, a.encode()), t.one(VERSION, version.encode()), t.one(PRINCIPAL, b"p-one")
    w.keyadmin.kms.UpdateCryptoKey(msg.UpdateCryptoKeyRequest(crypto_key=res.CryptoKey(name=a, labels={"x": "y"}), update_mask={"paths": ["labels"]}))
    w.set_state(version, res.CryptoKeyVersion.DISABLED)
    for state in (idy.Principal.DISABLED, idy.Principal.ACTIVE):
        w.admin.identity.UpdatePrincipal(idy.UpdatePrincipalRequest(principal=dict(name="principals/p-one", state=state), update_mask={"paths": ["state"]}))
    rows = {
        TENANT: (t.one(TENANT, b"hooli"), t.one(TENANT, b"initech")),
        RING: (t.one(RING, ring.encode()), t.one(RING, other_ring.encode())),
        KEY: (t.one(KEY, a.encode()), t.one(KEY, b.encode())),
        VERSION: (t.one(VERSION, version.encode()), t.one(VERSION, f"{b}/cryptoKeyVersions/1".encode())),
        PRINCIPAL: (t.one(PRINCIPAL, b"p-one"), t.one(PRINCIPAL, b"p-two")),
    }
    elsewhere = {KEY: t.one(KEY, foreign.encode()), VERSION: t.one(VERSION, f"{foreign}/cryptoKeyVersions/1".encode())}
    asks = {
        TENANT: lambda: w.admin.tenants.ListTenants(ten.ListTenantsRequest()),
        RING: lambda: w.keyadmin.kms.GetKeyRing(msg.GetKeyRingRequest(name=ring)),
        KEY: lambda: w.keyadmin.kms.GetCryptoKey(msg.GetCryptoKeyRequest(name=a)),
        VERSION: lambda: w.keyadmin.kms.GetCryptoKeyVersion(msg.GetCryptoKeyVersionRequest(name=version)),
        PRINCIPAL: lambda: w.admin.identity.GetPrincipal(idy.GetPrincipalRequest(name="principals/p-one")),
    }
    lists = {
        TENANT: asks[TENANT],
        RING: lambda: w.keyadmin.kms.ListKeyRings(msg.ListKeyRingsRequest(parent=w.location)),
        KEY: lambda: w.keyadmin.kms.ListCryptoKeys(msg.ListCryptoKeysRequest(parent=ring)),
        VERSION: lambda: w.keyadmin.kms.ListCryptoKeyVersions(msg.ListCryptoKeyVersionsRequest(parent=a)),
        PRINCIPAL: lambda: w.admin.identity.ListPrincipals(idy.ListPrincipalsRequest()),
    }
    yield w, t, rows, old, elsewhere, asks, lists
    assert w.instance.stop() == 0, w.instance.log


KINDS = {TENANT: "tenant", RING: "key ring", KEY: "key", VERSION: "key version", PRINCIPAL: "principal"}
kinds = pytest.mark.parametrize("kind", KINDS, ids=KINDS.values())


def found(w, call, reason, kind, begun):
    with refused(Code.DATA_LOSS, reason):
        call()
    lines = [l for l in w.instance.log[begun:].splitlines() if "level=error" in l and reason in l]
    assert any(re.search(rf'{KINDS[kind]} .?"', l) for l in lines), lines


@contextlib.contextmanager
def change(t, *rows, gone=()):
    """The rows put in place, those in `gone` removed; afterwards all is as it was."""
    before = [r for row in (*rows, *gone) for r in t.rows(row[0]) if r[:3] == row[:3]]
    for r in gone:
        t.remove(r)
    for r in rows:
        t.put(r)
    yield
    for r in rows:
        if r[:3] not in [b[:3] for b in before]:
            t.remove(r)
    for r in before:
        t.put(r)


@kinds
def test_deleted(edited, kind):
    w, t, rows, old, elsewhere, asks, lists = edited
    begun = len(w.instance.log)
    with change(t, gone=[rows[kind][0]]):
        found(w, asks[kind], "STORE_STALE", kind, begun)
        found(w, lists[kind], "STORE_STALE", kind, begun)
    asks[kind]()
    lists[kind]()


@pytest.mark.parametrize("kind", [KEY, VERSION, PRINCIPAL], ids=lambda k: KINDS[k])
def test_its_own_older_revision(edited, kind):
    w, t, rows, old, elsewhere, asks, lists = edited
    begun = len(w.instance.log)
    assert old[kind][3] < rows[kind][0][3]  # it is older, and it was ours
    with change(t, old[kind]):
        found(w, asks[kind], "STORE_STALE", kind, begun)
        found(w, lists[kind], "STORE_STALE", kind, begun)
    asks[kind]()
    lists[kind]()


@kinds
def test_swapped_with_its_neighbour(edited, kind):
    w, t, rows, old, elsewhere, asks, lists = edited
    begun = len(w.instance.log)
    a, b = rows[kind]
    with change(t, with_body(a, b), with_body(b, a)):
        found(w, asks[kind], "RECORD_TAMPERED", kind, begun)
    asks[kind]()


@pytest.mark.parametrize("kind", [KEY, VERSION], ids=lambda k: KINDS[k])
def test_taken_from_another_tenant(edited, kind):
    w, t, rows, old, elsewhere, asks, lists = edited
    begun = len(w.instance.log)
    with change(t, with_body(rows[kind][0], elsewhere[kind])):
        found(w, asks[kind], "RECORD_TAMPERED", kind, begun)
    asks[kind]()


@kinds
def test_taken_from_another_kind(edited, kind):
    w, t, rows, old, elsewhere, asks, lists = edited
    begun = len(w.instance.log)
    for other in KINDS.keys() - {kind}:
        with change(t, with_body(rows[kind][0], rows[other][0])):
            found(w, asks[kind], "RECORD_TAMPERED", kind, begun)
    asks[kind]()


@kinds
def test_duplicated_under_another_id(edited, kind):
    """A copy beside the original: not seen as a row of ours, and the list that would show it is refused."""
    w, t, rows, old, elsewhere, asks, lists = edited
    begun = len(w.instance.log)
    row = rows[kind][0]
    twin = row[:2] + (row[2][:-1] + bytes([row[2][-1] + 3]),) + row[3:]
    with change(t, twin):
        found(w, lists[kind], "RECORD_TAMPERED", kind, begun)
    lists[kind]()


@kinds
@pytest.mark.parametrize("column", ["revision", "name", "state", "time", "count", "epoch", "body"])
def test_each_plain_column(edited, kind, column):
    w, t, rows, old, elsewhere, asks, lists = edited
    begun, at = len(w.instance.log), COLUMNS.split(", ").index(column)
    row = list(rows[kind][0])
    row[at] = row[at] + (b"x" if isinstance(row[at], bytes) else 1)
    with change(t, tuple(row)):
        found(w, asks[kind], "RECORD_TAMPERED", kind, begun)
    asks[kind]()


def test_the_claim_on_a_certificate_deleted(edited):
    """A certificate name is claimed by a row of its own: without it somebody else could take the name."""
    w, t, *_ = edited
    with t._open() as d:
        claims = [r for r in d.execute(f"SELECT {COLUMNS} FROM record WHERE kind = ?", (SAN,))]
    request = idy.CreatePrincipalRequest(principal_id="thief", principal=dict(san="spiffe://dev.claviger/three"))
    with refused(Code.ALREADY_EXISTS):
        w.admin.identity.CreatePrincipal(request)
    with change(t, gone=claims):
        with refused(Code.DATA_LOSS, "STORE_STALE"):
            w.admin.identity.CreatePrincipal(request)
    with refused(Code.ALREADY_EXISTS):
        w.admin.identity.CreatePrincipal(request)


def test_the_newest_policy_deleted(edited):
    """The version before it would be the newest then."""
    w, t, *_ = edited
    now = w.admin.policy.GetPolicy(pol.GetPolicyRequest())
    docs = [dict(name=d.name, yaml=d.yaml + b"\n") for d in now.documents]
    w.admin.policy.ApplyPolicy(pol.ApplyPolicyRequest(documents=docs, expected_version=now.version))
    newest = t.rows(POLICY)[-1]
    with change(t, gone=[newest]):
        with refused(Code.DATA_LOSS, "STORE_STALE"):
            w.admin.policy.GetPolicy(pol.GetPolicyRequest())
        w.instance.stop()
        code, said = w.instance.run()
        assert code == 1 and "STORE_STALE" in said and "policy" in said, said
    w.instance.start()


def test_the_note_of_an_accepted_rollback_deleted(fresh):
    """What somebody must look into does not go by being deleted, or by being put back."""
    assert fresh.run("accept-rollback", "--reason", "a drill")[0] == 0
    t = Table(fresh)
    first = t.one(META, b"rollback")
    t.remove(first)
    code, said = fresh.run()
    assert code == 1 and "STORE_STALE" in said and "instance fact" in said, said  # met first by a list that ends beside it
    t.put(first)
    assert fresh.run("review-rollback", "--reason", "seen")[0] == 0
    assert fresh.run("accept-rollback", "--reason", "another drill")[0] == 0
    second = t.one(META, b"rollback")
    assert fresh.run("review-rollback", "--reason", "seen")[0] == 0
    t.put(second)
    code, said = fresh.run()
    assert code == 1 and "STORE_STALE" in said and "rollback" in said, said
