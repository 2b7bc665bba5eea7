"""An allocation fails: the Nth one, for each N, for each unit of work, in the programs as they are shipped. What runs out of memory says so or
stops by its own abort, nothing in between; what was answered is there; the next call works. The real core serves: its allocations below gRPC are
counted (oom.c). LONG=1: every N; else a few of each."""
import itertools
import os
import shutil
import signal
import subprocess
import time

import claviger_pb  # noqa: F401
import grpc
import pytest

from claviger.audit.v1 import audit_pb2
from claviger.envelope.v1 import envelope_pb2 as env
from claviger.policy.v1 import policy_pb2 as pol
from grpc.health.v1 import health_pb2
from google.cloud.kms.v1 import resources_pb2 as res, service_pb2 as msg
from kit.client import DEADLINE, AuditLog, connect, in_threads
from kit.instance import BUILD, PATIENCE, Instance, until
from page import Page

LONG = os.environ.get("LONG") == "1"
_CORE = (BUILD / "bin/kmsd-core").read_bytes()
pytestmark = pytest.mark.skipif(any(m in _CORE for m in (b"__asan_init", b"__tsan_init", b"__gcov_merge_add")),
                                reason="sanitizers bring their own malloc, and gcov's counting dies without memory")
LOCATION = "projects/acme/locations/eu"
ENDS = ("UNAVAILABLE", "RESOURCE_EXHAUSTED")  # and nothing else: come again


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("oom")
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def page(folder):
    return Page(folder)


@pytest.fixture(scope="module")
def template(folder):
    return Instance.create(folder / "template")


@pytest.fixture
def instance(template, page, folder):
    made = template.copy(folder / "i")
    made.programs = page.programs(folder / "bin")
    page.arm(0)
    yield made
    if made.process:
        made.process.kill()
        made.process.wait()
    shutil.rmtree(made.dir)
    shutil.rmtree(folder / "bin")


