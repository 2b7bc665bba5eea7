"""No branch and no address depends on a secret, in what compares, derives, seals and opens: shown by valgrind (ctgrind.c)."""
import pathlib
import re
import subprocess

import pytest
import rows
from kit.instance import BUILD

HERE = pathlib.Path(__file__).resolve().parent
pytestmark = pytest.mark.skipif(rows.SANITIZED, reason="valgrind and sanitizers both want to know all about memory")


@pytest.fixture(scope="module")
def report():
    done = subprocess.run(["valgrind", "-q", "--tool=memcheck", "--leak-check=no", "--undef-value-errors=yes", "--num-callers=12",
                           f"--suppressions={HERE}/ctgrind.supp", BUILD / "leaks/ctgrind"],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-4000:]
    found = re.findall(r"^(\w+) (\w+) (\d+)$", done.stdout, re.M)
    return {(kind, name): int(n) for kind, name, n in found}, done.stderr


def test_the_controls_are_reported(report):
    counts, said = report
    controls = {name: n for (kind, name), n in counts.items() if kind == "control"}
    assert len(controls) == 5 and all(controls.values()), controls
    assert "control_memcmp" in said and "control_commitment" in said  # and by their names


def test_nothing_else_is(report):
    counts, said = report
    clean = {name: n for (kind, name), n in counts.items() if kind == "clean"}
    assert len(clean) == 13 and not any(clean.values()), (clean, said[-6000:])


def test_it_says_nothing_by_itself():
    done = subprocess.run([BUILD / "leaks/ctgrind"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=20)
    assert done.returncode == 2 and "valgrind" in done.stderr and done.stdout == ""
