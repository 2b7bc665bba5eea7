"""The one refusal takes the same time whether the thing is there or not.

Samples of the variants are interleaved and shuffled, so that whatever the machine does meanwhile falls on all of them alike. Compared are
lower quartiles: noise only ever adds, so they hold still where medians on a busy machine do not. A store read costs some hundred
microseconds, an HSM call a millisecond; the ruler is tried on the first."""
import itertools
import os
import random
import statistics
import time

import pytest

import requests
import rows
import walk
from walk import Code

FIRST, SAMPLES = 10, (30, 30, 60, 120, 240)  # a difference must stay through every round, of more and more: noise comes and goes, a leak does not
BOUND_S, BOUND_SHARE = 80e-6, 0.2  # one row's variants: the larger of both
TOGETHER_SHARE = 0.08              # all rows together: what a row alone would hide


def quick(values):
    return statistics.quantiles(values, n=4)[0]


def sample(variants, n, rng):
    """name -> seconds, n samples of each."""
    taken = {name: [] for name in variants}
    for _ in range(n):
        order = list(variants)
        rng.shuffle(order)
        for name in order:
            start = time.perf_counter()
            variants[name]()
            taken[name].append(time.perf_counter() - start)
    return taken


def apart(taken):
    """How far the variants lie apart beyond the bound, in seconds; <= 0: within noise."""
    times = [quick(v) for v in taken.values()]
    return max(times) - min(times) - max(BOUND_S, BOUND_SHARE * min(times))


def differs(variants, ret=None):
    """None, or what each variant took. ret: the first round's samples, for who wants them."""
    rng, taken = random.Random(1), {}
    for n in (FIRST, *SAMPLES):
        taken = sample(variants, n, rng)
        if n == FIRST and ret is not None:
            ret.update(taken)
        if apart(taken) <= 0:
            return None
    return {name: f"{quick(v) * 1e6:.0f} us" for name, v in taken.items()}


def names_of(walked, row, identity):
    """The first field of this row that takes names of a kind, with a step for each reason why something is or is not there."""
    for path in requests.text_fields(row.request.DESCRIPTOR):
        for kind in reversed(walk.KINDS):
            steps = walked.of(row=row, identity=identity, whose="foreign", path=path, kind=kind, child=None, beside=None)
            if steps and all(a.code is Code.PERMISSION_DENIED for a in steps.values()):
                by_why = {s.why: s for s in steps}
                return dict(itertools.islice(by_why.items(), 3)) | {"no such tenant": by_why.get("no such tenant", by_why["there"])}
    return {}


measured = pytest.mark.skipif(rows.SANITIZED, reason="under sanitizers time says nothing")


@measured
@pytest.mark.parametrize("identity", ["acme-orders", "acme-keyadmin"])
def test_refusals_take_the_same_time(walked, identity):
    caller, late, shares = walked.callers[identity], [], []
    for row in walked.table:
        steps = names_of(walked, row, identity) if row.kind == "unary" and not row.public else {}
        if len(steps) < 2:
            continue
        variants = {why: (lambda q=requests.build(row, s.path, s.name): caller(row, q)) for why, s in steps.items()}
        first = {}
        if found := differs(variants, first):
            late.append((str(row), found))
        there = quick(first.pop("there"))
        shares += [(quick(v) - there) / there for v in first.values()]
    assert late == [] and len(shares) > 40
    assert abs(statistics.median(shares)) < TOGETHER_SHARE, statistics.median(shares)


# ---- a hundred thousand pairs: LONG=1 make matrix ---------------------------------------------------------------------------
PAIRS = int(os.environ.get("PAIRS", 100_000 if os.environ.get("LONG") else 0))
T_MAX, CROP = 4.5, 0.9  # Welch's t over the quicker nine tenths of both: what the machine does meanwhile lies in the slow ends


def cropped(values, at):
    return [v for v in values if v <= at]


def welch(a, b):
    at = statistics.quantiles(a + b, n=100)[int(100 * CROP) - 1]
    a, b = cropped(a, at), cropped(b, at)
    return (statistics.fmean(a) - statistics.fmean(b)) / (statistics.variance(a) / len(a) + statistics.variance(b) / len(b)) ** 0.5


@measured
@pytest.mark.skipif(not PAIRS, reason="long: LONG=1, or PAIRS=number")
@pytest.mark.parametrize("method", ["GetCryptoKey", "Encrypt"])
def test_many_pairs(walked, method):
    """A key of another tenant that is there, and one that is not, of names equally long: refused in the same time."""
    row, = [r for r in walked.table if r.method == method]
    caller, there = walked.callers["acme-orders"], walked.places["globex"].key
    absent = there[:-1] + ("y" if there[-1] != "y" else "z")
    variants = {n: (lambda q=requests.build(row, ("name",), name): caller(row, q)) for n, name in (("there", there), ("absent", absent))}
    taken = sample(variants, PAIRS, random.Random(3))
    t = welch(*taken.values())
    apart_ns = (statistics.median(taken["there"]) - statistics.median(taken["absent"])) * 1e9
    print(f"{method}: {PAIRS} pairs, t = {t:.2f}, medians {apart_ns:+.0f} ns apart of {statistics.median(taken['there']) * 1e6:.0f} us")
    assert abs(t) < T_MAX, (t, apart_ns)


# ---- the ruler itself -----------------------------------------------------------------------------------------------------
@measured
def test_the_ruler_sees_a_lookup(walked):
    """A permitted read looks into the store and waits for its event; the same read of another's thing does neither."""
    row, = [r for r in walked.table if r.method == "GetCryptoKey"]
    caller = walked.callers["acme-orders"]
    own, other = (requests.build(row, ("name",), walked.places[t].key) for t in ("acme", "globex"))
    variants = {"own": lambda: caller(row, own), "another's": lambda: caller(row, other)}
    assert any(apart(sample(variants, 2 * SAMPLES[0], random.Random(n))) > 0 for n in range(3)), "a store read was not seen"


def test_the_long_ruler_on_numbers():
    rng = random.Random(11)
    draw = lambda more: [0.0004 + more + rng.expovariate(1 / 0.0001) for _ in range(20_000)]  # noqa: E731
    assert abs(welch(draw(0), draw(0))) < T_MAX < abs(welch(draw(0), draw(0.00001)))


def test_the_ruler_on_numbers():
    rng = random.Random(7)
    noisy = [0.0004 + rng.expovariate(1 / 0.0002) for _ in range(200)]
    assert apart({"a": noisy[:100], "b": noisy[100:]}) <= 0
    assert apart({"a": noisy[:100], "b": [v + 0.0002 for v in noisy[100:]]}) > 0