def some(total):
    """Which N: the first, the last, and a few between; every one in the long form, but for OpenSSL's thousands of a certificate chain."""
    return range(1, total + 1, max(1, total // 400)) if LONG else sorted({1, 2, total // 3, total * 2 // 3, total} & set(range(1, total + 1)))


def deaths(instance):
    return [line for line in instance.log.splitlines() if "signal=" in line]


def end(instance):
    """In order, and nothing worse than an abort of our own has happened."""
    instance.close_clients()
    instance.process.send_signal(signal.SIGTERM)
    assert instance.wait() == 0, instance.log[-3000:]
    died = deaths(instance)
    assert all("role=core" in line and "signal=ABRT" in line for line in died), died
    code, said = instance.run("fsck", timeout=120)
    assert code == 0, said
    return len(died)


# ---- programs that run to their end ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("arguments", [["--dump-config"], ["check"]], ids=["configuration", "check"])
def test_a_program_that_gets_no_memory_says_so(page, template, arguments):
    def run():
        done = subprocess.run([BUILD / "bin/kmsd", "--config", template.config, *arguments], env={**os.environ, **page.environment},
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=PATIENCE)
        return done.returncode, done.stdout, done.stderr
    page.arm(0)
    page.set(attached=0)
    code, good, _ = run()
    total = page.get("seen")
    assert code == 0 and total > 20 and page.get("attached") >= 1
    refused = 0
    for n in itertools.count(1):  # to the end: the first run in which nothing fails
        page.arm(n)
        code, out, err = run()
        if page.get("hits") == 0:
            assert code == 0 and out == good
            break
        refused += 1
        if code == 0:
            assert out == good, n  # it could do without
        elif code == -signal.SIGABRT:
            assert "invariant failed" in err, (n, err)
        else:
            assert 0 < code < 4 and err.strip(), (n, code, err)
    assert refused == n - 1 and n > 20
    print(f"{arguments}: {refused} allocations refused, one a run")


# ---- calls -------------------------------------------------------------------------------------------------------------------------------
class Calls:
    """Units of work for a fresh client; each returns what proves it."""

    def __init__(self, instance):
        self.instance, self.n, self.asked = instance, itertools.count(1), None
        keyadmin = connect(instance, "acme-keyadmin")
        self.ring = keyadmin.kms.CreateKeyRing(msg.CreateKeyRingRequest(parent=LOCATION, key_ring_id="oom")).name
        self.key = self.new_key(keyadmin)
        self.policy = connect(instance, "admin").policy.GetPolicy(pol.GetPolicyRequest())

    def new_key(self, who):
        return who.kms.CreateCryptoKey(msg.CreateCryptoKeyRequest(parent=self.ring, crypto_key_id=f"k{next(self.n)}",
                                                                  crypto_key=dict(purpose=res.CryptoKey.ENCRYPT_DECRYPT))).name

    def client(self, identity):
        """One whose connection core knows: the certificates have been read."""
        c = connect(self.instance, identity)

        def known():
            try:
                return c.health.Check(health_pb2.HealthCheckRequest()).status == 1
            except grpc.RpcError as e:
                assert e.code().name in ENDS, e
                return False
        until(known, what="a connection")
        return c

    # each: what is prepared without failures; then what is done with one
    def connection(self):
        """The certificate chain is read and judged as well."""
        c = connect(self.instance, "acme-orders")
        return lambda: bool(c.kms.Encrypt(msg.EncryptRequest(name=self.key, plaintext=b"x")).ciphertext)

    def encrypt(self):
        c = self.client("acme-orders")

        def work():
            sealed = c.kms.Encrypt(msg.EncryptRequest(name=self.key, plaintext=b"x" * 100)).ciphertext
            return c.kms.Decrypt(msg.DecryptRequest(name=self.key, ciphertext=sealed)).plaintext == b"x" * 100
        return work

    def batch(self):
        c = self.client("acme-orders")

        def work():
            r = c.env.BatchEncrypt(env.BatchEncryptRequest(name=self.key, items=[dict(plaintext=b"y", context={"a": "b"})] * 50))
            told = [i.status.code for i in r.results if not i.ciphertext]  # an item has a word of its own
            assert set(told) <= {code.value[0] for code in grpc.StatusCode if code.name in ENDS}, told
            return len(r.results) == 50 and r.failed == len(told)
        return work

    def stream(self):
        c = self.client("acme-orders")

        def work():
            out = list(c.env.EncryptStream(iter([env.EncryptStreamRequest(name=self.key, sequence=i, items=[dict(plaintext=b"s")]) for i in range(3)]), timeout=DEADLINE))
            return [r.sequence for r in out] == [0, 1, 2]
        return work

    def cold(self):
        """The first use of a key: read from the store, unwrapped, derived."""
        key, c = self.new_key(self.client("acme-keyadmin")), self.client("acme-orders")
        return lambda: bool(c.kms.Encrypt(msg.EncryptRequest(name=key, plaintext=b"x")).ciphertext)

    def change(self):
        c, name = self.client("acme-keyadmin"), f"k{next(self.n)}"
        self.asked = name
        request = msg.CreateCryptoKeyRequest(parent=self.ring, crypto_key_id=name, crypto_key=dict(purpose=res.CryptoKey.ENCRYPT_DECRYPT, labels={"a": "b"}))

        def work():
            made = c.kms.CreateCryptoKey(request, metadata=[("claviger-idempotency-key", f"oom-{name}")]).name
            return made == f"{self.ring}/cryptoKeys/{name}"
        return work

    def listing(self):
        c = self.client("acme-keyadmin")
        return lambda: len(c.kms.ListCryptoKeys(msg.ListCryptoKeysRequest(parent=self.ring, filter="labels.a=b")).crypto_keys) >= 0

    def policies(self):
        """Compiles every document again."""
        c = self.client("admin")
        request = pol.ApplyPolicyRequest(documents=self.policy.documents, expected_version=self.policy.version, dry_run=True)
        return lambda: c.policy.ApplyPolicy(request) is not None

    def refused(self):
        c = self.client("acme-orders")

        def work():
            try:
                c.kms.CreateKeyRing(msg.CreateKeyRingRequest(parent=LOCATION, key_ring_id="no"))
            except grpc.RpcError as e:
                if e.code() == grpc.StatusCode.PERMISSION_DENIED:
                    return True
                raise
        return work


def settled(instance, page):
    """A core that serves, whichever it is; and how many have died before it did."""
    page.set(countdown=0)
    died = []

    def serves():
        died[:] = deaths(instance)
        if "core" not in instance.children():
            return False
        try:
            c = connect(instance, "acme-keyadmin")
            return c.kms.ListKeyRings(msg.ListKeyRingsRequest(parent=LOCATION), timeout=10) is not None
        except (grpc.RpcError, FileNotFoundError):
            return False
        finally:
            instance.close_clients()
    until(serves, what="service by itself")
    return len(died)


def late(instance, known, e):
    """Who was refused memory may come to its abort only now, whatever was answered: then one more core has died, and that is why."""
    assert e.code().name in ENDS, e
    return until(lambda: len(deaths(instance)) > known, what=f"the death that explains {e}")


def goes_on(instance, page, known, work):
    """What is asked next, and how many have died before it was."""
    try:
        return work(), known
    except grpc.RpcError as e:
        late(instance, known, e)
    known = settled(instance, page)
    return work(), known



@pytest.mark.parametrize("kind", ["connection", "encrypt", "batch", "stream", "cold", "change", "listing", "policies", "refused"])
def test_each_allocation_of_a_call(instance, page, kind):
    instance.start()
    calls = Calls(instance)
    getattr(calls, kind)()()  # whatever is made once is there
    page.set(attached=page.get("attached"), seen=0)
    work = getattr(calls, kind)()
    page.set(seen=0)
    assert work()
    total = page.get("seen")
    assert total >= 3, f"{kind}: {total} allocations counted"
    outcomes, known = {}, settled(instance, page)
    for n in some(total):
        instance.close_clients()
        work, known = goes_on(instance, page, known, getattr(calls, kind))
        asked = calls.asked
        page.arm(n)
        try:
            assert work() is True, f"{kind} {n}: a wrong answer"
            outcome = "OK"
        except grpc.RpcError as e:
            outcome, failed = e.code().name, e
            assert outcome in ENDS, f"{kind} {n}: {e}"
        page.set(countdown=0)  # one that was not met must not wait for what comes next
        if page.get("hits") == 0:
            # fewer than before, since others allocate too: then nothing has failed, and nothing may have
            assert outcome == "OK" or late(instance, known, failed), f"{kind} {n}: {outcome} without a fault"
            known = settled(instance, page)
            continue
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        known = settled(instance, page)
        served, known = goes_on(instance, page, known, lambda: getattr(calls, kind)()())
        assert served, f"{kind} {n}: and the next call"
        if kind == "change":
            once(instance, calls, asked)  # the one that met the fault: whatever it was told, asked again it happens once
        assert len(deaths(instance)) <= sum(outcomes.values()), instance.log[-3000:]  # each is of an allocation that was refused
    assert sum(outcomes.values()) >= (total * 3 // 4 if LONG else 2), outcomes  # the faults did happen
    died = end(instance)
    assert died <= sum(outcomes.values())
    print(f"{kind}: {total} allocations, refused one at a time {sum(outcomes.values())} times: {outcomes}, {died} aborts of core")


def once(instance, calls, name):
    c = connect(instance, "acme-keyadmin")
    full = f"{calls.ring}/cryptoKeys/{name}"
    request = msg.CreateCryptoKeyRequest(parent=calls.ring, crypto_key_id=name, crypto_key=dict(purpose=res.CryptoKey.ENCRYPT_DECRYPT, labels={"a": "b"}))
    assert c.kms.CreateCryptoKey(request, metadata=[("claviger-idempotency-key", f"oom-{name}")]).name == full
    assert c.kms.GetCryptoKey(msg.GetCryptoKeyRequest(name=full)).labels["a"] == "b"
    made = AuditLog(connect(instance, "admin")).find(0, action="kms.cryptoKeys.create", outcome="ok", resource=full)
    assert len([e for e in made if e.event.reason == ""]) >= 1
    assert len({e.event.id for e in made if not e.event.duration_ns == 0}) >= 1


def again(instance, core):
    """The same core answers: what was refused it could do without."""
    try:
        c = connect(instance, "acme-keyadmin")
        ok = c.kms.ListKeyRings(msg.ListKeyRingsRequest(parent=LOCATION), timeout=10) is not None
        return ok and instance.children().get("core") == core
    except (grpc.RpcError, FileNotFoundError):
        return False


# ---- the whole process runs out ----------------------------------------------------------------------------------------------------------
def test_what_was_answered_outlives_a_core_that_ran_out_of_memory(instance, page):
    """Whoever asks for the Nth block gets none: gRPC and abseil abort. The monitor starts core again, and all that was answered is there."""
    instance.start()
    calls = Calls(instance)
    answered, sealed, failed = [], [], []
    gone = time.monotonic() + 4 * PATIENCE

    def changes(i):
        c, n = connect(instance, "acme-keyadmin"), 0
        while not done and time.monotonic() < gone:
            n += 1
            try:
                answered.append(c.kms.CreateCryptoKey(msg.CreateCryptoKeyRequest(parent=calls.ring, crypto_key_id=f"t{i}-{n}",
                                                                                 crypto_key=dict(purpose=res.CryptoKey.ENCRYPT_DECRYPT)), timeout=DEADLINE).name)
            except grpc.RpcError as e:
                failed.append(e.code().name)

    def uses(_):
        c = connect(instance, "acme-orders")
        while not done and time.monotonic() < gone:
            try:
                sealed.append(c.kms.Encrypt(msg.EncryptRequest(name=calls.key, plaintext=b"x"), timeout=DEADLINE).ciphertext)
            except grpc.RpcError as e:
                failed.append(e.code().name)

    def run_out(_):
        try:
            for n in (500, 1501, 3002) if not LONG else range(100, 6000, 307):
                a, s, core = len(answered), len(sealed), until(lambda: instance.children().get("core"))
                until(lambda: len(answered) > a + 2 and len(sealed) > s + 5, what="traffic")
                while instance.children().get("core") in (None, core):  # some can be done without: then the next one
                    page.arm(n, everybody=1)
                    until(lambda: page.get("hits") == 1, what=f"allocation {n}")
                    n = 100
                    died.append(until(lambda: instance.children().get("core") not in (None, core) or again(instance, core)))
        finally:
            done.append(True)
    done, died = [], []
    results = in_threads(3, lambda i: (changes, uses, run_out)[i](i))
    assert results[2] is None, results
    settled(instance, page)
    assert answered and sealed and failed and set(failed) <= {*ENDS, "ALREADY_EXISTS"}, set(failed)
    orders, log = connect(instance, "acme-orders"), AuditLog(connect(instance, "admin"))
    for name in answered:
        assert orders.kms.GetCryptoKey(msg.GetCryptoKeyRequest(name=name)).name == name
    for s in sealed[::7]:
        assert orders.kms.Decrypt(msg.DecryptRequest(name=calls.key, ciphertext=s)).plaintext == b"x"
    made = [e.event.resource for e in log.find(0, action="kms.cryptoKeys.create", outcome="ok")]
    assert set(answered) <= set(made) and len(made) == len(set(made))  # each with its one event
    assert log.admin.audit.GetStatus(audit_pb2.GetStatusRequest()).entries > len(answered) + len(sealed)
    assert end(instance) >= 3
