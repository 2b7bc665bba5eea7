"""The token's backup by command: what keys of level HSM need, which are nowhere but on the token; the way back, and what is lost without."""
import itertools
import json
import os
import re
import shutil
import signal
import subprocess

import grpc
import pytest

from claviger.system.v1 import system_pb2
from conftest import World, msg, res
from kit.client import AuditLog
from kit.instance import BUILD, until
from kit.wire import Code, Details, refused
from test_kmsctl import CONFLICT, DENIED, Ctl

STALE = "TOKEN_BACKUP_STALE"
AWAY = (Code.UNAVAILABLE, "HSM_UNAVAILABLE")


def make(world, **fields):
    return world.key(version_template=dict(protection_level=res.HSM), **fields)


def status(world):
    return world.admin.system.GetStatus(system_pb2.GetStatusRequest())


def backup(world, metadata=(), **fields):
    return world.admin.system.BackupToken(system_pb2.BackupTokenRequest(**fields), metadata=metadata, timeout=120)


def folders(instance):
    return sorted(p for p in (instance.state / "token-backup").iterdir() if p.name.endswith("Z"))


def again(instance):
    """Another World on what is started again: its names go on."""
    world = World(instance.start())
    world.names = itertools.count(1000)
    return world


def test_by_command(new_world):
    world, ctl, audit = new_world, Ctl(new_world), AuditLog(new_world.admin)
    first = status(world)
    assert (first.health, list(first.warnings), first.hsm.keys_unsaved) == ("healthy", [], 0)
    assert not first.hsm.backup.cloned and first.hsm.backup.holds == "master-1 seal-1 audit-1" and first.hsm.backup.path.endswith("/token-backup/" + folders(world.instance)[0].name)
    world.key()  # of the other level: the store has it
    key = make(world)
    kvid = world.encrypt(key, b"card")[8:24].hex()
    warned = status(world)
    assert warned.hsm.keys_unsaved == 1 and (warned.health, list(warned.reasons)) == ("healthy", []) and len(warned.warnings) == 1 and warned.warnings[0].startswith(STALE + ":")
    assert "(1)" in warned.warnings[0] and "kmsctl token backup" in warned.warnings[0]
    assert re.search(r"(?m)^warnings +TOKEN_BACKUP_STALE: ", ctl.text("status"))
    start = audit.position()
    made = ctl.json("token", "backup")
    assert (made["keys"], made["keys_added"], made.get("keys_absent", 0), made["holds"]) == (1, 1, 0, "master-1 seal-1 audit-1")
    [_, folder] = folders(world.instance)
    assert made["path"] == str(folder)
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=folder, check=True)
    assert f"# key {kvid}\n" in (folder / "SHA256SUMS").read_text()
    now = status(world)
    assert (list(now.warnings), now.hsm.keys_unsaved, now.hsm.backup.keys, now.hsm.backup.path) == ([], 0, 1, str(folder))
    event = audit.one(start, action="system.backupToken", principal="admin", outcome="ok").event
    assert json.loads(event.before) == {"keys_unsaved": 1}
    after = json.loads(event.after)
    assert (after["backup"], after["keys"], after["keys_added"], after["keys_absent"]) == ("verified", 1, 1, 0)
    second = backup(world)  # perhaps in the same second: it waits for the next
    assert (second.keys, second.keys_added) == (1, 0) and len(folders(world.instance)) == 3
    world.instance.restart()
    assert status(World(world.instance)).hsm.backup.create_time == second.create_time


def test_asked_twice_it_is_made_once(new_world):
    metadata = [("claviger-idempotency-key", "nightly-2026-11-21")]
    first = backup(new_world, metadata)
    assert backup(new_world, metadata) == first and len(folders(new_world.instance)) == 2
    assert backup(new_world, [("claviger-idempotency-key", "nightly-2026-11-22")]) != first


