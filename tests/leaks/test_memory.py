"""What the memory of the four processes holds: true key bytes in locked memory of their own process only, plaintext only in core and
only while its connection lives, and no key at all in front and monitor."""
import contextlib
import mmap
import os
import pathlib
import subprocess
import sys
import threading
import time

import pytest
from conftest import World, as_root, not_sanitized
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from google.cloud.kms.v1 import service_pb2 as msg
from kit.client import connect
from kit.instance import until

import looking
from looking import told
from truth import Truth

CLOSED_S = 5  # after its connection has closed, a plaintext is gone within: a tenth of a second, but for a machine that is busy
pytestmark = [as_root, not_sanitized]


def roles(driven, *left_out):
    return {r: p for r, p in driven.pids.items() if r not in left_out}


def loose(pids, keys):
    """Hits outside locked memory that stay. What core works with passes over its stack for some microseconds: it is gone at the next look."""
    hits = [h for h in looking.in_memory(pids, keys) if not h.locked]
    for _ in range(3):
        hits = [h for h in looking.in_memory(pids, {h.name: keys[h.name] for h in hits}) if not h.locked] if hits else []
    return hits


def test_keys_lie_in_locked_memory_of_core_and_nowhere_else(driven):
    """Not what looks like a key: the keys, reckoned from the token, with what is as good as a key (truth.py)."""
    truth = driven.truth
    keys = {**truth.never, **truth.kept, **truth.message_keys(driven.ciphertexts)}
    hits = looking.in_memory(roles(driven, "core").values(), keys)
    assert not hits, told(hits)
    stay = loose(driven.pids["core"], keys)
    assert not stay, told(stay)
    hits = looking.in_memory(driven.pids["core"], keys)
    in_use = {h.name for h in hits}
    used = driven.key.rsplit("/keyRings/")[1].replace("/cryptoKeys/", "/") + "@2"
    for name in ("store record 1, encrypt", "wrap key of acme, encrypt", "freshness key", "system audit key", "audit pair of acme, encrypt",
                 f"L3 of {used}, encrypt, encrypt", f"L3 of {used}, wrap, encrypt"):
        assert name in in_use, (name, in_use)  # the search finds what core works with, so it would find the others
    commit = {f"L3 of {used}, encrypt, commit, {w} state" for w in ("inner", "outer")}
    assert commit <= {n.removesuffix(", little endian") for n in in_use}


def test_keys_of_level_hsm_never_leave_the_token(driven):
    """Both keys of both versions, known from the token's files: they are in no process but hsm, where SoftHSM2 opens them, and stay in none."""
    keys = {n: k for n, k in driven.truth.never.items() if n.startswith(("claviger-key-", "claviger-commit-"))}
    assert len({n.split(",")[0] for n in keys}) == 4, list(keys)
    hits = looking.in_memory(roles(driven, "hsm").values(), keys)
    assert not hits, told(hits)
    with contextlib.suppress(AssertionError):
        until(lambda: not loose(driven.pids["hsm"], keys), 5)
    stay = loose(driven.pids["hsm"], keys)
    assert not stay, told(stay)


def test_no_key_above_its_use_is_kept(driven):
    """L0, the store key, L1, L2 and the tenants' audit keys are there while something is derived from them, and wiped then."""
    truth, settled = driven.truth, None
    keys = {**truth.never, **truth.message_keys(driven.ciphertexts)}

    def gone():  # the last message's key lies in its thread's cipher context until that thread seals the next one
        nonlocal settled
        settled = [h for h in looking.in_memory(driven.pids.values(), keys) if not (h.name.startswith("message key") and h.locked)]
        return not settled
    with contextlib.suppress(AssertionError):
        until(gone, 5)
    assert not settled, told(settled)


def test_the_pin_is_in_no_process(driven):
    """hsm reads it from its file at each login, into locked memory, and wipes it."""
    hits = looking.in_memory(roles(driven, "hsm").values(), driven.pin)
    assert not hits, told(hits)
    stay = loose(driven.pids["hsm"], driven.pin)
    assert not stay, told(stay)


def test_the_tls_key_lies_in_locked_memory_of_front_and_nowhere_else(driven):
    path = driven.instance.dir / "certs/server.key"
    scalar = load_pem_private_key(path.read_bytes(), None).private_numbers().private_value
    body = b"".join(path.read_bytes().splitlines()[1:-1])
    key = {"big endian": scalar.to_bytes(32, "big"), "little endian": scalar.to_bytes(32, "little"), "its file": body[:64]}
    hits = looking.in_memory(roles(driven, "front").values(), key)
    assert not hits, told(hits)
    stay = loose(driven.pids["front"], key)
    assert not stay, told(stay)
    assert looking.in_memory(driven.pids["front"], key)


