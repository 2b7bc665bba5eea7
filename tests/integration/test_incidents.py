"""What went wrong in other systems of this kind, done to this one: the rows of docs/THREATS.md that no other page tests."""
import contextlib
import datetime
import importlib.util
import itertools
import os
import pathlib
import re
import signal
import sqlite3
import subprocess
import sys

import grpc
import pytest

from claviger.envelope.v1 import envelope_pb2 as env
from claviger.identity.v1 import identity_pb2 as idy
from claviger.lifecycle.v1 import lifecycle_pb2 as life
from claviger.masters.v1 import masters_pb2
from claviger.policy.v1 import policy_pb2 as pol
from claviger.system.v1 import system_pb2
from claviger.tenants.v1 import tenants_pb2 as ten
from conftest import ENCRYPT_DECRYPT, World, msg, res
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from grpc.health.v1 import health_pb2
from kit import certs
from kit.client import DEADLINE, connect
from kit.instance import PATIENCE, TRUST_DOMAIN, until
from kit.wire import Code, Details, refused

MATRIX = pathlib.Path(__file__).resolve().parents[1] / "matrix"


def from_matrix(name):
    """The table of RPCs, and a request for any of them: tests/matrix has both."""
    spec = importlib.util.spec_from_file_location(f"matrix_{name}", MATRIX / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


rows, requests = from_matrix("rows"), from_matrix("requests")


# ---- one caller, however it is spelt -----------------------------------------------------------------------------------------
HOST, PATH = "svc.spelling.example", "acme-orders"


def hosts():
    yield from (HOST[:i] + HOST[i].upper() + HOST[i + 1:] for i in range(len(HOST)) if HOST[i] != ".")
    yield from (HOST + ".", "." + HOST, " " + HOST, HOST + " ", HOST + "\0", HOST + "\0.evil.example", HOST.replace(".", ".."), HOST.replace(".", "%2e"),
                "*.spelling.example", HOST + ":443", "xn--" + HOST, HOST.replace("s", "ſ"), HOST.replace("v", "\u200bv"))


def uris():
    good = f"spiffe://{TRUST_DOMAIN}/{PATH}"
    yield from (good.upper(), good.replace("spiffe", "SPIFFE"), good.replace(TRUST_DOMAIN, TRUST_DOMAIN.upper()), good.replace(PATH, PATH.title()),
                good + "/", good + " ", good + "\0", good + "%00", good + "?", good + "?x=1", good + "#x", good.replace("/acme", "//acme"),
                good.replace("/acme", "/./acme"), good.replace("/acme", "/x/../acme"), good.replace("acme", "%61cme"), good.replace("-", "%2d"),
                good.replace(TRUST_DOMAIN, TRUST_DOMAIN + ":443"), good.replace("//", "//x@"), good.replace("-", "\u2010"), good.replace("//", "/"))


def test_fifty_spellings_are_one_caller_or_none(new_world, tmp_path):
    """Incident 2. No spelling of a registered name is another caller, and all that are refused draw on one allowance."""
    world = new_world
    world.admin.identity.CreatePrincipal(idy.CreatePrincipalRequest(
        principal_id="spelt", principal=dict(tenant="projects/acme", san=f"dns:{HOST}")))
    ca = certs.load(world.instance.dir / "certs", "ca")
    spellings = [(x509.DNSName, h) for h in hosts()] + [(x509.UniformResourceIdentifier, u) for u in uris()]
    assert len(set(spellings)) >= 50
    start, key, shapes = world.audit.position(), world.key(), set()

    def ask(pair):
        client = connect(world.instance, None, cert=pair[0], key=pair[1])
        try:
            return world.encrypt(key, who=client)
        finally:
            client.close()
    pairs = [certs.issue(tmp_path, f"s{n}", ca, raw=[spelt]) for n, spelt in enumerate(spellings)]  # first: what is counted is counted by the minute
    for pair in pairs:
        with refused(Code.UNAUTHENTICATED) as r:
            ask(pair)
        shapes.add(r.shape)
    assert len(shapes) == 1
    with refused(Code.PERMISSION_DENIED):  # the one right spelling: known, and no role is bound to it
        ask(certs.issue(tmp_path, "right", ca, dns=[HOST]))
    assert ask(certs.issue(tmp_path, "right-uri", ca, uris=[f"spiffe://{TRUST_DOMAIN}/{PATH}"]))
    until(lambda: len(world.audit.find(start, code="UNAUTHENTICATED")) >= 10)
    assert world.instance.stop() == 0
    world = World(world.instance.start())
    found = world.audit.find(start, code="UNAUTHENTICATED", action="kms.cryptoKeys.encrypt")
    assert len([e for e in found if e.event.repeats == 0]) == 10 and sum(e.event.repeats for e in found) == len(spellings) - 10


def test_many_certificates_of_one_caller_have_one_rate(fresh, tmp_path):
    """Incident 2. The rate is the principal's: a new certificate or connection brings none of its own."""
    fresh.configure(rate_per_principal=20)
    world = World(fresh.start())
    key, ca = world.key(), certs.load(fresh.dir / "certs", "ca")
    clients = []
    for n in range(5):
        pair = certs.issue(tmp_path, f"again{n}", ca, uris=[f"spiffe://{TRUST_DOMAIN}/acme-orders"])
        clients.append(connect(fresh, None, cert=pair[0], key=pair[1]))
    for c in clients:
        assert world.encrypt(key, who=c)  # each is the caller
    served = [0] * len(clients)
    with refused(Code.RESOURCE_EXHAUSTED, "RATE_LIMITED"):
        for n in itertools.cycle(range(len(clients))):
            world.encrypt(key, who=clients[n])
            served[n] += 1
    assert sum(served) < 60
    for c in clients:  # not one of them has something left
        with refused(Code.RESOURCE_EXHAUSTED, "RATE_LIMITED"):
            c.env.BatchEncrypt(env.BatchEncryptRequest(name=key, items=[{}] * 20))


# ---- no request names a file -------------------------------------------------------------------------------------------------
# Fields whose names sound like a file's and are none.
NO_FILE = {
    "google.cloud.kms.v1.ExternalProtectionLevelOptions.external_key_uri", "google.cloud.kms.v1.ExternalProtectionLevelOptions.ekm_connection_key_path",
    "grpc.reflection.v1.ServerReflectionRequest.file_by_filename", "grpc.reflection.v1.ServerReflectionRequest.file_containing_symbol",
    "grpc.reflection.v1alpha.ServerReflectionRequest.file_by_filename", "grpc.reflection.v1alpha.ServerReflectionRequest.file_containing_symbol",
}


def texts_of(message, seen):
    if message.full_name in seen or message.full_name.startswith("google.protobuf."):
        return
    seen.add(message.full_name)
    for f in message.fields:
        if f.message_type is not None:
            yield from texts_of(f.message_type, seen)
        elif f.type in (f.TYPE_STRING, f.TYPE_BYTES):
            yield f


def test_no_request_has_a_field_for_a_file():
    """Incident 5. A new field that sounds like a path, a folder or an address on the network fails here until somebody has looked."""
    found, seen = set(), set()
    for row in rows.table():
        for f in texts_of(row.request.DESCRIPTOR, seen):
            if re.search(r"path|file|dir(ectory)?$|folder|uri|url|host$|endpoint|address|command|plugin|socket", f.name):
                found.add(f.full_name)
    found -= {n for n in found if n.endswith((".ServerReflectionRequest.host",))}
    assert found <= NO_FILE, found - NO_FILE
    assert found, "the search finds what sounds like one"


def test_a_path_in_any_field_opens_no_file(new_world):
    """Incident 5. A file's name in every text field of every request, by every identity: core opens nothing of that name."""
    need_ptrace()
    world, bait = new_world, new_world.instance.dir / "bait-7f3a.txt"
    bait.write_text("bait")
    callers = {"admin": world.admin, "acme-keyadmin": world.keyadmin, "acme-orders": world.orders}
    world.encrypt(world.key())  # what is opened once is open
    with traced(world, "openat,open,creat,unlink,unlinkat,rename,renameat,renameat2,mkdir,mkdirat,link,linkat,symlink,symlinkat,stat,newfstatat") as trace:
        asked = 0
        for row in rows.table():
            for path in requests.text_fields(row.request.DESCRIPTOR):
                for text in (str(bait), "../" * 12 + str(bait)[1:], "file://" + str(bait)):
                    request = requests.build(row, path, text)
                    for who in callers.values():
                        stub = {"unary": who.channel.unary_unary, "server stream": who.channel.unary_stream,
                                "both stream": who.channel.stream_stream}[row.kind](row.path, row.request.SerializeToString, row.response.FromString)
                        with contextlib.suppress(grpc.RpcError, StopIteration):
                            answers = stub(iter([request]) if row.kind == "both stream" else request, timeout=DEADLINE)
                            if row.kind != "unary":
                                next(answers)
                                answers.cancel()
                        asked += 1
    assert asked > 300
    lines = trace()
    assert not [line for line in lines if "bait" in line], lines
    assert bait.read_text() == "bait"


# ---- nothing is made by what fails -------------------------------------------------------------------------------------------
def contents(instance):
    """Every row of the store but the bookkeeping of its own (events already answered for, its freshness, what was used)."""
    with contextlib.closing(sqlite3.connect(f"file:{instance.state / 'store.db'}?mode=ro", uri=True)) as db:
        return sorted(map(repr, db.execute("SELECT * FROM record WHERE kind <> 14")))


def token_secrets(calls, one, long_key):
    """Of masters and seal secrets alike: their services have methods of the same names."""
    rotate, destroy = getattr(calls, f"Rotate{one}"), getattr(calls, f"Destroy{one}")
    return {f"{one}s/Rotate{one}": [lambda: rotate(masters_pb2.RotateRequest(token_cloned=True)),
                                    lambda: rotate(masters_pb2.RotateRequest(), metadata=long_key)],
            f"{one}s/PauseRotation": [lambda: calls.PauseRotation(masters_pb2.PauseRotationRequest()),
                                      lambda: calls.PauseRotation(masters_pb2.PauseRotationRequest(), metadata=long_key)],
            f"{one}s/ResumeRotation": [lambda: calls.ResumeRotation(masters_pb2.ResumeRotationRequest()),
                                       lambda: calls.ResumeRotation(masters_pb2.ResumeRotationRequest(), metadata=long_key)],
            f"{one}s/Destroy{one}": [lambda: destroy(masters_pb2.DestroyRequest(version=1)),
                                     lambda: destroy(masters_pb2.DestroyRequest(version=2, forfeit_backups=True)),
                                     lambda: destroy(masters_pb2.DestroyRequest())]}


def failing_changes(world, key, tenant="projects/acme"):
    """For each RPC that changes something: calls that its own administrator may make and that fail, each at another step."""
    ring, version, km = key.rsplit("/", 2)[0], key + "/cryptoKeyVersions/1", world.keyadmin.kms
    location, a = ring.rsplit("/", 2)[0], world.admin
    key_of = lambda **kw: dict(purpose=ENCRYPT_DECRYPT, **kw)  # noqa: E731
    used = [("claviger-idempotency-key", "incident-used")]
    km.CreateKeyRing(msg.CreateKeyRingRequest(parent=location, key_ring_id="incident-ring"), metadata=used)
    long_key = [("claviger-idempotency-key", "x" * 300)]
    policy = a.policy.GetPolicy(pol.GetPolicyRequest())
    person = dict(tenant=tenant, san=f"spiffe://{TRUST_DOMAIN}/incident")
    state = lambda s, **kw: msg.UpdateCryptoKeyVersionRequest(crypto_key_version=dict(name=version, state=s), **kw)  # noqa: E731
    return {
        "CreateKeyRing": [lambda: km.CreateKeyRing(msg.CreateKeyRingRequest(parent=location, key_ring_id="a b")),
                          lambda: km.CreateKeyRing(msg.CreateKeyRingRequest(parent=location, key_ring_id=ring.rsplit("/", 1)[1])),
                          lambda: km.CreateKeyRing(msg.CreateKeyRingRequest(parent=location, key_ring_id="other"), metadata=used),
                          lambda: km.CreateKeyRing(msg.CreateKeyRingRequest(parent=location, key_ring_id="other"), metadata=long_key),
                          lambda: km.CreateKeyRing(msg.CreateKeyRingRequest(parent=location.replace("/eu", "/us"), key_ring_id="other"))],
        "CreateCryptoKey": [lambda: km.CreateCryptoKey(msg.CreateCryptoKeyRequest(parent=ring, crypto_key_id="other", crypto_key=key_of(labels={"Bad Key": "x"}))),
                            lambda: km.CreateCryptoKey(msg.CreateCryptoKeyRequest(parent=ring, crypto_key_id=key.rsplit("/", 1)[1], crypto_key=key_of())),
                            lambda: km.CreateCryptoKey(msg.CreateCryptoKeyRequest(parent=ring + "x", crypto_key_id="other", crypto_key=key_of())),
                            lambda: km.CreateCryptoKey(msg.CreateCryptoKeyRequest(parent=ring, crypto_key_id="other", crypto_key=key_of(import_only=True)))],
        "UpdateCryptoKey": [lambda: km.UpdateCryptoKey(msg.UpdateCryptoKeyRequest(crypto_key=dict(name=key, labels={"a": "b"}), update_mask={"paths": ["labels", "purpose"]})),
                            lambda: km.UpdateCryptoKey(msg.UpdateCryptoKeyRequest(crypto_key=dict(name=key + "x", labels={"a": "b"}), update_mask={"paths": ["labels"]})),
                            lambda: km.UpdateCryptoKey(msg.UpdateCryptoKeyRequest(crypto_key=dict(name=key, labels={"a": "b"})))],
        "UpdateCryptoKeyPrimaryVersion": [
            lambda: km.UpdateCryptoKeyPrimaryVersion(msg.UpdateCryptoKeyPrimaryVersionRequest(name=key, crypto_key_version_id="99")),
            lambda: km.UpdateCryptoKeyPrimaryVersion(msg.UpdateCryptoKeyPrimaryVersionRequest(name=key, crypto_key_version_id="01"))],
        "RotateKey": [lambda: world.keyadmin.life.RotateKey(life.RotateKeyRequest(name=key + "x")),
                      lambda: world.keyadmin.life.RotateKey(life.RotateKeyRequest(name=ring)),
                      lambda: world.keyadmin.life.RotateKey(life.RotateKeyRequest(name=key), metadata=long_key)],
        **token_secrets(a.masters, "Master", long_key), **token_secrets(a.seals, "Seal", long_key),
        "CreateCryptoKeyVersion": [lambda: km.CreateCryptoKeyVersion(msg.CreateCryptoKeyVersionRequest(parent=key + "x")),
                                   lambda: km.CreateCryptoKeyVersion(msg.CreateCryptoKeyVersionRequest(parent=key, crypto_key_version=dict(state=2)))],
        "UpdateCryptoKeyVersion": [lambda: km.UpdateCryptoKeyVersion(state(res.CryptoKeyVersion.DESTROYED, update_mask={"paths": ["state"]})),
                                   lambda: km.UpdateCryptoKeyVersion(state(res.CryptoKeyVersion.DISABLED)),
                                   lambda: km.UpdateCryptoKeyVersion(state(res.CryptoKeyVersion.DISABLED, update_mask={"paths": ["state", "name"]}))],
        "DestroyCryptoKeyVersion": [lambda: km.DestroyCryptoKeyVersion(msg.DestroyCryptoKeyVersionRequest(name=key + "/cryptoKeyVersions/99"))],
        "RestoreCryptoKeyVersion": [lambda: km.RestoreCryptoKeyVersion(msg.RestoreCryptoKeyVersionRequest(name=version))],
        "CreateTenant": [lambda: a.tenants.CreateTenant(ten.CreateTenantRequest(tenant_id="acme", tenant=dict(location="eu"))),
                         lambda: a.tenants.CreateTenant(ten.CreateTenantRequest(tenant_id="incident", tenant=dict(location="mars"))),
                         lambda: a.tenants.CreateTenant(ten.CreateTenantRequest(tenant_id="platform", tenant=dict(location="eu")))],
        "SuspendTenant": [lambda: a.tenants.SuspendTenant(ten.SuspendTenantRequest(name="projects/absent")),
                          lambda: a.tenants.SuspendTenant(ten.SuspendTenantRequest(name=tenant, etag="x"))],
        "ResumeTenant": [lambda: a.tenants.ResumeTenant(ten.ResumeTenantRequest(name=tenant)),
                         lambda: a.tenants.ResumeTenant(ten.ResumeTenantRequest(name=tenant), metadata=long_key)],
        "DeleteTenant": [lambda: a.tenants.DeleteTenant(ten.DeleteTenantRequest(name=tenant)),
                         lambda: a.tenants.DeleteTenant(ten.DeleteTenantRequest(name=tenant, retention={"seconds": 30 * 86400})),
                         lambda: a.tenants.DeleteTenant(ten.DeleteTenantRequest(name=tenant, retention={"seconds": 30 * 86400}, etag="x")),
                         lambda: a.tenants.DeleteTenant(ten.DeleteTenantRequest(name="projects/absent", retention={"seconds": 30 * 86400}, etag="x"))],
        "RestoreTenant": [lambda: a.tenants.RestoreTenant(ten.RestoreTenantRequest(name=tenant)),
                          lambda: a.tenants.RestoreTenant(ten.RestoreTenantRequest(name="projects/absent"))],
        "CreatePrincipal": [lambda: a.identity.CreatePrincipal(idy.CreatePrincipalRequest(principal_id="acme-orders", principal=person)),
                            lambda: a.identity.CreatePrincipal(idy.CreatePrincipalRequest(principal_id="incident", principal={**person, "san": f"spiffe://{TRUST_DOMAIN}/admin"})),
                            lambda: a.identity.CreatePrincipal(idy.CreatePrincipalRequest(principal_id="incident", principal={**person, "tenant": "projects/absent"}))],
        "UpdatePrincipal": [lambda: a.identity.UpdatePrincipal(idy.UpdatePrincipalRequest(principal=dict(name="principals/nobody-at-all", state=2), update_mask={"paths": ["state"]})),
                            lambda: a.identity.UpdatePrincipal(idy.UpdatePrincipalRequest(principal=dict(name="principals/acme-orders", state=2), update_mask={"paths": ["state", "san"]}))],
        "Review": [lambda: a.system.Review(system_pb2.ReviewRequest(what=1, reason="there is nothing to look into")),
                   lambda: a.system.Review(system_pb2.ReviewRequest(what=1)), lambda: a.system.Review(system_pb2.ReviewRequest(reason="x"))],
        "BackupToken": [lambda: a.system.BackupToken(system_pb2.BackupTokenRequest(cloned=True)),  # it is files
                        lambda: a.system.BackupToken(system_pb2.BackupTokenRequest(), metadata=long_key)],
        "ApplyPolicy": [lambda: a.policy.ApplyPolicy(pol.ApplyPolicyRequest(expected_version=policy.version + 1, documents=policy.documents)),
                        lambda: a.policy.ApplyPolicy(pol.ApplyPolicyRequest(expected_version=policy.version, documents=[*policy.documents, pol.Document(name="x", yaml=b"version: 2\n")]))],
    }


def test_what_fails_has_made_nothing(new_world):
    """Incident 15. Every RPC that changes something, failing at every step at which it can: the store is as it was."""
    world = new_world
    key = world.key(versions=2)
    calls = failing_changes(world, key)
    changing = [r for r in rows.table() if "change" in r.flags]
    names = {r.path: r.method if r.method in calls else r.path.rsplit(".", 1)[1] for r in changing}  # Seals/PauseRotation, where two services have one
    assert set(names.values()) == set(calls), "a new RPC that changes something belongs in failing_changes"
    before, failures = contents(world.instance), 0
    assert any("incident-ring" in row for row in before)

    def unchanged(what, call):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert Details(caught.value).info is not None and caught.value.code() != Code.UNKNOWN
        assert contents(world.instance) == before, what
        return 1
    for row in changing:
        for n, call in enumerate(calls[names[row.path]]):
            failures += unchanged(f"{row} {n}", call)
        for who in (world.orders, world.billing, world.keyadmin2):  # not permitted, in whatever tenant
            failures += unchanged(row, lambda: who.raw(row.path, requests.build(row, next(iter(requests.text_fields(row.request.DESCRIPTOR)), ()), key).SerializeToString()))
        for raw in (b"\xff", b"\x0a\x80\x80\x80\x80\x10", b"\x0a\x05acm\0e"):  # not even a message
            failures += unchanged(row, lambda: world.admin.raw(row.path, raw))
    assert failures > 80
    world.keyadmin.kms.CreateKeyRing(msg.CreateKeyRingRequest(parent=world.location, key_ring_id="twin"))
    assert contents(world.instance) != before  # a difference would have been seen


def test_what_fails_halfway_has_made_nothing(fresh):
    """Incident 15. The token goes while something is being made: an error, and nothing of it in the store then or later."""
    world = World(fresh.start())
    fresh.restart()
    world = World(fresh)
    away = fresh.dir / "tokens-away"
    (fresh.dir / "tokens").rename(away)
    os.kill(fresh.children()["hsm"], signal.SIGKILL)
    until(lambda: world.admin.system.GetStatus(system_pb2.GetStatusRequest()).health == "degraded", 10)
    before = contents(fresh)
    for tenant in ("halfway", "halfway-2"):
        with refused(Code.UNAVAILABLE):
            world.admin.tenants.CreateTenant(ten.CreateTenantRequest(tenant_id=tenant, tenant=dict(location="eu")))
        assert contents(fresh) == before
    away.rename(fresh.dir / "tokens")
    until(lambda: world.admin.system.GetStatus(system_pb2.GetStatusRequest()).health == "healthy", 10)
    with refused(Code.NOT_FOUND):
        world.admin.tenants.GetTenant(ten.GetTenantRequest(name="projects/halfway"))
    assert contents(fresh) == before
    assert world.admin.tenants.CreateTenant(ten.CreateTenantRequest(tenant_id="halfway", tenant=dict(location="eu")))
    assert contents(fresh) != before


# ---- no list of revocations is not an empty one ----------------------------------------------------------------------------------
def revocations(folder, ca, *serials):
    cert, key = ca
    now = datetime.datetime.utcnow()
    builder = x509.CertificateRevocationListBuilder().issuer_name(cert.subject).last_update(now - certs.DAY).next_update(now + certs.DAY)
    for serial in serials:
        builder = builder.add_revoked_certificate(x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - certs.DAY).build())
    (folder / "crl.pem").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return folder / "crl.pem"


