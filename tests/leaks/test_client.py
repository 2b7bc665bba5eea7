"""The other side: kmsctl, and a service that uses the client library. No plaintext in arguments, environment or files; data keys that
are kept are kept in locked memory."""
import os
import pathlib
import re
import resource
import signal
import stat
import subprocess

import pytest
from claviger.envelope.v1 import envelope_pb2 as env
from conftest import World, as_root, not_sanitized
from kit.instance import BUILD, until

import looking
from looking import told


@pytest.fixture(scope="module")
def world(copies):
    instance = copies()
    made = World(instance.start())
    made.key_name = made.key()
    yield made
    assert instance.stop() == 0, instance.log


def environment(instance, folder):
    """Folders of its own for all that a program may think of: what it leaves is then found."""
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(folder), "XDG_RUNTIME_DIR": str(folder), "XDG_CACHE_HOME": str(folder),
            "KMS_ENDPOINT": instance.endpoint, "KMS_CA": str(instance.cert("ca")[0]), "KMS_CERT": str(instance.cert("acme-orders")[0]),
            "KMS_KEY": str(instance.cert("acme-orders")[1])}


def short(key):
    p = key.split("/")
    return f"{p[1]}/{p[3]}/{p[5]}/{p[7]}"


def kmsctl(world, folder, *arguments, stdin=b"", before=()):
    return subprocess.run([*before, BUILD / "bin/kmsctl", *arguments], input=stdin, env=environment(world.instance, folder), cwd=folder,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)


@not_sanitized  # the leak checker cannot work under strace
def test_kmsctl_writes_no_file(world, tmp_path):
    """Each verb that has a plaintext, with every opening of a file seen by strace: none is for writing."""
    work, traces, key = tmp_path / "work", tmp_path / "traces", short(world.key_name)
    work.mkdir()
    traces.mkdir()
    plain, data_key = os.urandom(24).hex().encode(), os.urandom(32)
    watch = lambda name: ["strace", "-f", "-qq", "-s", "0", "-e", "trace=openat,open,creat,memfd_create,execve", "-o", traces / name]  # noqa: E731

    def well(name, *arguments, stdin):
        done = kmsctl(world, work, *arguments, stdin=stdin, before=watch(name))
        assert done.returncode == 0, done.stderr
        assert all(s not in done.stderr for p in (plain, data_key) for s in looking.spellings(p))
        return done.stdout
    sealed = well("encrypt", "encrypt", key, stdin=plain)
    assert well("decrypt", "decrypt", key, stdin=sealed) == plain
    wrapped = well("wrap", "wrap", key, stdin=data_key)
    assert well("unwrap", "unwrap", key, stdin=wrapped) == data_key
    well("datakey", "datakey", key, "--output", "json", stdin=b"")
    table = well("csv", "csv", "encrypt", "--columns", "b", "--key", key, stdin=b"a,b\n1," + plain + b"\n")
    assert plain not in table and plain in well("csv back", "csv", "decrypt", "--columns", "b", "--key", key, stdin=table)
    assert well("csv rewrap", "csv", "rewrap", "--columns", "b", "--key", key, stdin=table) == table  # on the newest version already
    bad = kmsctl(world, work, "decrypt", key, "--aad", "other", stdin=sealed, before=watch("bad"))
    assert bad.returncode != 0 and plain not in bad.stderr + bad.stdout
    assert list(work.iterdir()) == []
    assert len(list(traces.iterdir())) == 9
    for trace in traces.iterdir():
        opened = [line for line in trace.read_text().splitlines() if "execve" not in line]
        assert len(opened) > 5, trace.name  # it was watched
        wrote = [line for line in opened if re.search(r"O_(WRONLY|RDWR|CREAT|TMPFILE)|creat\(|memfd_create\(", line) and "/dev/" not in line
                 and "/proc/self" not in line]
        assert not wrote, (trace.name, wrote)
        assert trace.read_text().count("execve(") == 1, trace.name


