"""Mixed load at a moderate rate on a running instance. Every answer is judged: a wrong one is an error, a refusal must be the one
that was asked for, and a call that failed is remembered with its time, for the kills to explain."""
import os
import threading
import time

import claviger_pb  # noqa: F401
import grpc

from claviger.audit.v1 import audit_pb2
from claviger.envelope.v1 import envelope_pb2 as env
from claviger.lifecycle.v1 import lifecycle_pb2
from google.cloud.kms.v1 import resources_pb2 as res, service_pb2 as msg
from kit.client import Client, connect
from kit.instance import SLOWER
from kit.wire import Code

DEADLINE = 10 * SLOWER
ITEMS = 20


class Wrong(Exception):
    """An answer that is not what it must be: nothing explains it."""


def must(condition, what):
    if not condition:
        raise Wrong(what)


class Load:
    def __init__(self, instance, ring="soak"):
        self.instance = instance
        self.stop, self.threads = threading.Event(), []
        self.lock, self.done, self.failed, self.wrong = threading.Lock(), {}, [], []
        keyadmin = connect(instance, "acme-keyadmin")
        self.ring = keyadmin.kms.CreateKeyRing(msg.CreateKeyRingRequest(parent="projects/acme/locations/eu", key_ring_id=ring)).name
        self.keys = [keyadmin.kms.CreateCryptoKey(msg.CreateCryptoKeyRequest(
            parent=self.ring, crypto_key_id=f"k{i}", crypto_key=dict(purpose=res.CryptoKey.ENCRYPT_DECRYPT))).name for i in range(4)]
        self.changed = self.keys.pop()  # the one whose versions come and go
        self.extra = keyadmin.kms.CreateCryptoKeyVersion(msg.CreateCryptoKeyVersionRequest(parent=self.changed)).name
        self.moving, self.old = keyadmin.kms.CreateCryptoKey(msg.CreateCryptoKeyRequest(
            parent=self.ring, crypto_key_id="moving", crypto_key=dict(purpose=res.CryptoKey.ENCRYPT_DECRYPT))).name, []
        keyadmin.life.RotateKey(lifecycle_pb2.RotateKeyRequest(name=self.moving))
        instance.close_clients()
        self.kinds = [("single", "acme-orders", 25, self.single), ("wrap", "acme-orders", 25, self.wrap), ("batch", "acme-orders", 5, self.batch),
                      ("stream", "acme-orders", 2, self.stream), ("rewrap", "acme-orders", 2, self.rewrap),
                      ("mutate", "acme-keyadmin", 4, self.mutate), ("denied", "acme-orders", 8, self.denied),
                      ("malformed", "acme-orders", 4, self.malformed), ("abandoned", "acme-orders", 4, self.abandoned),
                      ("reconnect", None, 3, self.reconnect), ("read", "admin", 1, self.read)]

    # ---- what is done, each with what must come of it
    def single(self, c, n):
        key, text = self.keys[n % 3], os.urandom(16 + n % 1000)
        sealed = c.kms.Encrypt(msg.EncryptRequest(name=key, plaintext=text, additional_authenticated_data=b"row"), timeout=DEADLINE).ciphertext
        opened = c.kms.Decrypt(msg.DecryptRequest(name=key, ciphertext=sealed, additional_authenticated_data=b"row"), timeout=DEADLINE)
        must(opened.plaintext == text, "single: another plaintext")

    def wrap(self, c, n):
        key, secret = self.keys[n % 3], os.urandom(32)
        wrapped = c.env.Wrap(env.WrapRequest(name=key, plaintext_key=secret, context={"n": str(n)}), timeout=DEADLINE).wrapped_key
        opened = c.env.Unwrap(env.UnwrapRequest(name=key, wrapped_key=wrapped, context={"n": str(n)}), timeout=DEADLINE)
        must(opened.plaintext_key == secret, "wrap: another key")

    def batch(self, c, n):
        key, texts = self.keys[n % 3], [os.urandom(64) for _ in range(ITEMS)]
        sealed = c.env.BatchEncrypt(env.BatchEncryptRequest(name=key, items=[dict(plaintext=t) for t in texts]), timeout=DEADLINE)
        opened = c.env.BatchDecrypt(env.BatchDecryptRequest(name=key, items=[dict(ciphertext=r.ciphertext) for r in sealed.results]), timeout=DEADLINE)
        must([r.plaintext for r in opened.results] == texts, "batch: other plaintexts")

    def stream(self, c, n):
        key = self.keys[n % 3]
        sealed = list(c.env.EncryptStream(iter([env.EncryptStreamRequest(name=key if i == 0 else "", sequence=i, items=[dict(plaintext=b"s%d" % i)] * 5)
                                                for i in range(6)]), timeout=DEADLINE))
        opened = list(c.env.DecryptStream(iter([env.DecryptStreamRequest(name=key if i == 0 else "", sequence=i, items=[dict(ciphertext=r.ciphertext) for r in s.results])
                                                for i, s in enumerate(sealed)]), timeout=DEADLINE))
        must([[r.plaintext for r in o.results] for o in opened] == [[b"s%d" % i] * 5 for i in range(6)], "stream: other plaintexts")

    def rewrap(self, c, n):
        """From version 1 to the primary of a key with two: version 2 never comes back as anything but itself."""
        if not self.old:
            self.old.append(c.kms.Encrypt(msg.EncryptRequest(name=self.moving + "/cryptoKeyVersions/1", plaintext=b"moved"), timeout=DEADLINE).ciphertext)
        moved = [r for a in c.env.RewrapStream(iter([env.RewrapStreamRequest(name=self.moving, sequence=i, items=[dict(ciphertext=self.old[0])] * 5)
                                                     for i in range(4)]), timeout=DEADLINE) for r in a.results]
        must([(r.source_version, r.version, r.status.code) for r in moved] == [(1, 2, 0)] * 20, "rewrap: other versions")
        opened = c.env.BatchDecrypt(env.BatchDecryptRequest(name=self.moving, items=[dict(ciphertext=r.ciphertext) for r in moved]), timeout=DEADLINE)
        must([r.plaintext for r in opened.results] == [b"moved"] * 20, "rewrap: other plaintexts")

    def mutate(self, c, n):
        """The same rows again and again: what grows then is the journal alone."""
        if n % 2:
            request = msg.UpdateCryptoKeyRequest(crypto_key=res.CryptoKey(name=self.changed, labels={"n": str(n)}))
            request.update_mask.paths.append("labels")
            must(c.kms.UpdateCryptoKey(request, timeout=DEADLINE).labels["n"] == str(n), "mutate: another label")
        else:
            state = res.CryptoKeyVersion.DISABLED if n % 4 else res.CryptoKeyVersion.ENABLED
            request = msg.UpdateCryptoKeyVersionRequest(crypto_key_version=res.CryptoKeyVersion(name=self.extra, state=state))
            request.update_mask.paths.append("state")
            must(c.kms.UpdateCryptoKeyVersion(request, timeout=DEADLINE).state == state, "mutate: another state")

    def denied(self, c, n):
        calls = [(lambda: c.kms.CreateKeyRing(msg.CreateKeyRingRequest(parent="projects/acme/locations/eu", key_ring_id=f"no{n}"), timeout=DEADLINE), Code.PERMISSION_DENIED),
                 (lambda: c.kms.Encrypt(msg.EncryptRequest(name="projects/globex/locations/us/keyRings/pii/cryptoKeys/card", plaintext=b"x"), timeout=DEADLINE), Code.PERMISSION_DENIED),
                 (lambda: c.kms.Decrypt(msg.DecryptRequest(name=self.keys[0], ciphertext=os.urandom(200)), timeout=DEADLINE), Code.INVALID_ARGUMENT),
                 (lambda: c.kms.Encrypt(msg.EncryptRequest(name=self.keys[0] + "absent", plaintext=b"x"), timeout=DEADLINE), Code.NOT_FOUND)]
        call, want = calls[n % 4]
        self.refused(call, want)

    def malformed(self, c, n):
        self.refused(lambda: c.raw("/google.cloud.kms.v1.KeyManagementService/Encrypt", b"\x0a\x7f" + os.urandom(20)), Code.INVALID_ARGUMENT)

    def abandoned(self, c, n):
        """Sent and given up at once: its answer has nobody to go to."""
        future = c.kms.Encrypt.future(msg.EncryptRequest(name=self.keys[0], plaintext=os.urandom(4096)), timeout=DEADLINE)
        future.cancel()

    def reconnect(self, _, n):
        cert, key = self.instance.cert("acme-orders")
        c = Client(self.instance.endpoint, self.instance.cert("ca")[0], cert, key)
        try:
            self.single(c, n)
        finally:
            c.close()

    def read(self, c, n):
        status = c.audit.GetStatus(audit_pb2.GetStatusRequest(), timeout=DEADLINE)
        got = list(c.audit.Tail(audit_pb2.TailRequest(from_index=max(0, status.entries - 20)), timeout=DEADLINE))
        must(len(got) >= min(20, status.entries), "read: entries are missing")

    @staticmethod
    def refused(call, want):
        try:
            call()
        except grpc.RpcError as e:
            if e.code() != want:
                raise
        else:
            raise Wrong(f"not refused: {want}")

    # ---- running it
    def _worker(self, kind, identity, rate, work):
        client = connect(self.instance, identity) if identity else None
        due, n = time.monotonic(), 0
        while not self.stop.is_set():
            due = max(due + 1 / rate, time.monotonic() - 1)
            if self.stop.wait(max(0, due - time.monotonic())):
                return
            n += 1
            begun = time.monotonic()
            try:
                work(client, n)
            except (grpc.RpcError, FileNotFoundError) as e:  # no file: no endpoint at this moment
                code = e.code().name if isinstance(e, grpc.RpcError) else "NO_ENDPOINT"
                with self.lock:
                    self.failed.append((begun, time.monotonic(), kind, code, str(e.details() if isinstance(e, grpc.RpcError) else e)))
            except Exception as e:  # noqa: BLE001
                with self.lock:
                    self.wrong.append(f"{kind}: {type(e).__name__}: {e}")
            with self.lock:
                self.done[kind] = self.done.get(kind, 0) + 1

    def start(self):
        self.stop.clear()
        self.threads = [threading.Thread(target=self._worker, args=k, daemon=True) for k in self.kinds]
        for t in self.threads:
            t.start()
        return self

    def pause(self):
        """No call under way, no connection left open by us."""
        self.stop.set()
        for t in self.threads:
            t.join(4 * DEADLINE)
        self.instance.close_clients()
