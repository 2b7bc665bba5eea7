"""Everything that can be wrong, made to happen: `kmsctl status` names it, says what to do, and forgets it when the cause is gone,
without a restart. Which conditions there are comes from the daemon's own table."""
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time

import grpc
import pytest

from claviger.identity.v1 import identity_pb2 as idy
from claviger.lifecycle.v1 import lifecycle_pb2 as life
from claviger.masters.v1 import masters_pb2
from conftest import BUILD, World, msg, res
from google.protobuf import duration_pb2, timestamp_pb2
from kit import certs
from kit.instance import PATIENCE, Instance, ROOT, until
from kit.wire import Code, refused

MIB = 1 << 20
seen = set()


def table():
    done = subprocess.run([ROOT / "tools/api-table", BUILD, "conditions"], stdout=subprocess.PIPE, text=True, check=True)
    rows = [[c.strip() for c in line.strip("| ").split(" | ")] for line in done.stdout.splitlines() if line.startswith("|")]
    return {r[0].strip("`"): r[1:] for r in rows}


class Disk:
    """A file system of its own that can be filled, where root may mount one."""

    def __init__(self, folder, size):
        self.folder = folder
        folder.mkdir(mode=0o700)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "none", folder], check=True, capture_output=True)

    def fill(self):
        with open(self.folder / "ballast", "wb", buffering=0) as f:
            try:
                while True:
                    f.write(bytes(4096))
            except OSError:
                pass

    def free(self):
        (self.folder / "ballast").unlink()

    def close(self):
        subprocess.run(["umount", "-l", self.folder], check=False)


def mounted(folder, size):
    try:
        return Disk(folder, size)
    except (subprocess.CalledProcessError, PermissionError):
        pytest.skip("nothing can be mounted here")


