"""What is written down: store and its log, journal, run folder, the log at its most talkative, and the audit log as its readers see it."""
import base64
import contextlib
import os
import pathlib
import re
import secrets as random_source
import stat
import subprocess

import pytest
from kit.client import AuditLog, connect
from kit.instance import BUILD

import looking

# Fields of an event in which what a caller says of where, which and how may stand; never a plaintext, context or key.
MAY_TELL = {"resource", "key_version", "active_tenant", "before", "after", "reason", "request_id"}


def everything(driven):
    return {**driven.markers.all, **driven.pin, **driven.truth.never, **driven.truth.kept}


def left_out(folder):
    return [folder / "pin"]


def test_no_file_holds_a_secret(driven):
    """First running, with the write-ahead log at work, then stopped."""
    folder = driven.instance.dir
    assert (folder / "state/store.db-wal").exists()
    assert looking.in_files(folder, driven.pin) == {("pin", "PIN")}  # it is found where it is
    assert looking.in_files(folder, everything(driven), left_out(folder)) == set()
    driven.instance.stop()
    assert looking.in_files(folder, everything(driven), left_out(folder)) == set()
    driven.instance.start()
    driven.pids = {"monitor": driven.instance.process.pid, **driven.instance.children()}


def test_nothing_is_written_where_nobody_looks(driven):
    """No open file outside the instance, a deleted one for instance: what test_no_file_holds_a_secret reads is all."""
    for role, pid in driven.pids.items():
        for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                if stat.S_ISREG(fd.stat().st_mode):
                    where = os.readlink(fd)
                    assert pathlib.Path(where).is_relative_to(driven.instance.dir) and not where.endswith("(deleted)"), (role, where)


def told_by(value):
    """The text and bytes of a message, field by field."""
    for field, v in value.ListFields():
        yield field.name, v if isinstance(v, bytes) else str(v).encode()


def test_events_tell_no_secret(driven):
    """Every event, opened: no marker in any field but those that say where and how, and there no secret one."""
    admin = connect(driven.instance, "admin")
    entries, start = [], 0
    end = AuditLog(admin).position()
    while start < end:
        page = AuditLog(admin).read(start)
        assert page, (start, end)
        entries += page
        start = page[-1].index + 1
    assert len(entries) > 100
    may = {**driven.telling.all, **driven.hidden.all}
    names = {form: name for name, secret in {**driven.markers.all, **may}.items() for form in looking.spellings(secret)}
    pattern = re.compile(b"|".join(map(re.escape, names)))
    told = set()
    for e in entries:
        for field, value in told_by(e.event):
            for hit in pattern.findall(value):
                assert names[hit] in may, (names[hit], field, e)
                assert field in MAY_TELL, (names[hit], field, e)
                told.add(field)
    assert "resource" in told, told  # the search finds what may be told


def test_kmsctl_audit_tells_no_secret(driven):
    ask = [BUILD / "bin/kmsctl", "audit", "tail", "--from", "0", "--output", "json"]
    env = {"KMS_ENDPOINT": driven.instance.endpoint, "KMS_CA": str(driven.instance.cert("ca")[0]), "PATH": os.environ["PATH"],
           "KMS_OPERATOR_CERT": str(driven.instance.cert("admin")[0]), "KMS_OPERATOR_KEY": str(driven.instance.cert("admin")[1])}
    done = subprocess.run(ask, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=30)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 100
    said = done.stdout + done.stderr
    for name, secret in everything(driven).items():
        for form in looking.spellings(secret):
            assert form not in said, name
    assert any(form in said for s in driven.telling.all.values() for form in looking.spellings(s))


def test_the_log_names_what_was_asked_for_and_no_more(driven):
    """At its most talkative. What a caller called things may stand in it where the cause of an error needs it, nowhere else."""
    hits = looking.in_files(driven.instance.dir, {**driven.telling.all, **driven.hidden.all})
    assert {file for file, _ in hits} <= {"kmsd.log", "state/store.db", "state/store.db-wal"}, hits
    logged = {name.rsplit(" ", 1)[0] for file, name in hits if file == "kmsd.log"}
    assert logged <= {"ApplyPolicy.documents.name", "TestPolicy.documents.name", "tenant name", "principal name"}, logged


def test_fields_that_hold_secrets_are_the_rule(driven):
    """driving.TELLING is an allow-list: a field nobody has thought of holds a secret. So these must be among the secret ones."""
    names = " ".join(driven.markers.all)
    for field in ("Encrypt.plaintext ", "Encrypt.additional_authenticated_data ", "Decrypt.ciphertext ", "Wrap.plaintext_key ",
                  "Wrap.context value ", "Wrap.context key ", "BatchEncrypt.items.plaintext "):
        assert field in names, (field, names)
    assert driven.calls > 300, driven.calls


def test_spellings_are_found(tmp_path):
    secret = random_source.token_bytes(32)
    for pad in range(4):
        for alphabet in (base64.b64encode, base64.urlsafe_b64encode):
            (tmp_path / "f").write_bytes(alphabet(b"n" * pad + secret + b"tail"))
            assert looking.in_files(tmp_path, {"s": secret}) == {("f", "s")}, pad
    for text in (secret.hex().upper().encode(), b"y" * ((1 << 20) - 7) + secret.hex().encode()):
        (tmp_path / "f").write_bytes(b"x" + text)
        assert looking.in_files(tmp_path, {"s": secret}) == {("f", "s")}
    with open(tmp_path / "f", "wb") as f:  # behind a hole, as in a journal file or a core dump
        f.seek(1 << 30)
        f.write(secret)
    assert looking.in_files(tmp_path, {"s": secret}) == {("f", "s")}
    (tmp_path / "f").write_bytes(secret[:31] + b"xxxxxxxx")
    assert looking.in_files(tmp_path, {"s": secret}) == set()
    (tmp_path / "empty").touch()
    with pytest.raises(AssertionError, match="nothing was looked at"):
        looking.in_paths([tmp_path / "empty"], {"s": secret})
