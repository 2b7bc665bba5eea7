"""The master secret is replaced under traffic and over deaths; nothing fails that a death does not explain, everything decrypts, and what is
retired goes only when nobody can need it any more."""
import re
import shutil
import threading
import time

import pytest

from claviger.masters.v1 import masters_pb2 as mas
from claviger.system.v1 import system_pb2
from claviger.tenants.v1 import tenants_pb2 as ten
from conftest import World
from kit.client import AuditLog
from kit.instance import PATIENCE, until
from kit.moving import (CURRENT, DESTROYED, IDLE, MOVING, PAUSED, PLAIN, RETIRED, TokenSecrets, Traffic, all_decrypt, backups, deaths_are_survived,
                        keys_of, kill, second_administrator, settle, user_of)
from kit.wire import Code, refused
from test_kmsctl import ABSENT, CONFLICT, DENIED, USAGE, Ctl

SECRETS = TokenSecrets("Master")
status, state_of, rotate, over, destroy = SECRETS.status, SECRETS.state_of, SECRETS.rotate, SECRETS.over, SECRETS.destroy


def test_under_traffic_no_call_fails(fresh):
    fresh.configure(master_versions_per_second=150)  # long enough for the traffic to meet it everywhere
    world = World(fresh.start())
    made, audit = keys_of(world), AuditLog(world.admin)
    start = audit.position()
    with Traffic(world, made) as traffic:
        begun = rotate(world)
        assert begun.rotation.to == 2 and begun.rotation.requested_by == "admin"
        tenant = world.admin.tenants.CreateTenant(ten.CreateTenantRequest(tenant_id="meanwhile", tenant=dict(location="eu")))
        ended = over(world, 2)
    assert not traffic.failures, traffic.failures[:3]
    assert traffic.calls > 100 and len(traffic.new) > len(made)
    assert [(m.version, m.state) for m in ended.versions] == [(1, RETIRED), (2, CURRENT)]
    assert ended.rotation.rows_done == ended.rotation.rows_total >= 160 and not ended.rotation.trouble
    all_decrypt(world, made)
    all_decrypt(world, traffic.new)
    proof = audit.one(start, principal="system:master", action="masters.retire")  # the last one, which may come late
    moved = audit.find(start, principal="system:master", action="masters.move")
    assert {e.event.active_tenant for e in moved} >= {"acme", "globex"} and sum(e.event.items for e in moved) >= 160
    assert '"under_another_master":0' in proof.event.after and proof.event.resource == "masters/1"
    assert audit.one(start, principal="admin", action="masters.rotate", outcome="ok")
    assert tenant.name == "projects/meanwhile"
    fresh.restart()
    world = World(fresh)  # nothing in any cache: each key is opened under the new master
    all_decrypt(world, made)
    all_decrypt(world, traffic.new)
    assert fresh.stop() == 0
    code, said = fresh.run("fsck")
    assert code == 0, said


def test_over_deaths(fresh):
    fresh.configure(master_versions_per_second=100)
    world = World(fresh.start())
    deaths_are_survived(world, keys_of(world, keys=15), SECRETS)
    assert fresh.stop() == 0
    code, said = fresh.run("fsck")
    assert code == 0, said


def test_the_old_one_goes_and_old_copies_are_refused(fresh):
    """Destroyed, the old master is in no one's reach: what was wrapped under it, in a copy of the store from before, opens no more."""
    world = settle(fresh, backup_retention="0s")
    made = keys_of(world, keys=3, versions=2)
    assert fresh.stop() == 0
    before = fresh.dir / "before"
    before.mkdir()
    for f in fresh.state.glob("store.db*"):
        shutil.copy2(f, before / f.name)
    world = World(fresh.start())
    rotate(world)
    over(world, 2)
    gone = destroy(world, 1)
    assert gone.state in (mas.TokenSecret.DESTROYING, DESTROYED)
    until(lambda: state_of(world, 1) == DESTROYED, 20)
    all_decrypt(world, made)
    with refused(Code.FAILED_PRECONDITION, "TOKEN_SECRET_DESTROYED"):
        destroy(world, 1)
    world = World(fresh.restart())
    all_decrypt(world, made)
    rotate(world)  # and a number is not used twice
    assert [m.version for m in over(world, 3).versions] == [1, 2, 3]
    assert fresh.stop() == 0
    code, said = fresh.run("fsck")
    assert code == 0, said
    for f in fresh.state.glob("store.db*"):
        f.unlink()
    for f in before.iterdir():
        shutil.copy2(f, fresh.state / f.name)
    code, said = fresh.run()
    assert code == 1 and "STORE_ROLLED_BACK" in said
    code, said = fresh.run("accept-rollback", "--reason", "the twin")
    assert code == 0, said
    code, said = fresh.run("fsck")
    assert code == 1 and said.count("KEY_MASTER_GONE") >= 6, said
    world = World(fresh.start())
    assert status(world).current == 1
    for key, ciphertexts in made.items():
        for c in ciphertexts:
            with refused(Code.UNAVAILABLE, "HSM_UNAVAILABLE"):
                world.decrypt(key, c, who=user_of(world, key))