def test_without_its_list_of_revocations_nobody_is_let_in(fresh, tmp_path):
    """Incident 29. A list that is configured and missing, empty or damaged stops the start; one that is emptied later leaves the old in force."""
    ca = certs.load(fresh.dir / "certs", "ca")
    pair = certs.issue(tmp_path, "lost", ca, uris=[f"spiffe://{TRUST_DOMAIN}/acme-orders"], serial=4711)
    crl = revocations(tmp_path, ca, 4711)
    whole = crl.read_bytes()
    fresh.configure(client_crl_file=crl)
    for bad in (None, b"", b"\n", whole[:200], b"nothing of the kind\n"):
        crl.unlink(missing_ok=True) if bad is None else crl.write_bytes(bad)
        code, said = fresh.run()
        assert code == 1 and "crl.pem" in said, (bad, said)
    crl.write_bytes(whole)
    world = World(fresh.start())
    key, lost = world.key(), connect(fresh, None, cert=pair[0], key=pair[1])

    def both():
        with refused(Code.UNAUTHENTICATED):
            world.encrypt(key, who=lost)
        assert world.encrypt(key)
    both()
    for bad in (b"", whole[:200]):
        crl.write_bytes(bad)
        seen = fresh.log.count("reload")
        fresh.signal(signal.SIGHUP)
        until(lambda: fresh.log.count("reload") > seen, what="the reload is spoken of")
        both()
    revocations(tmp_path, ca)  # the twin: a whole list without it lets it in again
    fresh.signal(signal.SIGHUP)
    until(lambda: served_to(world, key, lost), what="the new list is taken")


