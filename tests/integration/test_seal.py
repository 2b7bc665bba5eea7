"""The seal secret of the store is replaced under traffic and over deaths: no call fails that a death does not explain, no client sees anything,
and once the old secret is gone from the token no copy of the store from its time opens."""
import re
import shutil
import time

import pytest

from claviger.masters.v1 import masters_pb2 as mas
from claviger.system.v1 import system_pb2
from claviger.tenants.v1 import tenants_pb2 as ten
from conftest import World, msg
from kit.client import AuditLog
from kit.instance import until
from kit.moving import (CURRENT, DESTROYED, IDLE, MOVING, PAUSED, RETIRED, TokenSecrets, Traffic, all_decrypt, backups, deaths_are_survived, keys_of,
                        second_administrator, settle)
from kit.wire import Code, refused
from test_init import labels
from test_kmsctl import ABSENT, CONFLICT, DENIED, USAGE, Ctl

SECRETS = TokenSecrets("Seal")
status, state_of, rotate, over, destroy = SECRETS.status, SECRETS.state_of, SECRETS.rotate, SECRETS.over, SECRETS.destroy


def destroyed(world, epoch):
    destroy(world, epoch)
    until(lambda: state_of(world, epoch) == DESTROYED, 20)


def instance_status(world):
    return world.admin.system.GetStatus(system_pb2.GetStatusRequest())


def on_token(instance):
    """Labels of what is on the token, read by another program while kmsd is stopped, and is started again: (labels, world)."""
    assert instance.stop() == 0
    found = labels(instance)
    return found, World(instance.start())


def checked(instance):
    assert instance.stop() == 0
    code, said = instance.run("fsck")
    assert code == 0, said
    return said


def test_under_traffic_no_call_fails(fresh):
    fresh.configure(seal_rows_per_second=300)  # long enough for the traffic to meet it everywhere
    world = World(fresh.start())
    made, audit = keys_of(world), AuditLog(world.admin)
    listing = msg.ListCryptoKeysRequest(parent=next(iter(made)).rsplit("/", 2)[0], page_size=7)
    page = world.keyadmin.kms.ListCryptoKeys(listing)
    start = audit.position()
    with Traffic(world, made) as traffic:
        begun = rotate(world)
        assert begun.rotation.to == 2 and begun.rotation.requested_by == "admin"
        world.admin.tenants.CreateTenant(ten.CreateTenantRequest(tenant_id="meanwhile", tenant=dict(location="eu")))
        ended = over(world, 2)
    assert not traffic.failures, traffic.failures[:3]
    assert traffic.calls > 100 and len(traffic.new) > len(made)
    assert [(s.version, s.state) for s in ended.versions] == [(1, RETIRED), (2, CURRENT)]
    assert ended.rotation.rows_done == ended.rotation.rows_total >= 200 and not ended.rotation.trouble
    assert 29 * 86400 < ended.next_rotation_time.seconds - time.time() < 31 * 86400
    assert 34 * 86400 < ended.versions[0].destroyable_time.seconds - time.time() < 36 * 86400
    s = instance_status(world)
    assert (s.hsm.seal_epoch, s.store.epoch, s.hsm.master_version) == (2, 2, 1)
    proof = audit.one(start, principal="system:seal", action="seals.retire")  # the last one, which may come late
    moved = audit.find(start, principal="system:seal", action="seals.move")
    assert moved and sum(e.event.items for e in moved) >= 200
    assert '"under_another_seal":0' in proof.event.after and proof.event.resource == "seals/1"
    assert audit.one(start, principal="admin", action="seals.rotate", outcome="ok")
    listing.page_token = page.next_page_token  # from before
    rest = world.keyadmin.kms.ListCryptoKeys(listing)
    assert rest.crypto_keys and not {k.name for k in rest.crypto_keys} & {k.name for k in page.crypto_keys}
    fresh.restart()
    world = World(fresh)  # nothing in any cache: every row is read under the new secret
    all_decrypt(world, made)
    all_decrypt(world, traffic.new)
    assert "older" not in checked(fresh)


def test_over_deaths(fresh):
    fresh.configure(seal_rows_per_second=150)
    world = World(fresh.start())
    deaths_are_survived(world, keys_of(world, keys=15), SECRETS)
    checked(fresh)


