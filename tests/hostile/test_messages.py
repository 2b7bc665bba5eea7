"""What passes the frames and is foul inside, and what is refused for ever."""
from arena import LONG, TRIES

DENIALS_PER_S = 12
SLOPE_MB = 0.5  # a minute


def test_foul_messages(arena):
    """Gzip bombs, claimed gigabytes, nesting, groups: cut by the front or refused by core, and nothing is expanded."""
    o = arena.run("foul_messages", seconds=30 if LONG else 1.5)
    cut = {"gzip bomb", "claims 4 GB", "over 320 KiB"}
    for kind, r in o.result.items():
        assert r["silent"] == 0, (kind, o)
        assert (r["cut"] > 0 and r["answered"] == 0) if kind in cut else (r["answered"] > 0 and r["cut"] == 0), (kind, o)
    arena.counted(o.before, "connections_policed", len(cut))


def test_denied_calls_without_pause(arena):
    """Ten thousands of refusals, ten minutes of them with LONG=1: the others are served, the journal counts them instead of
    keeping each, and memory does not creep."""
    seconds = 600 if LONG else 1.5
    o = arena.run("denied", seconds=seconds, attempts=1 if LONG else TRIES)
    assert o.result["answered"] > 500 * seconds and not o.result["cut"], o
    # A caller's denials: ten a second kept, the rest as one count. The good client's calls are each an entry.
    assert o.journal < o.during["n"] + DENIALS_PER_S * (seconds + 10) + 100, (o.journal, o)
    assert not LONG or o.slope < SLOPE_MB, (o.slope, o)