def test_front_keeps_no_plaintext(driven):
    """It passes everything on, and keeps none of it: also while its connections stay."""
    def kept():
        return looking.in_memory(driven.pids["front"], driven.markers.all)
    with contextlib.suppress(AssertionError):
        until(lambda: not kept(), 5)
    hits = kept()
    assert not hits, told(hits)


def test_monitor_and_hsm_see_no_plaintext(driven):
    """What a client asked of the HSM's generator is made in hsm, and gone from there with the answer."""
    hits = looking.in_memory((driven.pids["monitor"], driven.pids["hsm"]), driven.markers.all)
    assert not hits, told(hits)


def test_locked_memory_is_what_we_say(driven):
    """Locked, kept out of core dumps, zeros for a fork, between pages that nobody can touch; and the kernel counts it."""
    for role, slabs in (("monitor", 0), ("front", 1), ("core", 3), ("hsm", 1)):
        all_ = looking.regions(driven.pids[role])
        locked = [(i, r) for i, r in enumerate(all_) if "lo" in r.flags]
        assert len(locked) == slabs, (role, locked)
        for i, r in locked:
            assert "dd" in r.flags, (role, r)
            assert ("wf" in r.flags) == (role != "front"), (role, r)  # OpenSSL's heap asks for none; front never forks
            assert r.locked_kb > 0, (role, r)
            below, above = all_[i - 1], all_[i + 1]
            assert below.end == r.start and not below.flags & {"rd", "wr"}, (role, below, r)
            assert above.start == r.end and not above.flags & {"rd", "wr"}, (role, r, above)
        counted = int(pathlib.Path(f"/proc/{driven.pids[role]}/status").read_text().split("VmLck:")[1].split()[0])
        assert counted * 1024 == sum(r.end - r.start for _, r in locked), role


def test_arguments_and_environments_hold_no_secret(driven):
    secrets = {**driven.markers.all, **driven.pin, **driven.truth.never, **driven.truth.kept}
    for role, pid in driven.pids.items():
        for file in ("cmdline", "environ"):
            data = pathlib.Path(f"/proc/{pid}/{file}").read_bytes()
            for name, secret in secrets.items():
                assert all(s not in data for s in looking.spellings(secret)), (role, file, name)
    for role in ("hsm", "core", "front"):  # nothing that a library could be told by
        assert pathlib.Path(f"/proc/{driven.pids[role]}/environ").read_bytes() == b"LANG=C.UTF-8\0LD_BIND_NOW=1\0"


# ---- after the connection has closed ------------------------------------------------------------------------------------------
def test_plaintext_is_gone_with_its_connection(driven):
    """While the clients are connected gRPC holds some of it; that is the search's control."""
    before = looking.in_memory(driven.pids["core"], driven.markers.all)
    assert before, "nothing to be gone"
    driven.part()
    closed, left = time.monotonic(), None
    while left is None or left and began < closed + CLOSED_S:
        began = time.monotonic()
        left = looking.in_memory((driven.pids["front"], driven.pids["core"]), driven.markers.all)
    assert not left, told(left)
    print(f"{len(before)} copies in core; none {began - closed:.3f} s after the clients closed")


def test_one_connections_plaintext_goes_while_others_stay(driven):
    with contextlib.closing(connect(driven.instance, "acme-orders")) as stays:
        goes = connect(driven.instance, "acme-orders")
        mine, theirs = {"gone": os.urandom(48)}, {"kept": os.urandom(48)}
        driven.world.encrypt(driven.key, theirs["kept"], who=stays)
        driven.world.encrypt(driven.key, mine["gone"], who=goes)
        goes.close()
        until(lambda: not looking.in_memory((driven.pids["front"], driven.pids["core"]), mine), CLOSED_S + 3, "gone")
        driven.world.encrypt(driven.key, b"still served", who=stays)


# ---- an L1 on its way ---------------------------------------------------------------------------------------------------------
# hsm is stopped where its answer leaves, and where it waits for the next request; core where it first uses what came.
HSM = """break chan_send if m->body.n == 33
continue
shell {scan} -p{pid} <{needles} >{folder}/sending
disable
tbreak poll
continue
shell {scan} -p{pid} <{needles} >{folder}/sent
detach
"""
CORE = """break hierarchy_kcv
continue
shell {scan} -p{pid} <{needles} >{folder}/using
disable
detach
"""


