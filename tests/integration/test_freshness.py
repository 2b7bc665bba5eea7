"""An edited store, an older store, a stolen store: found when it matters, refused, named in the log, and never opened."""
import os
import re
import shutil
import sqlite3
import time

import pytest

from claviger.identity.v1 import identity_pb2
from claviger.lifecycle.v1 import lifecycle_pb2
from claviger.policy.v1 import policy_pb2
from claviger.system.v1 import system_pb2
from claviger.tenants.v1 import tenants_pb2
from google.cloud.kms.v1 import resources_pb2 as res, service_pb2 as msg
from google.protobuf import duration_pb2

from conftest import World
from kit import certs
from kit.client import connect
from kit.instance import SLOWER, until
from kit.wire import Code, refused

PRINCIPAL, VERSION = 7, 5
DISABLED = identity_pb2.Principal.DISABLED


def edit(instance, *statements):
    """The store's file, edited as whoever has it would. Returns the rows the last statement changed."""
    with sqlite3.connect(instance.state / "store.db", timeout=60) as db:
        for s in statements:
            changed = db.execute(s).rowcount
    db.close()
    return changed


def keep(instance, name):
    """A whole copy of the stopped instance's store, put away; its write-ahead log is in it once kmsd has closed it."""
    assert instance.process is None
    kept = instance.dir / name
    shutil.copytree(instance.state, kept)
    return kept


def put_back(instance, kept):
    assert instance.process is None
    for f in instance.state.glob("store.db*"):
        f.unlink()
    for f in kept.glob("store.db*"):
        shutil.copy2(f, instance.state / f.name)


def refuses_to_start(instance, *words):
    """kmsd run to its end: exit 1, and what it said, with these words in it."""
    code, said = instance.run()
    assert code == 1, said
    for w in words:
        assert w in said, said
    return said


def disable(admin, name, state=DISABLED):
    request = identity_pb2.UpdatePrincipalRequest(principal=identity_pb2.Principal(name=f"principals/{name}", state=state))
    request.update_mask.paths.append("state")
    return admin.identity.UpdatePrincipal(request)


def enable(admin, name):
    return disable(admin, name, identity_pb2.Principal.ACTIVE)


def status(admin):
    return admin.system.GetStatus(system_pb2.GetStatusRequest())


def start_again(world):
    """Started once more, with clients of their own; names go on where they were."""
    world.instance.start()
    again = type(world)(world.instance)
    again.names = world.names
    return again


def test_deleted_row_is_found_refused_and_named(new_world):
    w = new_world
    key = w.key()
    version = f"{key}/cryptoKeyVersions/1"
    w.set_state(version, res.CryptoKeyVersion.DISABLED)
    assert edit(w.instance, f"DELETE FROM record WHERE kind = {VERSION}") == 1
    with refused(Code.DATA_LOSS, "STORE_STALE"):
        w.keyadmin.kms.GetCryptoKeyVersion(msg.GetCryptoKeyVersionRequest(name=version))
    with refused(Code.DATA_LOSS, "STORE_STALE"):
        w.keyadmin.kms.ListCryptoKeyVersions(msg.ListCryptoKeyVersionsRequest(parent=key))
    assert re.search(r'level=error.*STORE_STALE.*key version .*' + key.rsplit("/", 1)[1], w.instance.log)
    w.key()  # what is not concerned goes on


def test_older_revision_does_not_bring_a_version_back(new_world):
    w = new_world
    key = w.key()
    version = f"{key}/cryptoKeyVersions/1"
    ciphertext = w.encrypt(key)
    edit(w.instance, f"CREATE TABLE old AS SELECT * FROM record WHERE kind = {VERSION}")
    w.set_state(version, res.CryptoKeyVersion.DISABLED)
    with refused(Code.FAILED_PRECONDITION):
        w.decrypt(key, ciphertext)
    assert edit(w.instance, f"DELETE FROM record WHERE kind = {VERSION}", "INSERT INTO record SELECT * FROM old") == 1
    w.instance.restart()
    w = type(w)(w.instance)
    with refused(Code.DATA_LOSS):
        w.decrypt(key, ciphertext)
    assert "STORE_STALE" in w.instance.log


