"""What passes the frames and is foul inside, and what is refused for ever."""
from arena import LONG


def test_foul_messages(arena):
    """Gzip bombs, claimed gigabytes, nesting, groups: cut by the front or refused by core, and nothing is expanded."""
    o = arena.run("foul_messages", seconds=60 if LONG else 1.5)
    cut = {"gzip bomb", "claims 4 GB", "over 320 KiB"}
    for kind, r in o.result.items():
        assert r["silent"] == 0, (kind, o)
        assert (r["cut"] > 0 and r["answered"] == 0) if kind in cut else (r["answered"] > 0 and r["cut"] == 0), (kind, o)
    arena.counted(o.before, "connections_policed", len(cut))


def test_denied_calls_without_pause(arena):
    """Ten thousands of refusals: the others are served, and the journal counts them instead of keeping each."""
    o = arena.run("denied", seconds=60 if LONG else 1.5)
    assert o.result["answered"] > 1000 and not o.result["cut"], o
    assert o.journal < o.during["n"] + o.result["answered"] // 10 + 200, o
