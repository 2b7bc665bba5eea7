"""For the rotations of what the token keeps: keys of two tenants, traffic that meets the rotation everywhere, deaths, backups, a second person."""
import contextlib
import os
import random
import signal
import threading
import time

import grpc

from claviger.identity.v1 import identity_pb2 as idy
from claviger.lifecycle.v1 import lifecycle_pb2 as life
from claviger.masters.v1 import masters_pb2 as mas
from claviger.policy.v1 import policy_pb2 as pol

from kit import certs
from kit.client import Background, connect
from kit.instance import SLOWER, TRUST_DOMAIN, until
from kit.suite import World, msg, res
from kit.wire import Code

IDLE, MOVING, PAUSED = mas.Rotation.IDLE, mas.Rotation.MOVING, mas.Rotation.PAUSED
CURRENT, RETIRED, DESTROYED = mas.TokenSecret.CURRENT, mas.TokenSecret.RETIRED, mas.TokenSecret.DESTROYED
PLAIN = b"jane@example.com"


def settle(instance, **more):
    instance.configure(clock_settle="0s", **more)
    return World(instance.start())


def keys_of(world, keys=20, versions=4):
    """Keys of two tenants with several versions each: {key: a ciphertext of each version}"""
    made = {}
    for who, user, location in ((world.keyadmin, world.orders, world.location), (world.keyadmin2, world.billing, world.location2)):
        ring = world.ring(who, location)
        for _ in range(keys):
            key = world.key(ring, who=who)
            made[key] = []
            for v in range(versions):
                if v > 0:
                    who.life.RotateKey(life.RotateKeyRequest(name=key))
                made[key].append(world.encrypt(key, PLAIN, who=user))
    return made


def user_of(world, key):
    return world.orders if key.startswith("projects/acme/") else world.billing


def all_decrypt(world, made):
    for key, ciphertexts in made.items():
        for c in ciphertexts:
            assert world.decrypt(key, c, who=user_of(world, key)) == PLAIN, key


class Traffic(Background):
    """Everything that goes on meanwhile: use of keys, warm and cold, and changes to them. Each failure is kept with its time."""

    def __init__(self, world, made):
        super().__init__()
        self.world, self.failures, self.calls, self.new = world, [], 0, {}
        self.changed = next(k for k in made if k.startswith("projects/acme/"))  # nobody uses it: it is disabled at times
        self.made = {k: c for k, c in made.items() if k != self.changed}
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.work, args=(one, n)) for n, one in enumerate((self.use, self.use, self.make, self.change))]

    def work(self, one, n):
        dice = random.Random(n)
        while not self.stop.is_set():
            begun = time.monotonic()
            try:
                one(dice)
            except (grpc.RpcError, AssertionError) as e:
                with self.lock:
                    self.failures.append((begun, time.monotonic(), e))
            with self.lock:
                self.calls += 1

    def use(self, dice):
        key = dice.choice(list(self.made))
        assert self.world.decrypt(key, dice.choice(self.made[key]), who=user_of(self.world, key)) == PLAIN
        fresh = self.world.encrypt(key, PLAIN, who=user_of(self.world, key))
        with self.lock:
            self.new[key] = [*self.new.get(key, [])[-3:], fresh]

    def make(self, dice):
        ring = next(iter(self.made)).rsplit("/", 2)[0]
        key = self.world.keyadmin.kms.CreateCryptoKey(msg.CreateCryptoKeyRequest(
            parent=ring, crypto_key_id=f"made{dice.getrandbits(60):x}", crypto_key=res.CryptoKey(purpose=res.CryptoKey.ENCRYPT_DECRYPT))).name
        fresh = self.world.encrypt(key, PLAIN)
        with self.lock:
            self.new[key] = [fresh]
        self.stop.wait(0.02)

    def change(self, dice):
        done = self.world.keyadmin.life.RotateKey(life.RotateKeyRequest(name=self.changed))
        self.world.set_state(done.replaced, res.CryptoKeyVersion.DISABLED)
        self.world.set_state(done.replaced, res.CryptoKeyVersion.ENABLED)
        self.stop.wait(0.02)  # not so many versions that the rotation is all theirs

    def mend(self):
        """Enables what a death left disabled."""
        for v in self.world.keyadmin.kms.ListCryptoKeyVersions(msg.ListCryptoKeyVersionsRequest(parent=self.changed, page_size=1000)).crypto_key_versions:
            if v.state == res.CryptoKeyVersion.DISABLED:
                self.world.set_state(v.name, res.CryptoKeyVersion.ENABLED)

    def unexplained(self, deaths):
        """Failures but for UNAVAILABLE of a call that was under way at a death, or in the seconds of coming back after it."""
        def explained(begun, ended, e):
            return isinstance(e, grpc.RpcError) and e.code() == Code.UNAVAILABLE and any(
                ended >= died and begun <= back for died, back in deaths)
        return [f for f in self.failures if not explained(*f)]