def test_older_revision_of_a_principal_stops_the_start(new_world):
    w = new_world
    edit(w.instance, f"CREATE TABLE old AS SELECT * FROM record WHERE kind = {PRINCIPAL}")
    disable(w.admin, "acme-orders")
    w.instance.stop()
    edit(w.instance, f"DELETE FROM record WHERE kind = {PRINCIPAL}", "INSERT INTO record SELECT * FROM old")
    refuses_to_start(w.instance, "STORE_STALE", "acme-orders")


def test_whole_store_put_back(new_world):
    """Revoked and disabled things do not come back with an older copy; going on with it is explicit, audited and shown."""
    w = new_world
    key = w.key()
    ciphertext = w.encrypt(key)
    assert w.decrypt(key, ciphertext)
    w.instance.stop()
    old = keep(w.instance, "old")
    w = start_again(w)
    disable(w.admin, "acme-orders")
    w.set_state(f"{key}/cryptoKeyVersions/1", res.CryptoKeyVersion.DISABLED)
    events = w.audit.position()
    os.kill(w.instance.process.pid, 9)  # no orderly end: what was revoked is in the floor already
    w.instance.wait()
    w.instance.close_clients()
    new = keep(w.instance, "new")
    put_back(w.instance, old)
    refuses_to_start(w.instance, "STORE_ROLLED_BACK", "kmsd accept-rollback")
    put_back(w.instance, new)
    w = start_again(w)  # the newest copy is no rollback
    with refused(Code.UNAUTHENTICATED):  # still revoked
        w.decrypt(key, ciphertext)
    w.instance.stop()
    put_back(w.instance, old)
    assert w.instance.run("accept-rollback")[0] == 2  # not without a reason
    refuses_to_start(w.instance, "STORE_ROLLED_BACK")
    code, said = w.instance.run("accept-rollback", "--reason", "disk lost, ticket 4711")
    assert code == 0 and "accepted the store" in said and "2 kept revoked" in said and " 0 do not open" in said, said
    assert "stays as it was last: principals/acme-orders DISABLED" in said, said
    assert f"stays as it was last: {key}/cryptoKeyVersions/1 DISABLED" in said, said
    assert w.instance.run("fsck")[0] == 0
    w = start_again(w)
    st = status(w.admin)
    assert st.health == "degraded" and any(r.startswith("ROLLBACK_UNREVIEWED") and "ticket 4711" in r for r in st.reasons), st
    w.audit.one(events, action="system.rollback.accept", after="disk lost, ticket 4711")
    with refused(Code.UNAUTHENTICATED):  # accepted, and still revoked: the journal knew
        w.decrypt(key, ciphertext)
    enable(w.admin, "acme-orders")  # only somebody's word brings it back
    with refused(Code.FAILED_PRECONDITION, "KEY_VERSION_DISABLED"):
        w.decrypt(key, ciphertext)
    w.set_state(f"{key}/cryptoKeyVersions/1", res.CryptoKeyVersion.ENABLED)
    assert w.decrypt(key, ciphertext) == b"jane@example.com"
    w.instance.stop()
    code, said = w.instance.run("accept-rollback", "--reason", "once more")
    assert code == 0 and " 0 kept revoked" in said, said  # the last word counts
    put_back(w.instance, new)  # the future that was given up
    refuses_to_start(w.instance, "STORE_ROLLED_BACK")


