"""Signing beside object churn, on a real SoftHSM2 through the real kmsd-hsm: no error, because one loop makes every call. The control
makes the same calls without it, and must show errors."""
import os
import re
import subprocess

import pytest

from faults import BUILD
from kit.instance import SLOWER

LONG = bool(os.environ.get("LONG"))


def run(program, seconds):
    env = {**os.environ, "TMPDIR": "/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp"}
    done = subprocess.run([BUILD / "hardware/churn" / program, str(seconds)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=10 * seconds + 120, env=env)
    line = next((x for x in done.stdout.splitlines() if x.startswith("seconds ")), "")
    print(line)
    return done.returncode, {k: int(v, 0) for k, v in re.findall(r"(\w+) (\w+)", line)}, done.stdout


def test_signing_beside_object_churn():
    code, n, said = run("churn", 600 if LONG else 4 * SLOWER)
    assert code == 0 and n["errors"] == 0 and n["wrong"] == 0, said
    assert n["derived"] > 200 / SLOWER and n["made"] == n["destroyed"] > 2 and n["anchored"] > 10, said


@pytest.mark.skipif(not LONG, reason="LONG=1")
def test_the_same_without_the_lock_fails():
    code, n, said = run("churn_unlocked", 12)
    assert code == 0 and n["errors"] > 0, said
