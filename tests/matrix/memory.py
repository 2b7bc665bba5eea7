"""Looking for bytes: in files under every spelling that a log or a store could give them, and in the memory of running processes."""
import base64
import binascii
import dataclasses
import pathlib

CHUNK = 1 << 22


def spellings(secret):
    """As it is, in hexadecimal, and in base64 however it lies between its neighbours."""
    found = {secret, binascii.hexlify(secret), binascii.hexlify(secret).upper()}
    for pad in range(3):
        text = base64.b64encode(b"\0" * pad + secret)[(0, 2, 3)[pad]:]  # without the first letters, which mix in the neighbour
        found.add(text.rstrip(b"=")[:-2])
    return found


def in_files(folder, secrets, leave_out=()):
    """(file, name of the secret) for each secret that some file below the folder holds. secrets: name -> bytes."""
    wanted = [(name, s) for name, secret in secrets.items() for s in spellings(secret)]
    hits = set()
    for path in sorted(pathlib.Path(folder).rglob("*")):
        if path.is_file() and not path.is_symlink() and path not in leave_out:
            data = path.read_bytes().rstrip(b"\0")  # a journal is mostly room
            hits |= {(str(path.relative_to(folder)), name) for name, s in wanted if s in data}
    return hits


@dataclasses.dataclass(frozen=True)
class Region:
    start: int
    end: int
    name: str
    locked: bool

    def __str__(self):
        return f"{self.name or 'anonymous'} {self.start:x}{' locked' if self.locked else ''}"


def regions(pid):
    """What of a process's memory is present and its own: code and constants of files are not."""
    found, head, fields = [], None, {}

    def end():
        if head is not None and int(fields.get("Rss", "0 kB").split()[0]) > 0 and "rd" in fields.get("VmFlags", "").split():
            start, stop = (int(x, 16) for x in head[0].split("-"))
            name, flags = head[5] if len(head) > 5 else "", fields["VmFlags"].split()
            if name not in ("[vvar]", "[vsyscall]") and ("wr" in flags or not name.startswith("/")):
                found.append(Region(start, stop, name, "lo" in flags))
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        key, _, value = line.partition(":")
        if "-" in key.split(" ")[0]:
            end()
            head, fields = line.split(None, 5), {}
        else:
            fields[key] = value.strip()
    end()
    return found


def pieces(pid, region, overlap):
    """The region's bytes in pieces that overlap: nothing is missed between two."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as mem:
        at = region.start
        while at < region.end:
            mem.seek(at)
            try:
                data = mem.read(min(CHUNK + overlap, region.end - at))
            except OSError:
                data = b""  # unmapped meanwhile
            if data.count(0) != len(data):
                yield at, data
            at += CHUNK


def in_memory(pid, secrets):
    """{(name of the secret, region)} of a process. secrets: name -> bytes."""
    hits, overlap = set(), max(map(len, secrets.values()), default=0)
    for region in regions(pid):
        for _, data in pieces(pid, region, overlap):
            hits |= {(name, region) for name, secret in secrets.items() if secret in data}
    return hits


def key_bytes(pid, size=32):
    """What lies in the locked memory of a process and looks like a key, 32 bytes each, by address."""
    found = {}
    for region in regions(pid):
        if not region.locked:
            continue
        for at, data in pieces(pid, region, 0):
            for i in range(0, len(data) - size + 1, size):
                piece = data[i:i + size]
                if len(set(piece)) > 20:
                    found[f"{at + i:x}"] = piece
    return found
