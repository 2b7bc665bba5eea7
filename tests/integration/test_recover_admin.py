"""Locked out: `kmsd recover-admin` makes one administrator, for a time, off line, as root; it mends the lock-out and uses no key."""
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

import grpc
import pytest

from claviger.envelope.v1 import envelope_pb2 as env
from claviger.identity.v1 import identity_pb2 as idy
from claviger.policy.v1 import policy_pb2 as pol
from claviger.system.v1 import system_pb2 as sysm
from claviger.tenants.v1 import tenants_pb2
from conftest import BUILD, World, msg
from kit import certs
from kit.client import AuditLog, connect
from kit.instance import TRUST_DOMAIN, until
from kit.wire import Code, refused

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="recover-admin is for root: test_only_root_may stands for the rest")
SAN = f"spiffe://{TRUST_DOMAIN}/rescue"
RECOVERY, ROLLBACK = sysm.ReviewRequest.RECOVERY, sysm.ReviewRequest.ROLLBACK


def recover(instance, *more, name="rescue", san=SAN, reason="locked out, ticket 9", **run):
    return instance.run("recover-admin", "--admin", name, "--admin-san", san, "--reason", reason, *more, **run)


def certificate(instance, name="rescue", san=SAN):
    if not (instance.dir / "certs" / f"{name}.pem").exists():
        certs.issue(instance.dir / "certs", name, certs.load(instance.dir / "certs", "ca"), uris=[san])
    return connect(instance, name)


def status(who):
    return who.system.GetStatus(sysm.GetStatusRequest())


def named(st):
    return [r.split(":")[0] for r in st.reasons]


def lock_out(world):
    """A policy in which nobody is an administrator any more: the mistake that there is a way back from."""
    now = world.admin.policy.GetPolicy(pol.GetPolicyRequest())
    docs = [dict(name=d.name, yaml=d.yaml.replace(b"principals: [admin]", b"principals: [nobody]")) for d in now.documents]
    world.admin.policy.ApplyPolicy(pol.ApplyPolicyRequest(documents=docs, expected_version=now.version))
    with refused(Code.PERMISSION_DENIED):
        status(world.admin)
    return now


def test_the_way_back_in(new_world):
    """Locked out by policy, let in again, the policy mended, the recovery reviewed and over: each step on the record."""
    w = new_world
    i = w.instance
    key = w.key()
    ciphertext = w.encrypt(key)
    before = lock_out(w)
    code, said = recover(i)
    assert code == 1 and "ALREADY_RUNNING" in said, said  # not beside the daemon
    i.stop()
    code, said = recover(i, "--for", "30m")
    assert code == 0 and "recovery administrator rescue" in said, said
    w = World(i.start())
    rescue = certificate(i)
    st = status(rescue)
    assert st.health == "degraded" and named(st) == ["RECOVERY_UNREVIEWED"] and "ticket 9" in st.reasons[0], st
    me = rescue.identity.GetPrincipal(idy.GetPrincipalRequest(name="principals/rescue"))
    assert me.expire_time.seconds - me.create_time.seconds == 1800 and not me.tenant
    # who is let in this way uses no key, whatever policy it writes for itself
    docs = [dict(name=d.name, yaml=d.yaml) for d in before.documents]
    mine = b"version: 1\nbindings:\n  - role: service\n    tenant: acme\n    principals: [rescue]\n"
    rescue.policy.ApplyPolicy(pol.ApplyPolicyRequest(documents=[*docs, dict(name="mine.yaml", yaml=mine)],
                                                     expected_version=before.version + 1))
    uses = [lambda: w.encrypt(key, who=rescue), lambda: w.decrypt(key, ciphertext, who=rescue),
            lambda: rescue.env.Wrap(env.WrapRequest(name=key, plaintext_key=b"k" * 32)),
            lambda: rescue.env.GenerateDataKey(env.GenerateDataKeyRequest(name=key)),
            lambda: rescue.kms.GenerateRandomBytes(msg.GenerateRandomBytesRequest(location=w.location, length_bytes=16)),
            lambda: w.key(who=rescue), lambda: rescue.kms.GetCryptoKey(msg.GetCryptoKeyRequest(name=key))]
    for use in uses:
        with refused(Code.PERMISSION_DENIED, "PERMISSION_DENIED"):
            use()
    w.audit.one(0, principal="rescue", action="kms.cryptoKeys.encrypt", outcome="denied", rule="recovery.no-keys")
    asked = rescue.policy.TestPolicy(pol.TestPolicyRequest(principal="principals/rescue", action="kms.cryptoKeys.decrypt", resource=key))
    assert not asked.allowed and asked.rule == "recovery.no-keys"
    with refused(Code.ALREADY_EXISTS):  # nor under another name: its certificate is its own
        rescue.identity.CreatePrincipal(idy.CreatePrincipalRequest(principal_id="me-too", principal=dict(tenant="projects/acme", san=SAN)))
    with refused(Code.PERMISSION_DENIED):  # nor does it clear itself
        rescue.system.Review(sysm.ReviewRequest(what=RECOVERY, reason="fine"))
    # what it is for
    rescue.tenants.ListTenants(tenants_pb2.ListTenantsRequest())
    rescue.identity.CreatePrincipal(idy.CreatePrincipalRequest(principal_id="eve", principal=dict(san=f"spiffe://{TRUST_DOMAIN}/eve")))
    rescue.policy.ApplyPolicy(pol.ApplyPolicyRequest(documents=docs, expected_version=before.version + 2))
    assert named(status(w.admin)) == ["RECOVERY_UNREVIEWED"]
    # the review ends it, on a connection that is open too
    w.admin.system.Review(sysm.ReviewRequest(what=RECOVERY, reason="looked into, ticket 9"))
    with refused(Code.UNAUTHENTICATED):
        status(rescue)
    with refused(Code.FAILED_PRECONDITION, "RECOVERY_ENDS"):  # and nobody brings it back
        w.admin.identity.UpdatePrincipal(idy.UpdatePrincipalRequest(
            principal=dict(name="principals/rescue", state=idy.Principal.ACTIVE), update_mask={"paths": ["state"]}))
    with refused(Code.NOT_FOUND, "NO_RECOVERY"):
        w.admin.system.Review(sysm.ReviewRequest(what=RECOVERY, reason="again"))
    assert status(w.admin).health == "healthy"
    assert w.decrypt(key, ciphertext) == b"jane@example.com"
    # the record: made before it acted, what it did under its rule, the review
    made = w.audit.one(0, action="system.recovery.make", resource="principals/rescue", principal="system:offline")
    assert json.loads(made.event.after)["reason"] == "locked out, ticket 9"
    acts = [e for e in w.audit.read(0) if e.event.principal == "rescue"]
    assert acts and min(e.index for e in acts) > made.index
    assert {e.event.rule for e in acts} == {"recovery.administer", "recovery.no-keys"}
    w.audit.one(0, action="system.review", principal="admin", before="locked out, ticket 9", after="looked into, ticket 9")
    i.restart()
    with refused(Code.UNAUTHENTICATED):
        status(connect(i, "rescue"))


