"""What kmsctl writes into files: whole or not there, over kill -9 at each step, full disks and files that are there already."""
import json
import os
import re
import resource
import signal
import subprocess

import pytest

from conftest import msg
from kit.instance import BUILD, SLOWER
from test_kmsctl import ABSENT, CONFLICT, FAILED, Ctl

WRITES = ("openat", "write", "ftruncate", "fsync", "rename", "renameat2")
MINE = b"somebody's own\n"


@pytest.fixture
def export(world, tmp_path):
    """(ctl, file) of an export that is longer than one write."""
    ring = world.ring()
    for _ in range(30):
        world.key(ring)
    return Ctl(world), tmp_path / "acme.json"


def whole(path):
    document = json.loads(path.read_bytes())
    assert document["format"] == "claviger.tenant-export/v1" and len(document["crypto_keys"]) >= 30 and list(document)[-1] == "audit"
    return document


def test_export_into_a_file(export):
    ctl, f = export
    ctl("tenants", "export", "acme", "--out", f)
    assert os.listdir(f.parent) == [f.name] and f.stat().st_mode & 0o777 == 0o600
    exported = whole(f)
    assert exported["crypto_keys"] == json.loads(ctl("tenants", "export", "acme"))["crypto_keys"]
    f.write_bytes(MINE)
    assert "[OUTPUT_EXISTS]" in ctl("tenants", "export", "acme", "--out", f, code=CONFLICT)
    assert f.read_bytes() == MINE and os.listdir(f.parent) == [f.name]
    f.unlink()
    ctl("tenants", "export", "nobody", "--out", f, code=ABSENT)
    assert "[OUTPUT]" in ctl("tenants", "export", "acme", "--out", f.parent / "absent" / "x", code=FAILED)
    f.symlink_to("/nowhere")
    assert "[OUTPUT_EXISTS]" in ctl("tenants", "export", "acme", "--out", f, code=CONFLICT)
    assert os.listdir(f.parent) == [f.name]


def test_a_file_of_somebody_elses_under_the_name_of_part(export):
    ctl, f = export
    part = f.with_name(f.name + ".part")
    other = f.parent / "other"
    other.write_bytes(MINE)
    os.link(other, part)
    assert "[OUTPUT_EXISTS]" in ctl("tenants", "export", "acme", "--out", f, code=CONFLICT)
    assert other.read_bytes() == MINE and not f.exists()
    part.unlink()
    part.write_bytes(MINE * 10000)  # what a killed run left, and longer
    ctl("tenants", "export", "acme", "--out", f)
    assert not part.exists() and whole(f)


def test_export_onto_a_disk_that_is_full(export):
    ctl, f = export

    def little_room():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
    done = subprocess.run([BUILD / "bin/kmsctl", "--timeout", "60s", "tenants", "export", "acme", "--out", f], env=ctl.env, capture_output=True,
                          preexec_fn=little_room, timeout=120 * SLOWER)
    assert done.returncode == FAILED and b"[OUTPUT]" in done.stderr and os.listdir(f.parent) == [], done


def strace(ctl, log, options, words, **kw):
    return subprocess.run(["strace", "-f", "-qq", "-o", log, *map(str, options), BUILD / "bin/kmsctl", "--timeout", "60s", *map(str, words)], env=ctl.env,
                          stderr=subprocess.PIPE, timeout=120 * SLOWER, **kw)


def killed_everywhere(ctl, log, paths, words, look):
    """kill -9 at each call by which the command changes one of the paths; look() judges what is there. The calls that were met."""
    met = set()
    of = [w for p in paths for w in ("-P", p)]
    for call in WRITES:
        for n in range(1, 40):
            run = strace(ctl, log, [*of, "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={n}"], words, stdout=subprocess.DEVNULL)
            if run.returncode == 0:
                look(True)
                break
            assert run.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), (call, n, run)
            assert re.search(rf"{call}\(.*\n?.*killed by SIGKILL", log.read_text()), log.read_text()
            met.add(call)
            look(False)
    return met


@pytest.mark.skipif(SLOWER > 1, reason="strace under a sanitizer")
def test_export_killed_at_every_step(export, tmp_path_factory):
    ctl, f = export
    part, log, there = f.with_name(f.name + ".part"), tmp_path_factory.mktemp("log") / "calls", []

    def look(finished):
        assert set(os.listdir(f.parent)) <= {f.name, part.name}
        there.append(f.exists())
        if f.exists():
            whole(f)
            f.unlink()  # else it is in the way of the next
        assert there[-1] or not finished
    met = killed_everywhere(ctl, log, [f, part, f.parent], ["tenants", "export", "acme", "--out", f], look)
    assert met == {"openat", "write", "ftruncate", "fsync", "renameat2"} and True in there and False in there, (met, there)


@pytest.mark.skipif(SLOWER > 1, reason="strace under a sanitizer")
def test_policy_documents_killed_at_every_step(world, tmp_path, tmp_path_factory):
    """Half a document may be a policy, too: of fewer rules. Each is the old one or the new one."""
    ctl, log = Ctl(world), tmp_path_factory.mktemp("log") / "calls"
    ctl("policy", "get", "--out-dir", tmp_path)
    new = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert len(new) >= 2 and all(n.endswith(".yaml") for n in new)
    name = sorted(new)[0]
    f, seen = tmp_path / name, set()
    f.write_bytes(MINE)

    def look(finished):
        found = {p.name: p.read_bytes() for p in tmp_path.glob("*.yaml")}
        assert found.keys() == new.keys() and all(found[n] == new[n] for n in new if n != name) and found[name] in (MINE, new[name])
        assert not finished or found[name] == new[name]
        seen.add(found[name])
        f.write_bytes(MINE)
    met = killed_everywhere(ctl, log, [f, f"{f}.part"], ["policy", "get", "--out-dir", tmp_path], look)
    assert met == {"openat", "write", "ftruncate", "fsync", "rename"} and len(seen) == 2, met


@pytest.mark.skipif(SLOWER > 1, reason="strace under a sanitizer")
def test_a_write_to_stdout_that_failed_in_between(export, tmp_path_factory):
    """The disk was full for a moment: what was written after it does not make it whole."""
    ctl, f = export
    log = tmp_path_factory.mktemp("log") / "calls"
    with open(f, "wb") as out:
        done = strace(ctl, log, ["-P", f, "-e", "trace=write", "-e", "inject=write:error=ENOSPC:when=1"], ["tenants", "export", "acme"], stdout=out)
    assert "INJECTED" in log.read_text() and log.read_text().count("write(") > 1  # and the others were written
    assert done.returncode == FAILED and b"[OUTPUT]" in done.stderr, done
    with open(f, "wb") as out:
        assert strace(ctl, log, ["-P", f, "-e", "trace=write"], ["tenants", "export", "acme"], stdout=out).returncode == 0
    whole(f)


def test_a_certificate_into_a_file(world, key, tmp_path):
    """Of a version that is not destroyed there is none, and no file; tests/matrix has one that is."""
    short = "/".join(key.split("/")[i] for i in (1, 3, 5, 7))
    world.keyadmin.kms.GetCryptoKey(msg.GetCryptoKeyRequest(name=key))
    Ctl(world)("certificates", "show", f"{short}@1", "--out", tmp_path / "c.txt", code=ABSENT)
    assert os.listdir(tmp_path) == []