def test_the_old_one_goes_and_old_copies_never_open(fresh):
    world = settle(fresh, backup_retention="0s", seal_period="0s")
    made = keys_of(world, keys=3, versions=2)
    assert fresh.stop() == 0
    before = fresh.dir / "before"
    before.mkdir()
    for f in fresh.state.glob("store.db*"):
        shutil.copy2(f, before / f.name)
    assert {"claviger-seal-1", "claviger-master-1"} <= labels(fresh)
    world = World(fresh.start())
    rotate(world)
    over(world, 2)
    found, world = on_token(fresh)
    assert {"claviger-seal-1", "claviger-seal-2"} <= found
    destroyed(world, 1)
    found, world = on_token(fresh)
    assert "claviger-seal-1" not in found and "claviger-seal-2" in found
    all_decrypt(world, made)
    with refused(Code.FAILED_PRECONDITION, "TOKEN_SECRET_DESTROYED"):
        destroy(world, 1)
    until(lambda: "seal-2" in backups(fresh)[-1][1] and "seal-1" not in backups(fresh)[-1][1], 10)
    rotate(world)  # and a number is not used twice
    assert [s.version for s in over(world, 3).versions] == [1, 2, 3]
    checked(fresh)
    for f in fresh.state.glob("store.db*"):
        f.unlink()
    for f in before.iterdir():
        shutil.copy2(f, fresh.state / f.name)
    for command in ((), ("accept-rollback", "--reason", "the twin"), ("fsck",)):
        code, said = fresh.run(*command)
        assert code != 0 and "SEAL_ABSENT" in said and "epoch 1" in said, (command, said)


def test_it_was_backed_up_before_it_was_used(fresh):
    """The token is lost right after the rotation: the backup that the rotation made opens the store, and the one from before does not."""
    world = settle(fresh)
    made = keys_of(world, keys=2, versions=2)
    rotate(world)
    over(world, 2)
    assert ["seal-2" in holds for _, holds in backups(fresh)] == [False, True]
    for restored, opens in ((0, False), (-1, True)):
        assert fresh.stop() == 0
        folder, = [p for p in backups(fresh)[restored][0].iterdir() if p.is_dir()]
        for old in (fresh.dir / "tokens").iterdir():
            shutil.rmtree(old)
        shutil.copytree(folder, fresh.dir / "tokens" / folder.name)
        if not opens:
            code, said = fresh.run()
            assert code != 0 and re.search("SEAL_ABSENT|STORE_FOREIGN", said), said
            continue
        world = World(fresh.start())
        all_decrypt(world, made)


def test_before_its_backups_expire_it_takes_two(fresh):
    world = settle(fresh)  # 35 days, as shipped
    deputy, audit = second_administrator(world), AuditLog(world.admin)
    for epoch, code, reason in ((1, Code.FAILED_PRECONDITION, "TOKEN_SECRET_IN_USE"), (7, Code.NOT_FOUND, None)):
        for forfeit in (False, True):
            with refused(code, reason):
                destroy(world, epoch, forfeit_backups=forfeit)
    with refused(Code.INVALID_ARGUMENT, field="version"):
        destroy(world, 0)
    rotate(world)
    over(world, 2)
    start = audit.position()
    with refused(Code.FAILED_PRECONDITION, "BACKUPS_REMAIN"):
        destroy(world, 1)
    assert destroy(world, 1, forfeit_backups=True).state == RETIRED
    with refused(Code.FAILED_PRECONDITION, "SECOND_PERSON"):
        destroy(world, 1, forfeit_backups=True)
    assert state_of(world, 1) == RETIRED
    deputy.seals.DestroySeal(mas.DestroyRequest(version=1, forfeit_backups=True))
    until(lambda: state_of(world, 1) == DESTROYED, 20)
    asked = until(lambda: len(found := audit.find(start, action="seals.destroy", outcome="ok")) >= 3 and found)
    assert [e.event.principal for e in asked] == ["admin", "deputy", "system:seal"]
    assert "claviger-seal-1" not in on_token(fresh)[0]