def test_refused(new_world):
    world, ctl = new_world, Ctl(new_world)
    with refused(Code.FAILED_PRECONDITION, "TOKEN_IS_FILES") as r:
        backup(world, cloned=True)
    assert "leave out" in r.error.details()
    assert "[TOKEN_IS_FILES]" in ctl("token", "backup", "--cloned", code=CONFLICT)
    certs = dict(KMS_OPERATOR_CERT=ctl.env["KMS_KEYADMIN_CERT"], KMS_OPERATOR_KEY=ctl.env["KMS_KEYADMIN_KEY"])
    ctl("token", "backup", code=DENIED, **certs)
    for who in (world.keyadmin, world.orders):
        with refused(Code.PERMISSION_DENIED):
            who.system.BackupToken(system_pb2.BackupTokenRequest())
    [mine] = folders(world.instance)
    serial = mine.name.split("-")[0]
    full = [mine.parent / f"{serial}-full{n}" for n in range(63)]
    for f in full:
        f.mkdir(mode=0o700)
    with refused(Code.RESOURCE_EXHAUSTED, "HSM_BACKUP") as r:
        backup(world)
    assert "move some away" in r.error.details()
    full.pop().rmdir()
    assert backup(world).path == str([f for f in folders(world.instance) if f.name.startswith(serial + "-2")][-1])


def test_while_the_token_is_away(new_world):
    """Nothing is on record but what was made; it is there when the token is back."""
    world = new_world
    make(world)
    tokens = world.instance.dir / "tokens"
    tokens.rename(world.instance.dir / "away")
    os.kill(world.instance.children()["hsm"], signal.SIGKILL)
    with refused(*AWAY):
        backup(world)
    assert len(folders(world.instance)) == 1 and status(world).hsm.keys_unsaved == 1
    (world.instance.dir / "away").rename(tokens)

    def made():
        try:
            return backup(world)
        except grpc.RpcError as e:
            assert (e.code(), Details(e).reason) == AWAY, e
            return None
    assert until(made, what="a backup").keys_added == 1 and status(world).hsm.keys_unsaved == 0


@pytest.mark.parametrize("role", ["core", "hsm"])
def test_killed_meanwhile(new_world, role):
    """Whoever dies while it is made: what was answered holds, else nothing is on record; the next one has it all, and nothing half done is taken for one."""
    world, instance = new_world, new_world.instance
    key = make(world)
    sealed = world.encrypt(key, b"card")
    ctl = Ctl(world)
    run = subprocess.Popen([BUILD / "bin/kmsctl", "token", "backup"], env=ctl.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: list((instance.state / "token-backup").glob("*.part")) or run.poll() is not None, what="the copy")
    pid = instance.children()[role]
    os.kill(pid, signal.SIGKILL)
    run.communicate(timeout=120)
    until(lambda: instance.children().get(role, pid) != pid, what=f"another {role}")

    def next_one():
        try:
            return backup(world)
        except grpc.RpcError as e:
            assert e.code() in (Code.UNAVAILABLE, Code.CANCELLED), e
            return None
    made = until(next_one, what="a backup")
    assert made.keys == 1 and status(world).hsm.keys_unsaved == 0
    assert made.keys_added == 0 or run.returncode != 0  # an answer that was lost may have been on record all the same
    assert f"# key {sealed[8:24].hex()}\n" in (folders(instance)[-1] / "SHA256SUMS").read_text()
    for f in folders(instance):
        subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=f, check=True)
    assert world.decrypt(key, sealed) == b"card"


