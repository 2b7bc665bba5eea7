"""The master is rotated, or the seal secret of the store, and the old one destroyed, while core is killed at the calls by which it changes
anything, those to the token too: it goes on where it was, and everything decrypts. MASTER_POINTS=n: as many of each kind; SEED."""
import os
import random
import shutil

import grpc
import pytest

import page as control
import rig
from claviger.masters.v1 import masters_pb2 as mas
from google.cloud.kms.v1 import resources_pb2 as res, service_pb2 as msg
from kit.client import connect
from kit.instance import until
from kit.moving import DESTROYED, IDLE, calls_of
from kit.wire import Code

POINTS, SEED = int(os.environ.get("MASTER_POINTS", 2)), os.environ.get("SEED", "1")
RING = "projects/acme/locations/eu/keyRings/points"
KINDS = {"token": [("send", "channel")], "store": [(call, file) for call in ("write", "sync") for file in ("wal", "shm", "db")],
         "journal": [(call, file) for call in ("write", "sync", "name") for file in ("journal", "part")]}
KILLS = (control.KILL_BEFORE, control.KILL_AFTER, control.KILL_TORN)


class Secrets:
    """The masters, or the seal secrets."""

    def __init__(self, instance, one):
        self.rig, self.one = instance, one
        self.admin, self.keyadmin, self.orders = (connect(instance, n) for n in ("admin", "acme-keyadmin", "acme-orders"))
        self._status, self._rotate, self._destroy = calls_of(self.admin, one)
        self.current, self.made, self.places, self.states = 1, {}, set(), set()

    def fill(self):
        self.keyadmin.kms.CreateKeyRing(msg.CreateKeyRingRequest(parent=RING.rsplit("/", 2)[0], key_ring_id="points"))
        for n in range(70):  # more than one page
            key = self.keyadmin.kms.CreateCryptoKey(msg.CreateCryptoKeyRequest(
                parent=RING, crypto_key_id=f"k{n}", crypto_key=res.CryptoKey(purpose=res.CryptoKey.ENCRYPT_DECRYPT))).name
            self.made[key] = self.orders.kms.Encrypt(msg.EncryptRequest(name=key, plaintext=b"jane")).ciphertext

    def status(self):
        try:
            return self._status(mas.GetStatusRequest())
        except grpc.RpcError as e:
            assert e.code() == Code.UNAVAILABLE, e
            return None

    def counted(self, what):
        """Calls of each kind while what() runs."""
        before = self.rig.page.counts()
        what()
        now = self.rig.page.counts()
        return {kind: sum(now[p] - before[p] for p in places) for kind, places in KINDS.items()}

    def ask(self, method, request, once):
        """Until it is answered: core may die before that; under one idempotency key it happens once."""
        def asked():
            try:
                return method(request, metadata=[("claviger-idempotency-key", once)])
            except grpc.RpcError as e:
                assert e.code() == Code.UNAVAILABLE, e
        until(asked, 30)

    def rotate(self):
        to = self.current + 1
        self.ask(self._rotate, mas.RotateRequest(), f"to-{to}")

        def ended():
            s = self.status()
            if s is not None:
                self.states.add(s.rotation.state)
            return s is not None and s.rotation.state == IDLE and s.current == to
        until(ended, 60, f"{self.one} {to}: {self.status()}")
        self.current = to

    def destroy(self):
        self.ask(self._destroy, mas.DestroyRequest(version=self.current - 1), f"end-of-{self.current - 1}")

        def gone():
            s = self.status()
            return s is not None and any(m.version == self.current - 1 and m.state == DESTROYED for m in s.versions)
        until(gone, 60, f"the end of {self.one} {self.current - 1}")

    def killed(self, what, kind, calls, dice):
        """what(), and core killed at one of its calls of that kind: where, or None when that call did not come."""
        self.rig.page.arm(KINDS[kind], dice.choice(KILLS), nth=dice.randint(1, max(1, calls * 2 // 3)))
        fired = self.rig.page.fired
        what()
        self.rig.page.disarm()
        return self.rig.page.where()[:2] if self.rig.page.fired > fired else None

    def decrypts(self):
        for key, ciphertext in self.made.items():
            assert self.orders.kms.Decrypt(msg.DecryptRequest(name=key, ciphertext=ciphertext)).plaintext == b"jane", key


@pytest.mark.parametrize("one", ["Master", "Seal"])
def test_killed_at_calls_of_a_rotation(folder, template, one):
    dice, instance = random.Random(SEED), rig.Rig(folder / one, template)
    try:
        instance.configure(backup_retention="0s", clock_settle="0s", seal_period="0s", master_versions_per_second=1000000, seal_rows_per_second=1000000)
        instance.start()
        m, tried, points = Secrets(instance, one), 0, POINTS if one == "Master" else (POINTS + 1) // 2
        deaths = {(what, kind): [] for what in ("rotate", "destroy") for kind in KINDS}
        m.fill()
        calls = {what: m.counted(getattr(m, what)) for what in ("rotate", "destroy")}
        assert min(n for of in calls.values() for n in of.values()) > 1, calls
        while min(map(len, deaths.values())) < points:
            for what in ("rotate", "destroy"):
                kind = min(KINDS, key=lambda k: len(deaths[what, k]))
                if (where := m.killed(getattr(m, what), kind, calls[what][kind], dice)) is not None:
                    deaths[what, kind].append(where)
            m.decrypts()
            for old in (instance.state / "token-backup").iterdir():  # 64 at most may lie there
                shutil.rmtree(old)
            tried += 1
            assert tried < 12 * POINTS + 12, deaths
        places = {f"{call}:{file}" for where in deaths.values() for call, file in where}
        print(f"{sum(map(len, deaths.values()))} deaths in {tried} rotations, at {sorted(places)}; states met: {sorted(m.states)}")
        instance.ended_well()
        instance.fsck()
        instance.start()
        m = Secrets(instance, one)
        assert m.status().rotation.state == IDLE
    finally:
        instance.page.disarm()
        instance.drop()