def test_a_clock_that_may_be_wrong_ends_nothing(fresh):
    fresh.configure(backup_retention="0s")  # and clock_settle as shipped: ten minutes
    world = World(fresh.start())
    rotate(world)
    over(world, 2)
    with refused(Code.FAILED_PRECONDITION, "CLOCK_NOT_SETTLED"):
        destroy(world, 1)
    assert state_of(world, 1) == RETIRED and "claviger-seal-1" in on_token(fresh)[0]


def test_by_itself_when_nothing_needs_it(fresh):
    """With a period, what is retired goes without anybody asking."""
    world = settle(fresh, backup_retention="0s")
    audit = AuditLog(world.admin)
    start = audit.position()
    rotate(world)
    until(lambda: len(status(world).versions) == 2 and state_of(world, 1) == DESTROYED, 60)
    told = until(lambda: len(found := audit.find(start, principal="system:seal", action="seals.destroy")) >= 2 and found)
    assert [e.event.after[:22] for e in told] == ['{"seal":"DESTROYING"}', '{"seal":"DESTROYED","r']
    assert status(world).current == 2 and "claviger-seal-1" not in on_token(fresh)[0]


def test_its_copies_in_backups_of_the_token_expire_too(fresh):
    """By the service's own backups, a destroyed seal secret is in none but the three newest, once they have expired."""
    world = settle(fresh, backup_retention="0s")
    for epoch in (2, 3, 4):
        rotate(world)
        over(world, epoch)
        until(lambda: state_of(world, epoch - 1) == DESTROYED, 60)  # noqa: B023
    until(lambda: backups(fresh)[-1][1].split()[1:-1] == ["seal-4"], 20)
    until(lambda: not [holds for _, holds in backups(fresh)[:-3] if {f"seal-{n}" for n in (1, 2, 3)} & set(holds.split())], 20)  # just after it
    assert "was removed" in fresh.log and instance_status(world).hsm.logged_in
    checked(fresh)


def test_a_store_that_was_accepted_ends_the_other_futures_seal(fresh):
    """An older copy is accepted, of before the rotation. The seal of the future that is given up lies on the token and in no record: the newer store
    could be put back, until the next rotation retires that seal; and in its time it goes."""
    world = settle(fresh, backup_retention="0s", seal_period="0s")
    made = keys_of(world, keys=2, versions=2)
    assert fresh.stop() == 0
    older = fresh.dir / "older"
    shutil.copytree(fresh.state, older)
    world = World(fresh.start())
    rotate(world)
    over(world, 2)
    assert fresh.stop() == 0
    newer = fresh.dir / "newer"
    shutil.copytree(fresh.state, newer)
    for kept, epoch in ((older, 1), (newer, 2), (older, 1)):  # there, back, and there again
        for f in fresh.state.glob("store.db*"):
            f.unlink()
        for f in kept.glob("store.db*"):
            shutil.copy2(f, fresh.state / f.name)
        code, said = fresh.run()
        assert code == 1 and "STORE_ROLLED_BACK" in said, said
        code, said = fresh.run("accept-rollback", "--reason", "a disk was lost")
        assert code == 0, said
        code, said = fresh.run("review-rollback", "--reason", "nothing was revoked")
        assert code == 0, said
        world = World(fresh.start())
        assert status(world).current == epoch
        all_decrypt(world, made)
        assert fresh.stop() == 0
    world = World(fresh.start())
    assert [(s.version, s.state) for s in status(world).versions] == [(1, CURRENT)]
    assert [(s.version, s.state) for s in rotate(world).versions] == [(1, CURRENT), (2, RETIRED)]
    assert [(s.version, s.state) for s in over(world, 3).versions] == [(1, RETIRED), (2, RETIRED), (3, CURRENT)]
    destroyed(world, 2)
    found, world = on_token(fresh)
    assert "claviger-seal-2" not in found and {"claviger-seal-1", "claviger-seal-3"} <= found
    all_decrypt(world, made)
    checked(fresh)


