"""A version on the day of its destruction, in the real daemon, under a clock that is ours: refused from its scheduling on, restored in time,
destroyed on its day once, whoever is killed then; with a certificate that verifies by its page alone; and in no file any more."""
import contextlib
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys

import grpc
import pytest
from claviger.audit.v1 import audit_pb2
from claviger.lifecycle.v1 import certificates_pb2 as cert
from conftest import World, msg
from google.cloud.kms.v1 import resources_pb2 as res
from google.protobuf import duration_pb2
from kit import BUILD
from kit.client import AuditLog
from kit.instance import PATIENCE, until
from kit.wire import Code, refused

import rows
from test_freshness import keep, put_back
from test_kmsctl import CONFLICT, Ctl
from clock import REAL, SteppedInstance

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "conformance"))
from verify_certificate import Refused, verify  # noqa: E402

pytestmark = pytest.mark.skipif(rows.SANITIZED, reason="libfaketime and sanitizers both want to be first")
DAY = 24 * 3600
STATE = res.CryptoKeyVersion


@pytest.fixture
def world(copies):
    instance = SteppedInstance(copies().dir)
    instance.configure(clock_settle="0s")
    instance.start()
    yield World(instance)
    instance.step(REAL)
    assert instance.stop() == 0, instance.log


def doomed(world, ring):
    """A key whose destruction takes a day, with something encrypted."""
    key = world.key(ring, destroy_scheduled_duration=duration_pb2.Duration(seconds=DAY))
    return key, f"{key}/cryptoKeyVersions/1", world.encrypt(key, b"jane@example.com")


def destroy(world, version):
    return world.keyadmin.kms.DestroyCryptoKeyVersion(msg.DestroyCryptoKeyVersionRequest(name=version))


def state_of(world, version):
    """None while core comes back."""
    try:
        return world.keyadmin.kms.GetCryptoKeyVersion(msg.GetCryptoKeyVersionRequest(name=version)).state
    except grpc.RpcError as e:
        assert e.code() == Code.UNAVAILABLE
        return None


def certificate(world, version):
    try:
        got = world.keyadmin.certificates.GetCertificate(cert.GetCertificateRequest(name=version))
    except grpc.RpcError as e:
        assert e.code() in (Code.NOT_FOUND, Code.UNAVAILABLE)
        return None
    return got if got.signed else None


def audit_key(world):
    return world.admin.audit.GetStatus(audit_pb2.GetStatusRequest()).audit_key


def sealed_bodies(instance, version):
    with sqlite3.connect(instance.state / "store.db", timeout=60) as db:
        found = [bytes(r[0]) for r in db.execute("SELECT body FROM record WHERE kind = 5 AND name = ?", (version.encode(),))]
    db.close()
    assert found
    return found


def seen_in_files(instance, bodies):
    """Which of them have any part left in a file of the daemon's: its store, logs, journal, token."""
    files = [f.read_bytes() for f in instance.state.rglob("*") if f.is_file()]
    assert len(files) > 3
    parts = {b: [b[at:at + 32] for at in range(0, len(b) - 31, 32)] for b in bodies}
    return [b for b in bodies if any(p in f for p in parts[b] for f in files)]