def test_it_was_backed_up_before_it_was_used(fresh):
    """The token is lost right after the rotation: the backup that the rotation made opens everything, and the one from before nothing."""
    world = settle(fresh, backup_retention="0s")
    made = keys_of(world, keys=2, versions=2)
    rotate(world)
    over(world, 2)
    assert [holds for _, holds in backups(fresh)] == ["master-1 seal-1 audit-1", "master-1 master-2 seal-1 audit-1"]
    for restored, opens in ((-1, True), (0, False), (-1, True)):
        assert fresh.stop() == 0
        folder, = [p for p in backups(fresh)[restored][0].iterdir() if p.is_dir()]
        for old in (fresh.dir / "tokens").iterdir():
            shutil.rmtree(old)
        shutil.copytree(folder, fresh.dir / "tokens" / folder.name)
        world = World(fresh.start())
        if opens:
            all_decrypt(world, made)
        else:
            with refused(Code.UNAVAILABLE, "HSM_UNAVAILABLE"):
                all_decrypt(world, made)
            until(lambda: any(r.startswith("MASTER_ABSENT:") for r in health(world).reasons), 10)
    until(lambda: health(world).health == "healthy", 10)
    destroy(world, 1)
    until(lambda: state_of(world, 1) == DESTROYED, 20)
    until(lambda: backups(fresh)[-1][1] == "master-2 seal-1 audit-1", 10)


def health(world):
    return world.admin.system.GetStatus(system_pb2.GetStatusRequest())


def test_before_its_backups_expire_it_takes_two(fresh):
    world = settle(fresh)  # 35 days, as shipped
    deputy, audit = second_administrator(world), AuditLog(world.admin)
    key = world.key()
    sealed = world.encrypt(key, PLAIN)
    for version, code, reason in ((1, Code.FAILED_PRECONDITION, "TOKEN_SECRET_IN_USE"), (7, Code.NOT_FOUND, None)):
        with refused(code, reason):
            destroy(world, version)
        with refused(code, reason):
            destroy(world, version, forfeit_backups=True)
    with refused(Code.INVALID_ARGUMENT, field="version"):
        destroy(world, 0)
    rotate(world)
    retired = next(m for m in over(world, 2).versions if m.version == 1)
    assert 34 * 86400 < retired.destroyable_time.seconds - time.time() < 36 * 86400
    with refused(Code.FAILED_PRECONDITION, "TOKEN_SECRET_IN_USE"):
        destroy(world, 2)
    with refused(Code.FAILED_PRECONDITION, "BACKUPS_REMAIN"):
        destroy(world, 1)
    start = audit.position()
    first = destroy(world, 1, forfeit_backups=True)
    assert first.state == RETIRED and first.forfeit_requested_by == "admin"
    with refused(Code.FAILED_PRECONDITION, "SECOND_PERSON"):
        destroy(world, 1, forfeit_backups=True)
    with refused(Code.FAILED_PRECONDITION, "BACKUPS_REMAIN"):
        deputy.masters.DestroyMaster(mas.DestroyRequest(version=1))  # another one, who forfeits nothing
    assert state_of(world, 1) == RETIRED
    deputy.masters.DestroyMaster(mas.DestroyRequest(version=1, forfeit_backups=True))
    until(lambda: state_of(world, 1) == DESTROYED, 20)
    asked = until(lambda: len(found := audit.find(start, action="masters.destroy", outcome="ok")) >= 3 and found)
    assert [e.event.principal for e in asked] == ["admin", "deputy", "system:master"]
    assert '"forfeit_requested_by":"admin"' in asked[0].event.after and '"DESTROYING"' in asked[1].event.after
    assert world.decrypt(key, sealed) == PLAIN


def test_a_clock_that_may_be_wrong_expires_no_backup(fresh):
    fresh.configure(backup_retention="0s")
    world = World(fresh.start())
    rotate(world)
    over(world, 2)
    with refused(Code.FAILED_PRECONDITION, "CLOCK_NOT_SETTLED"):
        destroy(world, 1)
    assert state_of(world, 1) == RETIRED


