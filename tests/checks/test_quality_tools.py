"""The tools that judge the tests: tools/coverage fails when a branch that must be taken was not, and tools/mutate makes the mutants
that it is for. (Both run for minutes on the real tree: make cover, make mutate.)"""
import importlib.machinery
import importlib.util
import json
import subprocess

import pytest
from conftest import ROOT


def load(name):
    """A tool as a module: it runs nothing then."""
    loader = importlib.machinery.SourceFileLoader(name, str(ROOT / "tools" / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    return module


coverage, mutate = load("coverage"), load("mutate")


def line(n, count=1, branches=()):
    return {"line_number": n, "count": count, "branches": [{"count": b} for b in branches]}


def number(file, words):
    return next(n for n, text in enumerate((ROOT / file).read_text().splitlines(), 1) if words in text)


def figures(change):
    """What gcovr says when everything ran, but for what `change` does to it."""
    files = {name: [line(1)] for names in coverage.WHOLE.values() for name in names}
    change(files)
    return json.dumps({"files": [{"file": f, "lines": lines} for f, lines in files.items()]})


DECIDE, AEAD = "kms/policy/decide.c", "kms/crypto/aead.c"
CHECK, BUG = number(DECIDE, "if (action < 0)"), number(AEAD, "INVARIANT(use_at < nfields)")
EXEMPT = number("kms/crypto/hierarchy.c", "cover-ok:")


@pytest.mark.parametrize("change, said", [
    (lambda f: None, None),
    (lambda f: f[DECIDE].append(line(CHECK, 9, [9, 0])), f"{DECIDE}:{CHECK}: 1 of 2 branches"),
    (lambda f: f[DECIDE].append(line(CHECK, 9, [4, 5])), None),
    (lambda f: f[DECIDE].append(line(CHECK, 0)), f"{DECIDE}:{CHECK}: 0 of 0 branches"),
    (lambda f: f[AEAD].append(line(BUG, 9, [9, 0])), None),  # a bug's branch
    (lambda f: f.pop(AEAD), f"{AEAD}: not measured"),
    (lambda f: f["kms/crypto/hierarchy.c"].append(line(EXEMPT, 9, [9, 0])), None),
    (lambda f: f["kms/crypto/hierarchy.c"].append(line(EXEMPT, 9, [9, 9])), "take the mark away"),
    (lambda f: f.update({"base/x.c": [line(n, 0) for n in range(1, 100)]}), "of lines (at least"),
], ids=["all ran", "a branch", "both ways", "a line", "a bug's branch", "a file", "an exempt branch", "a mark too many", "the lines"])
def test_coverage_fails_on_what_never_ran(capsys, change, said):
    good, text = coverage.judge(figures(change)), capsys.readouterr().out
    assert good == (said is None) and (said or "files whole") in text, text


def test_coverage_says_so_by_its_exit_code(tmp_path):
    file = tmp_path / "figures.json"
    for change, code in ((lambda f: None, 0), (lambda f: f.pop(AEAD), 1)):
        file.write_text(figures(change))
        assert subprocess.run([ROOT / "tools/coverage", "--from", file], stdout=subprocess.DEVNULL, timeout=60).returncode == code


def test_coverage_wants_a_reason():
    mark = "    x(); // cover-ok:"
    assert coverage.whole("f.c", {"lines": [line(1, 0)]}, [mark])[2] and not coverage.whole("f.c", {"lines": [line(1, 0)]}, [mark + " why"])[2]
    assert coverage.LINES >= 90 and coverage.EXEMPT <= 4 and len(coverage.WHOLE) == 4


SAMPLE = """static int f(const char *text, size_t n)
{
    /* if (n == 0) is said here */
    INVARIANT(n > 0);
    if (n >= MAX && text != NULL)
        return false;
    TRY(check(text, "a == b", e));
    wipe(key, sizeof key);
    return n + 1;
}
"""


def test_mutants_are_made_of_conditions_checks_and_statements():
    made = [new.strip() for _, new in mutate.mutants(SAMPLE)]
    for want in ("if (n > MAX && text != NULL)", "if (n >= MAX || text != NULL)", "if (n >= MAX && text == NULL)", "if (!(n >= MAX && text != NULL))",
                 "if (0 && (n >= MAX && text != NULL))", "if (1 || (n >= MAX && text != NULL))", "return true;", "", "return n - 1;", "return n + 0;", "return 0;"):
        assert want in made, want
    assert not [m for m in made if "INVARIANT" in m or "wipe" in m or "said here" in m or "a != b" in m]


def test_every_file_that_is_mutated_has_tests_and_every_survivor_a_reason():
    for file, tests in mutate.TARGETS.items():
        assert (ROOT / file).exists() and tests and all((ROOT / f"tests/unit/{t}.c").exists() for t in tests), file
    known = mutate.explained()
    for entry in known:  # of a file that is mutated, and a line that is there
        file, rest = entry.split(": ", 1)
        assert file in mutate.TARGETS and rest.split(" => ")[0] in [x.strip() for x in (ROOT / file).read_text().splitlines()], entry
    assert mutate.CAUGHT >= 95
