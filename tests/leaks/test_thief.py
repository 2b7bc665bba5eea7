"""Who has everything but the token and its PIN: database and its log, journal, token backup, configuration, the daemon's own log.
Names and sizes are all it tells: nothing that was put in comes out, in no spelling, and no key opens anything."""
import math
import pathlib
import re
import shutil
import sqlite3
import subprocess

import pytest

import driving
import looking
from truth import Truth, token_secrets

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Loot:
    """What was stolen, and all that must not be found in it."""

    def __init__(self, folder, driven):
        self.folder = folder
        self.secrets = {**driven.markers.all, **driven.hidden.all, **driven.pin, **driven.truth.never, **driven.truth.kept}
        self.names = {k: v for k, v in driven.telling.all.items() if " name " in k and "absent" not in k and "Policy" not in k}

    @property
    def files(self):
        return sorted(p for p in self.folder.rglob("*") if p.is_file() and p.stat().st_size)

    def database(self):
        return sqlite3.connect(f"file:{self.folder}/state/store.db?mode=ro", uri=True)


def steal(instance, folder):
    """Everything of the instance but what belongs to the token and to the clients."""
    subprocess.run(["cp", "-a", "--sparse=always", instance.dir, folder], check=True)
    for mine in ("tokens", "pin", "so-pin"):
        path = folder / mine
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for key in folder.glob("certs/*.key"):
        key.unlink()
    return folder


@pytest.fixture(scope="module")
def stolen(copies, tmp_path_factory):
    """Stolen twice: while it ran (the write-ahead log as it is then), and stopped. At the log level that is the default."""
    from conftest import World
    instance = copies()
    instance.start()
    driven = driving.Driven(instance, World)
    running = steal(instance, tmp_path_factory.mktemp("loot") / "running")
    assert instance.stop() == 0, instance.log
    driven.truth = Truth(instance)
    yield Loot(running, driven), Loot(steal(instance, running.parent / "stopped"), driven)
    shutil.rmtree(running.parent)


def test_there_is_something_to_steal(stolen):
    for loot in stolen:
        inside = {p.relative_to(loot.folder).parts[:2] for p in loot.files}
        assert {("state", "store.db"), ("state", "journal"), ("state", "token-backup"), ("kmsd.conf",), ("kmsd.log",)} <= inside, inside
        assert len(loot.secrets) > 500
        found = {h.name for h in looking.in_paths(loot.files, loot.names)}
        assert found == set(loot.names), set(loot.names) - found  # names are told: what is there is found
    assert ("state", "store.db-wal") in {p.relative_to(stolen[0].folder).parts[:2] for p in stolen[0].files}


def test_nothing_that_was_put_in_is_found(stolen):
    for loot in stolen:
        hits = looking.in_paths(loot.files, loot.secrets)
        assert not hits, looking.told(hits)


def test_the_token_backup_opens_with_the_pin_only(stolen):
    """It is the token: useless without the PIN, everything with it. The twin shows that the search above would know the secrets."""
    loot = stolen[1]
    backups = [p.parent for p in loot.folder.glob("state/token-backup/**/token.object")]
    assert backups
    pin = loot.secrets["PIN"]
    for token in backups:
        opened = token_secrets(token, pin)
        assert opened["claviger-master-1"] == loot.secrets["claviger-master-1"]
        with pytest.raises((AssertionError, ValueError, StopIteration, IndexError)):
            token_secrets(token, bytes([pin[0] ^ 1]) + pin[1:])


# ---- column by column ---------------------------------------------------------------------------------------------------------
def documented():
    """"table.column" -> kind, from the table in kms/store/README.md."""
    text = (ROOT / "kms/store/README.md").read_text().split("## What the file shows")[1].split("\n## ")[0]
    found = {}
    for columns, kind in re.findall(r"^\| (`[^|]+`) \| (\w+)[^|]*\|", text, re.M):
        for c in re.findall(r"`([\w.]+)`", columns):
            assert c not in found, c
            found[c] = kind
    return found


def schema(db):
    return {f"{t}.{column}" for (t,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
            for _, column, *_ in db.execute(f"PRAGMA table_info({t})")}


def test_every_column_is_documented(stolen):
    """A new column fails here until kms/store/README.md says what it shows."""
    with stolen[1].database() as db:
        assert schema(db) == set(documented())
    db.close()


def bits_a_byte(data):
    """Shannon's measure: what is sealed or hashed comes near 8."""
    counts = [data.count(b) for b in range(256)]
    return -sum(c / len(data) * math.log2(c / len(data)) for c in counts if c)


NAME = re.compile(rb"(projects/[a-z0-9-]+(/locations/[a-z0-9-]+(/keyRings/[\w-]+(/cryptoKeys/[\w-]+(/cryptoKeyVersions/\d+)?)?)?)?|[a-z][a-z0-9-]*)?")


def is_name(value):
    return NAME.fullmatch(value) is not None


def is_id(value):
    """Segments of names with zeros between and a number at the end; or a number, a random id or a hash."""
    return re.fullmatch(rb"[\w.-]{1,63}(\0[\w-]{1,63}){0,2}(\0.{4})?", value, re.S) is not None or len(value) in (8, 16, 32)


CHECKS = {
    "number": lambda values: all(isinstance(v, int) for v in values),
    "word": lambda values: all(re.fullmatch(r"[a-z]+", v) for v in values),
    "name": lambda values: all(map(is_name, values)),
    "id": lambda values: all(map(is_id, values)),
    "random": lambda values: all(len(v) == 16 for v in values),
    "hash": lambda values: all(len(v) % 32 == 0 for v in values),
    "sealed": lambda values: all(v[0] == 1 and len(v) >= 73 for v in values),
    "entries": lambda values: all(isinstance(v, bytes) for v in values),
}


def test_columns_hold_what_is_documented(stolen):
    with stolen[1].database() as db:
        for column, kind in documented().items():
            table, name = column.split(".")
            values = [v for (v,) in db.execute(f"SELECT {name} FROM {table}")]
            assert values or table == "bucket", f"{column}: nothing to look at"  # buckets are written when some thousand have changed
            assert CHECKS[kind](values), (column, kind, [v for v in values if not CHECKS[kind]([v])][:3])
            if kind == "sealed":
                data = b"".join(v[1:] for v in values)
                assert len(data) < 4096 or bits_a_byte(data) > 7.9, (column, bits_a_byte(data))
    db.close()


def test_the_measure_tells_text_from_what_is_sealed(stolen):
    """The twin: the configuration, and a policy, come nowhere near 8 bits a byte."""
    assert bits_a_byte((ROOT / "policies/roles.yaml").read_bytes()) < 6
    assert not CHECKS["name"]([b"jane@example.com"]) and not CHECKS["sealed"]([b"\x01" + b"x" * 20]) and not CHECKS["id"]([b"jane@example"])
