"""Four processes: any one may die, hang or be asked to leave; what was answered stays true, and service returns by itself."""
import ipaddress
import os
import signal
import socket
import ssl
import statistics
import threading
import time

import grpc
import pytest

from claviger.audit.v1 import audit_pb2
from claviger.envelope.v1 import envelope_pb2 as env
from claviger.system.v1 import system_pb2
from claviger.tenants.v1 import tenants_pb2 as ten
from conftest import ENCRYPT_DECRYPT, World, msg
from grpc.health.v1 import health_pb2
from kit import certs
from kit.client import DEADLINE, AuditLog, Background, connect
from kit.instance import PATIENCE, SLOWER, at_best, until
from kit.wire import Code, refused


class Traffic(Background):
    """Light traffic on clients of its own; what was answered is remembered, what failed too."""

    def __init__(self, instance, ring, key, mutations=True):
        super().__init__()
        self.instance, self.ring, self.key, self.mutations = instance, ring, key, mutations
        self.answered, self.sealed, self.failed, self.n = [], [], {}, 0
        self.threads = [threading.Thread(target=self._use)] + ([threading.Thread(target=self._change)] if mutations else [])

    def _loop(self, identity, work):
        client = connect(self.instance, identity)
        while not self.stop.is_set():
            try:
                work(client)
            except grpc.RpcError as e:
                self.failed.setdefault(identity, []).append(e)
                client = connect(self.instance, identity)
                self.stop.wait(0.01)
            except FileNotFoundError:  # no endpoint at this moment
                self.stop.wait(0.01)

    def _use(self):
        def work(client):
            self.sealed.append(client.kms.Encrypt(msg.EncryptRequest(name=self.key, plaintext=b"x"), timeout=DEADLINE).ciphertext)
        self._loop("acme-orders", work)

    def _change(self):
        def work(client):
            self.n += 1
            self.answered.append(client.kms.CreateCryptoKey(msg.CreateCryptoKeyRequest(
                parent=self.ring, crypto_key_id=f"during-{self.n}", crypto_key=dict(purpose=ENCRYPT_DECRYPT)), timeout=DEADLINE).name)
        self._loop("acme-keyadmin", work)

    def grows(self):
        a, s = len(self.answered), len(self.sealed)
        return lambda: len(self.sealed) > s + 3 and (not self.mutations or len(self.answered) > a + 3)


@pytest.mark.parametrize("role", ["front", "core", "hsm"])
def test_killing_one_loses_nothing_that_was_answered(new_world, role):
    world = new_world
    instance, ring = world.instance, world.ring()
    key = world.key(ring)
    with Traffic(instance, ring, key) as traffic:
        for _ in range(2):
            until(traffic.grows())
            before = instance.children()
            assert set(before) == {"hsm", "core", "front"}
            os.kill(before[role], signal.SIGKILL)
            until(lambda: instance.children().get(role) not in (None, before[role]), what=f"a new {role}")
            until(traffic.grows(), what="traffic goes on")
            after = instance.children()
            for other in set(before) - {role}:  # the others carried on
                assert after[other] == before[other], instance.log
    if role == "hsm":
        assert "acme-orders" not in traffic.failed, traffic.failed  # keys are cached: only what is new asks the HSM
    for e in sum(traffic.failed.values(), []):  # refused cleanly: try again; never half done, never something else
        assert e.code() in (Code.UNAVAILABLE, Code.ALREADY_EXISTS), e
    world = World(instance)
    assert len(traffic.answered) > 8
    for name in traffic.answered:
        assert world.orders.kms.GetCryptoKey(msg.GetCryptoKeyRequest(name=name)).primary.state == 1
    for sealed in traffic.sealed[::5]:
        assert world.decrypt(key, sealed) == b"x"
    assert f"role={role}" in instance.log and 'signal=KILL' in instance.log
    events = world.audit.read()
    assert [e.index for e in events] == list(range(len(events)))
    made = [e.event.resource for e in events if e.event.action == "kms.cryptoKeys.create" and e.event.outcome == "ok"]
    assert len(made) == len(set(made)) and set(traffic.answered) <= set(made)  # each effect has its one event
    used = sum(1 for e in events if e.event.action == "kms.cryptoKeys.encrypt" and e.event.outcome == "ok")
    assert used >= len(traffic.sealed)  # no answer without its event
    names = {k.name for k in _all_keys(world, ring)}
    assert names == set(made)  # and no effect without one


