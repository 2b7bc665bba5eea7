"""Looking for bytes: in files, and in the memory of running processes. The work is done by scan.c; here are the spellings and the answers."""
import base64
import binascii
import dataclasses
import pathlib
import subprocess

from kit.instance import BUILD

SCAN = BUILD / "leaks/scan"


def spellings(secret):
    """As it is, in hexadecimal, and in base64 of both alphabets however it lies between its neighbours."""
    found = {secret, binascii.hexlify(secret), binascii.hexlify(secret).upper()}
    for pad in range(3):
        text = base64.b64encode(b"\0" * pad + secret)[(0, 2, 3)[pad]:]  # without the first letters, which mix in the neighbour
        text = text.rstrip(b"=")[:-2]
        found |= {text, text.translate(bytes.maketrans(b"+/", b"-_"))}
    return found


@dataclasses.dataclass(frozen=True)
class Hit:
    where: str  # "p:1234" or "f:/path"
    at: int
    flags: str
    mapped: str
    name: str

    @property
    def locked(self):
        return "lo" in self.flags and "dd" in self.flags

    def __str__(self):
        return f"{self.name}: {self.where}, {self.mapped} {self.at:x} {self.flags}"


def told(hits):
    return "\n" + "\n".join(sorted(map(str, hits)))


def _scan(arguments, secrets):
    """secrets: name -> bytes. They go through a pipe: arguments could be read, and end in somebody's scan."""
    lines = "".join(f"{name} {form.hex()}\n" for name, secret in secrets.items() for form in spellings(secret))
    done = subprocess.run([SCAN, *arguments], input=lines.encode(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    *hits, last = done.stdout.decode(errors="replace").splitlines()
    assert int(last.split()[1]) > 0, "nothing was looked at"
    return [Hit(where, int(at, 16), flags, mapped, name) for where, at, flags, mapped, name in (h.split("\t") for h in hits)]


def in_memory(pids, secrets):
    """Every hit in the memory of a process, or of several."""
    pids = [pids] if isinstance(pids, int) else list(pids)
    return _scan([f"-p{p}" for p in pids], secrets)


def in_paths(paths, secrets):
    return _scan([f"-f{p}" for p in paths], secrets) if paths else []


def in_files(folder, secrets, leave_out=()):
    """{(file, name of the secret)} for each secret that some file below the folder holds."""
    folder = pathlib.Path(folder)
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file() and not p.is_symlink() and p not in leave_out and p.stat().st_size]
    return {(str(pathlib.Path(h.where[2:]).relative_to(folder)), h.name) for h in in_paths(paths, secrets)}


@dataclasses.dataclass(frozen=True)
class Region:
    start: int
    end: int
    mapped: str
    flags: frozenset
    locked_kb: int


def regions(pid):
    """All memory of a process, as /proc/PID/smaps has it."""
    found, head, locked = [], None, 0
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        key, _, value = line.partition(":")
        if "-" in key.split(" ")[0]:
            head = line.split(None, 5)
        elif key == "Locked":
            locked = int(value.split()[0])
        elif key == "VmFlags":
            start, end = (int(x, 16) for x in head[0].split("-"))
            found.append(Region(start, end, head[5] if len(head) > 5 else "", frozenset(value.split()), locked))
    return found
