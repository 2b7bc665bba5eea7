"""A daemon whose wall clock is ours: libfaketime in all four processes, steered through a file. The boot clock stays real.

kmsd gives its children no environment and confines them, and stays that way. Beside a copy of kmsd lie scripts in the children's names; each
sets what libfaketime wants and becomes the real child. The file lies where that child may read anyway, as Landlock is in force. When front
ends, the library wants to unlink its own shared memory and front's filter ends it there: the last line of its log, and no fault of front."""
import os
import pathlib
import shutil
import stat

from kit import instance as kit_instance
from kit.instance import Instance

LIBRARY = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"
REAL = "+0"


def settings(file):
    # FORCE_MONOTONIC_FIX: without it the library ends every timed wait of a monotonic condition at once, and its users spin
    return {"LD_PRELOAD": LIBRARY, "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_FORCE_MONOTONIC_FIX": "0"}


class SteppedInstance(Instance):
    """Like any other, but for step()."""

    @property
    def files(self):
        return {"hsm": self.state / ".clock", "core": self.run_dir / ".clock", "front": self.run_dir / ".clock"}

    def step(self, to):
        """to: "+10y", "-1h", "+0", or "2031-05-06 07:08:09" for a clock that stands there."""
        for file in set(self.files.values()):
            new = file.with_suffix(".new")
            new.write_text(to + "\n")
            os.chmod(new, 0o600)
            new.replace(file)

    def _libexec(self):
        folder = self.dir / "bin"
        if not folder.exists():
            folder.mkdir()
            shutil.copy2(kit_instance.BUILD / "bin/kmsd", folder / "kmsd")
            for role in self.files:
                script = folder / f"kmsd-{role}"
                words = " ".join(f"{k}={v!r}" for k, v in settings(self.files[role]).items())
                script.write_text(f"#!/bin/sh\nexec env {words} {kit_instance.BUILD}/bin/kmsd-{role} \"$@\"\n")
                script.chmod(stat.S_IRWXU)
        return folder

    def start(self, ready=True, **popen):
        if not (self.run_dir / ".clock").exists():
            self.step(REAL)
        env = {"PATH": os.environ["PATH"], **settings(self.files["front"])}
        return super().start(ready, executable=str(self._libexec() / "kmsd"), env=env, **popen)

    def stop(self):
        pids = [self.process.pid, *self.children().values()] if self.process else []
        try:
            return super().stop()
        finally:
            for pid in pids:  # libfaketime's own, left by processes that end without exit handlers
                for left in pathlib.Path("/dev/shm").glob(f"*faketime_*_{pid}"):
                    left.unlink(missing_ok=True)
