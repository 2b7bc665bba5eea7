"""The control page of inject.c, from the test's side. page.h has its shape."""
import mmap
import struct

CALLS = ("open", "write", "sync", "resize", "name", "unlink", "send")
FILES = ("other", "db", "wal", "shm", "journal", "part", "anchor", "folder", "client", "channel", "log")
KILL_BEFORE, KILL_AFTER, KILL_TORN, FAIL, SHORT, LOSE = 1, 2, 3, 4, 5, 6
ACTIONS = {KILL_BEFORE: "killed before", KILL_AFTER: "killed after", KILL_TORN: "killed half way", FAIL: "failed", SHORT: "written short", LOSE: "lost"}
MAGIC, BYTES, SLOTS = 0x43525348, 4096, 16
_HEAD = struct.Struct("<IIIIQQQQIIIIII")  # up to `selected`
_SELECTED = _HEAD.size
_COUNTS = _SELECTED + len(CALLS) * SLOTS
_ACTION = struct.Struct("<I")
ALWAYS = 2**64 - 1


class Page:
    def __init__(self, path):
        path.write_bytes(struct.pack("<I", MAGIC).ljust(BYTES, b"\0"))
        path.chmod(0o600)
        with open(path, "r+b") as f:
            self.map = mmap.mmap(f.fileno(), BYTES)

    def _head(self):
        return _HEAD.unpack_from(self.map, 0)

    def arm(self, places, action, nth=1, times=1, error=0, only_start=0):
        """places: pairs of call and file. The action is written last: nothing is hit by half an order."""
        self.disarm()
        struct.pack_into("<IIQQQQ", self.map, 8, error, only_start, nth, times, 0, 0)
        selected = bytearray(len(CALLS) * SLOTS)
        for call, file in places:
            selected[CALLS.index(call) * SLOTS + FILES.index(file)] = 1
        self.map[_SELECTED:_COUNTS] = bytes(selected)
        _ACTION.pack_into(self.map, 4, action)

    def disarm(self):
        _ACTION.pack_into(self.map, 4, 0)

    @property
    def seen(self):
        return self._head()[6]

    @property
    def fired(self):
        return self._head()[7]

    @property
    def pid(self):
        return self._head()[8]

    @property
    def starts(self):
        return self._head()[9]

    def where(self):
        """The first call that was hit: (call, file, process id)."""
        h = self._head()
        return CALLS[h[10]], FILES[h[11]], h[12]

    def counts(self):
        """Every call since the page was made, by place."""
        numbers = struct.unpack_from(f"<{len(CALLS) * SLOTS}Q", self.map, _COUNTS)
        return {(c, f): numbers[i * SLOTS + j] for i, c in enumerate(CALLS) for j, f in enumerate(FILES)}

    def close(self):
        self.map.close()