def test_nonces_are_never_counted_twice(fresh):
    """How many a version of level HSM has used since is not known to an older store: it seals a little more, and is replaced."""
    fresh.configure(clock_settle="0s")
    w = World(fresh.start())
    near = 2**32 - 2**20 - 8 * 65536
    key, idle = (w.key(version_template=dict(protection_level=res.HSM)) for _ in range(2))

    def counters():
        with sqlite3.connect(f"file:{w.instance.state}/store.db?mode=ro", uri=True) as db:
            found = sorted(n for n, in db.execute("SELECT count FROM record WHERE kind = 20"))
        db.close()
        return found
    w.encrypt(key)
    w.instance.stop()
    old, before = keep(w.instance, "old"), counters()
    w = start_again(w)
    sealed = w.encrypt(key)
    w.set_state(f"{idle}/cryptoKeyVersions/1", res.CryptoKeyVersion.DISABLED)  # the floor is beyond the copy
    w.instance.stop()
    assert counters() == [before[0], before[1] + 65536]
    put_back(w.instance, old)
    refuses_to_start(w.instance, "STORE_ROLLED_BACK")
    code, said = w.instance.run("accept-rollback", "--reason", "drill")
    assert code == 0 and "2 versions of level HSM" in said and "1 kept revoked" in said, said
    assert counters() == [near] * 2
    assert w.instance.run("fsck")[0] == 0
    w = start_again(w)
    later = w.encrypt(key)

    def primary():
        return w.keyadmin.kms.GetCryptoKey(msg.GetCryptoKeyRequest(name=key)).primary.name
    until(lambda: primary() == f"{key}/cryptoKeyVersions/2", 60 * SLOWER, "another version")
    assert [w.decrypt(key, c) for c in (sealed, later, w.encrypt(key))] == [b"jane@example.com"] * 3
    assert w.orders.kms.Encrypt(msg.EncryptRequest(name=key, plaintext=b"x")).name == f"{key}/cryptoKeyVersions/2"
    w.instance.stop()
    assert w.instance.run("accept-rollback", "--reason", "once more")[0] == 0
    assert counters() == [near, near, near + 65536]  # never down again


def test_a_rotation_makes_another_version_of_that_number(new_world):
    """What was revoked in a future that was given up is not the version that a rotation has made under its number since."""
    w = new_world
    key = w.key()
    version = f"{key}/cryptoKeyVersions/2"
    w.instance.stop()
    old = keep(w.instance, "old")
    w = start_again(w)
    assert w.keyadmin.life.RotateKey(lifecycle_pb2.RotateKeyRequest(name=key)).name == version
    w.set_state(version, res.CryptoKeyVersion.DISABLED)
    w.instance.stop()
    put_back(w.instance, old)
    code, said = w.instance.run("accept-rollback", "--reason", "disk lost")
    assert code == 0 and " 0 kept revoked" in said, said  # it has no version 2
    w = start_again(w)
    assert w.keyadmin.life.RotateKey(lifecycle_pb2.RotateKeyRequest(name=key)).name == version
    ciphertext = w.encrypt(key)
    w.instance.stop()
    code, said = w.instance.run("accept-rollback", "--reason", "once more")
    assert code == 0 and " 0 kept revoked" in said and version not in said, said
    w = start_again(w)
    assert w.decrypt(key, ciphertext) == b"jane@example.com"
    w.instance.stop()
    old = keep(w.instance, "older")
    w = start_again(w)
    w.set_state(version, res.CryptoKeyVersion.DISABLED)  # its twin: this one's own last word holds
    w.instance.stop()
    put_back(w.instance, old)
    code, said = w.instance.run("accept-rollback", "--reason", "a third time")
    assert code == 0 and f"stays as it was last: {version} DISABLED" in said, said


