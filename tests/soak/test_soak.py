"""The soak in short, in every `make test`; and that its eyes are open. Long: make soak."""
import math
import os
import shutil

import pytest

import soak
import watch
from kit.instance import BUILD, Instance

SECONDS = 20
_CORE = (BUILD / "bin/kmsd-core").read_bytes()
MEASURED = not any(mark in _CORE for mark in (b"__asan_init", b"__tsan_init", b"__gcov_dump"))  # their memory is their own
long = pytest.mark.skipif(os.environ.get("LONG") != "1", reason="LONG=1: half a minute that must fail")


@pytest.fixture
def instance(tmp_path_factory):
    folder = tmp_path_factory.mktemp("soak")
    made = Instance.create(folder / "i")
    yield made
    if made.process:
        made.process.kill()
        made.process.wait()
    shutil.rmtree(folder)


def test_nothing_grows_and_nothing_fails_that_a_kill_does_not_explain(instance):
    report, wrong = soak.run(instance, SECONDS)
    if not MEASURED:  # what it does to the daemon is heard all the same; time and memory are the sanitizer's
        wrong = [w for w in wrong if " grew by " not in w and not ("'UNAVAILABLE'" in w or "'DEADLINE_EXCEEDED'" in w)]
    assert wrong == [], report
    assert set(report["calls"]) == {"single", "wrap", "batch", "stream", "rewrap", "mutate", "denied", "malformed", "abandoned", "reconnect", "read"}
    assert sum(report["calls"].values()) > (20 if MEASURED else 5) * SECONDS and report["entries"] > 10 * SECONDS


@long
def test_a_leak_is_seen(instance, tmp_path):
    """2 KiB with each group commit and a descriptor with each 64th: in memory, and at rest."""
    instance.programs = soak.leaky(tmp_path / "leaky")
    report, wrong = soak.run(instance, SECONDS + 10)
    assert any(w.startswith("core grew by") for w in wrong), (wrong, report["memory"])
    assert any(w.startswith("descriptors and threads") for w in wrong), wrong
    assert len(wrong) == 2, wrong  # and nothing else is wrong with it


def test_a_series_is_judged_by_what_it_gains():
    flat = [(t / 2, 30000 + 40 * math.sin(t)) for t in range(1800)]
    assert abs(watch.growth_kib(flat)) < 10
    step = [(t, v + (200 if t > 450 else 0)) for t, v in flat]  # one arena more, once
    assert 100 < watch.growth_kib(step) < 320 < soak.LIMIT_KIB
    leak = [(t, v + t * 160 * 16 / 1024) for t, v in flat]  # 16 bytes a call at the soak's rate, 15 minutes
    assert watch.growth_kib(leak) > 2 * soak.LIMIT_KIB


def test_only_a_kill_explains_a_failure():
    k = soak.Killer(None)
    k.away = [("front", 10.0, 12.0)]
    assert k.explains((11, 11.1, "single", "UNAVAILABLE", "")) and k.explains((9, 10.5, "single", "UNAVAILABLE", ""))
    assert not k.explains((12.5, 13, "single", "UNAVAILABLE", ""))
    assert not k.explains((11, 11.1, "single", "INTERNAL", "")) and not k.explains((11, 11.1, "single", "DEADLINE_EXCEEDED", ""))