def served_to(world, key, who):
    try:
        return world.encrypt(key, who=who)
    except grpc.RpcError as e:
        assert e.code() == Code.UNAUTHENTICATED, e
        return False


# ---- what comes before what ----------------------------------------------------------------------------------------------------
def need_ptrace():
    if os.geteuid() != 0:
        pytest.skip("the processes are not dumpable: only root may trace them")


@contextlib.contextmanager
def strace(world, *options):
    """strace on core until the block ends; yields a function that gives its lines so far."""
    out = world.instance.dir / "strace"
    pid = world.instance.children()["core"]
    process = subprocess.Popen(["strace", "-f", "-p", str(pid), "-o", out, *options], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True)
    try:
        said = process.stderr.readline()  # after all threads are attached
        assert "attached" in said, said
        yield lambda: out.read_text(errors="replace").splitlines()
    finally:
        process.terminate()  # lets go of what it holds
        process.communicate(timeout=PATIENCE)


@contextlib.contextmanager
def traced(world, calls, *options):
    with strace(world, "-y", "-s", "8192", "-e", f"trace={calls}", *options) as lines:
        yield lines


WATCHED = "recvmsg,recvfrom,read,sendmsg,sendto,writev,write,pwrite64,fdatasync,fsync"


def system_calls(lines):
    """(call, text, line of its begin, line of its end): what was interrupted is joined with its end."""
    parts = {}
    for n, line in enumerate(lines):
        pid, _, rest = line.partition(" ")
        begin, rest = n, rest.strip()
        if rest.endswith("<unfinished ...>"):
            parts[pid] = (n, rest[:-len("<unfinished ...>")])
            continue
        again = re.match(r"<\.\.\. \w+ resumed>(.*)", rest)
        if again and pid in parts:
            begin, rest = parts[pid][0], parts.pop(pid)[1] + again.group(1)
        call = re.match(r"(\w+)\(", rest)
        if call:
            yield call.group(1), rest, begin, n