def test_a_whole_life(world):
    ring, audit = world.ring(), AuditLog(world.admin)
    start, (key, version, sealed) = audit.position(), doomed(world, ring)
    bodies = sealed_bodies(world.instance, version)
    destroy(world, version)
    with refused(Code.FAILED_PRECONDITION, "KEY_VERSION_DESTROY_SCHEDULED"):
        world.decrypt(key, sealed)
    with refused(Code.NOT_FOUND):
        world.keyadmin.certificates.GetCertificate(cert.GetCertificateRequest(name=version))
    world.keyadmin.kms.RestoreCryptoKeyVersion(msg.RestoreCryptoKeyVersionRequest(name=version))  # as Cloud KMS: to DISABLED
    with refused(Code.FAILED_PRECONDITION, "KEY_VERSION_DISABLED"):
        world.decrypt(key, sealed)
    world.keyadmin.kms.UpdateCryptoKeyVersion(msg.UpdateCryptoKeyVersionRequest(
        crypto_key_version=STATE(name=version, state=STATE.ENABLED), update_mask={"paths": ["state"]}))
    assert world.decrypt(key, sealed) == b"jane@example.com"
    bodies += sealed_bodies(world.instance, version)
    destroy(world, version)
    bodies += sealed_bodies(world.instance, version)
    until(lambda: bodies[-1] in seen_in_files(world.instance, bodies), what="what is looked for")  # a checkpoint may move it between two readings
    assert state_of(world, version) == STATE.DESTROY_SCHEDULED
    world.instance.step("+1d")
    until(lambda: state_of(world, version) == STATE.DESTROYED, what="its destruction")
    signed = until(lambda: certificate(world, version), what="its certificate")
    with refused(Code.FAILED_PRECONDITION, "KEY_VERSION_DESTROYED"):
        world.decrypt(key, sealed)
    with refused(Code.FAILED_PRECONDITION, "KEY_VERSION_STATE"):
        world.keyadmin.kms.RestoreCryptoKeyVersion(msg.RestoreCryptoKeyVersionRequest(name=version))
    assert seen_in_files(world.instance, bodies) == []

    by = audit_key(world)
    assert signed.audit_key == by and signed.name == version
    facts = verify(signed.note.encode(), by)
    assert (facts["name"], facts["requested-by"], facts["protection"]) == (version, "acme-keyadmin", "SOFTWARE")
    assert facts["due"] < facts["destroyed"] and facts["requested"] < facts["due"]
    for at in range(0, len(signed.note), 7):
        with pytest.raises((Refused, UnicodeDecodeError)):
            whole = signed.note.encode()
            verify(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:], by)

    event = audit.one(start, action="kms.cryptoKeyVersions.erase", principal="system:destruction", outcome="ok", resource=version)
    assert event.event.before == '{"state":"DESTROY_SCHEDULED"}' and event.event.after.startswith('{"state":"DESTROYED","certificate":"sha256:')
    assert event.event.active_tenant == "acme" and event.event.key_version == version
    assert audit.one(start, action="kms.certificates.sign", principal="system:destruction", outcome="ok", resource=version)
    kmsctl(world, signed.note, by)
    ctl = Ctl(world)
    assert ctl.text("certificates", "show", short(version)) == signed.note
    file = world.instance.dir / "shown.txt"
    ctl("certificates", "show", short(version), "--out", file)
    assert file.read_text() == signed.note
    assert "[OUTPUT_EXISTS]" in ctl("certificates", "show", short(version), "--out", file, code=CONFLICT)
    file.unlink()
    assert [(c["name"], c["signed"]) for c in ctl.json("certificates", "list", short(ring))["certificates"]] == [(version, True)]


def short(name):
    parts = name.split("/")[1::2]
    return "/".join(parts[:4]) + "".join(f"@{n}" for n in parts[4:])


def test_while_the_token_does_not_answer(world):
    """Destroyed on its day, and shown as not signed yet; signed by itself when the token is back."""
    ring = world.ring()
    key, version, sealed = doomed(world, ring)
    destroy(world, version)
    hsm = world.instance.children()["hsm"]
    os.kill(hsm, signal.SIGSTOP)
    try:
        world.instance.step("+1d")
        until(lambda: state_of(world, version) == STATE.DESTROYED, what="its destruction")
        with refused(Code.FAILED_PRECONDITION, "KEY_VERSION_DESTROYED"):
            world.decrypt(key, sealed)
        got = world.keyadmin.certificates.GetCertificate(cert.GetCertificateRequest(name=version))
        assert not got.signed and got.note.endswith("\n") and "\u2014" not in got.note
        with pytest.raises(Refused):
            verify(got.note.encode(), got.audit_key)
        assert "not signed" in Ctl(world)("certificates", "show", short(version), code=CONFLICT)
    finally:
        with contextlib.suppress(ProcessLookupError):  # replaced meanwhile
            os.kill(hsm, signal.SIGCONT)
    signed = until(lambda: certificate(world, version), what="its certificate")
    assert signed.note.startswith(got.note + "\n\u2014 ") and verify(signed.note.encode(), signed.audit_key)["name"] == version