def test_what_was_restored_since_is_not_destroyed_at_once(new_world):
    """The copy was made while a destruction and a purge were to come, and both were taken back later: there is time to do so again."""
    w = new_world
    day = 24 * 3600
    key = w.key(destroy_scheduled_duration=duration_pb2.Duration(seconds=day))
    version, name = f"{key}/cryptoKeyVersions/1", "projects/initech"
    ciphertext = w.encrypt(key)
    w.admin.tenants.CreateTenant(tenants_pb2.CreateTenantRequest(tenant_id="initech", tenant=tenants_pb2.Tenant(location="eu")))
    etag = w.admin.tenants.GetTenant(tenants_pb2.GetTenantRequest(name=name)).etag
    w.admin.tenants.DeleteTenant(tenants_pb2.DeleteTenantRequest(name=name, etag=etag, retention=duration_pb2.Duration(seconds=30 * day)))
    w.keyadmin.kms.DestroyCryptoKeyVersion(msg.DestroyCryptoKeyVersionRequest(name=version))
    w.instance.stop()
    old = keep(w.instance, "old")
    w = start_again(w)
    w.keyadmin.kms.RestoreCryptoKeyVersion(msg.RestoreCryptoKeyVersionRequest(name=version))
    w.set_state(version, res.CryptoKeyVersion.ENABLED)
    w.admin.tenants.RestoreTenant(tenants_pb2.RestoreTenantRequest(name=name))
    assert w.decrypt(key, ciphertext)
    w.instance.stop()
    put_back(w.instance, old)
    refuses_to_start(w.instance, "STORE_ROLLED_BACK")
    code, said = w.instance.run("accept-rollback", "--reason", "disk lost")
    assert code == 0 and " 0 kept revoked" in said and "2 destructions of versions and purges" in said, said
    assert f"can be for 30 days from now: {version}" in said and f"can be for 90 days from now: {name}" in said, said
    assert w.instance.run("fsck")[0] == 0
    accepted = time.time()
    w = start_again(w)
    is_now = w.keyadmin.kms.GetCryptoKeyVersion(msg.GetCryptoKeyVersionRequest(name=version))
    assert is_now.state == res.CryptoKeyVersion.DESTROY_SCHEDULED and is_now.destroy_time.seconds > accepted + 29 * day
    assert w.admin.tenants.GetTenant(tenants_pb2.GetTenantRequest(name=name)).purge_time.seconds > accepted + 89 * day
    w.keyadmin.kms.RestoreCryptoKeyVersion(msg.RestoreCryptoKeyVersionRequest(name=version))
    w.set_state(version, res.CryptoKeyVersion.ENABLED)
    w.admin.tenants.RestoreTenant(tenants_pb2.RestoreTenantRequest(name=name))
    assert w.decrypt(key, ciphertext) == b"jane@example.com"


def test_an_older_counter_of_nonces_seals_nothing(new_world):
    """The row alone, as it once was, or gone: what is to be counted on from there is not."""
    w = new_world
    key = w.key(version_template=dict(protection_level=res.HSM))
    sealed = w.encrypt(key)
    edit(w.instance, "CREATE TABLE old AS SELECT * FROM record WHERE kind = 20")
    w.instance.restart()
    w = type(w)(w.instance)
    w.encrypt(key)  # of another block: the row has changed
    for put in ("INSERT INTO record SELECT * FROM old", "SELECT 1"):
        assert edit(w.instance, "DELETE FROM record WHERE kind = 20") == 1
        edit(w.instance, put)
        w.instance.restart()
        w = type(w)(w.instance)
        with refused(Code.DATA_LOSS, "STORE_STALE"):
            w.encrypt(key)
        assert w.decrypt(key, sealed) == b"jane@example.com"


def test_damaged_rows_do_not_keep_an_accepted_store_from_starting(new_world):
    """A principal's row that does not open is nobody; a tenant's budget begins again; all others are let in and served."""
    w = new_world
    w.instance.configure(items_per_tenant_day="1000000")
    w.instance.restart()
    w = type(w)(w.instance)
    key, other = w.key(), w.key2()
    ciphertext = w.encrypt(other, who=w.billing)
    w.encrypt(key)
    w.instance.stop()  # writes the budgets
    assert edit(w.instance, f"UPDATE record SET body = randomblob(length(body)) WHERE kind = {PRINCIPAL} AND CAST(id AS TEXT) = 'acme-orders'") == 1
    assert edit(w.instance, "UPDATE record SET body = randomblob(length(body)) WHERE kind = 11") == 2
    refuses_to_start(w.instance, "STORE_STALE", "acme-orders")
    code, said = w.instance.run("accept-rollback", "--reason", "a bad disk")
    assert code == 0 and " 3 do not open" in said and 'principal "acme-orders"' in said, said
    w = start_again(w)
    assert w.decrypt(other, ciphertext, who=w.billing) == b"jane@example.com"
    with refused(Code.UNAUTHENTICATED):
        w.encrypt(key)
    assert w.keyadmin.kms.GetCryptoKey(msg.GetCryptoKeyRequest(name=key)).name == key
    assert re.search(r"level=error.*principal's row does not open.*acme-orders", w.instance.log)
    assert w.instance.log.count("a volume budget is damaged") == 2


