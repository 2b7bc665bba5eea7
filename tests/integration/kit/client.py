"""gRPC as a user's service would use it: mTLS, stubs, one channel an identity."""
import threading

import grpc

import claviger_pb  # noqa: F401
from claviger.audit.v1 import audit_pb2, audit_pb2_grpc, event_pb2
from claviger.envelope.v1 import envelope_pb2_grpc
from claviger.identity.v1 import identity_pb2_grpc
from claviger.lifecycle.v1 import certificates_pb2_grpc, lifecycle_pb2_grpc
from claviger.masters.v1 import masters_pb2_grpc
from claviger.policy.v1 import policy_pb2_grpc
from claviger.system.v1 import system_pb2_grpc
from claviger.tenants.v1 import tenants_pb2_grpc
from google.cloud.kms.v1 import service_pb2_grpc
from grpc.health.v1 import health_pb2_grpc

from kit.instance import PATIENCE, SLOWER, until

DEADLINE = 30 * SLOWER


class _WithDeadline(grpc.UnaryUnaryClientInterceptor):
    """No test may hang: every unary call has a deadline unless it sets one."""

    def intercept_unary_unary(self, continuation, details, request):
        if details.timeout is None:
            details = details._replace(timeout=DEADLINE)
        return continuation(details, request)


class Client:
    def __init__(self, endpoint, ca, cert, key, options=()):
        credentials = grpc.ssl_channel_credentials(ca.read_bytes(), key.read_bytes() if key else None,
                                                   cert.read_bytes() if cert else None)
        # a pool of its own: two identities must never share a connection; a lost one is tried again at once
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 50),
                   ("grpc.min_reconnect_backoff_ms", 5000 * SLOWER), ("grpc.max_reconnect_backoff_ms", 200),
                   ("grpc.max_receive_message_length", 16 << 20), *options]
        self.channel = grpc.secure_channel(endpoint, credentials, options)
        calls = grpc.intercept_channel(self.channel, _WithDeadline())
        self.kms = service_pb2_grpc.KeyManagementServiceStub(calls)
        self.env = envelope_pb2_grpc.EnvelopeStub(calls)
        self.tenants = tenants_pb2_grpc.TenantsStub(calls)
        self.identity = identity_pb2_grpc.IdentityStub(calls)
        self.life = lifecycle_pb2_grpc.LifecycleStub(calls)
        self.certificates = certificates_pb2_grpc.CertificatesStub(calls)
        self.masters = masters_pb2_grpc.MastersStub(calls)
        self.seals = masters_pb2_grpc.SealsStub(calls)
        self.policy = policy_pb2_grpc.PolicyStub(calls)
        self.audit = audit_pb2_grpc.AuditStub(calls)
        self.system = system_pb2_grpc.SystemStub(calls)
        self.health = health_pb2_grpc.HealthStub(calls)

    def raw(self, path, payload, **kw):
        """Bytes to a unary method, as they are."""
        return self.channel.unary_unary(path)(payload, timeout=kw.pop("timeout", DEADLINE), **kw)

    def close(self):
        self.channel.close()


def connect(instance, identity, options=(), cert=None, key=None, ca=None):
    """A client of a started instance; it is closed with it."""
    if cert is None:
        cert, key = instance.cert(identity)
    c = Client(instance.endpoint, ca or instance.cert("ca")[0], cert, key, options)
    instance.clients.append(c)
    return c


class Entry:
    """One line of the audit log, as Tail gives it."""

    def __init__(self, response):
        self.index, self.leaf, self.nonce, self.bytes = response.index, response.leaf, response.nonce, response.event
        self.tenant = response.tenant
        self.event = event_pb2.Event.FromString(response.event)

    def __repr__(self):
        return f"#{self.index} {self.tenant} {self.event}"


class AuditLog:
    """Reads as the platform's administrator, who sees everything but uses no key."""

    def __init__(self, admin):
        self.admin = admin

    def position(self):
        return self.admin.audit.GetStatus(audit_pb2.GetStatusRequest()).entries

    def read(self, start=0, **kw):
        request = audit_pb2.TailRequest(from_index=start, **kw)
        return [Entry(r) for r in self.admin.audit.Tail(request, timeout=DEADLINE)]

    def find(self, start, **want):
        """Entries from `start` on whose event has exactly these fields."""
        return [e for e in self.read(start) if all(getattr(e.event, k) == v for k, v in want.items())]

    def one(self, start, timeout=0, **want):
        """Exactly one such entry: refusals are written without anybody waiting for them, so it may take a moment."""
        found = until(lambda: self.find(start, **want), timeout, f"an event with {want}")
        assert len(found) == 1, found
        return found[0]


def in_threads(n, work):
    """work(i) in n threads at once; results in order, an exception is returned in its place."""
    results, gate = [None] * n, threading.Barrier(n)

    def run(i):
        try:
            gate.wait()
            results[i] = work(i)
        except Exception as e:  # noqa: BLE001
            results[i] = e
    threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(5 * PATIENCE)
    assert not any(t.is_alive() for t in threads), "a thread has not come to its end"
    return results


class Background:
    """with: .threads, which whoever derives makes, work until its end sets .stop."""

    def __init__(self):
        self.stop, self.threads = threading.Event(), []

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *failed):
        self.stop.set()
        for t in self.threads:
            t.join(PATIENCE)
        assert not any(t.is_alive() for t in self.threads)