def kmsctl(world, note, by):
    """verify asks nobody: the daemon's address is not even given."""
    file = world.instance.dir / "certificate.txt"

    def run(text, key, *more):
        file.write_text(text)
        done = subprocess.run([BUILD / "bin/kmsctl", "certificates", "verify", file, *(["--audit-key", key] if key else []), *more], env={}, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE)
        return done.returncode, done.stdout
    code, said = run(note, by)
    assert code == 0 and "requested-by   acme-keyadmin" in said and f"verified       by {by.split('+')[0]}" in said
    code, said = run(note, by, "--output", "json")
    assert code == 0 and '"verified": true' in said
    for twin in (note.replace("acme-keyadmin", "acme-keyadmim"), note.replace("kind: version", "kind: versiom"), note[:-9] + "AAAAAAA=\n", note[:200], ""):
        assert twin != note and run(twin, by)[0] == 7, twin
    other = by.split("+")
    assert run(note, "+".join([other[0], "00000000", other[2]]))[0] == 2 and run(note, None)[0] == 2 and run(note, "nonsense")[0] == 2


def anothers_token(world, ring, token):
    """Of another list, or somebody else's, it is what garbage is."""
    shapes = set()
    for parent, text in ((ring, "garbage"), ("projects/acme/locations/eu", token), (ring, token[:-1])):
        with refused(Code.INVALID_ARGUMENT, field="page_token") as r:
            world.keyadmin.certificates.ListCertificates(cert.ListCertificatesRequest(parent=parent, page_token=text))
        shapes.add(r.shape)
    with refused(Code.INVALID_ARGUMENT, field="page_token") as r:
        world.admin.certificates.ListTenantCertificates(cert.ListTenantCertificatesRequest(page_token=token))
    assert {*shapes, r.shape} == shapes and len(shapes) == 1


def test_killed_on_the_day(world):
    """Twelve fall due together, and core and hsm are killed while they do: each is destroyed, and certified, once."""
    ring, audit = world.ring(), AuditLog(world.admin)
    start, versions = audit.position(), []
    for _ in range(12):
        versions.append(doomed(world, ring)[1])
        destroy(world, versions[-1])
    world.instance.step("+1d")
    deaths = 0
    for role, wanted in (("core", 1), ("hsm", 4), ("core", 8)):
        until(lambda: sum(state_of(world, v) == STATE.DESTROYED for v in versions) >= wanted, what=f"{wanted} of them")
        pid = until(lambda: world.instance.children().get(role))
        os.kill(pid, signal.SIGKILL)
        until(lambda: world.instance.children().get(role, pid) != pid)
        deaths += 1
    assert deaths == 3
    until(lambda: all(certificate(world, v) for v in versions), 180, "all certificates")  # what failed is tried again after a minute
    by = audit_key(world)
    for v in versions:
        assert verify(certificate(world, v).note.encode(), by)["name"] == v
    for action in ("kms.cryptoKeyVersions.erase", "kms.certificates.sign"):
        until(lambda: len(audit.find(start, action=action)) >= len(versions), what="the last event")
        assert sorted(e.event.resource for e in audit.find(start, action=action)) == sorted(versions)
    listed = world.keyadmin.certificates.ListCertificates(cert.ListCertificatesRequest(parent=ring, page_size=5))
    names = [c.name for c in listed.certificates]
    anothers_token(world, ring, listed.next_page_token)
    while listed.next_page_token:
        listed = world.keyadmin.certificates.ListCertificates(cert.ListCertificatesRequest(parent=ring, page_size=5, page_token=listed.next_page_token))
        names += [c.name for c in listed.certificates]
    assert names == sorted(versions)


def test_an_older_store_destroys_it_again(world):
    """The store of before is put back and accepted: the journal knows the version as destroyed, and its certificate is made anew."""
    i = world.instance
    key, version, sealed = doomed(world, world.ring())
    destroy(world, version)
    assert i.stop() == 0, i.log
    kept = keep(i, "kept")
    i.start()
    world = World(i)
    i.step("+1d")
    first = until(lambda: certificate(world, version), what="its certificate")
    assert i.stop() == 0, i.log
    put_back(i, kept)
    code, said = i.run("accept-rollback", "--reason", "a drill")
    assert code == 0 and f"{version} DESTROYED" in said, said
    i.start()
    world = World(i)
    again = until(lambda: certificate(world, version), what="its certificate, again")
    assert state_of(world, version) == STATE.DESTROYED
    with refused(Code.FAILED_PRECONDITION, "KEY_VERSION_DESTROYED"):
        world.decrypt(key, sealed)
    old, new = (verify(c.note.encode(), audit_key(world)) for c in (first, again))
    assert new["kvid"] == old["kvid"] and new["requested-by"] == old["requested-by"] == "acme-keyadmin" and new["destroyed"] != old["destroyed"]
