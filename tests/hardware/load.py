"""Clients of two tenants at work while the token fails. Every answer is kept; every error must be one that says: come back."""
import random
import threading

import grpc

from claviger.tenants.v1 import tenants_pb2 as ten
from google.cloud.kms.v1 import resources_pb2 as res, service_pb2 as msg
from kit.client import Background, connect
from kit.wire import Code, Details

REASONS = ("HSM_UNAVAILABLE", "KEY_CHECK_FAILED")


class Load(Background):
    """with Load(world, keys): work(seed) runs in threads; afterwards .sealed has what was encrypted under which key and .wrong all
    that must not be: other codes than UNAVAILABLE, answers that are not the plaintext."""

    def __init__(self, world, keys, seed, allowed=(), mutate=True):
        super().__init__()
        self.world, self.allowed = world, set(allowed) | {(Code.UNAVAILABLE, "HSM_UNAVAILABLE")}
        self.keys = keys  # [(key, identity)]
        self.sealed, self.wrong, self.refused, self.done = [], [], 0, 0
        self.lock = threading.Lock()
        jobs = [("data", k) for k in keys for _ in range(2)] + ([("admin", None)] if mutate else [])
        self.threads = [threading.Thread(target=self._run, args=(what, which, random.Random(seed * 100 + i)))
                        for i, (what, which) in enumerate(jobs)]

    def _note(self, work):
        try:
            work()
            self.done += 1
        except grpc.RpcError as e:
            d = Details(e)
            ok = (e.code(), d.reason) in self.allowed and (e.code() != Code.UNAVAILABLE or d.retry is not None)
            self.refused += 1
            if not ok:
                self.wrong.append((e.code(), d.reason, e.details()))
            self.stop.wait(0.005)  # a client that comes back, not one that hammers

    def _run(self, what, which, rng):
        client = connect(self.world.instance, which[1] if which else "admin")
        n = 0
        while not self.stop.is_set():
            n += 1
            if what == "admin":
                self._note(lambda: self._tenant(client, rng, n))
            elif self.sealed and rng.random() < 0.5:
                self._note(lambda: self._decrypt(client, which[0], rng))
            else:
                self._note(lambda: self._encrypt(client, which[0], rng))

    def _encrypt(self, client, key, rng):
        plain = rng.randbytes(rng.randrange(1, 200))
        sealed = client.kms.Encrypt(msg.EncryptRequest(name=key, plaintext=plain)).ciphertext
        with self.lock:
            self.sealed.append((key, sealed, plain))

    def _decrypt(self, client, key, rng):
        with self.lock:
            mine = [x for x in self.sealed[-200:] if x[0] == key]
        if not mine:
            return
        _, sealed, plain = rng.choice(mine)
        if client.kms.Decrypt(msg.DecryptRequest(name=key, ciphertext=sealed)).plaintext != plain:
            self.wrong.append("another plaintext")

    def _tenant(self, client, rng, n):
        client.tenants.CreateTenant(ten.CreateTenantRequest(tenant_id=f"load-{rng.randrange(1 << 60):x}-{n}", tenant=dict(location="eu")))


def every_key(world, per_tenant=2):
    """Keys of both tenants, with the identity that uses each."""
    ring, ring2 = world.ring(), world.ring(world.keyadmin2, world.location2)
    make = dict(purpose=res.CryptoKey.ENCRYPT_DECRYPT)
    keys = []
    for i in range(per_tenant):
        for who, parent, user in ((world.keyadmin, ring, "acme-orders"), (world.keyadmin2, ring2, "globex-billing")):
            keys.append((who.kms.CreateCryptoKey(msg.CreateCryptoKeyRequest(parent=parent, crypto_key_id=f"load-{i}", crypto_key=make)).name, user))
    return keys


def open_all(world, sealed):
    """By a daemon that never met the shim: how many opened, all to what was sealed."""
    clients = {}
    for key, ciphertext, plain in sealed:
        user = "acme-orders" if "/acme/" in key else "globex-billing"
        c = clients.get(user) or clients.setdefault(user, connect(world.instance, user))
        assert c.kms.Decrypt(msg.DecryptRequest(name=key, ciphertext=ciphertext)).plaintext == plain, key
    return len(sealed)