def order_of(lines, word, file):
    """Line numbers: the request with this word came in; syncs of that file begun after it had returned; answers with the word began to leave."""
    done = list(system_calls(lines))
    arrived = next(end for call, text, _, end in done if call in ("recvmsg", "recvfrom", "read") and word in text)
    after = [d for d in done if d[2] > arrived]
    synced = [end for call, text, _, end in after if call in ("fdatasync", "fsync") and file in text and text.endswith("= 0")]
    left = [begin for call, text, begin, _ in after if call in ("sendmsg", "sendto", "writev", "write") and word in text]
    return arrived, synced, left


def answered(lines, word, file):
    """order_of, once the answer has left: strace may write it down after the caller has read it."""
    def order():
        try:
            seen = order_of(lines(), word, file)
        except StopIteration:
            return None
        return seen if seen[2] else None
    return until(order, what=f"an answer with {word}")


def test_the_disk_has_it_before_the_caller(new_world):
    """Incident 30. The sync of the journal (of the store, for a change) has returned before the first byte of the answer leaves."""
    need_ptrace()
    world = new_world
    ring = world.ring()
    key = world.key(ring)
    word = key.rsplit("/", 1)[1]
    world.encrypt(key)
    with traced(world, WATCHED) as lines:
        world.encrypt(key)
        use = answered(lines, word, "/journal-")
        world.keyadmin.kms.CreateCryptoKey(msg.CreateCryptoKeyRequest(parent=ring, crypto_key_id="durable-9c1", crypto_key=dict(purpose=ENCRYPT_DECRYPT)))
        changes = [answered(lines, "durable-9c1", file) for file in ("/store.db-wal", "/journal-")]
    for arrived, synced, left in (use, *changes):
        assert synced and arrived < synced[0] < left[0], (arrived, synced, left)


