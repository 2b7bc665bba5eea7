"""Frames by the hundred thousand, and header blocks of every bad kind."""
import pytest
from arena import LONG
from attack_floods import CONTROL
from attack_headers import HPACK

CALM = 11
SHAPES = ("open", "request", "served")
AT_ONCE = {"continuation", "large headers"}  # the others are paced for five seconds first


@pytest.mark.parametrize("shape", SHAPES if LONG else SHAPES[:1])
def test_rapid_reset(arena, shape):
    """CVE-2023-44487. 100,000 are offered; the front paces them, cuts after five seconds, and holds what was done against the address."""
    o = arena.run("rapid_reset", n=100_000, seconds=(60 if shape == SHAPES[0] else 20) if LONG else 5.8, shape=shape)
    assert o.result["first_cut_s"] < 8 and o.result["paced"] > 10, o
    assert o.result["refused"] >= 1, o
    assert o.result["pairs"] < (60_000 if LONG else 20_000), o
    arena.counted(o.before, "connections_policed", 1)


def test_made_you_reset(arena):
    """CVE-2025-8671: resets by the server count like the client's own."""
    o = arena.run("made_you_reset", seconds=30 if LONG else 1.5)
    assert o.result["connections"] >= 2 and o.result["sent"] > 100_000, o
    arena.counted(o.before, "connections_policed", 1)


@pytest.mark.parametrize("read", [False, True] if LONG else [True])
def test_control_frames(arena, read):
    """SETTINGS, PING, empty and tiny DATA and the rest of them: each alone is paced or cut, all together cost little."""
    o = arena.run("control_floods", kinds=list(CONTROL), seconds=60 if LONG else 2, read=read)
    for kind, r in o.result.items():
        assert r["frames"] > 1000 or r["cut_after_s"] is not None, (kind, o)
        # the kernel's buffers alone take megabytes of the one that is large
        assert r["paced"] > 0 or r["cut_after_s"] is not None or (kind == "padded DATA" and not LONG), (kind, o)
        assert not LONG or r["cut_after_s"] < 20, (kind, o)
        assert set(r["codes"]) <= {CALM, 1, 5, 6}, (kind, o)
    assert o.cpu_s["front"] < 0.25 * o.seconds, o


def test_floods_by_another_implementation(arena):
    """python3-h2 floods by the book, and understands what it is told: ENHANCE_YOUR_CALM, and nothing else."""
    o = arena.run("h2_floods", seconds=60 if LONG else 3)
    for kind, r in o.result.items():
        assert r["frames"] >= 50 and set(r["said"]) <= {CALM}, (kind, o)
        assert r["over"] or not (LONG or kind in AT_ONCE), (kind, o)
    assert any(r["said"] for r in o.result.values()), o
    arena.counted(o.before, "connections_policed", len(o.result) if LONG else 2)


def test_continuation_floods(arena):
    """CVE-2024-27316 and its kin: every one is cut at the ninth CONTINUATION, the 33rd KiB, or sooner."""
    o = arena.run("continuation_flood", seconds=30 if LONG else 1.2)
    assert o.result["connections"] >= 5 and o.result["cuts"] == o.result["connections"], o
    assert set(o.result["codes"]) <= {CALM}, o
    arena.counted(o.before, "connections_policed", o.result["connections"])


def test_hpack_floods(arena):
    """CVE-2023-33953 and the HPACK bombs, as large as the front lets them be: gRPC ends them, and nobody else notices."""
    o = arena.run("hpack_floods", seconds=30 if LONG else 2.4)
    for kind in HPACK:
        assert o.result[kind]["blocks"] >= 1 and o.result[kind]["connections"] >= 1, (kind, o)
    assert sum(r["cut"] for r in o.result.values()) >= len(HPACK), o


def test_headers_that_made_grpc_abort(arena):
    """CVE-2023-1428 (te, :scheme, grpclb_client_stats, then more than 8 KB), CVE-2023-32731, CVE-2023-32732 and neighbours."""
    o = arena.run("aborting_headers", tries=8 if LONG else 1)
    assert o.result["sent"] >= 7 * o.result["values"] - o.result["cut"], o
    assert o.result["stood"] >= o.result["values"] and o.result["cut"] >= 10, o
