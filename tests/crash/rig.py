"""A real daemon in memory whose core obeys the control page, started, killed and watched by the tests."""
import contextlib
import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "integration"))

from kit import BUILD, instance as kit_instance  # noqa: E402
from kit.instance import Instance, until  # noqa: E402

import page as control  # noqa: E402

SEGMENT, RESERVE = 1 << 20, 65536  # the smallest journal files: changing to the next one is a place too
SETTINGS = dict(journal_segment_bytes=SEGMENT, journal_reserve_bytes=RESERVE, log_level=os.environ.get("CLV_CRASH_LOG", "warn"), drain_timeout="2s", key_cache_max=64,
                max_calls_in_flight=256)  # less locked memory to touch at every start


def scratch():
    """Memory where there is room, so that a thousand restarts do not wait for a disk; syncs are counted all the same."""
    return kit_instance.scratch("clv-", 512 << 20)


def make_template(folder):
    """Tenants acme and globex, and small journal files: their size is settled when they are made."""
    return Instance.create(folder, *(word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")))


class Rig(Instance):
    def __init__(self, folder, template, anchor_file=False):
        copied = template.copy(folder)
        super().__init__(copied.dir)
        self.programs = self.dir / "bin"
        (self.programs / "core").mkdir(parents=True)
        for name in ("kmsd", "kmsd-front", "kmsd-hsm"):
            self._program(BUILD / "bin" / name, self.programs / name)
        self._program(BUILD / "bin/kmsd-core", self.programs / "core/kmsd-core")
        self._program(BUILD / "crash/kmsd-core", self.programs / "kmsd-core")
        self._program(BUILD / "crash/inject.so", self.programs / "inject.so")
        self.page = control.Page(self.programs / "page")
        if anchor_file:
            (self.dir / "anchor").mkdir(mode=0o700)
            self.configure(anchor_file="anchor/floor")

    @staticmethod
    def _program(source, target):
        shutil.copy2(source, target)

    def core(self):
        """The process id of the core that runs, as the monitor's child."""
        return until(lambda: self.children().get("core"), 15, "a core")

    def kill_core(self):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.core(), 9)

    def ended_well(self):
        code = self.stop()
        assert code == 0, f"kmsd ended with {code}: {self.log[-4000:]}"

    def fsck(self):
        code, said = self.run("fsck", timeout=60)
        assert code == 0, f"fsck found something: {said[-4000:]}"
        return said

    def drop(self):
        self.stop()
        self.page.close()
        shutil.rmtree(self.dir, ignore_errors=True)
