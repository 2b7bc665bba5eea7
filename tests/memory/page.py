"""The page that oom.c reads, and programs that run with it."""
import mmap
import pathlib
import shutil
import struct
import subprocess

from kit.instance import BUILD

FIELDS = ("countdown", "seen", "hits", "everybody", "attached")


class Page:
    def __init__(self, folder):
        self.path, self.library = folder / "page", folder / "oom.so"
        self.path.write_bytes(bytes(4096))
        subprocess.run(["gcc", "-O1", "-fPIC", "-shared", "-D_GNU_SOURCE", "-o", self.library, pathlib.Path(__file__).with_name("oom.c")], check=True)
        with open(self.path, "r+b") as f:
            self.map = mmap.mmap(f.fileno(), 4096)

    def get(self, field):
        return struct.unpack_from("<q", self.map, 8 * FIELDS.index(field))[0]

    def set(self, **values):
        for field, value in values.items():
            struct.pack_into("<q", self.map, 8 * FIELDS.index(field), value)

    def arm(self, n, everybody=0):
        self.set(countdown=0, seen=0, hits=0, everybody=everybody)
        self.set(countdown=n)

    @property
    def environment(self):
        return {"LD_PRELOAD": str(self.library), "OOM_PAGE": str(self.path)}

    def programs(self, folder):
        """A folder of programs whose core has the library in it. The monitor gives a child no environment, so it is set there."""
        real = folder / "real"
        real.mkdir(parents=True)
        for f in (BUILD / "bin").iterdir():
            shutil.copy(f, (real if f.name == "kmsd-core" else folder) / f.name)
        core = folder / "kmsd-core"
        core.write_text(f'#!/bin/sh\nLD_PRELOAD={self.library} OOM_PAGE={self.path} exec {real}/kmsd-core "$@"\n')
        core.chmod(0o755)
        return folder
