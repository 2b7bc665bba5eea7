"""docs/THREATS.md claims nothing that no test shows: each row names its tests, and each name is a test that runs."""
import pathlib
import re

import pytest
from conftest import ROOT

PAGE = ROOT / "docs/THREATS.md"
INCIDENTS = range(1, 34)
CITED = re.compile(r"`((?:\w+/)*test_\w+\.(?:py|c))::(\w+)`")


def section(text, title):
    return text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def table(text):
    """Rows of the table in this text, without its head, as lists of cells."""
    rows = [[c.strip() for c in line[1:].rstrip().removesuffix("|").split("|")] for line in text.splitlines() if line.startswith("| ")]
    return [r for r in rows[1:] if not set(r[0]) <= {"-"}]


def files(tests=ROOT / "tests"):
    return [p for p in tests.rglob("test_*") if p.suffix in (".py", ".c")]


def wrong(cited, known, read=pathlib.Path.read_text):
    """Why this citation names no test that runs, or nothing."""
    path, name = cited
    found = [p for p in known if str(p).endswith("/" + path)]
    if len(found) != 1:
        return f"{path}: {len(found)} files of that name"
    text = read(found[0])
    if path.endswith(".py"):
        return None if re.search(rf"^def {name}\(", text, re.M) else f"{path} has no {name}"
    if not re.search(rf"^static void {name}\(void \*\*", text, re.M):
        return f"{path} has no {name}"
    return None if re.search(rf"\b[A-Za-z_]+\({name}\b(?!\(void)", text) else f"{path} does not run {name}"


def test_every_test_that_is_named_is_there():
    known, cited = files(), CITED.findall(PAGE.read_text())
    assert len(set(cited)) > 60
    assert [w for w in (wrong(c, known) for c in cited) if w] == []
    assert re.findall(r"`[^`\s]*::[^`]*`", CITED.sub("", PAGE.read_text())) == []  # nothing that only looks like one


def test_a_name_that_is_gone_is_seen():
    known = files()
    assert wrong(("test_aead.c", "a_two_key_ciphertext_is_refused"), known) is None
    assert wrong(("test_aead.c", "a_two_key_ciphertext"), known) and wrong(("test_gone.c", "x"), known)
    assert "2 files" in wrong(("test_faults.c", "test_disk_that_hangs"), known) and not wrong(("audit/test_faults.c", "test_disk_that_hangs"), known)
    idle = "static void test_x(void **state)\n{\n}\n"
    assert "does not run" in wrong(("test_aead.c", "test_x"), known, lambda p: idle)
    assert wrong(("test_aead.c", "test_x"), known, lambda p: idle + "cmocka_unit_test(test_x),") is None


def unshown(text):
    """Rows that promise something and name no test for it."""
    for r in table(section(text, "Promises")):
        if r[1] and not CITED.search(r[3]):
            yield r[0]
    for r in table(section(text, "What went wrong elsewhere")):
        if not CITED.search(r[3]) and not r[2].startswith("*Not here yet*"):
            yield r[0]


def test_every_promise_and_incident_has_its_row_and_its_test():
    text = PAGE.read_text()
    assert [int(r[0]) for r in table(section(text, "What went wrong elsewhere"))] == list(INCIDENTS)
    for who in ("stolen database", "edited database", "stolen backup", "malicious tenant", "stolen service certificate", "malicious operator"):
        assert sum(f"**a {who}**" in r[0] or f"**an {who}**" in r[0] for r in table(section(text, "Promises"))) == 1, who
    assert all(len(r) == 4 for s in ("Promises", "What went wrong elsewhere") for r in table(section(text, s)))
    assert section(text, "Not promised").count("\n- **") >= 5
    assert list(unshown(text)) == []


@pytest.mark.parametrize("row, why", [("| a | b | c | |", "a"), ("| a | b | c | `test_aead.c::x` |", None), ("| a | | c | |", None)])
def test_a_promise_without_a_test_is_seen(row, why):
    head = "| a | b | c | d |\n| --- | --- | --- | --- |\n"
    text = f"\n## Promises\n\n{head}{row}\n\n## What went wrong elsewhere\n\n{head}| 1 | x | *Not here yet*: y | |\n"
    assert list(unshown(text)) == ([why] if why else [])
    assert list(unshown(text.replace("*Not here yet*: y", "y"))) == ([why] if why else []) + ["1"]