def _all_keys(world, ring):
    token = ""
    while True:
        r = world.keyadmin.kms.ListCryptoKeys(msg.ListCryptoKeysRequest(parent=ring, page_token=token))
        yield from r.crypto_keys
        token = r.next_page_token
        if not token:
            return


def test_killing_the_monitor_ends_all_and_a_new_one_starts_clean(new_world):
    world = new_world
    key = world.key()
    sealed = world.encrypt(key)
    pids = world.instance.children()
    world.instance.close_clients()
    world.instance.process.kill()
    assert world.instance.wait() == -signal.SIGKILL
    until(lambda: not any(os.path.exists(f"/proc/{p}") for p in pids.values()), what="no orphan is left")
    world = World(world.instance.start())
    assert world.decrypt(key, sealed) == b"jane@example.com"


# ---- leaving --------------------------------------------------------------------------------------------------------------------
def test_sigterm_drains_calls_in_flight_end_well(new_world):
    """No call that was accepted fails; streams in progress finish."""
    world = new_world
    key = world.key()
    errors, done, stop = [], [0], threading.Event()
    gate = threading.Event()

    def messages():
        for i in range(1000):
            yield env.EncryptStreamRequest(name=key, sequence=i, items=[{}])
            if i == 3:
                gate.set()
            if stop.is_set():
                return
            time.sleep(0.005)  # a stream with pauses, as real ones have: not a wait for anything
    stream = world.orders.env.EncryptStream(messages(), timeout=PATIENCE)
    answers = []

    def read():
        try:
            answers.extend(stream)
        except grpc.RpcError as e:
            errors.append(e)

    def calls():
        client = connect(world.instance, "acme-orders")
        while not stop.is_set():
            try:
                client.kms.Encrypt(msg.EncryptRequest(name=key, plaintext=b"x" * 1000), timeout=DEADLINE)
                done[0] += 1
            except grpc.RpcError as e:
                if "onnect" not in (e.details() or ""):  # nobody listens any more: never begun
                    errors.append(e)
                return
    threads = [threading.Thread(target=read)] + [threading.Thread(target=calls) for _ in range(4)]
    for t in threads:
        t.start()
    assert gate.wait(PATIENCE)
    until(lambda: done[0] > 50)
    world.instance.signal(signal.SIGTERM)
    threading.Timer(0.6, stop.set).start()
    for t in threads:
        t.join(PATIENCE)
    assert world.instance.wait() == 0, world.instance.log
    assert errors == [], (errors[:3], world.instance.log[-2000:])
    assert len(answers) > 3 and [a.sequence for a in answers] == list(range(len(answers)))
    assert not (world.instance.run_dir / "endpoint").exists()


def test_a_client_that_never_ends_does_not_keep_it_from_leaving(fresh):
    fresh.configure(drain_timeout="300ms")
    world = World(fresh.start())
    key = world.key()
    hold = threading.Event()

    def messages():
        yield env.EncryptStreamRequest(name=key, items=[{}])
        hold.wait(PATIENCE)
    stream = world.orders.env.EncryptStream(messages(), timeout=PATIENCE)
    next(stream)
    begun = time.monotonic()
    fresh.signal(signal.SIGTERM)
    fresh.wait()
    assert time.monotonic() - begun < PATIENCE / 2  # drain_timeout, and then whatever it takes to leave
    hold.set()
    with pytest.raises(grpc.RpcError):
        list(stream)


def test_a_following_reader_ends_when_the_daemon_leaves(new_world):
    call = new_world.admin.audit.Tail(audit_pb2.TailRequest(follow=True), timeout=30)
    next(call)
    new_world.instance.signal(signal.SIGTERM)
    with pytest.raises(grpc.RpcError) as e:
        for _ in call:
            pass
    assert e.value.code() in (Code.CANCELLED, Code.UNAVAILABLE), e.value
    assert new_world.instance.wait() == 0, new_world.instance.log


