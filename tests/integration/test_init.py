"""kmsd init: the token's backup, what an interrupted run leaves and says, and the way back from both."""
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import pytest

from claviger.system.v1 import system_pb2
from conftest import World
from kit.instance import BUILD, ROOT, until

ADMIN = ["init", "--admin", "admin", "--admin-san", "spiffe://dev.claviger/admin", "--policy-dir", ROOT / "policies"]
SAME_DEVICE = "token backup lies on the same device as the token"

# Labels of all objects, seen by another program than the one that is tested.
LABELS = """
import ctypes, sys
class A(ctypes.Structure): _fields_ = [("t", ctypes.c_ulong), ("p", ctypes.c_void_p), ("n", ctypes.c_ulong)]
p11 = ctypes.CDLL("/usr/lib/softhsm/libsofthsm2.so"); U = ctypes.c_ulong
def call(name, *a):
    rv = getattr(p11, name)(*a)
    assert rv == 0, (name, hex(rv))
call("C_Initialize", None)
n = U(8); slots = (U * 8)(); call("C_GetSlotList", 1, slots, ctypes.byref(n))
s = U(); call("C_OpenSession", U(slots[0]), U(6), None, None, ctypes.byref(s))
pin = open(sys.argv[1], "rb").read().strip(); call("C_Login", s, U(1), pin, U(len(pin)))
call("C_FindObjectsInit", s, None, U(0)); h = (U * 64)(); call("C_FindObjects", s, h, U(64), ctypes.byref(n))
for o in h[:n.value]:
    text = ctypes.create_string_buffer(4096); a = A(3, ctypes.cast(text, ctypes.c_void_p), 4096)
    rv = p11.C_GetAttributeValue(s, U(o), ctypes.byref(a), U(1))
    if rv == 0x13: continue  # an object that was cut short while it was written has no label to show
    assert rv == 0, hex(rv)
    print(text.raw[:a.n].decode(errors="replace"))
"""


def new_token(i):
    subprocess.run([ROOT / "tools/softhsm-token", "claviger", i.dir / "pin", i.dir / "so-pin"], check=True,
                   env={**os.environ, "SOFTHSM2_CONF": str(i.dir / "softhsm2.conf")})


@pytest.fixture
def blank(copies):
    """Configured, with an empty token, before kmsd init."""
    i = copies()
    for name in ("state", "tokens"):
        shutil.rmtree(i.dir / name)
        (i.dir / name).mkdir(mode=0o700)
    new_token(i)
    yield i
    if i.process is not None:
        i.process.kill()
        i.wait()
    shutil.rmtree(i.dir, ignore_errors=True)


def begin(i):
    """kmsd init, running; what it says goes to the instance's log."""
    with open(i.log_file, "wb") as log:
        i.process = subprocess.Popen([BUILD / "bin/kmsd", "--config", i.config, *ADMIN], stdin=subprocess.DEVNULL, stdout=log,
                                     stderr=subprocess.STDOUT)


def backups(i, pattern="*Z"):
    return sorted((i.state / "token-backup").glob(pattern))


def labels(i):
    done = subprocess.run([sys.executable, "-c", LABELS, i.dir / "pin"], check=True, stdout=subprocess.PIPE, text=True,
                          env={**os.environ, "SOFTHSM2_CONF": str(i.dir / "softhsm2.conf")})
    return set(done.stdout.split())


def fingerprint(i):
    """What nobody may overwrite. (The store is opened to see whether anything is in it, which changes bytes of the file.)"""
    files = [*i.dir.glob("tokens/*/*-*.object"), i.state / "instance", *i.state.glob("token-backup/*/*/*.object")]
    return {f: f.read_bytes() for f in files if f.exists()}


