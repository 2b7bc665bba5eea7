"""What is asked of the daemon while it dies: changes under idempotency keys and the fast lane, several in flight, each known by
its request id; and the model of what must be there afterwards."""
import collections
import itertools

import grpc

import rig  # noqa: F401  (first: it sets the path)
from claviger.envelope.v1 import envelope_pb2 as env, envelope_pb2_grpc
from claviger.identity.v1 import identity_pb2 as idy, identity_pb2_grpc
from claviger.policy.v1 import policy_pb2 as pol, policy_pb2_grpc
from claviger.tenants.v1 import tenants_pb2 as ten, tenants_pb2_grpc
from google.cloud.kms.v1 import resources_pb2 as res, service_pb2 as msg, service_pb2_grpc
from google.protobuf import field_mask_pb2
from kit.client import connect
from kit.wire import Code, Details

ENABLED, DISABLED, DESTROYED_LATER = res.CryptoKeyVersion.ENABLED, res.CryptoKeyVersion.DISABLED, res.CryptoKeyVersion.DESTROY_SCHEDULED
LOCATION, TENANTS_MAX, TIMEOUT = "projects/acme/locations/eu", 12, 8
IDENTITIES = ("admin", "acme-keyadmin", "acme-orders")
LONG = (("traceparent", "t" * 128),)  # longer events fill a file sooner
OPTIONS = (("grpc.enable_retries", 0),)  # a call that the library repeats would be two calls with one request id
STUBS = (service_pb2_grpc.KeyManagementServiceStub, envelope_pb2_grpc.EnvelopeStub, identity_pb2_grpc.IdentityStub, policy_pb2_grpc.PolicyStub,
         tenants_pb2_grpc.TenantsStub)
Receipt = collections.namedtuple("Receipt", "origin index leaf")


class Answer:
    """How one call ended: ok, refused (the daemon said so) or unknown (nobody said anything)."""

    def __init__(self, future):
        error = future.exception()
        trailers = dict(future.trailing_metadata() or ())
        self.code, self.reason, self.value, self.text = Code.OK, None, None, ""
        if error is None:
            self.how, self.value = "ok", future.result()
        else:
            self.code, self.text = future.code(), str(future.details())
            self.how = "refused" if "grpc-status-details-bin" in trailers else "unknown"
            if self.how == "refused":
                self.reason = Details(error).reason
        receipt = trailers.get("claviger-receipt")
        self.receipt = None
        if receipt:
            origin, index, leaf = receipt.split()
            self.receipt = Receipt(origin, int(index), leaf)
        self.event_id = trailers.get("claviger-event")

    def __repr__(self):
        return f"{self.how} {self.code.name} {self.reason or ''} {self.text}"


class Call:
    """One attempt at something."""

    def __init__(self, lane, who, rpc, request, idempotency_key=None):
        self.id = lane.word("r")
        metadata = [("x-request-id", self.id)] + ([("claviger-idempotency-key", idempotency_key)] if idempotency_key else [])
        self.future = lane.method(who, rpc).future(request, timeout=TIMEOUT, metadata=metadata)
        self.answer = None

    def finish(self):
        self.answer = Answer(self.future)
        self.future = None
        return self.answer


class Use:
    """The fast lane: answered is on record; not answered may be."""
    change = False

    def __init__(self, lane, rpc, request, right):
        self.lane, self.rpc, self.right = lane, rpc, right
        self.request, self.calls = request, []

    def send(self):
        self.calls.append(Call(self.lane, "acme-orders", self.rpc, self.request))

    def finish(self):
        answer = self.calls[-1].finish()
        if answer.how == "ok":
            assert self.right(answer.value), f"a wrong answer to {self.rpc}: {answer.value}"
        return answer