def test_the_drill(fresh):
    """The token's disk dies. The backup made by command has the key; the one from before it has not, and fsck says whose it is."""
    world = World(fresh.start())
    key = make(world)
    sealed = world.encrypt(key, b"card")
    kvid = sealed[8:24].hex()
    path = Ctl(world).json("token", "backup")["path"]
    assert fresh.stop() == 0
    before, new = folders(fresh)
    assert str(new) == path
    [token] = (fresh.dir / "tokens").iterdir()

    def put_back(folder):
        shutil.rmtree(token)  # the disaster, or the wrong backup
        shutil.copytree(folder / token.name, token)
    put_back(new)
    world = again(fresh)
    assert world.decrypt(key, sealed) == b"card" and world.decrypt(key, world.encrypt(key, b"more")) == b"more"
    assert fresh.stop() == 0
    code, said = fresh.run("fsck", timeout=60)
    assert code == 0, said

    put_back(before)  # the twin
    code, said = fresh.run("fsck", timeout=60)
    assert code != 0 and said.count("KEY_OBJECT_ABSENT") == 1 and key.rsplit("/", 1)[1] in said and kvid in said, said
    assert [f for f in folders(fresh) if kvid in (f / "SHA256SUMS").read_text()] == [new]  # which backup has it
    world = again(fresh)
    with pytest.raises(grpc.RpcError) as e:
        world.decrypt(key, sealed)
    assert (e.value.code(), Details(e.value).reason) == AWAY
    soft = world.key()
    assert world.decrypt(soft, world.encrypt(soft, b"x")) == b"x"  # the others serve
    assert fresh.stop() == 0
    put_back(new)
    assert again(fresh).decrypt(key, sealed) == b"card"


def test_a_key_that_is_nowhere(fresh):
    """Made, and lost with the token before anybody backed it up: the next backup is good, and says that it lacks it."""
    world = World(fresh.start())
    lost = make(world)
    assert fresh.stop() == 0
    [token] = (fresh.dir / "tokens").iterdir()
    shutil.rmtree(token)
    shutil.copytree(folders(fresh)[0] / token.name, token)
    world = again(fresh)
    kept, ctl = make(world), Ctl(world)
    assert status(world).hsm.keys_unsaved == 2
    said = ctl("token", "backup", code=7)
    assert "1 keys on record are not on the token" in said and "[KEY_OBJECT_ABSENT]" in said
    now = status(world)
    assert (now.hsm.keys_unsaved, list(now.warnings), now.hsm.backup.keys) == (0, [], 1)  # there is nothing that another backup could add
    assert world.decrypt(kept, world.encrypt(kept, b"x")) == b"x"
    assert ctl.json("token", "backup")["keys"] == 1
    assert fresh.stop() == 0
    code, said = fresh.run("fsck", timeout=60)
    assert code != 0 and said.count("KEY_OBJECT_ABSENT") == 1 and lost.rsplit("/", 1)[1] in said, said


def test_a_token_that_is_no_files(fresh):
    """The vendor's tool clones it; somebody says so, and it stands on record as their word."""
    (fresh.dir / "tokens").rename(fresh.state / "tokens")
    conf = fresh.dir / "softhsm2.conf"  # longer than kmsd reads it, so that this token's files are nothing that it knows of
    conf.write_text("# nothing to see\n" * 5000 + conf.read_text().replace(str(fresh.dir / "tokens"), str(fresh.state / "tokens")))
    world = World(fresh.start())
    ctl, was = Ctl(world), status(world).hsm.backup
    assert not was.cloned and was.holds
    make(world)
    assert len(status(world).warnings) == 1
    with refused(Code.FAILED_PRECONDITION, "TOKEN_NOT_CLONED") as r:
        backup(world)
    assert "kmsctl token backup --cloned" in r.error.details() and status(world).hsm.keys_unsaved == 1
    audit = AuditLog(world.admin)
    start = audit.position()
    made = ctl.json("token", "backup", "--cloned")
    assert (made["cloned"], made["keys"], made["keys_added"], made.get("path", "")) == (True, 1, 1, "")
    now = status(world)
    assert (now.hsm.backup.cloned, now.hsm.keys_unsaved, list(now.warnings)) == (True, 0, []) and now.hsm.backup.create_time.seconds >= was.create_time.seconds
    assert '"backup":"vendor clone"' in audit.one(start, action="system.backupToken", outcome="ok").event.after
    assert len(folders(fresh)) == 1  # nothing was copied
    make(world)
    assert status(world).hsm.keys_unsaved == 1