def test_paused_and_resumed(fresh):
    fresh.configure(master_versions_per_second=20)
    world = World(fresh.start())
    made = keys_of(world, keys=10, versions=4)
    with refused(Code.FAILED_PRECONDITION, "ROTATION_STATE"):
        world.admin.masters.PauseRotation(mas.PauseRotationRequest())
    rotate(world)
    with refused(Code.FAILED_PRECONDITION, "ROTATION_STATE"):
        rotate(world)
    with refused(Code.FAILED_PRECONDITION, "ROTATION_STATE"):
        world.admin.masters.RotateMaster(mas.RotateRequest(token_cloned=True))
    until(lambda: status(world).rotation.state == MOVING, 20)
    assert world.admin.masters.PauseRotation(mas.PauseRotationRequest()).rotation.state == PAUSED
    at = status(world).rotation.rows_done
    all_decrypt(world, made)  # half of it under either master
    world = World(fresh.restart())
    assert (status(world).rotation.state, status(world).rotation.rows_done) == (PAUSED, at)
    with refused(Code.FAILED_PRECONDITION, "ROTATION_STATE"):
        world.admin.masters.PauseRotation(mas.PauseRotationRequest())
    world.admin.masters.ResumeRotation(mas.ResumeRotationRequest())
    over(world, 2)
    all_decrypt(world, made)


def test_kmsctl(fresh):
    world = settle(fresh, backup_retention="0s", master_versions_per_second=20)
    keys_of(world, keys=5, versions=4)
    ctl = Ctl(world)
    assert "CURRENT" in ctl.text("master", "status")
    code, out, err = ctl.run("master", "rotate", "--watch", "--progress", "--output", "json")
    assert code == 0, err
    assert "100%  done: 40 of 40 versions" in err and "[####" in err and re.search(r"moving: [0-9]+ of 40 versions, [0-9,]+/s, [0-9]+ s left", err), err
    assert b'"current": 2' in out
    assert [m["state"] for m in ctl.json("master", "status")["versions"]] == ["RETIRED", "CURRENT"]
    assert "--confirm 1" in ctl("master", "destroy", "1", code=USAGE)
    assert "--confirm 1" in ctl("master", "destroy", "1", "--confirm", "2", code=USAGE)
    ctl("master", "destroy", "one", "--confirm", "one", code=USAGE)
    ctl("master", "destroy", "9", "--confirm", "9", code=ABSENT)
    ctl("master", "destroy", "2", "--confirm", "2", code=CONFLICT)
    ctl("master", "pause", code=CONFLICT)
    ctl("master", "resume", code=CONFLICT)
    ctl("master", "rotate", "--token-cloned", code=CONFLICT)
    ctl("master", "destroy", "1", "--confirm", "1")
    until(lambda: ctl.json("master", "status")["versions"][0]["state"] == "DESTROYED", 20)
    certs_of = dict(KMS_OPERATOR_CERT=ctl.env["KMS_SERVICE_CERT"], KMS_OPERATOR_KEY=ctl.env["KMS_SERVICE_KEY"])
    for words in (("status",), ("rotate",), ("pause",), ("resume",), ("destroy", "2", "--confirm", "2")):
        ctl("master", *words, code=DENIED, **certs_of)


def test_watching_one_that_is_under_way_over_a_death(fresh):
    fresh.configure(master_versions_per_second=60)
    world = World(fresh.start())
    keys_of(world, keys=10, versions=4)
    rotate(world)
    ctl, seen = Ctl(world), []
    watcher = threading.Thread(target=lambda: seen.append(ctl.run("master", "rotate", "--watch", "--progress")))
    watcher.start()
    until(lambda: status(world).rotation.state == MOVING, 20)
    kill(fresh, "core")
    watcher.join(4 * PATIENCE)
    code, out, err = seen[0]
    assert code == 0 and "under way already" in err and "RETIRED" in out.decode(), (code, out, err)


def test_once_for_an_idempotency_key(fresh):
    world = World(fresh.start())
    used = [("claviger-idempotency-key", "rotate-the-master")]
    first = rotate(world, metadata=used)
    over(world, 2)
    assert rotate(world, metadata=used) == first
    assert status(world).current == 2 and status(world).rotation.state == IDLE


@pytest.mark.parametrize("who", ["keyadmin", "orders", "billing"])
def test_who_may_not(world, who):
    calls = getattr(world, who).masters
    for call in (lambda: calls.GetMasterStatus(mas.GetStatusRequest()), lambda: calls.RotateMaster(mas.RotateRequest()),
                 lambda: calls.PauseRotation(mas.PauseRotationRequest()), lambda: calls.ResumeRotation(mas.ResumeRotationRequest()),
                 lambda: calls.DestroyMaster(mas.DestroyRequest(version=1))):
        with refused(Code.PERMISSION_DENIED):
            call()
    assert status(world).current == 1
