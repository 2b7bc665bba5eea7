"""The database edited by hand: what was altered, swapped or copied is refused and named in the log; everything else works."""
import sqlite3

import pytest

from claviger.identity.v1 import identity_pb2 as idy
from conftest import World, msg
from kit.wire import Code, refused

VERSION, KEY, TENANT, SAN, PRINCIPAL, POLICY = 5, 4, 2, 6, 7, 8


@pytest.fixture
def database(fresh):
    def edit(*statements):
        """Runs SQL on the stopped instance's store; each must touch a row."""
        assert fresh.process is None
        d = sqlite3.connect(fresh.state / "store.db")
        for sql, *args in statements:
            assert d.execute(sql, args).rowcount > 0, sql
        d.commit()
        d.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        d.close()
    return edit


def name(key):
    return (key + "/cryptoKeyVersions/1").encode()


def short(key):
    return key.rsplit("/", 1)[1].encode()


# one UPDATE for each plain column and a bit of the body, on the row of a key's first version
EDITS = {
    "state": "state = 2", "time": "time = time + 1", "count": "count = count + 1", "revision": "revision = revision + 1",
    "name": "name = CAST(name || 'x' AS BLOB)", "epoch": "epoch = epoch + 1", "state to destroyed": "state = 3",
    "body, first byte": "body = CAST(CASE WHEN substr(body, 1, 1) = x'00' THEN x'01' ELSE x'00' END || substr(body, 2) AS BLOB)",
    "body, cut": "body = substr(body, 1, length(body) - 1)", "body, longer": "body = CAST(body || x'00' AS BLOB)", "body, empty": "body = x''",
    "body, zeros": "body = zeroblob(length(body))",
}


def test_every_column_of_a_row_is_believed_only_under_its_seal(fresh, database):
    world = World(fresh.start())
    ring = world.ring()
    keys = {why: world.key(ring) for why in EDITS}
    whole = world.key(ring)
    sealed = {why: world.encrypt(k) for why, k in (*keys.items(), ("whole", whole))}
    assert fresh.stop() == 0
    database(*[(f"UPDATE record SET {sql} WHERE kind = ? AND name = ?", VERSION, name(keys[why])) for why, sql in EDITS.items()])
    world = World(fresh.start())
    shapes = set()
    for why, key in keys.items():
        for call in (lambda: world.decrypt(key, sealed[why]), lambda: world.encrypt(key),
                     lambda: world.orders.kms.GetCryptoKeyVersion(msg.GetCryptoKeyVersionRequest(name=key + "/cryptoKeyVersions/1")),
                     lambda: world.set_state(key + "/cryptoKeyVersions/1", 2)):
            with refused(Code.DATA_LOSS) as r:
                call()
            shapes.add(r.shape[:2])
    assert len(shapes) == 1
    assert world.decrypt(whole, sealed["whole"]) == b"jane@example.com"
    world.rotate(whole)
    log = fresh.log
    assert log.count("RECORD_TAMPERED") >= len(keys) and "level=error" in log


def test_rows_swapped_or_copied_are_refused(fresh, database):
    world = World(fresh.start())
    ring = world.ring()
    a, b, c, d, whole, _between = (world.key(ring) for _ in range(6))  # what stands beside a missing row cannot be proven
    moved, _behind, foreign = world.key(ring), world.key(ring), world.key2()
    sealed = {k: world.encrypt(k) for k in (a, b, c, d, whole, moved)}
    sealed[foreign] = world.encrypt(foreign, who=world.billing)
    assert fresh.stop() == 0
    read = sqlite3.connect(fresh.state / "store.db")
    row = lambda key: read.execute("SELECT body, revision, state, time, count FROM record WHERE kind = ? AND name = ?", (VERSION, name(key))).fetchone()  # noqa: E731
    bodies = {k: row(k) for k in (a, b, foreign)}
    read.close()
    put = "UPDATE record SET body = ?, revision = ?, state = ?, time = ?, count = ? WHERE kind = ? AND name = ?"
    database((put, *bodies[b], VERSION, name(a)), (put, *bodies[a], VERSION, name(b)),  # two swapped
             (put, *bodies[foreign], VERSION, name(c)),  # another tenant's
             ("DELETE FROM record WHERE kind = ? AND name = ?", VERSION, name(d)),  # another key's, under this one's id
             ("INSERT INTO record SELECT o.kind, o.tenant, CAST(replace(o.id, ?, ?) AS BLOB), o.revision, ?, o.state, o.time, o.count, o.epoch, o.body "
              "FROM record o WHERE kind = ? AND name = ?", short(whole), short(d), name(d), VERSION, name(whole)),
             ("UPDATE record SET tenant = (SELECT tenant FROM record WHERE kind = ? AND name = ?) WHERE kind = ? AND name = ?",
              VERSION, name(foreign), VERSION, name(moved)))  # moved to another tenant
    world = World(fresh.start())
    for key in (a, b, c, d):
        with refused(Code.DATA_LOSS):
            world.decrypt(key, sealed[key])
    assert world.decrypt(whole, sealed[whole]) == b"jane@example.com"
    with refused(Code.DATA_LOSS):  # its row is gone from its place
        world.decrypt(moved, sealed[moved])
    assert world.decrypt(foreign, sealed[foreign], who=world.billing) == b"jane@example.com"