def test_review_ends_the_warning(new_world):
    w = new_world
    w.instance.stop()
    code, said = w.instance.run("review-rollback", "--reason", "none")
    assert code == 1 and "NO_ROLLBACK" in said, said
    code, said = w.instance.run("accept-rollback", "--reason", "drill")
    assert code == 0, said
    w = start_again(w)
    assert any("drill" in r for r in status(w.admin).reasons)
    w.instance.stop()
    code, said = w.instance.run("review-rollback", "--reason", "looked into")
    assert code == 0, said
    w = start_again(w)
    assert not any("drill" in r for r in status(w.admin).reasons)
    w.audit.one(0, action="system.rollback.review")
    w.instance.stop()
    assert w.instance.run("accept-rollback", "--reason", "second drill")[0] == 0
    w = start_again(w)
    review = system_pb2.ReviewRequest(what=system_pb2.ReviewRequest.ROLLBACK, reason="looked into on line")
    with refused(Code.PERMISSION_DENIED):
        w.orders.system.Review(review)
    w.admin.system.Review(review)  # without a stop
    assert status(w.admin).health == "healthy"
    with refused(Code.NOT_FOUND, "NO_ROLLBACK"):
        w.admin.system.Review(review)
    w.audit.one(0, action="system.review", before="second drill", after="looked into on line")


def closed(world):
    """Nobody is let in; the refusal tells an operator, and nobody else, why and what to do."""
    ring = world.location + "/keyRings/r"
    for call in (lambda: world.keyadmin.kms.GetKeyRing(msg.GetKeyRingRequest(name=ring)),
                 lambda: world.admin.identity.ListPrincipals(identity_pb2.ListPrincipalsRequest())):
        with refused(Code.UNAVAILABLE, "ROLLBACK_UNREVIEWED"):
            call()
    with refused(Code.UNAVAILABLE, "ROLLBACK_UNREVIEWED") as r:
        status(world.admin)
    assert "ROLLBACK_CLOSED" in r.error.details() and "kmsd recover-admin" in r.error.details()


def rescued(instance, name="rescue"):
    """A recovery administrator of the stopped instance."""
    san = f"spiffe://dev.claviger/{name}"
    code, said = instance.run("recover-admin", "--admin", name, "--admin-san", san, "--reason", "after a rollback")
    assert code == 0, said
    certs.issue(instance.dir / "certs", name, certs.load(instance.dir / "certs", "ca"), uris=[san])
    return name


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="recover-admin is for root")


@needs_root
def test_journal_put_back(new_world):
    """Without the newest journal nobody can say what was revoked: nothing is served until somebody has looked."""
    w = new_world
    key = w.key()
    ciphertext = w.encrypt(key)
    w.instance.stop()
    journal = w.instance.state / "journal"
    shutil.copytree(journal, w.instance.dir / "oldjournal")
    old = keep(w.instance, "old")
    w = start_again(w)
    disable(w.admin, "acme-orders")
    w.instance.stop()
    shutil.rmtree(journal)
    shutil.copytree(w.instance.dir / "oldjournal", journal)
    refuses_to_start(w.instance, "STORE_ROLLED_BACK", "journal")
    put_back(w.instance, old)  # and the store too: the token's anchor knows better
    refuses_to_start(w.instance, "STORE_ROLLED_BACK")
    code, said = w.instance.run("accept-rollback", "--reason", "both lost")
    assert code == 0 and "Closed to all" in said and "the journal is older than the anchor too" in said, said
    name = rescued(w.instance)
    w = start_again(w)
    closed(w)
    with refused(Code.UNAVAILABLE, "ROLLBACK_UNREVIEWED"):  # acme-orders is valid again, and is not let in
        w.decrypt(key, ciphertext)
    rescue = connect(w.instance, name)
    assert [r.split(":")[0] for r in status(rescue).reasons] == ["ROLLBACK_CLOSED", "RECOVERY_UNREVIEWED"]
    assert status(rescue).health == "not serving"
    disable(rescue, "acme-orders")
    rescue.system.Review(system_pb2.ReviewRequest(what=system_pb2.ReviewRequest.ROLLBACK, reason="disabled it again"))
    with refused(Code.UNAUTHENTICATED):
        w.decrypt(key, ciphertext)
    w.key()
    assert [r.split(":")[0] for r in status(w.admin).reasons] == ["RECOVERY_UNREVIEWED"]