def test_it_ends_by_itself_and_only_one_is_unreviewed(fresh):
    begun = time.monotonic()
    assert recover(fresh, "--for", "3s")[0] == 0
    made = time.monotonic()
    fresh.start()
    rescue, admin = certificate(fresh), connect(fresh, "admin")

    def over():
        try:
            asked = time.monotonic()
            status(rescue)
            assert asked - made < 3.0, "let in after its time"
        except grpc.RpcError as e:
            assert e.code() == Code.UNAUTHENTICATED, e
            return True
    until(over, 30, "the end of three seconds")
    assert time.monotonic() - begun >= 3.0
    assert named(status(admin)) == ["RECOVERY_UNREVIEWED"]  # ended is not reviewed
    refusal = AuditLog(admin).one(0, action="system.status", outcome="refused", code="UNAUTHENTICATED")
    assert "time has ended" in refusal.event.cause
    fresh.stop()
    code, said = recover(fresh, name="second", san=SAN + "2")
    assert code == 1 and "RECOVERY_UNREVIEWED" in said and "rescue" in said, said
    assert fresh.run("review-recovery", "--reason", "nothing was done")[0] == 0
    code, said = fresh.run("review-recovery", "--reason", "again")
    assert code == 1 and "NO_RECOVERY" in said, said
    code, said = recover(fresh)  # its name and its certificate's name are used up
    assert code == 1 and "RECOVERY_NAME" in said, said
    assert recover(fresh, name="second", san=SAN + "2")[0] == 0
    fresh.start()
    assert status(certificate(fresh, "second", SAN + "2")).health == "degraded"