@contextlib.contextmanager
def stopped_by_gdb(pid, commands, folder, **values):
    """gdb at its first breakpoint's wait inside, and gdb at its end, in order, outside."""
    folder.mkdir()
    script, said = folder / "script", folder / "said"
    script.write_text("set pagination off\nset confirm off\n" + commands.format(scan=looking.SCAN, pid=pid, folder=folder, **values))
    with open(said, "w") as out:
        gdb = subprocess.Popen(["gdb", "-nx", "-q", "-batch", "-x", str(script), "-p", str(pid)], stdin=subprocess.DEVNULL,
                               stdout=out, stderr=subprocess.STDOUT)
    try:
        until(lambda: "Breakpoint 1 at" in said.read_text() or gdb.poll() is not None, 60, "gdb waits")
        yield
        gdb.wait(60)
    finally:
        gdb.kill()
        gdb.wait()
        print(said.read_text())
    assert gdb.returncode == 0


def lines(path):
    *hits, last = path.read_text().splitlines()
    assert int(last.split()[1]) > 1 << 20, last  # it was looked at
    return hits


def test_an_l1_goes_from_locked_memory_to_locked_memory(fresh, tmp_path):
    """In hsm while the answer leaves: in a secret; at hsm's next wait: nowhere. In core, where it is used first: in a secret."""
    fresh.configure(hsm_timeout="60s")  # gdb takes its time
    world = World(fresh.start())
    key = world.key()
    truth = Truth(fresh)
    fresh.restart()  # L1 has to be derived anew
    world, pids = World(fresh), fresh.children()
    needles = tmp_path / "needles"
    needles.touch(mode=0o600)
    needles.write_text("L1 " + truth.raw_never["L1 of acme"].hex() + "\n")
    answer = []
    asked = threading.Thread(target=lambda: answer.append(world.orders.kms.Encrypt(msg.EncryptRequest(name=key, plaintext=b"x"), timeout=60)))
    with stopped_by_gdb(pids["hsm"], HSM, tmp_path / "hsm", needles=needles), \
            stopped_by_gdb(pids["core"], CORE, tmp_path / "core", needles=needles):
        asked.start()
    asked.join(60)
    needles.unlink()
    assert answer, "hsm answered too late"
    sending, using = lines(tmp_path / "hsm/sending"), lines(tmp_path / "core/using")
    assert sending and all("\tlodd\t" in hit for hit in sending), sending
    assert using and all("\tlodd\t" in hit for hit in using), using
    assert lines(tmp_path / "hsm/sent") == []
    world.encrypt(key, b"y")  # both went on


# ---- the control: what the search can see ---------------------------------------------------------------------------------------
PLANT = """
import base64, ctypes, mmap, sys, threading
where = {name: bytes.fromhex(hexed) for name, hexed in (line.split() for line in sys.stdin.read().split("\\n") if line)}
libc = ctypes.CDLL(None, use_errno=True)
def mapped(n, data, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS):
    m = mmap.mmap(-1, n, flags)
    m[n - len(data):] = data
    return m
keep = [bytearray(where["heap"]), where["hex"].hex(), base64.b64encode(b"xx" + where["base64"]), mapped(1 << 22, where["end"])]
locked = mapped(4096, where["locked"])
at = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(locked)))
assert libc.mlock(at, 4096) == 0 and libc.madvise(at, 4096, 16) == 0
everywhere = mapped(1 << 21, where["everywhere"] * (1 << 16))
file = open(sys.argv[1], "r+b")
shared = mmap.mmap(file.fileno(), 4096)
shared[100:132] = where["shared file"]
del where
print("planted", flush=True)
sys.stdin.close()
import signal
signal.pause()
"""


def test_what_is_planted_is_found(tmp_path):
    places = ("heap", "hex", "base64", "end", "locked", "everywhere", "shared file")
    planted = {name.replace(" ", "_"): os.urandom(32) for name in places}
    (tmp_path / "f").write_bytes(bytes(mmap.PAGESIZE))
    source = PLANT.replace('"shared file"', '"shared_file"')
    with subprocess.Popen([sys.executable, "-c", source, tmp_path / "f"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            child.stdin.write("".join(f"{n} {s.hex()}\n" for n, s in planted.items()).encode())
            child.stdin.close()
            assert child.stdout.readline() == b"planted\n"
            hits = looking.in_memory(child.pid, {**planted, "absent": os.urandom(32)})
        finally:
            child.kill()
    assert {h.name for h in hits} == set(planted)
    assert any(h.locked for h in hits if h.name == "locked")
    assert sum(h.name == "everywhere" for h in hits) >= 1 << 16  # also where the scan goes on from one piece of memory to the next
    assert all(not h.locked for h in hits if h.name in ("end", "shared_file"))
    assert any(h.mapped == str(tmp_path / "f") for h in hits if h.name == "shared_file")