def test_a_key_row_that_was_altered(fresh, database):
    world = World(fresh.start())
    ring = world.ring()
    bad, good = world.key(ring), world.key(ring)
    assert fresh.stop() == 0
    database(("UPDATE record SET count = count + 1 WHERE kind = ? AND name = ?", KEY, bad.encode()))
    world = World(fresh.start())
    for call in (lambda: world.encrypt(bad), lambda: world.keyadmin.kms.GetCryptoKey(msg.GetCryptoKeyRequest(name=bad)),
                 lambda: world.rotate(bad), lambda: world.keyadmin.kms.ListCryptoKeys(msg.ListCryptoKeysRequest(parent=ring))):
        with refused(Code.DATA_LOSS):
            call()
    assert world.decrypt(good, world.encrypt(good))


def test_a_tenant_row_that_was_altered_stops_that_tenant_only(fresh, database):
    world = World(fresh.start())
    ours, theirs = world.key(), world.key2()
    assert fresh.stop() == 0
    database(("UPDATE record SET time = time + 1 WHERE kind = ? AND id = ?", TENANT, b"globex"))
    world = World(fresh.start())
    assert world.decrypt(ours, world.encrypt(ours))
    with refused(Code.DATA_LOSS):
        world.encrypt(theirs, who=world.billing)


@pytest.mark.parametrize("sql, why", [
    ("UPDATE record SET body = (SELECT body FROM record WHERE kind = 7 AND id = CAST('admin' AS BLOB)) "
     "WHERE kind = 7 AND id = CAST('acme-orders' AS BLOB)", "STORE_STALE"),
    ("UPDATE record SET count = count + 1 WHERE kind = 8", "RECORD_TAMPERED")])
def test_a_principal_or_policy_that_was_altered_lets_nobody_in(fresh, database, sql, why):
    """One given another's rights, a policy touched: the daemon does not start."""
    World(fresh.start())
    assert fresh.stop() == 0
    database((sql,))
    code, said = fresh.run()
    assert code == 1 and "DATA_LOSS" in said and why in said, said


def test_a_principal_that_was_altered_is_nobody(fresh, database):
    """A disabled principal made active by hand: refused, and named in the log; all others are who they were."""
    world = World(fresh.start())
    key = world.key()
    request = idy.UpdatePrincipalRequest(principal=dict(name="principals/acme-orders", state=idy.Principal.DISABLED), update_mask={"paths": ["state"]})
    world.admin.identity.UpdatePrincipal(request)
    assert fresh.stop() == 0
    database(("UPDATE record SET state = 1 WHERE kind = 7 AND id = CAST('acme-orders' AS BLOB) AND state = 2",))
    world = World(fresh.start())
    with refused(Code.UNAUTHENTICATED):
        world.encrypt(key)
    line, = [x for x in fresh.log.splitlines() if "a principal's row does not open" in x]
    assert "acme-orders" in line and "RECORD_TAMPERED" in line
    assert world.encrypt(world.key2(), who=world.billing)


@pytest.mark.parametrize("sql", ["UPDATE identity SET instance = randomblob(16)", "UPDATE identity SET incarnation = randomblob(16)",
                                 "UPDATE identity SET seal = zeroblob(length(seal))"])
def test_an_identity_that_was_altered_is_another_store(fresh, database, sql):
    database((sql,))
    code, said = fresh.run()
    assert code == 1 and ("STORE_FOREIGN" in said or "DATA_LOSS" in said), said


def test_a_file_that_is_no_database(fresh):
    (fresh.state / "store.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 8192)
    code, said = fresh.run()
    assert code == 1 and "STORE_" in said, said


def test_a_journal_that_was_altered_is_refused_with_its_place(fresh):
    world = World(fresh.start())
    key = world.key()
    for _ in range(20):
        world.encrypt(key)
    assert fresh.stop() == 0
    segment = sorted((fresh.state / "journal").iterdir())[0]
    data = bytearray(segment.read_bytes())
    at = data.index(b"\1", 4096) if data.count(b"\1", 4096, 8192) else 5000
    data[at] ^= 0x10
    segment.write_bytes(data)
    code, said = fresh.run()
    assert code == 1 and "JOURNAL_DAMAGED" in said and "at offset" in said, said