def test_another_boot_ends_it(fresh):
    """Nobody knows how long a machine was off: the time that one boot counts is over with it."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare")
    assert recover(fresh)[0] == 0
    other = fresh.dir / "boot_id"
    other.write_text("00112233-4455-6677-8899-aabbccddeeff\n")
    mount = f"mount --bind {other} /proc/sys/kernel/random/boot_id && exec \"$0\" \"$@\""
    if subprocess.run(["unshare", "-m", "sh", "-c", mount, "true"], capture_output=True).returncode != 0:
        pytest.skip("no mount namespaces here")
    endpoint = fresh.run_dir / "endpoint"
    with open(fresh.log_file, "ab") as log:
        fresh.process = subprocess.Popen(["unshare", "-m", "sh", "-c", mount, BUILD / "bin/kmsd", "--config", fresh.config],
                                         stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    until(lambda: fresh.process.poll() is not None or (endpoint.exists() and endpoint.read_text().strip()), 15, "kmsd ready")
    with refused(Code.UNAUTHENTICATED):
        status(certificate(fresh))
    assert named(status(connect(fresh, "admin"))) == ["RECOVERY_UNREVIEWED"]
    fresh.restart()  # in the boot that made it
    assert status(certificate(fresh)).health == "degraded"


@pytest.mark.parametrize("options, exit_code, reason", [
    (["--admin", "rescue", "--admin-san", SAN], 2, "--reason"),
    (["--admin", "rescue", "--reason", "x"], 2, "--admin-san"),
    (["--admin", "rescue", "--admin-san", SAN, "--reason", "x", "--for", "25h"], 2, "--for"),
    (["--admin", "rescue", "--admin-san", SAN, "--reason", "x", "--for", "0s"], 2, "--for"),
    (["--admin", "Rescue", "--admin-san", SAN, "--reason", "x"], 1, "ADMIN_INVALID"),
    (["--admin", "rescue", "--admin-san", "spiffe://elsewhere/rescue", "--reason", "x"], 1, "ADMIN_INVALID"),
    (["--admin", "admin", "--admin-san", SAN, "--reason", "x"], 1, "RECOVERY_NAME"),
    (["--admin", "rescue", "--admin-san", f"spiffe://{TRUST_DOMAIN}/acme-orders", "--reason", "x"], 1, "RECOVERY_NAME"),
])
def test_what_is_refused(stopped, options, exit_code, reason):
    code, said = stopped.run("recover-admin", *options)
    assert code == exit_code and reason in said, said


@pytest.fixture(scope="module")
def stopped(copies):
    """One for all that is refused: it stays as it was."""
    i = copies()
    yield i
    with i.start():
        assert status(connect(i, "admin")).health == "healthy"
        assert not AuditLog(connect(i, "admin")).find(0, action="system.recovery.make")


def test_only_root_may(stopped):
    """Another user is told so at once, before any file of the instance is touched."""
    with tempfile.TemporaryDirectory(prefix="clv-") as folder:
        os.chmod(folder, 0o755)
        copy = pathlib.Path(folder) / "kmsd.conf"
        copy.write_text(stopped.config.read_text())
        copy.chmod(0o644)
        done = subprocess.run(["setpriv", "--reuid=65534", "--clear-groups", "--inh-caps=-all", BUILD / "bin/kmsd", "--config", copy,
                               "recover-admin", "--admin", "rescue", "--admin-san", SAN, "--reason", "x"], capture_output=True, text=True)
    assert done.returncode == 1 and "RECOVERY_ROOT" in done.stderr, done.stdout + done.stderr


def test_not_without_the_pin(fresh):
    """A wrong PIN makes nobody an administrator; it is counted, and tried once a minute."""
    pin = fresh.dir / "pin"
    right, wrong = pin.read_bytes(), fresh.dir / "wrong-pin"
    wrong.write_bytes(b"0" * 32)
    wrong.chmod(0o600)
    code, said = recover(fresh, "--pin-file", str(wrong))
    assert code == 1 and "HSM_PIN" in said and "1 of 3" in said, said
    code, said = recover(fresh, "--pin-file", str(wrong))
    assert code == 1 and "HSM_PIN_WAIT" in said, said  # not tried: the token counts too
    pin.unlink()
    (fresh.state / "hsm-pin-tries").unlink()
    code, said = recover(fresh)
    assert code == 1 and "HSM_PIN_FILE" in said, said
    brought = fresh.dir / "brought"
    brought.write_bytes(right)
    brought.chmod(0o600)
    code, said = recover(fresh, "--pin-file", str(brought))  # as when a systemd credential is not there
    assert code == 0, said
    pin.write_bytes(right)
    pin.chmod(0o600)
    with fresh.start():
        assert status(certificate(fresh)).health == "degraded"


@pytest.mark.parametrize("call, nth", [("pwrite64", 1), ("pwrite64", 3), ("pwrite64", 6), ("fdatasync", 1)])
def test_never_half_an_administrator(fresh, call, nth):
    """kill -9 of core inside recover-admin: all of it is there, or nothing, and the store is whole."""
    if shutil.which("strace") is None:
        pytest.skip("no strace")
    done = subprocess.run(["strace", "-f", "-qq", "-o", fresh.dir / "trace", "-e", f"trace={call}", "-P", fresh.state / "store.db", "-P",
                           fresh.state / "store.db-wal", "-e", f"inject={call}:signal=KILL:when={nth}", BUILD / "bin/kmsd", "--config",
                           fresh.config, "recover-admin", "--admin", "rescue", "--admin-san", SAN, "--reason", "x"], capture_output=True,
                          text=True, timeout=60, env=dict(os.environ, ASAN_OPTIONS="detect_leaks=0"))  # it cannot work under strace
    killed = "killed by SIGKILL" in (fresh.dir / "trace").read_text()
    assert killed == (done.returncode != 0), done.stdout + done.stderr
    assert killed or nth > 1  # the first is always reached
    code, said = fresh.run("fsck")
    assert code == 0, said
    fresh.start()
    admin, rescue = connect(fresh, "admin"), certificate(fresh)
    there = any(p.name == "principals/rescue" for p in admin.identity.ListPrincipals(idy.ListPrincipalsRequest()).principals)
    assert there == ("RECOVERY_UNREVIEWED" in named(status(admin)))
    assert there == bool(AuditLog(admin).find(0, action="system.recovery.make"))
    if there:
        assert status(rescue).health == "degraded"
    else:
        with refused(Code.UNAUTHENTICATED):
            status(rescue)