def test_a_sync_that_hangs_keeps_the_answer(new_world):
    """Incident 30. The twin: while that sync has not returned, nothing of the answer has left core; when it has, the answer comes."""
    need_ptrace()
    world = new_world
    key = world.key()
    word = key.rsplit("/", 1)[1]
    world.encrypt(key)
    with traced(world, WATCHED, "-e", "inject=fdatasync:delay_enter=300s") as lines:
        call = world.orders.kms.Encrypt.future(msg.EncryptRequest(name=key, plaintext=b"x"), timeout=2 * PATIENCE)
        until(lambda: any("/journal-" in line and "fdatasync" in line for line in lines()), what="the sync has begun")
        with pytest.raises(grpc.FutureTimeoutError):
            call.result(timeout=0.5)
        seen = lines()
        _, synced, left = order_of(seen, word, "/journal-")
        assert not synced and not [n for n in left if "cryptoKeyVersions" in seen[n]], left
    assert call.result(timeout=PATIENCE).ciphertext


def served(world, key):
    try:
        return world.encrypt(key)
    except grpc.RpcError as e:
        assert e.code() == Code.UNAVAILABLE, e
        return False


def test_a_disk_that_hangs_stops_no_one_for_ever(new_world):
    """Incidents 31 and 8. The journal's disk does not answer: new calls are refused at once with the reason, health says so, and it
    ends when the disk comes back."""
    need_ptrace()
    world = new_world
    key = world.key()
    sealed = world.encrypt(key)
    with strace(world, "-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_enter=300s"):
        with pytest.raises(grpc.RpcError) as caught:  # whoever came first waits for as long as the caller likes, and gets nothing
            world.orders.kms.Encrypt(msg.EncryptRequest(name=key, plaintext=b"x"), timeout=1)
        assert caught.value.code() == Code.DEADLINE_EXCEEDED

        def refused_now():
            with pytest.raises(grpc.RpcError) as e:
                world.orders.kms.Decrypt(msg.DecryptRequest(name=key, ciphertext=sealed), timeout=2)
            return e.value.code() == Code.UNAVAILABLE and Details(e.value).reason == "AUDIT_UNAVAILABLE" and Details(e.value).retry
        until(refused_now, what="new work is refused")
        assert world.admin.health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        until(refused_now, what="and stays so")
    until(lambda: served(world, key), what="the disk answers again")
    assert world.decrypt(key, sealed) == b"jane@example.com"
    assert world.admin.health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING


