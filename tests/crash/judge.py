"""What must hold after every fault. Reads the journal onwards from where it last stopped, and the state through the API."""
import collections
import hashlib
import time

import grpc

import rig  # noqa: F401
from claviger.audit.v1 import audit_pb2
from claviger.identity.v1 import identity_pb2 as idy
from claviger.lifecycle.v1 import lifecycle_pb2 as life
from claviger.tenants.v1 import tenants_pb2 as ten
from google.cloud.kms.v1 import service_pb2 as msg
from kit.client import Entry
from kit.instance import until
from kit.wire import Code
from work import LOCATION

MUTATIONS = {"kms.keyRings.create", "kms.cryptoKeys.create", "kms.cryptoKeys.update", "kms.cryptoKeys.setPrimary",
             "kms.cryptoKeyVersions.create", "kms.cryptoKeyVersions.update", "kms.cryptoKeyVersions.destroy",
             "kms.cryptoKeyVersions.restore", "tenants.create", "identity.principals.create", "identity.principals.update", "policy.apply"}
READY_S = 60  # of a shared machine; what it took is reported
EVENT_S = 60  # for an event to follow its effect from the outbox


class Judge:
    def __init__(self, lane):
        self.lane = lane
        self.event_s = EVENT_S
        self.leaves = []            # of every entry ever read, by index
        self.by_request = {}        # request id -> its one event
        self.event_ids = set()
        self.made = collections.Counter()  # successful changes in the journal, by action
        self.used = collections.Counter()  # (version, what): items, as the events say
        self.streamed = 0           # messages of streams
        self.wanted = 0             # and how many there must be

    # ---- the journal ----
    def read(self, timeout=20):
        """What is new, checked by itself: every index once and in order, no event twice."""
        request = audit_pb2.TailRequest(from_index=len(self.leaves))
        for response in self.lane.clients["admin"].audit.Tail(request, timeout=timeout):
            e = Entry(response)
            assert e.index == len(self.leaves), f"the journal goes on with {e.index} after {len(self.leaves) - 1}"
            assert hashlib.sha256(e.nonce + e.bytes).digest() == e.leaf[57:89], f"entry {e.index} is not what its leaf says"
            self.leaves.append(hashlib.sha256(b"\0" + e.leaf).hexdigest())
            self._take(e)

    def _take(self, e):
        ev = e.event
        assert ev.id not in self.event_ids, f"event {ev.id.hex()} is there twice: {e}"
        self.event_ids.add(ev.id)
        if ev.action in MUTATIONS and ev.outcome == "ok" and ev.reason != "IDEMPOTENT_REPLAY":
            self.made[ev.action] += 1
        for use in ev.uses:
            assert ev.outcome == "ok" and len(ev.uses) == 1, f"the work here uses one version a call: {e}"
            self.used[ev.key_version, use.what] += use.items or 1
        self.streamed += ev.action == "envelope.encrypt" and ev.outcome == "ok"
        if ev.request_id:
            before = self.by_request.get(ev.request_id)
            # open until the disk was back, and then it had happened: the one thing that is said twice
            unsure = before is not None and before.event.reason == "STORE_UNSURE" and ev.outcome == "ok"
            assert before is None or unsure, f"request {ev.request_id} has two events: {e}, {self.by_request[ev.request_id]}"
            self.by_request[ev.request_id] = e

    def read_again(self):
        """From the beginning: what was on record stays as it was, to the byte."""
        leaves = [hashlib.sha256(b"\0" + r.leaf).hexdigest() for r in
                  self.lane.clients["admin"].audit.Tail(audit_pb2.TailRequest(), timeout=60)]
        assert leaves[:len(self.leaves)] == self.leaves, "the journal's past has changed"

    # ---- after a fault ----
    def ready(self):
        """The daemon serves again, and nobody did anything for it."""
        state = [time.monotonic()]

        def serves():
            assert self.lane.rig.process.poll() is None, f"kmsd has ended: {self.lane.rig.log[-3000:]}"
            try:
                self.read(timeout=2)
                return True
            except grpc.RpcError as e:
                assert e.code() in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED), e
            # A channel of Python's gRPC that lost its connection twice in a row may stay in a handshake that it does not go on with, and
            # begin another every 5 s, while every new channel is served at once: so take new ones.
            if time.monotonic() - state[0] > 1.5 and (self.lane.rig.run_dir / "endpoint").exists():
                self.lane.connect()
                state[0] = time.monotonic()
            return False
        until(serves, READY_S, "service is back by itself")

    def check(self, ops):
        """Answered is on record, exactly once; not answered is done and on record, or neither. Then what was not done is repeated
        under its idempotency key."""
        self.read()
        assert self.streamed >= self.lane.streamed, "a message of a stream was answered, and is not on record"
        for op in ops:
            if not op.change:
                self._use(op)
        open_changes = [op for op in ops if op.change]
        there = {op: self._effect(op) for op in open_changes}
        want = [op.calls[0].id for op in open_changes if there[op]]
        until(lambda: self._seen(want), what="every effect has its event", patience=self.event_s)
        for op in open_changes:
            self._change(op, there[op])
        self.wanted += sum(there.values())
        again = [op for op in open_changes if op.calls[0].answer.how != "ok"]
        for op in again:
            self._repeat(op, there[op])
        self.read()

    def _seen(self, request_ids):
        self.read()
        return all(i in self.by_request for i in request_ids)

    def _use(self, op):
        call = op.calls[0]
        if call.answer.how == "ok":
            assert call.answer.receipt, f"{op.rpc} was answered without a receipt"
            self._receipt(call, "ok")
        elif call.id in self.by_request:
            assert self.by_request[call.id].event.outcome in ("ok", "error"), self.by_request[call.id]

    def _receipt(self, call, outcome):
        r = call.answer.receipt
        assert r.index < len(self.leaves), f"receipt {r} is behind the journal's end {len(self.leaves)}"
        e = self.by_request.get(call.id)
        assert e is not None and e.index == r.index and self.leaves[r.index] == r.leaf, f"receipt {r} names another event than {e}"
        assert e.event.outcome == outcome, e

    def _effect(self, op):
        how = op.calls[0].answer.how
        if how == "ok":
            return True  # the model has it, and `compare` looks
        return bool(op.there())

    def _change(self, op, there):
        call = op.calls[0]
        e = self.by_request.get(call.id)
        if there:
            assert e is not None and e.event.outcome == "ok" and e.event.reason != "IDEMPOTENT_REPLAY", f"{op.rpc}: effect without event: {e}"
        else:
            assert e is None or e.event.outcome != "ok", f"{op.rpc}: event without effect: {e}"
        if call.answer.how == "ok":
            assert (call.answer.receipt is None) != (call.answer.event_id is None), f"{op.rpc}: neither or both of receipt and event id"
        if call.answer.receipt and call.answer.how == "ok":
            self._receipt(call, "ok")
        if call.answer.event_id:
            assert e.event.id.hex() == call.answer.event_id, f"{op.rpc}: the answer's event id is another's"
        if call.answer.how == "refused" and call.answer.reason != "STORE_UNSURE":
            assert not there, f"{op.rpc} was refused ({call.answer}) and happened"

    def _repeat(self, op, there):
        def answered():
            op.send()
            a = op.finish()
            assert a.how == "ok" or a.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED), f"{op.rpc} again, after {op.calls[0].answer}: {a}"
            return a.how == "ok"
        until(answered, READY_S, f"{op.rpc} under its idempotency key")
        assert op.there(), f"{op.rpc} was answered and is not there"
        last = op.calls[-1].id
        until(lambda: self._seen([last]), what="its event", patience=self.event_s)
        ok = [self.by_request[c.id].event for c in op.calls if c.id in self.by_request and self.by_request[c.id].event.outcome == "ok"]
        first = [ev for ev in ok if ev.reason != "IDEMPOTENT_REPLAY"]
        assert len(first) == 1, f"{op.rpc}: one effect, these events: {ok}"
        if there:
            assert self.by_request[last].event.reason == "IDEMPOTENT_REPLAY", f"{op.rpc} happened twice: {ok}"
        else:
            self.wanted += 1

    # ---- everything ----
    def compare(self):
        """The whole state is the model's, and as many changes are on record as were made."""
        lane = self.lane
        rings = self._all("acme-keyadmin", "ListKeyRings", msg.ListKeyRingsRequest(parent=LOCATION), "key_rings")
        assert {r.name for r in rings} == set(lane.rings)
        keys = {}
        for ring in lane.rings:
            for k in self._all("acme-keyadmin", "ListCryptoKeys", msg.ListCryptoKeysRequest(parent=ring), "crypto_keys"):
                keys[k.name] = k
        assert set(keys) == {k.name for k in lane.keys}
        for k in lane.keys:
            versions = self._all("acme-keyadmin", "ListCryptoKeyVersions", msg.ListCryptoKeyVersionsRequest(parent=k.name), "crypto_key_versions")
            assert {v.name: v.state for v in versions} == {k.version(n): s for n, s in k.versions.items()}, k.name
            assert keys[k.name].primary.name in (k.version(k.primary), ""), k.name
            assert keys[k.name].labels.get("at", "") == k.label, k.name
        tenants = self._all("admin", "ListTenants", ten.ListTenantsRequest(), "tenants")
        assert {t.name for t in tenants} == {f"projects/{t}" for t in [*lane.tenants, "acme", "globex"]}
        principals = {p.name: p.state for p in self._all("admin", "ListPrincipals", idy.ListPrincipalsRequest(tenant="projects/acme"), "principals")}
        mine = {f"principals/{n}": s for n, s in lane.principals.items()}
        assert {n: s for n, s in principals.items() if n in mine or n.startswith("principals/p")} == mine
        self.read()
        assert sum(self.made.values()) - self.first == self.wanted, f"changes on record {self.made} - {self.first}, made {self.wanted}"
        self.usage()

    def usage(self):
        """Everything that was answered is counted, and nothing twice: the figures are those of the events, all of them read by now."""
        told = collections.Counter()

        def asked(key):
            r = self.lane.clients["acme-keyadmin"].life.ListUsage(life.ListUsageRequest(parent=key))
            return r.versions if r.complete and not r.next_page_token else None
        for k in self.lane.keys:
            for v in until(lambda: asked(k.name), READY_S, "usage counted"):
                told.update({(v.name, what): n for what, n in enumerate((v.encrypted, v.decrypted, v.wrapped, v.unwrapped), 1) if n})
        assert told == self.used, f"usage {told - self.used} too many, {self.used - told} missing"

    def _all(self, who, rpc, request, field):
        found, token = [], ""
        while True:
            request.page_token = token
            r = self.lane.ask(who, rpc, request)
            found += getattr(r, field)
            token = r.next_page_token
            if not token:
                return found

    def begin(self):
        """What was there before the first point is the model's too."""
        self.read()
        self.first = sum(self.made.values())
