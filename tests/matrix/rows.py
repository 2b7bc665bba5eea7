"""The RPC table as the daemon's own code prints it, with the descriptors of its messages."""
import dataclasses
import os
import pathlib
import subprocess

import claviger_pb  # noqa: F401
from google.protobuf import descriptor_pool, message_factory

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("CLV_BUILD", ROOT / "build/dev")).resolve()

_CORE = (BUILD / "bin/kmsd-core").read_bytes()
SANITIZED = any(mark in _CORE for mark in (b"__asan_init", b"__tsan_init", b"__gcov_dump"))  # none of these wipes what it frees


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    service: str
    method: str
    kind: str  # unary, server stream, both stream
    action: str  # "" for public rows
    flags: frozenset  # public, control or data; change; destructive; per item
    request: object
    response: object

    @property
    def path(self):
        return f"/{self.service}/{self.method}"

    @property
    def public(self):
        return "public" in self.flags

    def __str__(self):
        return f"{self.service.rsplit('.', 1)[1]}.{self.method}"


def _import_all():
    """Every service's descriptors into the pool: a new .proto is known without anybody naming it here."""
    for path in sorted((BUILD / "pygen").rglob("*_pb2.py")):
        name = ".".join(path.relative_to(BUILD / "pygen").with_suffix("").parts)
        __import__(name)


def printed():
    done = subprocess.run([ROOT / "tools/api-table", BUILD, "rows"], check=True, stdout=subprocess.PIPE, text=True, timeout=120)
    return done.stdout


def table(text=None):
    _import_all()
    pool, found, service = descriptor_pool.Default(), [], None
    make = getattr(message_factory, "GetMessageClass", None) or message_factory.MessageFactory(pool).GetPrototype
    for line in (text or printed()).splitlines():
        if line.startswith("### "):
            service = pool.FindServiceByName(line[4:])
        elif line.startswith("| "):
            method, kind, action, flags = (cell.strip() for cell in line.strip("|").split("|"))
            m = service.methods_by_name[method]
            found.append(Row(service.full_name, method, kind, "" if action == "none" else action.strip("`"),
                             frozenset(flags.split(", ")), make(m.input_type), make(m.output_type)))
    return found
