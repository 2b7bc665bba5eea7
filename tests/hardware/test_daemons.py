"""kmsd, all four processes and confined as ever, on tokens that share no code with SoftHSM2: NSS softoken carries a daemon whole, with its floor in
a file and an audit key of P-256; opencryptoki cannot, and `kmsd init` says by name why, before it has made anything."""
import base64
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from claviger.audit.v1 import audit_pb2
from claviger.lifecycle.v1 import certificates_pb2 as cert
from claviger.system.v1 import system_pb2
from claviger.tenants.v1 import tenants_pb2 as ten
from google.cloud.kms.v1 import resources_pb2 as res, service_pb2 as msg
from google.protobuf import duration_pb2
from kit.instance import BUILD, ROOT, until
from kit.suite import World
from kit.wire import Code, refused
from tokens import CLONED, INIT, LANDLOCK, NO_DATA, NO_SIGN, SANITIZED, Nss, Opencryptoki, again_on_nss, on, run

sys.path.append(str(ROOT / "tests/matrix"))
from clock import REAL, SteppedInstance  # noqa: E402

NOTHING = ["hsm-pin-tries", "hsm-served", "kmsd.lock"]  # of a process's own; no instance, store, journal or backup


def left(instance):
    """The files that an init has left in the folders of core and hsm."""
    return sorted(f.name for f in instance.state.rglob("*") if f.is_file() and f.stat().st_size)


@pytest.fixture(scope="module")
def nss_template(copies):
    return again_on_nss(copies())


@pytest.fixture
def nss(nss_template, base, request):
    instance = nss_template.copy(base / f"nss-{request.node.name[:40]}")
    yield instance
    instance.stop()
    shutil.rmtree(instance.dir, ignore_errors=True)


def served(call):
    try:
        return call()
    except grpc.RpcError:
        return None


def test_nss_softoken_carries_a_daemon(nss):
    """Keys of both levels, wrapped and encrypted, over a restart and deaths of every process; and nothing of SoftHSM2 in the one that has the token."""
    world = World(nss.start())
    key, token_key = world.key(versions=2), world.key(version_template=dict(protection_level=res.HSM))
    sealed = {k: world.encrypt(k, b"card") for k in (key, token_key)}

    def all_opens(w):
        return all(w.decrypt(k, s) == b"card" for k, s in sealed.items()) and w.decrypt(token_key, w.encrypt(token_key, b"new")) == b"new"
    assert all_opens(world)
    hsm = nss.children()["hsm"]
    status = pathlib.Path(f"/proc/{hsm}/status").read_text()
    mapped = pathlib.Path(f"/proc/{hsm}/maps").read_text()
    assert "libsoftokn3.so" in mapped and "softhsm" not in mapped
    assert SANITIZED or ("Seccomp:\t2" in status and "NoNewPrivs:\t1" in status)
    st = world.admin.system.GetStatus(system_pb2.GetStatusRequest())
    assert st.health == "healthy" and st.hsm.manufacturer == "Mozilla Foundation" and st.hsm.missing == "CKM_EDDSA CKM_EC_EDWARDS_KEY_PAIR_GEN"
    assert "master-1: COPYABLE" in st.hsm.weaknesses and "known answer" not in st.hsm.weaknesses
    nss.restart()
    world = World(nss)
    assert all_opens(world)
    for role in ("hsm", "core"):
        pid = nss.children()[role]
        os.kill(pid, signal.SIGKILL)
        until(lambda: nss.children().get(role, pid) != pid, 60, f"another {role}")
        until(lambda: served(lambda: all_opens(world)), 60, "service")
    world.rotate(token_key)
    assert all_opens(world) and world.encrypt(token_key, b"x") != sealed[token_key]
    assert nss.stop() == 0
    code, said = nss.run("fsck")
    assert code == 0, said


