"""What can be done to the daemon, and one point of each kind done to it and judged."""
import collections
import contextlib
import dataclasses
import errno
import os
import time

import grpc

import rig  # noqa: F401
import page as control
from kit.instance import until
from kit.wire import Code

CHANGES, USES, WAVES_MAX = 7, 9, 12
DISK = ("db", "wal", "shm", "journal", "part", "anchor", "folder", "other")
STORE, JOURNAL = ("db", "wal", "shm"), ("journal", "part", "folder")


@dataclasses.dataclass
class Point:
    kind: str            # work, roll, start, instant, ill, fault, doomed
    places: tuple        # of (call, file)
    action: int = control.KILL_BEFORE
    nth: int = 1
    times: int = 1
    error: int = 0
    after_s: float = 0   # instant

    def __str__(self):
        where = " ".join(f"{c}:{f}" for c, f in self.places) if len(self.places) < 4 else "any call"
        what = "killed" if self.kind == "instant" else control.ACTIONS[self.action]
        error = f" with {errno.errorcode[self.error]}" if self.error else ""
        return f"{self.kind}: {what}{error} at {where} number {self.nth}{' and all after' if self.times > 1 else ''}"


class NotReached(Exception):
    """The workload ended before the point: it does not count."""


# What a disk, a file system or a client's connection can really answer.
ERRORS = {
    "write": (errno.EIO, errno.ENOSPC, errno.EINTR), "sync": (errno.EIO, errno.ENOSPC, errno.EINTR), "open": (errno.EIO, errno.ENOSPC, errno.EMFILE),
    "resize": (errno.EIO, errno.ENOSPC, errno.EINTR), "name": (errno.EIO, errno.ENOSPC), "unlink": (errno.EIO,),
    "send": (errno.EPIPE, errno.ECONNRESET, errno.EINTR),
}
# The journal's next file is made ahead of time and named when its turn comes: once in some thousand events.
ROLL = (("open", "part"), ("resize", "part"), ("write", "part"), ("sync", "part"), ("name", "journal"))
LASTING = (errno.EIO, errno.ENOSPC)  # what may go on; an interrupted call is made again


class Chooser:
    """Points by seed. Half of them take a place first, so that the rare ones are met as often as the busy ones."""

    def __init__(self, rng, at_work, at_start):
        self.rng, self.decks = rng, {}
        self.at_work = {p: n for p, n in at_work.items() if n > 0}  # calls of a wave, on average
        self.at_start = {p: n for p, n in at_start.items() if n > 0}

    def _next(self, kind, seen):
        """Each place once in random order, and again: by chance alone some would wait for long."""
        deck = self.decks.setdefault(kind, [])
        if not deck:
            deck += self.rng.sample(sorted(seen), len(seen))
        return deck.pop()

    def _place(self, kind, seen):
        if self.rng.random() < 0.3:
            return tuple(seen), sum(seen.values())
        place = self._next(kind, seen)
        return (place,), seen[place]

    def _kill(self, places):
        torn = [control.KILL_TORN] if any(c in ("write", "send") for c, f in places) else []
        return self.rng.choice([control.KILL_BEFORE, control.KILL_AFTER] + torn)

    def choose(self, kind):
        if kind == "instant":
            return Point(kind, (), after_s=self.rng.uniform(0, 0.03))
        if kind in ("work", "start"):
            places, n = self._place(kind, self.at_work if kind == "work" else self.at_start)
            # beyond one wave: also what only comes about after others have ended
            return Point(kind, places, self._kill(places), self.rng.randint(1, max(1, int(n * (2 if kind == "work" else 1)))))
        return self._roll() if kind == "roll" else self._ill() if kind == "ill" else self._fault(kind)

    def _ill(self):
        seen = {p: n for p, n in self.at_start.items() if p[0] in ERRORS and p[1] in DISK}
        place = self._next("ill", seen)
        error = self.rng.choice([e for e in ERRORS[place[0]] if e != errno.EINTR])
        return Point("ill", (place,), control.FAIL, self.rng.randint(1, int(seen[place])), self.rng.choice((1, control.ALWAYS)), error)

    def _roll(self):
        place = self._next("roll", ROLL)
        nth = self.rng.randint(1, 5 if place[0] == "write" else 2)
        if place[0] == "name" or self.rng.random() < 0.6:
            return Point("roll", (place,), self._kill((place,)), 1 if place[0] in ("name", "open", "resize") else nth)
        error = self.rng.choice(LASTING)
        return Point("roll", (place,), control.FAIL, 1, self.rng.choice((1, control.ALWAYS)), error)

    def _fault(self, kind):
        seen = {p: n for p, n in self.at_work.items() if p[0] in ERRORS and p[1] in (*DISK[:-1], "client")}
        if kind == "doomed":
            seen = {p: n for p, n in seen.items() if p[1] in ("wal", "journal")}
        place = self._next(kind, seen)
        nth = self.rng.randint(1, max(1, int(seen[place])))
        if kind == "doomed" and place == ("sync", "wal"):  # and then nothing can be written either
            return Point(kind, (place, ("write", "wal")), control.FAIL, self.rng.randint(1, 20), control.ALWAYS, self.rng.choice(LASTING))
        if place[0] in ("write", "send") and kind == "fault" and self.rng.random() < 0.25:
            return Point(kind, (place,), control.SHORT, nth, self.rng.choice((1, control.ALWAYS)))
        error = self.rng.choice([e for e in ERRORS[place[0]] if kind == "fault" or e in LASTING])
        times = control.ALWAYS if kind == "doomed" or (error in LASTING and self.rng.random() < 0.6) else 1
        return Point(kind, (place,), control.FAIL, nth, times, error)