def verified(i):
    done = subprocess.run("sha256sum --quiet -c SHA256SUMS", cwd=backups(i)[0], shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode == 0


# ---- the backup -----------------------------------------------------------------------------------------------------------
def test_init_backs_the_token_up_and_says_where(blank):
    code, said = blank.run(*ADMIN)
    assert code == 0, said
    [b] = backups(blank)
    assert f"token backup: {b}, verified; holds master-1 seal-1 audit-1" in said
    assert verified(blank)
    assert backups(blank, ".*") == [] and backups(blank, "*.part") == []
    for f in [b.parent, b, *b.rglob("*")]:
        assert f.stat().st_mode & 0o777 == (0o700 if f.is_dir() else 0o600), f
    assert not any(blank.dir.joinpath("pin").read_bytes().strip() in f.read_bytes() for f in b.rglob("*") if f.is_file())


def test_status_warns_until_the_backup_is_moved(fresh):
    w = World(fresh.start())
    status = lambda: w.admin.system.GetStatus(system_pb2.GetStatusRequest()).hsm.weaknesses  # noqa: E731
    assert SAME_DEVICE in until(status)
    (fresh.state / "token-backup").rename(fresh.dir / "elsewhere")
    until(lambda: SAME_DEVICE not in status(), what="the weakness goes with the backup")


def test_one_flipped_bit_stops_init(blank):
    [folder] = (blank.dir / "tokens").iterdir()
    for n in range(200):  # they come after all others in order, and give us time
        (folder / f"zz-{n:04}").write_bytes(b"")
    begin(blank)
    last = until(lambda: backups(blank, "*.part/*/zz-0000") or blank.process.poll() is not None, 20, "the copy")
    assert isinstance(last, list), blank.log
    spoilt = sorted(last[0].parent.glob("*-*.object"))[0]
    content = bytearray(spoilt.read_bytes())
    content[len(content) // 2] ^= 1
    spoilt.write_bytes(content)
    assert blank.wait(60) == 1
    assert f"the backup of the token failed, so init stops before first use: the copy of token file {spoilt.name} differs" in blank.log
    assert not backups(blank) and not (blank.state / "store.db").exists()
    code, said = blank.run(*ADMIN)
    assert code == 1 and found(said)["token backup"] == "no"


def test_restore_from_the_backup(fresh):
    w = World(fresh.start())
    key = w.key()
    secret = w.encrypt(key)
    assert fresh.stop() == 0
    [token] = (fresh.dir / "tokens").iterdir()
    shutil.rmtree(token)  # the disk of the token died
    code, said = fresh.run(timeout=30)
    assert code == 1 and "no token matches hsm_token" in said
    assert verified(fresh)
    shutil.copytree(backups(fresh)[0] / token.name, token)
    w = World(fresh.start())
    assert w.decrypt(key, secret) == b"jane@example.com"
    assert w.decrypt(key, w.encrypt(key)) == b"jane@example.com"
    assert verified(fresh)  # the backup itself was only read


# ---- a token that is no files ---------------------------------------------------------------------------------------------
def test_a_token_that_is_no_files_needs_the_vendors_clone(blank):
    # SoftHSM reads more of its configuration than kmsd does: so this token's files are nothing that kmsd knows of.
    (blank.dir / "tokens").rename(blank.state / "tokens")
    conf = blank.dir / "softhsm2.conf"
    conf.write_text("# nothing to see\n" * 5000 + conf.read_text().replace(str(blank.dir / "tokens"), str(blank.state / "tokens")))
    code, said = blank.run(*ADMIN)
    assert code == 1 and "--token-backup vendor-clone [ERR_STATE/TOKEN_BACKUP]" in said, said
    assert not (blank.state / "instance").exists() and labels(blank) == set()
    code, said = blank.run(*ADMIN, "--token-backup", "vendor-clone")
    assert code == 0 and "token backup: none was made or verified here; clone token" in said, said
    assert not (blank.state / "token-backup").exists()
    assert World(blank.start()).admin.system.GetStatus(system_pb2.GetStatusRequest()).hsm.weaknesses == ""


def test_a_token_of_files_is_always_copied(blank):
    code, said = blank.run(*ADMIN, "--token-backup", "vendor-clone")
    assert code == 1 and "leave out --token-backup [ERR_STATE/TOKEN_BACKUP]" in said, said
    assert labels(blank) == set()
    assert blank.run(*ADMIN, "--token-backup", "none")[0] == 2
    assert blank.run("--token-backup", "vendor-clone")[0] == 2  # belongs to init


# ---- half-done states -----------------------------------------------------------------------------------------------------
FOUND = re.compile(r"there is: instance file (\w+), master (\w+), seal (\w+), audit key (\w+), token backup (\w+), store ([\w ,]+)\. "
                   r"Nothing was changed; ([^\[]*) \[ERR_STATE/INIT_UNFINISHED\]")


def found(said):
    match = FOUND.search(said)
    assert match, said
    return dict(zip(("instance", "master", "seal", "audit", "token backup", "store", "advice"), match.groups()))


def really(i):
    on_token = labels(i)
    there = {"instance": (i.state / "instance").exists(), "token backup": bool(backups(i)), "store": (i.state / "store.db").exists()}
    there |= {kind: f"claviger-{kind}-1" in on_token for kind in ("master", "seal", "audit")}
    return {k: "yes" if v else "no" for k, v in there.items()}


def made(n):
    return lambda i: i.log.count("object made and verified") >= n


STEPS = {
    "instance": lambda i: (i.state / "instance").exists(),
    "master": made(1), "seal": made(2), "audit": made(3),
    "copied": lambda i: "token copied, not verified yet" in i.log,
    "backup": lambda i: "token backup verified" in i.log,
    "store": lambda i: (i.state / "store.db").exists(),
}


@pytest.mark.parametrize("step, role", [("instance", "core"), ("master", "hsm"), ("seal", "core"), ("audit", "hsm"), ("copied", "hsm"),
                                        ("backup", "core"), ("store", "core")])
def test_interrupted(blank, step, role):
    begin(blank)
    until(lambda: blank.process.poll() is not None or STEPS[step](blank), 20, step)
    victim = blank.children().get(role) if blank.process.poll() is None else None
    if victim is not None:
        os.kill(victim, signal.SIGKILL)
    code = blank.wait()
    there, before = really(blank), fingerprint(blank)
    again, said = blank.run(*ADMIN)
    assert again == 1
    assert fingerprint(blank) == before, "nothing is overwritten"
    if code == 0 or "[ERR_EXISTS/ALREADY_INITIALISED]" in said:  # it had done all of it when the blow fell
        assert step in ("backup", "store") and "already: start kmsd" in said, said
        assert World(blank.start()).admin.system.GetStatus(system_pb2.GetStatusRequest()).hsm.logged_in
        return
    says = found(said)
    assert "an init was interrupted" in says.pop("advice")
    says["store"] = {"empty": "yes"}.get(says["store"], says["store"])
    assert says == there
    # As docs/OPERATIONS.md says, section "An interrupted init".
    for f in (*blank.state.glob("store.db*"), blank.state / "instance"):
        f.unlink(missing_ok=True)
    shutil.rmtree(blank.state / "token-backup", ignore_errors=True)
    subprocess.run(["softhsm2-util", "--delete-token", "--token", "claviger"], check=True, stdout=subprocess.DEVNULL,
                   env={**os.environ, "SOFTHSM2_CONF": str(blank.dir / "softhsm2.conf")})
    new_token(blank)
    code, said = blank.run(*ADMIN)
    assert code == 0, said
    assert verified(blank)


def test_what_looks_like_it_but_is_not(fresh, blank):
    """A wrong token, a wrong folder, a lost store: never answered with an invitation to remove something."""
    code, said = fresh.run(*ADMIN)
    assert code == 1 and "already: start kmsd" in said, said
    pin, conf, state = fresh.dir / "pin", fresh.dir / "softhsm2.conf", fresh.state
    blank.configure(hsm_pin_file=pin, hsm_config_file=conf)  # its token is another instance's
    code, said = blank.run(*ADMIN)
    assert code == 1 and "this token is another instance's" in found(said)["advice"]
    blank.configure(hsm_pin_file=blank.dir / "pin", hsm_config_file=blank.dir / "softhsm2.conf", state_dir=state)
    code, said = blank.run(*ADMIN)  # its folder is
    assert code == 1 and found(said)["store"] == "yes, but this token does not open it", said
    assert found(said)["advice"].endswith("remove nothing") and found(said)["master"] == "no"
    assert labels(blank) == set()
    World(fresh.start())
    assert fresh.stop() == 0
    for f in state.glob("store.db*"):
        f.unlink()
    code, said = fresh.run(*ADMIN)
    assert code == 1 and "its store is lost: restore it; remove nothing" in found(said)["advice"]


def test_nothing_is_left_behind(blank):
    """Nothing of init lies outside its folders: the copy that is opened for verification goes as well."""
    before = set(pathlib.Path("/tmp").glob("*claviger*"))
    assert blank.run(*ADMIN)[0] == 0
    assert set(pathlib.Path("/tmp").glob("*claviger*")) == before
    assert {p.name for p in blank.state.iterdir()} <= {"instance", "journal", "hsm", "hsm-pin-tries", "hsm-served", "kmsd.lock", "store.db",
                                                       "store.lock", "token-backup"}