def kmsctl(instance, *words):
    """(exit code, what it says in JSON or else in words) of the operator's tool."""
    env = {"PATH": "/usr/bin:/bin", "HOME": str(instance.dir), "KMS_ENDPOINT": instance.endpoint, "KMS_CA": str(instance.cert("ca")[0])}
    env["KMS_OPERATOR_CERT"], env["KMS_OPERATOR_KEY"] = map(str, instance.cert("admin"))
    done = subprocess.run([BUILD / "bin/kmsctl", *words, "--output", "json"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
    return done.returncode, json.loads(done.stdout) if done.returncode == 0 else done.stderr


def test_its_master_rotates(nss):
    """A second master on NSS's token, which its operator clones: every key goes on, and nothing is left under the first."""
    nss.configure(clock_settle="0s")
    world = World(nss.start())
    key, token_key = world.key(versions=3), world.key(version_template=dict(protection_level=res.HSM))
    sealed = {k: world.encrypt(k, b"card") for k in (key, token_key)}
    before = objects(nss)
    code, said = kmsctl(nss, "master", "rotate")
    assert code == 0, said
    until(lambda: objects(nss) == before + 1, 60, "a new master on the token")
    assert kmsctl(nss, "master", "status")[1]["current"] == 1  # not before it is cloned
    until(lambda: kmsctl(nss, "master", "rotate", "--token-cloned")[0] == 0, 60, "its rotation to wait for the clone")
    until(lambda: kmsctl(nss, "master", "status")[1]["current"] == 2, 60, "the new master")
    until(lambda: kmsctl(nss, "master", "status")[1]["rotation"]["state"] == "IDLE", 60, "the end of its rotation")
    nss.restart()
    world = World(nss)
    for k, s in sealed.items():
        assert world.decrypt(k, s) == b"card" and world.decrypt(k, world.encrypt(k, b"new")) == b"new"
    assert nss.stop() == 0
    code, said = nss.run("fsck")
    assert code == 0, said


def test_its_stored_answers(nss):
    """They stand in a file, since its token keeps no data objects: another key is found at the start, and that nothing is known of one is said."""
    answers = nss.state / "hsm-answers"
    good = answers.read_text()
    assert [line.split(" ")[0] for line in good.splitlines()] == ["master-1", "seal-1"] and answers.stat().st_mode & 0o777 == 0o600
    answers.write_text(good[:-2] + ("0" if good[-2] != "0" else "1") + "\n")
    code, said = nss.run()
    assert code == 1 and "claviger-seal-1 answers its stored challenge differently" in said and "HSM_KNOWN_ANSWER" in said, said
    answers.write_text(good)
    code, said = nss.run("fsck")
    assert code == 0, said
    answers.unlink()
    world = World(nss.start())
    st = world.admin.system.GetStatus(system_pb2.GetStatusRequest())
    assert "master-1: no stored known answer; seal-1: no stored known answer" in st.hsm.weaknesses and st.health == "healthy"


# ---- certificates of destruction, where the token has no EdDSA ----------------------------------------------------------------------------
@pytest.fixture
def stepped(nss_template, base):
    """Its wall clock is ours (tests/matrix/clock.py)."""
    instance = SteppedInstance(nss_template.copy(base / "nss-stepped").dir)
    instance.configure(clock_settle="0s", seal_period="0s")  # no new seal is made on the token meanwhile
    yield instance.start()
    instance.step(REAL)
    instance.stop()
    shutil.rmtree(instance.dir)


def certificate(world, version):
    try:
        got = world.keyadmin.certificates.GetCertificate(cert.GetCertificateRequest(name=version))
    except grpc.RpcError as e:
        assert e.code() == Code.NOT_FOUND, e
        return None
    return got if got.signed else None


def verifiers(instance, note, key):
    """Exit codes of the two that share nothing but the note and the key: kmsctl, and a script over python3-cryptography. No daemon is asked."""
    file = instance.dir / "certificate.txt"
    file.write_bytes(note)
    ours = [BUILD / "bin/kmsctl", "certificates", "verify", file, "--audit-key", key]
    theirs = ["/usr/bin/python3", ROOT / "tests/conformance/verify_certificate.py", file, key]
    done = [subprocess.run(c, env={}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60) for c in (ours, theirs)]
    return [d.returncode for d in done], [d.stdout for d in done]


@pytest.mark.skipif(SANITIZED, reason="libfaketime and sanitizers both want to be first")
def test_a_certificate_by_a_key_of_p256(stepped):
    world = World(stepped)
    by = world.admin.audit.GetStatus(audit_pb2.GetStatusRequest()).audit_key
    assert base64.b64decode(by.split("+", 2)[2])[0] == 2  # docs/FORMATS.md: P-256, as SubjectPublicKeyInfo
    for level, word in ((res.SOFTWARE, "SOFTWARE"), (res.HSM, "HSM")):
        key = world.key(destroy_scheduled_duration=duration_pb2.Duration(seconds=24 * 3600), version_template=dict(protection_level=level))
        version, sealed = f"{key}/cryptoKeyVersions/1", world.encrypt(key, b"card")
        world.keyadmin.kms.DestroyCryptoKeyVersion(msg.DestroyCryptoKeyVersionRequest(name=version))
        assert certificate(world, version) is None
        stepped.step("+1d" if level == res.SOFTWARE else "+3d")
        signed = until(lambda: certificate(world, version), 60, "its certificate")
        with refused(Code.FAILED_PRECONDITION, "KEY_VERSION_DESTROYED"):
            world.decrypt(key, sealed)
        note = signed.note.encode()
        codes, said = verifiers(stepped, note, by)
        assert codes == [0, 0], said
        assert "requested-by   acme-keyadmin" in said[0] and f"protection: {word}" in said[1] and f"name: {version}" in said[1]
        assert signed.audit_key == by
    text, signature = note.rsplit(b" ", 1)
    raw = bytearray(base64.b64decode(signature))
    raw[-1] ^= 1
    other = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    stranger = f"{by.split('+')[0]}+{hashlib.sha256(other).digest()[:4].hex()}+{base64.b64encode(bytes([2]) + other).decode()}"
    for twin, key in ((note.replace(b"acme-keyadmin", b"acme-keyadmim"), by), (note.replace(b"protection: HSM", b"protection: SOFTWARE"), by),
                      (text + b" " + base64.b64encode(raw) + b"\n", by), (note[:-30], by), (note, stranger)):
        codes, said = verifiers(stepped, twin, key)
        assert codes == [7, 1], (twin, said)
    assert stepped.stop() == 0, stepped.log


@pytest.mark.skipif(SANITIZED, reason="libfaketime and sanitizers both want to be first")
def test_a_tenant_leaves_nothing_on_its_token(stepped):
    """The day of a tenant's end takes its keys from NSS's token too, and its certificate counts them."""
    world = World(stepped)
    own = objects(stepped)
    keys = [world.key(version_template=dict(protection_level=res.HSM)) for _ in range(3)]
    kept = world.key(world.ring(world.keyadmin2, world.location2), who=world.keyadmin2, version_template=dict(protection_level=res.HSM))
    sealed = world.encrypt(kept, b"card", who=world.billing)
    for key in keys:
        world.encrypt(key, b"card")
    assert objects(stepped) == own + 8  # two for each key
    by = world.admin.audit.GetStatus(audit_pb2.GetStatusRequest()).audit_key
    etag = world.admin.tenants.GetTenant(ten.GetTenantRequest(name="projects/acme")).etag
    world.admin.tenants.DeleteTenant(ten.DeleteTenantRequest(name="projects/acme", etag=etag,
                                                             retention=duration_pb2.Duration(seconds=30 * 24 * 3600)))
    assert objects(stepped) == own + 8
    stepped.step("+31d")
    until(lambda: objects(stepped) == own + 2, 60, "the purge")

    def signed():
        got = served(lambda: world.admin.certificates.GetTenantCertificate(cert.GetTenantCertificateRequest(name="projects/acme")))
        return got.note if got and got.signed else None
    note = until(signed, 60, "its certificate").encode()
    codes, said = verifiers(stepped, note, by)
    assert codes == [0, 0] and "token-objects: 3" in said[1], said
    codes, said = verifiers(stepped, note.replace(b"token-objects: 3", b"token-objects: 2"), by)
    assert codes == [7, 1], said
    assert world.decrypt(kept, sealed, who=world.billing) == b"card"
    assert stepped.stop() == 0, stepped.log


# ---- what a token cannot do -----------------------------------------------------------------------------------------------------------
def objects(instance):
    """On NSS's token: rows of its two databases that are no housekeeping."""
    found = 0
    for name in ("key4.db", "cert4.db"):
        with contextlib.closing(sqlite3.connect(instance.dir / "tokens" / name)) as db:
            for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name != 'metaData'").fetchall():
                found += db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    return found


def test_without_a_place_for_the_floor_init_refuses(copies):
    """NSS softoken keeps no data objects: named before anything is made, with what to do; and done so, it works."""
    instance = copies()
    assert run(Nss(), instance.dir, on(instance, Nss()))[0] == 0
    code, said = instance.run(*INIT, *CLONED)
    assert code == 1 and f'token "claviger-test": {NO_DATA}: name a file for it in anchor_file' in said and "TOKEN_LACKS" in said, said
    assert objects(instance) == 0 and left(instance) == NOTHING
    (instance.dir / "anchor").mkdir(mode=0o700)
    instance.configure(anchor_file="anchor/floor")
    code, said = instance.run(*INIT, *CLONED)
    assert code == 0, said
    assert objects(instance) >= 3 and (instance.dir / "anchor/floor").stat().st_size  # master, seal and audit key


def tokens(lib):
    """Every object on opencryptoki's token is a file."""
    return {f.relative_to(lib): f.read_bytes() for f in lib.rglob("TOK_OBJ/*")}


def test_opencryptoki_cannot_carry_one(template):
    kind = Opencryptoki()
    kind.run  # skips, or fails, where it cannot run
    folder = pathlib.Path(tempfile.mkdtemp(prefix="clv-ock-"))  # not in /dev/shm: opencryptoki's is hidden there (ock)
    try:
        instance = template.copy(folder / "i")
        kmsd = f"{BUILD}/bin/kmsd --config {instance.config}"
        init = f"{kmsd} {' '.join(map(str, INIT + CLONED))}"
        # at last a start on it, as if an instance had been made on another token
        code, said = run(kind, folder, on(instance, kind), ["cp", "-a", "/var/lib/opencryptoki", folder / "before"],
                         ["sh", "-c", f"{init}; echo init=$?; ls {instance.state}; {kmsd}; echo start=$?"])
        init, start = said.split("init=1\n")
        assert f'token "claviger-test" cannot do {NO_SIGN}: a daemon needs another' in init and "TOKEN_LACKS" in init, said
        assert f"the token cannot do {NO_SIGN}" in start and "HSM_MECHANISM" in start and start.endswith("start=1\n"), said
        assert tokens(folder / "before") == tokens(folder / "root/lib") and (folder / "before/swtok/NVTOK.DAT").exists()
        assert left(instance) == NOTHING
    finally:
        shutil.rmtree(folder)


def test_paths_that_are_none(fresh):
    for key in ("hsm_read_paths", "hsm_write_paths"):
        fresh.configure(**{key: "/usr, var/x"})
        code, said = fresh.run()
        assert code == 1 and f"{key}: var/x is no absolute path" in said and "HSM_CONFIG" in said, said
        fresh.configure(**{key: "/usr"})
    if LANDLOCK:
        fresh.configure(hsm_read_paths="/no/such/folder")
        code, said = fresh.run()
        assert code == 1 and "CONFINE_PATH" in said and "/no/such/folder" in said, said