@needs_root
def test_an_older_policy_closes(new_world):
    """What a policy took away is in no event: an older one is not believed until somebody has looked."""
    w = new_world
    w.instance.stop()
    old = keep(w.instance, "old")
    w = start_again(w)
    now = w.admin.policy.GetPolicy(policy_pb2.GetPolicyRequest())
    docs = [dict(name=d.name, yaml=d.yaml.replace(b"principals: [acme-orders]", b"principals: [acme-nobody]")) for d in now.documents]
    w.admin.policy.ApplyPolicy(policy_pb2.ApplyPolicyRequest(documents=docs, expected_version=now.version))
    w.instance.stop()
    put_back(w.instance, old)
    code, said = w.instance.run("accept-rollback", "--reason", "disk lost")
    assert code == 0 and "the policy is older than the last one that was applied" in said, said
    w = start_again(w)
    closed(w)
    w.instance.stop()
    name = rescued(w.instance)
    w = start_again(w)
    rescue = connect(w.instance, name)
    rescue.policy.ApplyPolicy(policy_pb2.ApplyPolicyRequest(documents=docs, expected_version=now.version))
    rescue.system.Review(system_pb2.ReviewRequest(what=system_pb2.ReviewRequest.ROLLBACK, reason="applied again"))
    with refused(Code.PERMISSION_DENIED):
        w.encrypt(w.key())


@needs_root
def test_a_recovery_does_not_come_back_with_an_older_store(new_world):
    """The copy was made while a recovery administrator was in time: accepted, it is ended."""
    w = new_world
    w.instance.stop()
    name = rescued(w.instance)
    w = start_again(w)
    assert status(connect(w.instance, name)).health == "degraded"
    w.instance.stop()
    old = keep(w.instance, "old")
    assert w.instance.run("review-recovery", "--reason", "looked into")[0] == 0
    put_back(w.instance, old)
    refuses_to_start(w.instance, "STORE_ROLLED_BACK")
    code, said = w.instance.run("accept-rollback", "--reason", "drill")
    assert code == 0 and f"principals/{name} DISABLED" in said, said
    w = start_again(w)
    with refused(Code.UNAUTHENTICATED):
        status(connect(w.instance, name))


def test_journal_cut(new_world):
    """Whole records gone from the journal's end, so that what is left is well formed: the anchor had counted them."""
    w = new_world
    key = w.key()
    w.instance.stop()
    kept = w.instance.dir / "shorter"
    shutil.copytree(w.instance.state / "journal", kept)
    w = start_again(w)
    w.encrypt(key)  # nothing but the journal has grown
    w.instance.stop()
    shutil.rmtree(w.instance.state / "journal")
    shutil.copytree(kept, w.instance.state / "journal")
    said = refuses_to_start(w.instance, "STORE_ROLLED_BACK")
    assert re.search(r"the journal has \d+ records, the anchor saw \d+", said), said
    segment = sorted((w.instance.state / "journal").glob("journal-*.log"))[-1]
    segment.write_bytes(segment.read_bytes()[:4096])  # and cut in two
    refuses_to_start(w.instance, "JOURNAL_DAMAGED")


def put_tokens_back(instance, kept):
    shutil.rmtree(instance.dir / "tokens")
    shutil.copytree(kept, instance.dir / "tokens")