def test_the_watch_sees_a_file_that_is_written(tmp_path):
    done = subprocess.run(["strace", "-f", "-qq", "-s", "0", "-e", "trace=openat", "-o", tmp_path / "t", "sh", "-c", f"echo x > {tmp_path}/f"], timeout=30)
    assert done.returncode == 0
    assert re.search(r"O_WRONLY\|O_CREAT", (tmp_path / "t").read_text())


@as_root
@not_sanitized
def test_kmsctl_while_it_waits(world, tmp_path):
    """Held up between its request and the answer: the plaintext is in its memory, and in nothing that others may read or that is kept."""
    plain = os.urandom(24).hex().encode()
    core = world.instance.children()["core"]
    os.kill(core, signal.SIGSTOP)
    try:
        child = subprocess.Popen([BUILD / "bin/kmsctl", "encrypt", short(world.key_name)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, env=environment(world.instance, tmp_path), cwd=tmp_path)
        child.stdin.write(plain)
        child.stdin.close()
        until(lambda: looking.in_memory(child.pid, {"plain": plain}), 10, "kmsctl has read its input")
        for file in ("cmdline", "environ"):
            data = pathlib.Path(f"/proc/{child.pid}/{file}").read_bytes()
            assert data and all(s not in data for s in looking.spellings(plain)), file
        assert resource.prlimit(child.pid, resource.RLIMIT_CORE) == (0, 0)
        files = [os.readlink(fd) for fd in pathlib.Path(f"/proc/{child.pid}/fd").iterdir() if stat.S_ISREG(fd.stat().st_mode)]
        assert not files, files
    finally:
        os.kill(core, signal.SIGCONT)
    assert child.wait(20) == 0, child.stderr.read()
    assert child.stdout.read()
    child.stdout.close()
    child.stderr.close()
    assert list(tmp_path.iterdir()) == []


def test_no_secret_is_an_argument(world, tmp_path):
    """A plaintext given as an argument is refused, and not said again; a PIN or a key has no option at all."""
    plain = os.urandom(24).hex()
    done = kmsctl(world, tmp_path, "encrypt", short(world.key_name), plain)
    assert done.returncode == 2 and done.stdout == b"", done
    options = subprocess.run([BUILD / "bin/kmsctl", "encrypt", "--help"], stdout=subprocess.PIPE, text=True, timeout=20).stdout
    assert not re.search(r"--(pin|password|secret|plaintext|data|key-bytes)\b", options)


def data_key_of(world, message):
    """docs/CLIENT.md, "Local messages": the wrapped data key that a message carries, unwrapped by the server."""
    assert message[:8] == b"CLVL\x01\0\0\0"
    wrapped = message[10:10 + int.from_bytes(message[8:10], "big")]
    return world.orders.env.Unwrap(env.UnwrapRequest(name=world.key_name, wrapped_key=wrapped, context={"claviger": "local.v1"})).plaintext_key


@as_root
@not_sanitized
def test_the_librarys_data_keys(world, tmp_path):
    """Kept in locked memory until they are forgotten. Copies in the connection's buffers are gone with the connection, where free wipes."""
    plain = os.urandom(24).hex().encode()
    with subprocess.Popen([BUILD / "leaks/client_probe", world.key_name], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          env=environment(world.instance, tmp_path), cwd=tmp_path) as child:
        say = lambda line: (child.stdin.write(line + b"\n"), child.stdin.flush(), child.stdout.readline())[2]  # noqa: E731
        try:
            message = bytes.fromhex(say(plain).decode())
            look = lambda: looking.in_memory(child.pid, {"data key": key, "plaintext": plain})  # noqa: E731
            key = data_key_of(world, message)
            kept = [h for h in look() if h.locked]
            assert len(kept) == 1 and kept[0].name == "data key", told(look())
            assert not [h for h in look() if h.name == "plaintext"], told(look())
            assert say(b"") == b"forgotten\n"
            assert not [h for h in look() if h.locked], told(look())
            assert say(b"") == b"disconnected\n"
            until(lambda: not look(), 5, "gone with the connection")
            child.stdin.close()
            assert child.wait(10) == 0
        finally:
            child.kill()
    assert list(tmp_path.iterdir()) == []
