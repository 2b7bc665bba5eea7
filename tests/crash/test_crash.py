"""The short form of make crash, and the proof that it is neither deaf nor blind."""
import errno
import os
import random
import time

import pytest

import page as control
import strace
from crash import Station, run
from kit.instance import until
from points import NotReached, Point

SEED = os.environ.get("SEED", "1")
FILES = ("wal", "shm", "db", "part", "journal")


@pytest.fixture
def station(folder, template):
    made = []

    def make(number=0):
        made.append(Station(folder / f"s{len(made)}", template, random.Random(SEED), number))
        made[-1].begin()
        return made[-1]
    yield make
    for s in made:
        s.rig.page.disarm()
        s.rig.drop()


# ---- two hundred points ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kinds, points", [(("work",), 100), (("start", "instant", "ill"), 50), (("fault", "doomed", "roll"), 50)],
                         ids=["killed while it works", "killed while it recovers, and at any instant", "a disk that fails"])
def test_points(kinds, points):
    result = run(points, SEED, lanes=3, kinds=kinds)
    print(result)
    assert not result.findings, result
    assert result.points == points and set(result.done) == set(kinds), result
    calls, files = ({p.split(":")[i] for p in result.places} for i in (0, 1))
    if kinds == ("work",):
        assert calls >= {"write", "sync", "send"} and files >= {"wal", "journal"} and len(result.places) >= 8, result.places
    if "fault" in kinds:
        assert calls >= {"write", "sync"} and files >= {"wal", "journal", "part"}, result.places


# ---- it hears every call -----------------------------------------------------------------------------------------------------------
@pytest.mark.skipif(not strace.available(), reason="strace cannot trace here")
def test_it_counts_what_strace_counts(station, tmp_path):
    """The same core, the same calls: counted by the page from inside, and by the kernel's tracer from outside."""
    s = station()
    for attempt in range(4):
        trace = strace.Trace(s.rig.process.pid, tmp_path / f"trace{attempt}")
        old = s.rig.page.pid
        s.rig.kill_core()
        until(lambda: not os.path.exists(f"/proc/{old}"), 10)
        before = s.rig.page.counts()
        s.judge.ready()
        s.judge.check(s.lane.wave(7, 9) + s.lane.wave(7, 9))
        inside = quiet(s.rig.page)
        trace.stop()
        if inside == s.rig.page.counts():
            break
    else:
        pytest.fail("never quiet enough to compare")
    seen = trace.counts(s.rig.page.pid)
    mine = {}
    for (call, file), n in inside.items():
        place = call, file if file in FILES else "other"
        mine[place] = mine.get(place, 0) + n - before[call, file]
    mine = {p: n for p, n in mine.items() if n}
    assert mine == dict(seen)
    assert mine["write", "journal"] > 5 and mine["sync", "wal"] > 5 and mine["send", "other"] > 20  # there was something to hear


def quiet(page):
    """The counts once nothing moves any more: checkpoints are done, timers between two ticks."""
    state = [page.counts(), time.monotonic()]

    def still():
        now = page.counts()
        if now != state[0]:
            state[:] = now, time.monotonic()
        return time.monotonic() - state[1] > 0.25
    until(still, 20, "nothing moves")
    return state[0]


# ---- and the judge is not blind ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("place", [("write", "journal"), ("write", "wal")], ids=["journal", "store"])
def test_a_write_that_is_lost_is_noticed(station, place):
    """The control: one write says that it was done, and was not; then the process dies. Were that not found, nothing would be."""
    s = station()
    page, pid = s.rig.page, s.rig.page.pid
    s.judge.event_s = 1
    page.arm((place,), control.LOSE, nth=1, times=control.ALWAYS)
    ops = s.lane.wave(4, 4)
    assert page.fired >= 1 and any(op.calls[0].answer.how == "ok" for op in ops)
    os.kill(pid, 9)
    with pytest.raises(AssertionError):
        s.runner._after_death(ops, pid)
    assert page.fired >= 1


def test_a_point_that_is_not_reached_does_not_count(station):
    s = station()
    with pytest.raises(NotReached):
        s.runner.run(Point("work", (("resize", "db"),), control.KILL_BEFORE, nth=10**6))
    assert s.rig.page.fired == 0 and s.rig.page.pid == s.rig.core()


def test_an_interrupted_call_is_made_again(station):
    """EINTR from the journal's calls and the socket is nobody's business; from the store's sync it may refuse that group."""
    s = station()
    for place in (("write", "journal"), ("sync", "journal"), ("write", "wal"), ("send", "channel")):
        s.rig.page.arm((place,), control.FAIL, error=errno.EINTR, times=3)
        ops = []
        until(lambda: ops.extend(s.lane.wave(5, 5)) or s.rig.page.fired, 10, f"{place} was interrupted")
        s.rig.page.disarm()
        assert all(op.calls[0].answer.how == "ok" for op in ops), [op.calls[0].answer for op in ops]
        s.judge.check(ops)