def test_the_token_put_back_alone(new_world):
    """It brings a lower floor, or none, and takes nothing back: the store is the newest."""
    w = new_world
    w.instance.stop()
    shutil.copytree(w.instance.dir / "tokens", w.instance.dir / "old-tokens")
    w = start_again(w)
    key = w.key()
    ciphertext = w.encrypt(key)
    disable(w.admin, "acme-orders")
    w.instance.stop()
    put_tokens_back(w.instance, w.instance.dir / "old-tokens")
    w = start_again(w)
    with refused(Code.UNAUTHENTICATED):
        w.decrypt(key, ciphertext)
    enable(w.admin, "acme-orders")
    assert w.decrypt(key, ciphertext) == b"jane@example.com"
    w.instance.stop()
    before_the_first_floor = next(d for d in (w.instance.state / "token-backup").iterdir() if d.name.endswith("Z"))
    shutil.rmtree(w.instance.dir / "tokens")
    (w.instance.dir / "tokens").mkdir(mode=0o700)
    for d in before_the_first_floor.iterdir():
        if d.is_dir():
            shutil.copytree(d, w.instance.dir / "tokens" / d.name)
    w = start_again(w)
    assert "the token has no anchor though the store was written with one" in w.instance.log
    assert w.decrypt(key, ciphertext) == b"jane@example.com"


@pytest.mark.parametrize("anchor", ["token", "file"])
def test_store_and_token_put_back_together(fresh, anchor):
    """The anchor on the token goes back with it: nothing is noticed, which `status` says beforehand. One elsewhere notices."""
    from conftest import World
    if anchor == "file":
        (fresh.dir / "elsewhere").mkdir(mode=0o700)
        fresh.configure(anchor_file=fresh.dir / "elsewhere/anchor")
    w = World(fresh.start())
    assert "store's own device" in status(w.admin).store.weaknesses
    w.instance.stop()
    old, tokens = keep(fresh, "old"), fresh.dir / "old-tokens"
    shutil.copytree(fresh.dir / "tokens", tokens)
    w = start_again(w)
    disable(w.admin, "acme-orders")
    w.instance.stop()
    shutil.rmtree(fresh.state)
    shutil.copytree(old, fresh.state)
    put_tokens_back(fresh, tokens)
    if anchor == "file":
        refuses_to_start(fresh, "STORE_ROLLED_BACK")
        return
    w = start_again(w)
    w.encrypt(w.key())  # the limit that docs/THREATS.md names: a snapshot of the one disk takes everything back


def test_same_device_is_a_named_weakness(new_world):
    assert "same disk" in status(new_world.admin).store.weaknesses or "store's own device" in status(new_world.admin).store.weaknesses


def test_anchor_in_a_file(fresh):
    """Moving the anchor keeps the floor; the file is then what counts."""
    from conftest import World
    place = fresh.dir / "elsewhere"
    place.mkdir(mode=0o700)
    w = World(fresh.start())
    w.key()
    w.instance.stop()
    fresh.configure(anchor_file=place / "anchor")
    w = start_again(w)
    w.key()
    fresh.stop()
    assert (place / "anchor").stat().st_size > 50
    assert (place / "anchor").stat().st_mode & 0o777 == 0o600
    (place / "anchor").unlink()
    refuses_to_start(fresh, "STORE_ROLLED_BACK", "anchor")


@pytest.mark.parametrize("table", ["bucket", "root"])
def test_freshness_tables_edited(new_world, table):
    w = new_world
    w.key()
    w.instance.stop()
    if table == "bucket":
        edit(w.instance, "INSERT OR REPLACE INTO bucket SELECT 5, randomblob(32), zeroblob(56)")
    else:
        edit(w.instance, "UPDATE root SET body = zeroblob(length(body))")
    refuses_to_start(w.instance, "STORE_STALE")


def fsck(instance):
    code, said = instance.run("fsck")
    return code, [l for l in said.splitlines() if not l.startswith("time=")], said