# ---- certificates -----------------------------------------------------------------------------------------------------------------
def server_serial(instance):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(instance.cert("ca")[0])
    context.load_cert_chain(*instance.cert("acme-orders"))
    context.set_alpn_protocols(["h2"])
    host, port = instance.endpoint.rsplit(":", 1)
    with context.wrap_socket(socket.create_connection((host, int(port)), PATIENCE), server_hostname="127.0.0.1") as s:
        return s.getpeercert()["serialNumber"]


def test_a_new_certificate_is_taken_without_dropping_anybody(new_world):
    world = new_world
    instance, key = world.instance, world.key()
    old, more, sent = server_serial(instance), threading.Event(), []

    def messages():
        yield env.EncryptStreamRequest(name=key, sequence=1, items=[{}])
        more.wait(PATIENCE)
        yield env.EncryptStreamRequest(sequence=2, items=[{}])
    stream = world.orders.env.EncryptStream(messages(), timeout=PATIENCE)
    sent.append(next(stream).sequence)
    certs.issue(instance.dir / "certs", "server", certs.load(instance.dir / "certs", "ca"), ips=[ipaddress.ip_address("127.0.0.1")], usage=certs.SERVER)
    instance.signal(signal.SIGHUP)
    until(lambda: server_serial(instance) != old, what="the new certificate")
    assert world.encrypt(key)  # the old connection serves on
    more.set()
    assert [r.sequence for r in stream] == [2]
    assert connect(instance, "acme-orders").health.Check(health_pb2.HealthCheckRequest()).status == 1


def test_a_broken_certificate_is_not_taken(new_world):
    world = new_world
    old = server_serial(world.instance)
    good = world.instance.cert("server")[0].read_bytes()
    world.instance.cert("server")[0].write_text("broken")
    world.instance.signal(signal.SIGHUP)
    until(lambda: "old server certificate" in world.instance.log or world.instance.log.count("level=error"), what="a word in the log")
    assert server_serial(world.instance) == old and world.encrypt(world.key())
    world.instance.cert("server")[0].write_bytes(good)


def test_client_authorities_are_reloaded_too(new_world, tmp_path):
    """A CA that is added lets its clients in; one that is taken away shuts them out, on connections that exist as well."""
    world = new_world
    key = world.key()
    ca_file = world.instance.cert("ca")[0]
    old = ca_file.read_bytes()
    new_ca, _ = certs.make_ca(tmp_path, "second")
    pair = certs.issue(tmp_path, "orders-by-second", certs.load(tmp_path, "second"), uris=["spiffe://dev.claviger/acme-orders"])
    client = connect(world.instance, None, cert=pair[0], key=pair[1])
    with refused(Code.UNAUTHENTICATED):
        world.encrypt(key, who=client)

    def works(who):
        try:
            return world.encrypt(key, who=who)
        except grpc.RpcError as e:
            assert e.code() == Code.UNAUTHENTICATED, e
            return False
    ca_file.write_bytes(old + new_ca.read_bytes())
    world.instance.signal(signal.SIGHUP)
    until(lambda: works(client), what="the second CA is known")
    ca_file.write_bytes(old)
    world.instance.signal(signal.SIGHUP)
    until(lambda: not works(client), what="the second CA is forgotten")
    assert works(world.orders)


# ---- the token -----------------------------------------------------------------------------------------------------------------
def health(world):
    s = world.admin.system.GetStatus(system_pb2.GetStatusRequest())
    return s.health, list(s.reasons)


def test_the_token_gone_and_back(fresh):
    world = World(fresh.start())
    ring = world.ring()
    cached, cold = world.key(ring), world.key(ring)
    tenant_cold = world.key2()
    sealed, sealed_cold = world.encrypt(cached), world.encrypt(tenant_cold, who=world.billing)

    def seconds():
        fresh.restart()  # nothing is in the cache now
        return back_after(fresh, (cached, sealed), (tenant_cold, sealed_cold))
    assert at_best(seconds, 2.0 * SLOWER) < 2.0 * SLOWER, "service returns within 2 s of the token's return"
    assert World(fresh).encrypt(cold)


