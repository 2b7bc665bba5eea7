"""Core dumps: none when a process is killed by a signal that makes one, whatever the limit says; and one that root takes by force has
none of the key memory in it."""
import os
import pathlib
import re
import resource
import signal
import subprocess
import sys

import pytest
from conftest import World, as_root, not_sanitized
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from kit.instance import BUILD, until

import looking
import rows
from looking import told
from truth import formats, kdf, ready_forms

pytestmark = as_root
FOREVER = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


def cores(folder):
    """Files that the kernel may have left, by its own pattern, where a process of that working folder dumps."""
    pattern = pathlib.Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if pattern.startswith("|"):
        return set()  # a program gets it; that none was made is then told by the wait status alone
    place = pathlib.Path(folder, pattern)
    prefix = place.name.split("%")[0]
    return {p for p in place.parent.iterdir() if p.name.startswith(prefix) and p.is_file()} if place.parent.is_dir() else set()


def dumped(pid):
    """Whether the kernel says that it made a core of our child as it died."""
    how = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert how.si_status == signal.SIGABRT, how
    return how.si_code == os.CLD_DUMPED


def test_a_process_that_does_not_take_care_leaves_a_core(tmp_path):
    """The control: this machine makes core dumps, and we would see them."""
    before = cores(tmp_path)
    child = subprocess.Popen([sys.executable, "-c", "import os; os.abort()"], cwd=tmp_path, stderr=subprocess.DEVNULL,
                             preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, FOREVER))
    made = dumped(child.pid)
    child.wait()
    if not made:
        pytest.skip("this machine makes no core dumps at all")
    left = cores(tmp_path) - before
    assert left or pathlib.Path("/proc/sys/kernel/core_pattern").read_text().startswith("|")
    for core in left:
        core.unlink()


@pytest.mark.parametrize("limit", ["as it is", "raised from outside"])
def test_an_abort_leaves_no_core(fresh, limit):
    """Each of the four killed by SIGABRT. Where the limit is raised by root from outside, not being dumpable is what is left."""
    fresh.start(cwd=fresh.dir)
    world = World(fresh)
    world.encrypt(world.key())
    before, root = cores(fresh.dir), cores("/")
    for role in ("hsm", "core", "front", "monitor"):
        pid = fresh.process.pid if role == "monitor" else fresh.children()[role]
        assert os.readlink(f"/proc/{pid}/cwd") in (str(fresh.dir), "/"), role
        assert resource.prlimit(pid, resource.RLIMIT_CORE) == (0, 0), role
        if limit != "as it is":
            if rows.SANITIZED:
                pytest.skip("processes stay dumpable under sanitizers")
            try:
                resource.prlimit(pid, resource.RLIMIT_CORE, FOREVER)
            except PermissionError:
                pytest.skip("root here may not raise limits (CAP_SYS_RESOURCE)")
        os.kill(pid, signal.SIGABRT)
        if role == "monitor":
            assert not dumped(pid)
            fresh.wait()
        else:
            until(lambda: re.search(rf"role={role} .*signal=ABRT", fresh.log), 10, f"the end of {role}")
            until(lambda: fresh.children().get(role, pid) != pid, 10, f"another {role}")
            os.truncate(fresh.log_file, 0)
    assert cores(fresh.dir) == before
    assert cores("/") == root


# Attaching asks the process itself whether it is dumpable (prctl 3, PR_GET_DUMPABLE), which no file of /proc tells.
GDB = "set pagination off\nset confirm off\nset use-coredump-filter on\nset dump-excluded-mappings {excluded}\nprint (int)prctl(3, 0, 0, 0, 0)\ngcore {file}\ndetach\n"


def take(pid, folder, excluded="off"):
    file, script = folder / f"core.{pid}.{excluded}", folder / "script"
    script.write_text(GDB.format(excluded=excluded, file=file))
    done = subprocess.run(["gdb", "-nx", "-q", "-batch", "-x", str(script), "-p", str(pid)], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    assert "$1 = 0\n" in done.stdout, done.stdout
    assert file.exists() and file.stat().st_size > 1 << 16, done.stdout
    return file


@not_sanitized
def test_a_core_taken_by_force_holds_no_key(driven, tmp_path):
    """gcore by root while they work: what was in ordinary memory is in it, and nothing of what is marked. Taken with the mark ignored
    it has the key: the mark is what keeps it out. Of core it would be a gigabyte; for it speak the flags (test_memory.py) and, below,
    the kernel's own dump."""
    scalar = load_pem_private_key((driven.instance.dir / "certs/server.key").read_bytes(), None).private_numbers().private_value
    keys = {**driven.truth.never, **driven.truth.kept, **driven.pin, "TLS key": scalar.to_bytes(32, "little")}
    ordinary = {"run_dir": str(driven.instance.run_dir).encode()}
    for role in ("monitor", "hsm", "front"):
        file = take(driven.pids[role], tmp_path)
        assert looking.in_paths([file], ordinary), role
        hits = looking.in_paths([file], keys)
        assert not hits, (role, told(hits))
        file.unlink()
    file = take(driven.pids["front"], tmp_path, "on")
    assert {h.name for h in looking.in_paths([file], keys)} == {"TLS key"}
    file.unlink()


@not_sanitized
@pytest.mark.parametrize("careless", [False, True])
def test_the_kernels_own_dump_leaves_key_memory_out(tmp_path, careless):
    """Of a process with core's key memory and neither of the other two defences (dump_probe.c). Careless: a copy in ordinary memory."""
    key, ordinary, before = os.urandom(32), os.urandom(16).hex(), cores(tmp_path)
    child = subprocess.Popen([BUILD / "leaks/dump_probe", ordinary, *["careless"] * careless], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             cwd=tmp_path)
    child.stdin.write(key)
    child.stdin.close()
    sealed = child.stdout.read()
    made = dumped(child.pid)
    child.wait()
    child.stdout.close()
    left = cores(tmp_path) - before
    if not made or not left:
        pytest.skip("this machine leaves no core dump in the folder")
    pair = {use: kdf(key, b"claviger.v1.kek-wrap", use.encode()) for use in ("encrypt", "commit")}
    keys = {"message key": formats.xaes_message_key(pair["encrypt"], sealed[33:57])}
    for name, value in {"key": key, **pair}.items():
        keys |= ready_forms(name, value)
    found = {h.name for h in looking.in_paths(left, {**keys, "ordinary": ordinary.encode()})}
    for core in left:
        core.unlink()
    assert found == ({"ordinary", "key"} if careless else {"ordinary"})