class Runner:
    def __init__(self, the_rig, lane, judge):
        self.rig, self.lane, self.judge = the_rig, lane, judge
        self.back_s = []
        self.log_at = 0
        self.places = collections.Counter()

    # ---- what a wave does, to know how far to count ----
    def calibrate(self):
        before = self.rig.page.counts()
        ops = []
        for _ in range(4):
            ops += self.lane.wave(CHANGES, USES)
        self.judge.check(ops)
        after = self.rig.page.counts()
        old = self.rig.page.starts
        self.rig.kill_core()
        until(lambda: self.rig.page.starts > old, 15, "a new core")
        self.judge.ready()
        again = self.rig.page.counts()
        self._died_by_kill()
        return {p: (after[p] - before[p]) / 4 for p in after}, {p: again[p] - after[p] for p in again}

    def _died_by_kill(self, pid=None):
        """The monitor saw a core die of SIGKILL, and of nothing else."""
        def read_to():
            """Behind its line; a core that died right after it has a line of its own, for the next who asks."""
            with open(self.rig.log_file, "rb") as f:
                f.seek(self.log_at)
                lines = f.read().splitlines(keepends=True)
            at = self.log_at
            for x in lines:
                at += len(x)
                if b"level=error" in x and b"child died of a signal" in x:
                    assert b"signal=KILL" in x, x
                    if b"role=core" in x and (pid is None or b"pid=%d " % pid in x):
                        return at
        self.log_at = until(read_to, 10, f"core {pid} died of SIGKILL")

    # ---- one point ----
    def run(self, p):
        return getattr(self, "_" + p.kind)(p)

    def _waves(self, until_true):
        ops = []
        for _ in range(WAVES_MAX):
            ops += self.lane.wave(CHANGES, USES)
            if until_true():
                return ops
        self.rig.page.disarm()
        self.judge.check(ops)
        raise NotReached()

    def _after_death(self, ops, pid):
        dead = time.monotonic()
        self._died_by_kill(pid)
        self.rig.page.disarm()
        self.judge.ready()
        self.back_s.append(time.monotonic() - dead)
        assert self.rig.page.pid != pid
        self.judge.check(ops)

    def _hit(self, pid):
        page = self.rig.page
        call, file, where = page.where()
        assert page.fired == 1 and where == pid, f"hit {page.fired} times, in {where}, not {pid}"
        self.places[f"{call}:{file}"] += 1

    def _work(self, p):
        page, pid = self.rig.page, self.rig.page.pid
        page.arm(p.places, p.action, p.nth)
        ops = self._waves(lambda: page.fired)
        self._hit(pid)
        self._after_death(ops, pid)

    def _roll(self, p):
        """While the journal goes from one file to the next."""
        def filled():
            self.lane.fill(250)
            return page.fired
        page, pid = self.rig.page, self.rig.page.pid
        page.arm(p.places, p.action, p.nth, p.times, p.error)
        ops = self._waves(filled)
        if p.action != control.FAIL:
            self._hit(pid)
            self._after_death(ops, pid)
        else:
            self._lived_through(p, pid, ops + self.lane.wave(CHANGES, USES))

    def _instant(self, p):
        pid = self.rig.page.pid
        ops = []
        kinds = [self.lane.change] * CHANGES + [self.lane.use] * USES
        self.lane.rng.shuffle(kinds)
        for make in kinds:
            ops.append(make())
            ops[-1].send()
        time.sleep(p.after_s)  # the point itself: not a wait for anything
        os.kill(pid, 9)
        for op in ops:
            op.finish()
        self._after_death(ops, pid)

    def _start(self, p):
        """Killed while it works, and again while it recovers."""
        page, first = self.rig.page, self.rig.page.pid
        old = page.starts
        page.arm(p.places, p.action, p.nth, only_start=old + 1)
        ops = self.lane.wave(CHANGES, USES)
        os.kill(first, 9)
        self._died_by_kill(first)
        # hit, or ready without having been: then it is for nothing
        until(lambda: page.fired or self._tries(), 15, "a core that starts")
        if not page.fired:
            page.disarm()
            self.judge.ready()
            self.judge.check(ops)
            raise NotReached()
        _, _, second = page.where()
        assert second != first
        self._hit(second)
        self._after_death(ops, second)

    def _tries(self):
        if self.rig.page.fired:
            return False
        with contextlib.suppress(grpc.RpcError):
            self.judge.read(timeout=1)
            return True
        return False

    def _ill(self, p):
        """Killed, and the disk fails during the start: that start may fail, but not the service."""
        page, first = self.rig.page, self.rig.page.pid
        old = page.starts
        page.arm(p.places, p.action, p.nth, p.times, p.error, only_start=old + 1)
        ops = self.lane.wave(CHANGES, USES)
        os.kill(first, 9)
        until(lambda: page.fired or self._tries(), 20, "a start that fails, or serves")
        fired, later = page.fired, time.monotonic() + 0.5  # it may end that start, or it lasts for a while
        until(lambda: p.times == 1 or page.starts > old + 1 or time.monotonic() > later, 5)
        page.disarm()
        self.judge.ready()
        self.judge.check(ops)
        if not fired:
            raise NotReached()
        again = self.lane.wave(CHANGES, USES)
        assert all(op.calls[0].answer.how == "ok" for op in again), f"not all is served: {[op.calls[0].answer for op in again]}"
        self.judge.check(again)
        call, file, _ = page.where()
        self.places[f"{call}:{file}"] += 1

    # ---- errors ----
    def _fault(self, p):
        page, pid = self.rig.page, self.rig.page.pid
        page.arm(p.places, p.action, p.nth, p.times, p.error)
        ops = self._waves(lambda: page.fired)
        during = self.lane.wave(CHANGES, USES) if p.times > 1 else []
        if p.times > 1:
            self._while_it_lasts(p, during)
        self._lived_through(p, pid, ops + during)

    def _lived_through(self, p, pid, ops):
        page = self.rig.page
        self._refusals(p, ops)
        call, file, where = page.where()
        assert where == pid
        page.disarm()
        self.judge.ready()
        self.judge.check(ops)
        assert page.pid == pid == self.rig.core(), "the core did not live through it"
        self.places[f"{call}:{file}"] += 1

    def _while_it_lasts(self, p, ops):
        (call, file), = p.places
        if call == "send" and p.action == control.FAIL:
            return
        if p.action != control.FAIL or p.error == errno.EINTR:
            assert all(op.calls[0].answer.how == "ok" for op in ops), [op.calls[0].answer for op in ops]
        elif file in STORE:
            assert all(op.calls[0].answer.how == "ok" for op in ops if not op.change), "the fast lane does not need the store"
        if (call, file) in (("write", "wal"), ("sync", "wal")) and p.action == control.FAIL and p.error != errno.EINTR:
            assert all(op.calls[0].answer.how == "refused" for op in ops if op.change), "a change was answered that cannot be durable"
        if (call, file) in (("write", "journal"), ("sync", "journal")) and p.action == control.FAIL and p.error != errno.EINTR:
            assert all(op.calls[0].answer.how == "refused" for op in ops), "answered without a journal"

    def _refusals(self, p, ops):
        """Nobody hears of it but by the right code; a call that hangs or breaks off is a finding."""
        (call, file), = p.places
        broken = call == "send" and p.action == control.FAIL and p.error != errno.EINTR  # then the connection is, and nothing else
        if file in STORE:
            # SQLite keeps the error number of a write, and of a sync that of the call before it: a full disk may show as a failing one
            reasons = {"STORE_FULL", "STORE_IO"} if p.error == errno.ENOSPC else {"STORE_IO"}
        else:
            reasons = {"AUDIT_UNAVAILABLE"} if file in JOURNAL else set()
        for op in ops:
            a = op.calls[0].answer
            assert a.how != "unknown" or broken, f"{op.rpc}: {a}"
            if a.how == "refused":
                assert a.code == Code.UNAVAILABLE and a.reason in reasons, f"{op.rpc}: {a}"

    def _doomed(self, p):
        """The disk fails from now on, and then the process dies."""
        page, pid = self.rig.page, self.rig.page.pid
        page.arm(p.places, p.action, p.nth, p.times, p.error)
        ops = self._waves(lambda: page.fired) + self.lane.wave(CHANGES, USES)
        call, file, _ = page.where()
        os.kill(pid, 9)
        self._after_death(ops, pid)
        self.places[f"{call}:{file}"] += 1