def calls_of(admin, one):
    """(status, rotate, destroy) of the masters, "Master", or of the seal secrets, "Seal"."""
    service = {"Master": admin.masters, "Seal": admin.seals}[one]
    return tuple(getattr(service, name) for name in (f"Get{one}Status", f"Rotate{one}", f"Destroy{one}"))


class TokenSecrets:
    """The masters or the seal secrets, as the administrator of a world sees and changes them: one of them is named as in calls_of."""

    def __init__(self, one):
        self.one = one

    def status(self, world):
        return calls_of(world.admin, self.one)[0](mas.GetStatusRequest())

    def state_of(self, world, version):
        return next(s.state for s in self.status(world).versions if s.version == version)

    def rotate(self, world, **kw):
        return calls_of(world.admin, self.one)[1](mas.RotateRequest(), **kw)

    def destroy(self, world, version, **kw):
        return calls_of(world.admin, self.one)[2](mas.DestroyRequest(version=version, **kw))

    def over(self, world, to, timeout=60):
        """The rotation has ended, with that one current: what it said then."""
        def ended():
            try:
                s = self.status(world)
                return s if s.rotation.state == IDLE and s.current == to else None
            except grpc.RpcError as e:
                assert e.code() == Code.UNAVAILABLE, e
        return until(ended, timeout, f"the end of a rotation to {self.one} {to}")


def kill(instance, role):
    """(died, back): monotonic seconds, with room for a client's own way back."""
    pid = until(lambda: instance.children().get(role))
    died = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    until(lambda: instance.children().get(role, pid) != pid, 10)
    return died


def deaths_are_survived(world, made, secrets):
    """Core and hsm are killed at random moments of the rotation; it goes on where it was, and its count never falls."""
    dice = random.Random(os.urandom(8))
    deaths, done = [], 0
    key, sealed = next((k, c[0]) for k, c in made.items())
    with Traffic(world, made) as traffic:
        secrets.rotate(world)
        for n in range(6):
            end = time.monotonic() + dice.random() * 0.4
            until(lambda: time.monotonic() > end)
            died = kill(world.instance, "core" if n % 2 == 0 else "hsm")

            def back():
                try:
                    s = secrets.status(world)
                    world.decrypt(key, sealed)
                    return s
                except grpc.RpcError as e:
                    assert e.code() == Code.UNAVAILABLE, e
            s = until(back, 15)
            deaths.append((died, time.monotonic() + 5 * SLOWER))
            if s.rotation.state == MOVING:
                assert s.rotation.rows_done >= done
                done = s.rotation.rows_done
        secrets.over(world, 2, 90)
    assert len(deaths) == 6 and traffic.calls > 50
    assert not traffic.unexplained(deaths), traffic.unexplained(deaths)[:3]
    traffic.mend()
    all_decrypt(world, made)
    all_decrypt(world, traffic.new)


def backups(instance):
    """What each backup of the token holds, oldest first."""
    found = sorted(p for p in (instance.state / "token-backup").iterdir() if not p.name.endswith((".part", ".verify")))
    told = []
    for p in found:
        with contextlib.suppress(FileNotFoundError):  # removed just now: it has expired
            told.append((p, next(line for line in (p / "SHA256SUMS").read_text().splitlines() if line.startswith("# holds ")).removeprefix("# holds ")))
    return told


def second_administrator(world):
    san = f"spiffe://{TRUST_DOMAIN}/deputy"
    now = world.admin.policy.GetPolicy(pol.GetPolicyRequest())
    docs = [pol.Document(name=d.name, yaml=d.yaml.replace(b"principals: [admin]", b"principals: [admin, deputy]")) for d in now.documents]
    world.admin.policy.ApplyPolicy(pol.ApplyPolicyRequest(documents=docs, expected_version=now.version))
    world.admin.identity.CreatePrincipal(idy.CreatePrincipalRequest(principal_id="deputy", principal=dict(san=san)))
    folder = world.instance.dir / "certs"
    certs.issue(folder, "deputy", certs.load(folder, "ca"), uris=[san])
    return connect(world.instance, "deputy")