class Change:
    """A mutation. `there` asks the daemon whether its effect is; `done` brings the model up to date."""
    change = True

    def __init__(self, lane, who, rpc, request, there, done, held=None):
        self.lane, self.who, self.rpc, self.request = lane, who, rpc, request
        self.there, self._done, self.held = there, done, held
        self.key, self.calls = lane.word("i"), []
        if held is not None:
            held.busy = True

    def send(self):
        self.calls.append(Call(self.lane, self.who, self.rpc, self.request, self.key))

    def finish(self):
        answer = self.calls[-1].finish()
        if answer.how == "ok":
            self._done()
            if self.held is not None:
                self.held.busy = False
        return answer


class Key:
    def __init__(self, name):
        self.name, self.versions, self.primary, self.label, self.busy = name, {1: ENABLED}, 1, "", False

    def version(self, n):
        return f"{self.name}/cryptoKeyVersions/{n}"


class Lane:
    """One daemon's clients and model, over all its restarts."""

    def __init__(self, the_rig, rng):
        self.rig, self.rng = the_rig, rng
        self.numbers = itertools.count(1)
        self.rings, self.keys, self.tenants = [], [], []
        self.principals = {}
        self.policy_busy = self.policy_version = 0
        self.sealed = collections.deque(maxlen=64)  # (rpc to open it, request, plaintext)
        self.clients = {}
        self.streamed = 0  # messages of streams that were answered

    def word(self, prefix):
        return f"{prefix}{next(self.numbers)}"

    # ---- clients ----
    def connect(self):
        self.rig.close_clients()
        self.clients = {name: connect(self.rig, name, options=OPTIONS) for name in IDENTITIES}
        self.methods = {}
        for name, client in self.clients.items():
            for stub in STUBS:
                self.methods.update({(name, rpc): method for rpc, method in vars(stub(client.channel)).items()})

    def method(self, who, rpc):
        return self.methods[who, rpc]

    def ask(self, who, rpc, request):
        """A question without a request id: NOT_FOUND is an answer too. A channel whose connections were broken says so
        for a while after they could be made again: then it is asked once more, over a new one."""
        for last in (False, True):
            try:
                return self.method(who, rpc)(request, timeout=TIMEOUT)
            except grpc.RpcError as e:
                if e.code() == Code.NOT_FOUND:
                    return None
                broken = e.code() == Code.UNAVAILABLE and ("failed to connect" in e.details() or "Socket closed" in e.details())
                if last or not broken:
                    raise
            self.connect()

    # ---- the first things ----
    def begin(self):
        self.connect()
        for _ in range(2):
            self._now(self.new_ring())
        for _ in range(8):
            self._now(self.new_key())
        self.fast = self.keys[:2]  # never changed again
        for k in self.fast:
            k.busy = True
        current = self.ask("admin", "GetPolicy", pol.GetPolicyRequest())
        self.documents, self.policy_version = list(current.documents), current.version
        for _ in range(4):
            u = self.encrypt()
            u.send()
            assert u.finish().how == "ok"

    def _now(self, op):
        op.send()
        answer = op.finish()
        assert answer.how == "ok", answer

    # ---- changes ----
    def new_ring(self):
        name = self.word("ring")
        full = f"{LOCATION}/keyRings/{name}"
        return Change(self, "acme-keyadmin", "CreateKeyRing", msg.CreateKeyRingRequest(parent=LOCATION, key_ring_id=name),
                      lambda: self.ask("acme-keyadmin", "GetKeyRing", msg.GetKeyRingRequest(name=full)) is not None,
                      lambda: self.rings.append(full))

    def new_key(self):
        name = self.word("key")
        ring = self.rings[-1]
        full = f"{ring}/cryptoKeys/{name}"
        request = msg.CreateCryptoKeyRequest(parent=ring, crypto_key_id=name,
                                             crypto_key=res.CryptoKey(purpose=res.CryptoKey.ENCRYPT_DECRYPT))
        return Change(self, "acme-keyadmin", "CreateCryptoKey", request, lambda: self._get_key(full) is not None,
                      lambda: self.keys.append(Key(full)))

    def _get_key(self, name):
        return self.ask("acme-keyadmin", "GetCryptoKey", msg.GetCryptoKeyRequest(name=name))

    def _get_version(self, name):
        return self.ask("acme-keyadmin", "GetCryptoKeyVersion", msg.GetCryptoKeyVersionRequest(name=name))

    def new_version(self, key):
        n = max(key.versions) + 1
        return Change(self, "acme-keyadmin", "CreateCryptoKeyVersion", msg.CreateCryptoKeyVersionRequest(parent=key.name),
                      lambda: self._get_version(key.version(n)) is not None, lambda: key.versions.update({n: ENABLED}), key)

    def set_state(self, key):
        n = self.rng.choice([n for n, s in key.versions.items() if s in (ENABLED, DISABLED)] or [0])
        if n == 0:
            return self.new_version(key)
        state = DISABLED if key.versions[n] == ENABLED else ENABLED
        request = msg.UpdateCryptoKeyVersionRequest(crypto_key_version=res.CryptoKeyVersion(name=key.version(n), state=state),
                                                    update_mask=field_mask_pb2.FieldMask(paths=["state"]))
        return self._state_change(key, n, state, "UpdateCryptoKeyVersion", request)

    def destroy(self, key):
        n = self.rng.choice(list(key.versions))
        if key.versions[n] == DESTROYED_LATER:
            return self._state_change(key, n, DISABLED, "RestoreCryptoKeyVersion", msg.RestoreCryptoKeyVersionRequest(name=key.version(n)))
        return self._state_change(key, n, DESTROYED_LATER, "DestroyCryptoKeyVersion",
                                  msg.DestroyCryptoKeyVersionRequest(name=key.version(n)))

    def _state_change(self, key, n, state, rpc, request):
        return Change(self, "acme-keyadmin", rpc, request, lambda: self._get_version(key.version(n)).state == state,
                      lambda: key.versions.update({n: state}), key)

    def set_primary(self, key):
        able = [n for n, s in key.versions.items() if s == ENABLED and n != key.primary]
        if not able:
            return self.new_version(key)
        n = self.rng.choice(able)
        return Change(self, "acme-keyadmin", "UpdateCryptoKeyPrimaryVersion",
                      msg.UpdateCryptoKeyPrimaryVersionRequest(name=key.name, crypto_key_version_id=str(n)),
                      lambda: self._get_key(key.name).primary.name == key.version(n), lambda: setattr(key, "primary", n), key)

    def set_label(self, key):
        label = self.word("l")
        request = msg.UpdateCryptoKeyRequest(crypto_key=res.CryptoKey(name=key.name, labels={"at": label}),
                                             update_mask=field_mask_pb2.FieldMask(paths=["labels"]))
        return Change(self, "acme-keyadmin", "UpdateCryptoKey", request, lambda: self._get_key(key.name).labels["at"] == label,
                      lambda: setattr(key, "label", label), key)

    def new_tenant(self):
        name = self.word("t")
        return Change(self, "admin", "CreateTenant", ten.CreateTenantRequest(tenant_id=name, tenant=ten.Tenant(location="us")),
                      lambda: self.ask("admin", "GetTenant", ten.GetTenantRequest(name=f"projects/{name}")) is not None,
                      lambda: self.tenants.append(name))

    def new_principal(self):
        name = self.word("p")
        request = idy.CreatePrincipalRequest(principal_id=name, principal=idy.Principal(
            tenant="projects/acme", san=f"spiffe://dev.claviger/{name}"))
        return Change(self, "admin", "CreatePrincipal", request, lambda: self._get_principal(name) is not None,
                      lambda: self.principals.update({name: idy.Principal.ACTIVE}))

    def _get_principal(self, name):
        return self.ask("admin", "GetPrincipal", idy.GetPrincipalRequest(name=f"principals/{name}"))

    def switch_principal(self):
        name = next((n for n, s in self.principals.items() if s in (idy.Principal.ACTIVE, idy.Principal.DISABLED)), None)
        if name is None:
            return self.new_principal()
        before = self.principals.pop(name)  # nobody else's while this is under way
        state = idy.Principal.DISABLED if before == idy.Principal.ACTIVE else idy.Principal.ACTIVE
        request = idy.UpdatePrincipalRequest(principal=idy.Principal(name=f"principals/{name}", state=state),
                                             update_mask=field_mask_pb2.FieldMask(paths=["state"]))
        return Change(self, "admin", "UpdatePrincipal", request, lambda: self._get_principal(name).state == state,
                      lambda: self.principals.update({name: state}))

    def apply_policy(self):
        if self.policy_busy:
            return self.new_principal()
        self.policy_busy = 1
        version = self.policy_version
        documents = [pol.Document(name=d.name, yaml=d.yaml + f"# {self.word('c')}\n".encode()) for d in self.documents]

        def done():
            self.policy_version, self.policy_busy = version + 1, 0
        return Change(self, "admin", "ApplyPolicy", pol.ApplyPolicyRequest(documents=documents, expected_version=version),
                      lambda: self.ask("admin", "GetPolicy", pol.GetPolicyRequest()).version == version + 1, done)

    def change(self):
        free = [k for k in self.keys if not k.busy]
        what = self.rng.choices(
            [self.new_key, self.new_version, self.set_state, self.destroy, self.set_primary, self.set_label, self.new_ring,
             self.new_principal, self.switch_principal, self.apply_policy, self.new_tenant],
            [20, 16, 16, 10, 8, 8, 5, 4, 8, 3, 2 if len(self.tenants) < TENANTS_MAX else 0])[0]
        if what in (self.new_version, self.set_state, self.destroy, self.set_primary, self.set_label):
            return what(self.rng.choice(free)) if free else self.new_key()
        return what()

    # ---- the fast lane ----
    def encrypt(self):
        key, plaintext = self.rng.choice(self.fast), self.word("plain").encode()
        if self.rng.random() < 0.5:
            def right(r):
                self.sealed.append(("Decrypt", msg.DecryptRequest(name=key.name, ciphertext=r.ciphertext), plaintext))
                return True
            return Use(self, "Encrypt", msg.EncryptRequest(name=key.name, plaintext=plaintext), right)

        def right(r):
            self.sealed.append(("Unwrap", env.UnwrapRequest(name=key.name, wrapped_key=r.wrapped_key), plaintext))
            return True
        return Use(self, "Wrap", env.WrapRequest(name=key.name, plaintext_key=plaintext), right)

    def decrypt(self):
        rpc, request, plaintext = self.rng.choice(self.sealed)
        return Use(self, rpc, request, lambda r: (r.plaintext if rpc == "Decrypt" else r.plaintext_key) == plaintext)

    def use(self):
        return self.encrypt() if self.rng.random() < 0.5 else self.decrypt()

    def fill(self, messages):
        """That many events in a stream, to bring the journal's next file near; answered ones are counted."""
        requests = (env.EncryptStreamRequest(name=self.fast[0].name, sequence=i, items=[{}]) for i in range(messages))
        try:
            for _ in self.method("acme-orders", "EncryptStream")(requests, timeout=TIMEOUT, metadata=LONG):
                self.streamed += 1
        except grpc.RpcError as e:
            assert e.code() in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED, Code.UNKNOWN), e

    # ---- all at once ----
    def wave(self, changes, uses):
        """That many in flight together, in random order; returned when each has ended."""
        kinds = [self.change] * changes + [self.use] * uses
        self.rng.shuffle(kinds)
        ops = [make() for make in kinds]
        for op in ops:
            op.send()
        for op in ops:
            op.finish()
        return ops