@contextlib.contextmanager
def denied_only():
    """Passes over PERMISSION_DENIED, and nothing else."""
    try:
        yield
    except grpc.RpcError as e:
        if e.code() != Code.PERMISSION_DENIED:
            raise


def test_limits_come_first(fresh, tmp_path):
    """Incident 8. Calls in flight are bounded before a message is parsed, a message is parsed before anybody is authenticated, a rate
    is spent before policy is asked."""
    need_ptrace()
    fresh.configure(rate_per_principal=20, max_calls_in_flight=16)
    world = World(fresh.start())
    key, path = world.key(), "/google.cloud.kms.v1.KeyManagementService/Encrypt"
    pair = certs.issue(tmp_path, "nobody", certs.load(fresh.dir / "certs", "ca"), uris=[f"spiffe://{TRUST_DOMAIN}/nobody"])
    nobody = connect(fresh, None, cert=pair[0], key=pair[1])
    good = msg.EncryptRequest(name=key, plaintext=b"x").SerializeToString()
    with refused(Code.INVALID_ARGUMENT):  # parsed first
        nobody.raw(path, b"\xff")
    with refused(Code.UNAUTHENTICATED):
        nobody.raw(path, good)
    with refused(Code.PERMISSION_DENIED):
        world.billing.raw(path, good)
    with refused(Code.RESOURCE_EXHAUSTED, "RATE_LIMITED"):  # the rate before policy: after it the same call is no longer denied
        for _ in range(200):
            with denied_only():
                world.billing.raw(path, good)
    world.encrypt(key)
    with strace(world, "-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_enter=300s"):
        held = [world.orders.kms.Encrypt.future(msg.EncryptRequest(name=key, plaintext=b"x"), timeout=DEADLINE) for _ in range(16)]
        until(lambda: any(h.done() and h.code() == Code.RESOURCE_EXHAUSTED for h in held), what="one too many")
        with refused(Code.RESOURCE_EXHAUSTED):
            world.orders.raw(path, b"\xff")  # not parsed
    for h in held:
        until(h.done, 25)
    until(lambda: served(world, key), 10)
    with refused(Code.INVALID_ARGUMENT):
        world.orders.raw(path, b"\xff")