def test_paused_and_resumed(fresh):
    fresh.configure(seal_rows_per_second=40)
    world = World(fresh.start())
    made = keys_of(world, keys=30, versions=3)  # more rows than one page
    with refused(Code.FAILED_PRECONDITION, "ROTATION_STATE"):
        world.admin.seals.PauseRotation(mas.PauseRotationRequest())
    rotate(world)
    for call in (lambda: rotate(world), lambda: world.admin.seals.RotateSeal(mas.RotateRequest(token_cloned=True)),
                 lambda: world.admin.seals.ResumeRotation(mas.ResumeRotationRequest())):
        with refused(Code.FAILED_PRECONDITION, "ROTATION_STATE"):
            call()
    until(lambda: status(world).rotation.state == MOVING, 20)
    assert world.admin.seals.PauseRotation(mas.PauseRotationRequest()).rotation.state == PAUSED
    at = status(world).rotation.rows_done
    all_decrypt(world, made)  # some of it under either secret
    world = World(fresh.restart())
    assert (status(world).rotation.state, status(world).rotation.rows_done) == (PAUSED, at)
    assert world.admin.masters.GetMasterStatus(mas.GetStatusRequest()).rotation.state == IDLE  # it is the other one's
    world.admin.seals.ResumeRotation(mas.ResumeRotationRequest())
    over(world, 2)
    all_decrypt(world, made)


def test_both_at_once(fresh):
    world = settle(fresh)
    made = keys_of(world, keys=5, versions=3)
    rotate(world)
    world.admin.masters.RotateMaster(mas.RotateRequest())
    over(world, 2)
    until(lambda: world.admin.masters.GetMasterStatus(mas.GetStatusRequest()).versions[0].state == RETIRED, 60)
    all_decrypt(world, made)
    checked(fresh)


def test_kmsctl(fresh):
    world = settle(fresh, backup_retention="0s", seal_period="0s", seal_rows_per_second=200)
    keys_of(world, keys=20, versions=4)
    ctl = Ctl(world)
    assert "CURRENT" in ctl.text("seal", "status")
    code, out, err = ctl.run("seal", "rotate", "--watch", "--progress", "--output", "json")
    assert code == 0, err
    assert re.search(r"100%  done: ([0-9,]+) of \1 rows", err) and "[####" in err, err
    assert b'"current": 2' in out
    assert [s["state"] for s in ctl.json("seal", "status")["versions"]] == ["RETIRED", "CURRENT"]
    assert "next_rotation_time" not in ctl.json("seal", "status")  # only by hand
    assert "--confirm 1" in ctl("seal", "destroy", "1", code=USAGE)
    ctl("seal", "destroy", "one", "--confirm", "one", code=USAGE)
    ctl("seal", "destroy", "9", "--confirm", "9", code=ABSENT)
    for words in (("destroy", "2", "--confirm", "2"), ("pause",), ("resume",), ("rotate", "--token-cloned")):
        ctl("seal", *words, code=CONFLICT)
    ctl("seal", "destroy", "1", "--confirm", "1")
    until(lambda: ctl.json("seal", "status")["versions"][0]["state"] == "DESTROYED", 20)
    certs_of = dict(KMS_OPERATOR_CERT=ctl.env["KMS_SERVICE_CERT"], KMS_OPERATOR_KEY=ctl.env["KMS_SERVICE_KEY"])
    for words in (("status",), ("rotate",), ("pause",), ("resume",), ("destroy", "2", "--confirm", "2")):
        ctl("seal", *words, code=DENIED, **certs_of)


@pytest.mark.parametrize("who", ["keyadmin", "orders", "billing"])
def test_who_may_not(world, who):
    calls = getattr(world, who).seals
    for call in (lambda: calls.GetSealStatus(mas.GetStatusRequest()), lambda: calls.RotateSeal(mas.RotateRequest()),
                 lambda: calls.PauseRotation(mas.PauseRotationRequest()), lambda: calls.ResumeRotation(mas.ResumeRotationRequest()),
                 lambda: calls.DestroySeal(mas.DestroyRequest(version=1))):
        with refused(Code.PERMISSION_DENIED):
            call()
    assert status(world).current == 1


def test_a_period_that_is_none(fresh):
    for wrong in ("1h", "31d"):
        fresh.configure(seal_period=wrong)
        code, said = fresh.run()
        assert code != 0 and "seal_period" in said, said