class Rig:
    def __init__(self, instance, disks):
        self.i, self.disks, self.table, self.w = instance, disks, table(), None
        self.start()

    def start(self):
        names = self.w.names if self.w else None
        self.w = World(self.i.start())
        self.w.names = names or self.w.names  # they go on where they were
        return self

    def kmsctl(self, *words, who="admin"):
        cert, key = self.i.cert(who)
        env = dict(os.environ, KMS_ENDPOINT=self.i.endpoint, KMS_CA=str(self.i.cert("ca")[0]), KMS_CERT=str(cert), KMS_KEY=str(key))
        done = subprocess.run([BUILD / "bin/kmsctl", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, timeout=PATIENCE)
        return done.returncode, done.stdout

    def shows(self, name, *details, who="admin"):
        """kmsctl status says this condition in the table's words, with its details; the exit code tells whether it serves."""
        health, wrong, callers, todo = self.table[name]
        last = [None]

        def asked():
            last[0] = self.kmsctl("status", who=who)
            return f"{name}:" in last[0][1]
        try:
            until(asked, 30, name)
        except AssertionError as e:
            raise AssertionError(f"{name} is not in {last[0]}") from e
        code, said = last[0]
        for words in (wrong, *details):
            assert words in said, said
        if code == 0:
            assert re.search(rf"(?m)^health +{health}$", said), said
            assert f"Callers: {callers}. Do: {todo}." in said, said
        else:
            assert (code, health) == (6, "not serving"), said
            assert f"Do: {todo}"[:200] in said, said
        seen.add(name)
        return said

    def well(self, timeout=30):
        """Nothing is wrong any more; nothing was started again for it."""
        last = [None]

        def asked():
            last[0] = self.kmsctl("status")
            return re.search(r"(?m)^health +healthy$", last[0][1])
        try:
            until(asked, timeout, "healthy")
        except AssertionError as e:
            raise AssertionError(f"not healthy again: {last[0]}") from e

    def edit(self, sql, *args):
        with sqlite3.connect(self.i.state / "store.db", timeout=10) as db:
            changed = db.execute(sql, args).rowcount
        db.close()
        assert changed == 1, sql


@pytest.fixture(scope="module")
def rig(base, template):
    """One daemon for all: the store, the journal and the anchor each on a disk of their own."""
    i, disks = Instance(base / "status"), {}
    i.dir.mkdir()
    i.config.write_text(template.config.read_text())
    i.configure(journal_dir="journal", anchor_file="anchor/floor", journal_segment_bytes=MIB, journal_reserve_bytes=65536)
    (i.dir / "anchor").mkdir(mode=0o700)
    try:
        disks["journal"] = mounted(i.dir / "journal", 6 * MIB)
        Instance.create(i.dir)
        i.state.rename(i.dir / "state-before")
        disks["state"] = mounted(i.state, 24 * MIB)
        subprocess.run(["cp", "-a", f"{i.dir}/state-before/.", i.state], check=True)
        r = Rig(i, disks)
        r.well()
        yield r
        assert i.stop() == 0, i.log
    finally:
        i.stop()
        for d in disks.values():
            d.close()
        shutil.rmtree(i.dir, ignore_errors=True)


def test_the_token_away(rig):
    away = rig.i.dir / "tokens-away"
    (rig.i.dir / "tokens").rename(away)
    os.kill(rig.i.children()["hsm"], signal.SIGKILL)
    rig.shows("HSM_AWAY")
    away.rename(rig.i.dir / "tokens")
    rig.well()


def test_the_pin_refused(rig):
    pin = rig.i.dir / "pin"
    right = pin.read_bytes()
    pin.write_bytes(b"0" * 32)
    os.kill(rig.i.children()["hsm"], signal.SIGKILL)
    rig.shows("HSM_PIN", "1 of 3")
    pin.write_bytes(right)
    (rig.i.state / "hsm-pin-tries").unlink()  # else the next try comes within the minute
    rig.well()


def test_the_journal_full(rig):
    key = rig.w.key()
    rig.disks["journal"].fill()

    long = [("x-request-id", "r" * 128), ("traceparent", "t" * 128)]  # long events fill it faster

    def refused_with():
        calls = [rig.w.orders.kms.Encrypt.future(msg.EncryptRequest(name=key, plaintext=b"x"), metadata=long, timeout=10) for _ in range(100)]
        return {c.code() for c in calls} - {Code.OK}
    assert until(refused_with, 30, "a refusal") == {Code.UNAVAILABLE}
    rig.shows("AUDIT_UNAVAILABLE")
    rig.disks["journal"].free()
    rig.well()
    assert rig.w.encrypt(key)


def test_the_store_full(rig):
    rig.i.stop()
    rig.start()  # a short write-ahead log: what is long could be used again for a while
    key = rig.w.key()

    used = 0

    def usage():
        return rig.w.keyadmin.life.GetUsage(life.GetUsageRequest(name=key + "/cryptoKeyVersions/1"))

    def fill_the_log():
        """What is small may still find a place in it where something large was refused."""
        for _ in range(2000):
            try:
                rig.w.ring()
            except grpc.RpcError as e:
                assert e.code() == Code.UNAVAILABLE, e
                return
        pytest.fail("the disk is full and nothing was refused")

    def cannot_be_kept():
        nonlocal used
        fill_the_log()
        assert rig.w.decrypt(key, rig.w.encrypt(key)) == b"jane@example.com"  # keys go on
        used += 1
        return not usage().complete
    rig.disks["state"].fill()
    try:
        fill_the_log()
        rig.shows("STORE_FAILING")
        until(cannot_be_kept, what="usage that is not complete")  # a guard would not take the figures for the truth
    finally:
        rig.disks["state"].free()
    rig.well()
    rig.w.ring()
    until(lambda: usage().complete, what="usage counted again")
    assert (usage().versions[0].encrypted, usage().versions[0].decrypted) == (used, used)


def test_the_anchors_folder_away(rig):
    (rig.i.dir / "anchor").rename(rig.i.dir / "anchor-away")
    rig.w.ring()  # something for the anchor to be behind
    rig.shows("ANCHOR_BEHIND", "anchor/floor")
    (rig.i.dir / "anchor-away").rename(rig.i.dir / "anchor")
    rig.well()


def test_a_change_that_cannot_be_loaded(rig):
    """The policy's row edited, then a change of a principal: it is committed and cannot be loaded, so nobody is let in."""
    rig.edit("UPDATE record SET count = count + 1 WHERE kind = 8")
    rig.w.admin.identity.CreatePrincipal(idy.CreatePrincipalRequest(principal_id="eve", principal=dict(san="spiffe://dev.claviger/eve")))
    rig.shows("POLICY_STALE")
    with refused(Code.UNAVAILABLE, "POLICY_STALE") as r:  # words are for operators
        rig.w.orders.kms.ListKeyRings(msg.ListKeyRingsRequest(parent=rig.w.location))
    assert "Do:" not in r.error.details()
    rig.edit("UPDATE record SET count = count - 1 WHERE kind = 8")
    rig.well()


def test_client_cas_that_cannot_be_read(rig):
    ca = rig.i.dir / "certs/ca.pem"
    good, bad = ca.read_bytes(), rig.i.dir / "certs/client-ca.pem"
    bad.write_bytes(good)
    rig.i.configure(client_ca_file="certs/client-ca.pem")
    rig.i.stop()
    rig.start()
    bad.write_bytes(b"no certificate\n")
    rig.i.signal(signal.SIGHUP)
    rig.shows("TRUST_OLD")  # asked with a certificate of the old CA
    bad.write_bytes(good)
    rig.i.signal(signal.SIGHUP)
    rig.well()


def test_a_row_that_was_edited(rig):
    """The one that stays until the store was restored and kmsd started: what is damaged does not mend itself."""
    key = rig.w.key()
    rig.edit("UPDATE record SET count = count + 1 WHERE kind = 4 AND name = CAST(? AS BLOB)", key)
    with refused(Code.DATA_LOSS, "RECORD_TAMPERED"):
        rig.w.keyadmin.kms.GetCryptoKey(msg.GetCryptoKeyRequest(name=key))
    rig.shows("STORE_DAMAGED", "1 calls met it")
    rig.edit("UPDATE record SET count = count - 1 WHERE kind = 4 AND name = CAST(? AS BLOB)", key)
    rig.i.stop()
    rig.start()
    rig.well()


@pytest.mark.skipif(os.geteuid() != 0, reason="recover-admin is for root")
def test_what_is_to_be_reviewed(rig):
    rig.i.stop()
    assert rig.i.run("accept-rollback", "--reason", "a drill")[0] == 0
    code, said = rig.i.run("recover-admin", "--admin", "rescue", "--admin-san", "spiffe://dev.claviger/rescue", "--reason", "the other drill")
    assert code == 0, said
    rig.start()
    rig.shows("ROLLBACK_UNREVIEWED", "a drill")
    rig.shows("RECOVERY_UNREVIEWED", "rescue, until 20", "the other drill")
    assert rig.kmsctl("review", "rollback")[0] == 2  # not without a reason
    assert rig.kmsctl("review", "rollback", "--reason", "seen", who="acme-keyadmin")[0] == 3
    assert rig.kmsctl("review", "rollback", "--reason", "seen") == (0, "reviewed\n")
    assert rig.kmsctl("review", "rollback", "--reason", "seen")[0] == 4
    assert "ROLLBACK_UNREVIEWED" not in rig.shows("RECOVERY_UNREVIEWED")
    assert rig.kmsctl("review", "recovery", "--reason", "seen") == (0, "reviewed\n")
    rig.well()


@pytest.mark.skipif(os.geteuid() != 0, reason="recover-admin is for root")
def test_closed_until_somebody_has_looked(rig):
    rig.i.stop()
    (rig.i.dir / "anchor/floor").unlink()
    code, said = rig.i.run()
    assert code == 1 and "STORE_ROLLED_BACK" in said, said
    code, said = rig.i.run("accept-rollback", "--reason", "the anchor is lost")
    assert code == 0 and "Closed to all" in said, said
    code, said = rig.i.run("recover-admin", "--admin", "second", "--admin-san", "spiffe://dev.claviger/second", "--reason", "to review")
    assert code == 0, said
    certs.issue(rig.i.dir / "certs", "second", certs.load(rig.i.dir / "certs", "ca"), uris=["spiffe://dev.claviger/second"])
    rig.start()
    rig.shows("ROLLBACK_CLOSED", "kmsd recover-admin")
    assert rig.kmsctl("status", who="acme-keyadmin")[0] == 6  # refused, and not told why
    assert "ROLLBACK_CLOSED" not in rig.kmsctl("status", who="acme-keyadmin")[1]
    rig.shows("ROLLBACK_CLOSED", "the anchor is lost", who="second")
    assert rig.kmsctl("review", "rollback", "--reason", "nothing was revoked", who="second") == (0, "reviewed\n")
    assert rig.kmsctl("review", "recovery", "--reason", "seen")[0] == 0
    rig.well()


def test_what_is_due_and_cannot_be_done(rig):
    """A key should rotate while the token is away; it does, once the token is back."""
    rig.i.stop()
    rig.i.configure(clock_settle="0s")
    rig.start()
    ring, due = rig.w.ring(), time.time() + 2
    key = rig.w.key(ring, rotation_period=duration_pb2.Duration(seconds=86400), next_rotation_time=timestamp_pb2.Timestamp(seconds=int(due), nanos=int(due % 1 * 1e9)))
    tokens = rig.i.dir / "tokens"
    tokens.rename(rig.i.dir / "tokens-away")
    os.kill(rig.i.children()["hsm"], signal.SIGKILL)
    rig.shows("DUE_FAILING", key, "HSM_UNAVAILABLE")
    (rig.i.dir / "tokens-away").rename(tokens)
    rig.well()
    until(lambda: rig.w.keyadmin.kms.GetCryptoKey(msg.GetCryptoKeyRequest(name=key)).primary.name.endswith("/2"), 70)


def test_secrets_that_cannot_be_backed_up_and_that_are_gone(rig):
    """The rotation of the master, and of the seal secret, waits until the token's backup has room; then a token from before it is put back."""
    folder, tokens = rig.i.state / "token-backup", rig.i.dir / "tokens"
    first, = [p for p in folder.iterdir() if not p.name.endswith(".part")]
    serial = first.name.split("-")[0]
    full = [folder / f"{serial}-full{n}" for n in range(64)]
    for f in full:
        f.mkdir(mode=0o700)
    masters = lambda: rig.w.admin.masters.GetMasterStatus(masters_pb2.GetStatusRequest())  # noqa: E731
    seals = lambda: rig.w.admin.seals.GetSealStatus(masters_pb2.GetStatusRequest())  # noqa: E731
    rig.w.admin.masters.RotateMaster(masters_pb2.RotateRequest())
    rig.w.admin.seals.RotateSeal(masters_pb2.RotateRequest())
    rig.shows("MASTER_FAILING", "HSM_BACKUP")
    rig.shows("SEAL_FAILING", "HSM_BACKUP")
    for of in (masters, seals):
        assert of().current == 1 and "HSM_BACKUP" in of().rotation.trouble
    for f in full:
        f.rmdir()
    for of in (masters, seals):
        until(lambda: of().current == 2 and of().rotation.state == masters_pb2.Rotation.IDLE, 30)
    rig.well()
    tokens.rename(rig.i.dir / "tokens-new")
    tokens.mkdir(mode=0o700)
    own, = [p for p in first.iterdir() if p.is_dir()]
    shutil.copytree(own, tokens / own.name)
    os.kill(rig.i.children()["hsm"], signal.SIGKILL)
    rig.shows("MASTER_ABSENT")
    rig.shows("SEAL_ABSENT")
    shutil.rmtree(tokens)
    (rig.i.dir / "tokens-new").rename(tokens)
    os.kill(rig.i.children()["hsm"], signal.SIGKILL)
    rig.well()


def test_keys_that_no_backup_has(rig):
    """All works; but with the token they would be lost."""
    rig.w.key(version_template=dict(protection_level=res.HSM))
    rig.w.key(version_template=dict(protection_level=res.HSM))
    rig.shows("TOKEN_BACKUP_STALE", "(2)")
    code, said = rig.kmsctl("token", "backup")
    assert code == 0, said
    assert "TOKEN_BACKUP_STALE" not in rig.kmsctl("status")[1]
    rig.well()


def test_all_of_the_table_was_produced(rig):
    if os.geteuid() == 0:
        assert seen == set(rig.table)