def back_after(fresh, cached, tenant_cold):
    """The token is taken away and put back; how long what is not cached then took to be served again."""
    world = World(fresh)
    cached, sealed = cached
    tenant_cold, sealed_cold = tenant_cold
    assert world.decrypt(cached, sealed) == b"jane@example.com"
    away = fresh.dir / "tokens-away"
    (fresh.dir / "tokens").rename(away)
    os.kill(fresh.children()["hsm"], signal.SIGKILL)  # a module keeps its files open: the device is gone with its process
    until(lambda: health(world)[0] == "degraded", what="degraded")
    state, reasons = health(world)
    assert "HSM" in reasons[0] and "service returns by itself" in reasons[0]
    assert world.admin.health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
    for _ in range(20):  # what is cached goes on
        assert world.decrypt(cached, world.encrypt(cached)) == b"jane@example.com"
    begun = time.monotonic()
    with refused(Code.UNAVAILABLE) as r:  # what is not, says when to come back
        world.decrypt(tenant_cold, sealed_cold, who=world.billing)
    assert r.details.retry is not None and time.monotonic() - begun < DEADLINE / 2
    with refused(Code.UNAVAILABLE):
        world.admin.tenants.CreateTenant(ten.CreateTenantRequest(tenant_id="umbrella", tenant=dict(location="eu")))
    away.rename(fresh.dir / "tokens")
    back = time.monotonic()
    until(lambda: _ok(lambda: world.decrypt(tenant_cold, sealed_cold, who=world.billing)), what="uncached work")
    took = time.monotonic() - back
    until(lambda: health(world)[0] == "healthy", what="healthy again")
    return took


def _ok(call):
    try:
        return call() or True
    except grpc.RpcError as e:
        assert e.code() == Code.UNAVAILABLE, e
        return False


def test_a_module_that_hangs(fresh):
    """Stopped in the middle, as a network HSM that no longer answers: cached keys don't notice, the rest fails in time."""
    fresh.configure(hsm_timeout=f"{500 * SLOWER}ms")
    world = World(fresh.start())
    cached, cold = world.key(), world.key2()
    sealed = world.encrypt(cold, who=world.billing)
    fresh.restart()
    world = World(fresh)
    assert world.encrypt(cached)
    os.kill(fresh.children()["hsm"], signal.SIGSTOP)
    stopped = fresh.children()["hsm"]
    begun = time.monotonic()
    with refused(Code.UNAVAILABLE):
        world.decrypt(cold, sealed, who=world.billing)
    assert time.monotonic() - begun < DEADLINE / 2
    took = []
    for _ in range(50):
        t = time.monotonic()
        assert world.encrypt(cached)
        took.append(time.monotonic() - t)
    assert statistics.median(took) < 0.4 * SLOWER, took  # nobody waits for the token
    until(lambda: health(world)[0] == "degraded")
    try:
        os.kill(stopped, signal.SIGCONT)
    except ProcessLookupError:
        pass  # taken for hung and replaced: as good
    until(lambda: _ok(lambda: world.decrypt(cold, sealed, who=world.billing)), what="uncached work")
    until(lambda: health(world)[0] == "healthy")


def test_killing_core_while_changes_are_made_never_does_anything_twice(new_world):
    """A caller that retries with its idempotency key over a crash gets one effect."""
    world = new_world
    instance, key = world.instance, world.key()
    made, stop = [], threading.Event()

    def retrying():
        client, n = connect(instance, "acme-keyadmin"), 0
        while not stop.is_set():
            n += 1
            while True:
                try:
                    made.append(client.kms.CreateCryptoKeyVersion(msg.CreateCryptoKeyVersionRequest(parent=key), timeout=DEADLINE,
                                                                  metadata=[("claviger-idempotency-key", f"retry-{n}")]).name)
                    break
                except grpc.RpcError as e:
                    assert e.code() == Code.UNAVAILABLE, e
                    client = connect(instance, "acme-keyadmin")
    t = threading.Thread(target=retrying)
    t.start()
    for _ in range(2):
        n = len(made)
        until(lambda: len(made) > n + 5)
        os.kill(until(lambda: instance.children().get("core")), signal.SIGKILL)
    n = len(made)
    until(lambda: len(made) > n + 5)
    stop.set()
    t.join(PATIENCE)
    assert [int(m.rsplit("/", 1)[1]) for m in made] == list(range(2, 2 + len(made)))  # in order, none twice, none missing
    log = AuditLog(connect(instance, "admin"))
    created = [e.event.key_version for e in log.find(0, action="kms.cryptoKeyVersions.create", outcome="ok", reason="")]
    assert sorted(created) == sorted(made)