@pytest.fixture
def stopped(new_world):
    w = new_world
    w.key_name = w.key(versions=2)
    w.encrypt(w.key_name)
    w.instance.stop()
    code, lines, said = fsck(w.instance)
    assert code == 0 and lines[-1].endswith(": 0 findings"), said
    return w


def test_fsck_is_clean_and_changes_nothing(stopped):
    def contents():
        return {f.name: f.read_bytes() for f in sorted(stopped.instance.state.rglob("*"))
                if f.is_file() and f.suffix not in (".lock", ".db-shm") and not f.name.startswith("hsm-")}
    before = contents()
    code, lines, said = fsck(stopped.instance)
    assert code == 0 and re.search(r"examined \d+ rows, .* 2 tenants, 1 keys, 2 versions; [1-9]\d* journal records", lines[-1]), said
    assert contents() == before
    start_again(stopped)
    code, said = stopped.instance.run("fsck")
    assert code == 1 and "already" in said or "running" in said or "another" in said, said  # not beside a daemon


@pytest.mark.parametrize("edits, wants", [
    ((f"DELETE FROM record WHERE kind = {VERSION} AND substr(id, -1) = x'02'",), ["its primary version 2 does not exist", "entries for"]),
    ((f"DELETE FROM record WHERE kind = {PRINCIPAL} AND id = CAST('acme-orders' AS BLOB)",), ["a row before it is missing"]),
    ((f"DELETE FROM record WHERE kind = {PRINCIPAL}",), ["principal: the last rows are missing"]),
    ((f"UPDATE record SET state = 9 WHERE kind = {PRINCIPAL} AND id = CAST('acme-orders' AS BLOB)",),
     ['principal "acme-orders": record: does not open', "RECORD_TAMPERED"]),
    (("UPDATE root SET body = zeroblob(length(body))",), ["root:"]),
    (("INSERT OR REPLACE INTO bucket SELECT 5, zeroblob(32), zeroblob(56)",), ["bucket 5"]),
    (("DELETE FROM outbox",), ["outbox: it ends at 0"]),
    (("UPDATE outbox SET body = zeroblob(length(body)) WHERE seq = (SELECT max(seq) FROM outbox)",), ["outbox"]),
])
def test_fsck_names_what_is_wrong(stopped, edits, wants):
    assert edit(stopped.instance, *edits) > 0
    code, lines, said = fsck(stopped.instance)
    assert code == 1 and "FSCK_FINDINGS" in said, said
    for w in wants:
        assert w in said, said
    assert fsck(stopped.instance)[0] == 1  # it mended nothing


def test_fsck_reads_the_journal(stopped):
    segment = sorted((stopped.instance.state / "journal").glob("journal-*.log"))[0]
    data = bytearray(segment.read_bytes())
    data[256 + 32 + 120] ^= 1  # in the sealed body of the first record
    segment.write_bytes(data)
    code, lines, said = fsck(stopped.instance)
    assert code == 1 and "journal record 0" in said or "record 0 at offset" in said, said


def test_fsck_knows_an_older_copy(stopped):
    old = keep(stopped.instance, "old")
    w = start_again(stopped)
    w.key()
    w.instance.stop()
    put_back(w.instance, old)
    code, lines, said = fsck(w.instance)
    assert code == 1 and "anchor:" in said and "STORE_ROLLED_BACK" in said and "the store is an older copy" in said, said


def test_killed_at_any_time_is_clean(new_world):
    """kill -9 under writes, again and again: what was answered is there, and fsck finds nothing."""
    w = new_world
    made = []
    for round_ in range(6):
        for _ in range(round_ + 1):
            made.append(w.ring())
        os.kill(w.instance.children()["core"], 9)
        os.kill(w.instance.process.pid, 9)
        w.instance.wait()
        w.instance.close_clients()
        code, lines, said = fsck(w.instance)
        assert code == 0, said
        w = start_again(w)
    listed = {r.name for r in w.keyadmin.kms.ListKeyRings(msg.ListKeyRingsRequest(parent=w.location, page_size=100)).key_rings}
    assert set(made) <= listed
