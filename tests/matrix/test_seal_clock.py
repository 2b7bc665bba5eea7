"""The seal secret of the store rotates by itself when its period is over, and goes by itself when no backup needs it, in the real daemon under
a clock that is ours; by a certificate's word, no later than it says."""
import contextlib
import os
import signal

import grpc
import pytest
from conftest import World
from kit.client import AuditLog
from kit.instance import until
from kit.moving import DESTROYED, IDLE, RETIRED, TokenSecrets

import rows
from clock import SteppedInstance
from test_init import labels

pytestmark = pytest.mark.skipif(rows.SANITIZED, reason="libfaketime and sanitizers both want to be first")


@pytest.fixture
def world(copies):
    instance = SteppedInstance(copies().dir)
    instance.configure(clock_settle="0s", seal_period="1d", backup_retention="3d")
    instance.start()
    yield World(instance)
    if instance.process is not None:
        assert instance.stop() == 0, instance.log


def status(world):
    with contextlib.suppress(grpc.RpcError):
        return TokenSecrets("Seal").status(world)


def states(world):
    """{epoch: state}, once nothing is under way; None while core is away."""
    s = status(world)
    return {v.version: v.state for v in s.versions} if s is not None and s.rotation.state == IDLE else None


def test_by_itself_each_period_and_to_its_end(world):
    """Core is killed at each turn: it happens once all the same."""
    instance, audit = world.instance, AuditLog(world.admin)
    start, key = audit.position(), world.key()
    sealed = world.encrypt(key, b"jane@example.com")
    assert list(states(world)) == [1]
    instance.step("+23h")
    before = status(world).next_rotation_time.seconds
    for hours, epoch in ((25, 2), (50, 3)):
        instance.step(f"+{hours}h")
        os.kill(instance.children()["core"], signal.SIGKILL)
        until(lambda: (states(world) or {}).get(epoch - 1) == RETIRED, 60, f"epoch {epoch}")
        assert status(world).current == epoch and status(world).rotation.requested_by == "system:seal"
    assert status(world).next_rotation_time.seconds > before
    assert states(world)[1] == RETIRED  # a day after: its backups are kept for two more
    instance.step("+98h")
    until(lambda: (states(world) or {}).get(1) == DESTROYED, 60, "the end of epoch 1")
    until(lambda: (states(world) or {}).get(3) == RETIRED, 60, "epoch 4")
    assert states(world)[2] == RETIRED
    assert world.decrypt(key, sealed) == b"jane@example.com"
    began = audit.find(start, principal="system:seal", action="seals.rotate")
    assert [e.event.resource for e in began] == ["seals/2", "seals/3", "seals/4"]
    assert instance.stop() == 0
    assert {f"claviger-seal-{n}" for n in (1, 2, 3, 4)} & labels(instance) == {f"claviger-seal-{n}" for n in (2, 3, 4)}
    code, said = instance.run("fsck")
    assert code == 0, said
