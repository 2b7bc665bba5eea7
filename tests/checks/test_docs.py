"""Pages are held to what they say: their commands run, their links lead somewhere, their tables are the code's, and every
folder's README names every file in it.

Marked blocks: ```sh test runs; ```console test runs each "$ " line and compares what it prints, where "..." stands for
anything; ```python test and ```js test run as programs (js where `make interop` has installed Google's client)."""
import os
import pathlib
import re
import subprocess
import sys

import pytest
from conftest import BUILD, ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+) test\n(.*?)^```$", re.S | re.M)


def tracked(*patterns):
    """Files that the repository knows and that are still there."""
    out = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return sorted(p for p in out.split("\0") if p and (ROOT / p).exists())


def blocks(kind):
    found = []
    for page in PAGES:
        for n, (k, text) in enumerate(BLOCK.findall(page.read_text())):
            if k == kind:
                found.append(pytest.param(text, id=f"{page.name}-{n}"))
    return found


def run(command, instance, text=None, **kw):
    """As a reader: at the root, with dev.env sourced and the programs in PATH. var/ and build/dev/ are this test's own."""
    return subprocess.run(["bash", "-euo", "pipefail", "-c", f". {instance}/dev.env; PATH={BUILD}/bin:$PATH\n{command}"], cwd=ROOT, input=text,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, **kw)


def here(text, instance):
    return re.sub(r"\bbuild/dev\b", str(BUILD), re.sub(r"(?<![\w/.-])var\b", str(instance), text))


# ---- commands -----------------------------------------------------------------------------------------------------------
def check_shell(text, instance):
    done = run(here(text, instance), instance)
    assert done.returncode == 0, done.stdout


def check_console(text, instance):
    for step in re.split(r"^\$ ", text, flags=re.M)[1:]:
        command, _, want = step.partition("\n")
        done = run(here(command, instance), instance)
        pattern = re.escape(want).replace(re.escape("...\n"), "[^\0]*").replace(re.escape("..."), ".*")
        assert re.fullmatch(pattern, done.stdout), f"$ {command}\n{done.stdout}\nbut the page says\n{want}"


@pytest.mark.parametrize("text", blocks("console"))
def test_console(text, instance):
    check_console(text, instance)


@pytest.mark.parametrize("text", blocks("sh"))
def test_shell(text, instance):
    check_shell(text, instance)


def test_a_wrong_block_fails(instance):
    with pytest.raises(AssertionError):
        check_console("$ echo one\ntwo\n", instance)
    with pytest.raises(AssertionError):
        check_shell("kmsctl nothing-of-the-kind", instance)
    check_console("$ echo one; echo two; echo three four\none\n...\nthree ...\n", instance)


@pytest.mark.parametrize("text", blocks("python"))
def test_python(text, instance):
    assert len(text.splitlines()) < 20
    done = run(f"{sys.executable} -B -", instance, here(text, instance))
    assert (done.returncode, done.stdout) == (0, "jane@example.com\n"), done.stdout


@pytest.mark.parametrize("text", blocks("js"))
def test_node(text, instance):
    assert len(text.splitlines()) < 20
    homes = [p for p in (ROOT / "build").glob("*/interop") if (p / "node_modules/@google-cloud/kms").is_dir()]
    if not homes:
        pytest.skip("make interop has not installed @google-cloud/kms")
    program = homes[0] / f"readme-{os.getpid()}.mjs"
    try:
        program.write_text(text)
        done = run(f"node {program} 2>/dev/null", instance)  # it warns of its own doings
    finally:
        program.unlink()
    assert (done.returncode, done.stdout) == (0, "jane@example.com\n"), done.stdout


# ---- links ----------------------------------------------------------------------------------------------------------------
def anchors(page):
    """GitHub's: lower case, punctuation gone, spaces as dashes."""
    return {re.sub(r"[^\w\- ]", "", h.strip().lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", page.read_text(), re.M)}


def broken_links(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.S | re.M)
    for target in re.findall(r"(?<!!)\[[^\]\n]+\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text)):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and there.suffix == ".md" and anchor not in anchors(there)):
            yield target


@pytest.mark.parametrize("name", tracked("*.md"))
def test_links_lead_somewhere(name):
    assert list(broken_links(ROOT / name)) == []


def test_a_broken_link_is_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One\n[a](nothing.md) [b](#two) [c](#one) [d](page.md) [e](https://example.org/)\n")
    assert list(broken_links(page)) == ["nothing.md", "#two"]


def wrong_references(name, text):
    """Pages, and numbered parts of the design, that a comment sends its reader to."""
    design = (ROOT / "docs/DESIGN.md").read_text()
    for page in re.findall(r"\bdocs/[A-Z]+\.md", text):
        if not (ROOT / page).exists():
            yield f"{name}: {page}"
    for n in re.findall(r"\bDESIGN section (\d+)", text):
        if not re.search(rf"^## {n}\. ", design, re.M):
            yield f"{name}: DESIGN section {n}"
    for numbers in re.findall(r"\bMEASURED (?:points? )?((?:\d+(?:, )?)+)", text):
        for n in re.findall(r"\d+", numbers):
            if f"- **{n}.** " not in design:
                yield f"{name}: MEASURED {n}"


def test_references_in_code_lead_somewhere():
    found = [w for name in tracked("*.[ch]", "*.py", "*.md", "*.proto", "*.mk", "Makefile", "policies/*") if name != "tests/checks/test_docs.py"
             for w in wrong_references(name, (ROOT / name).read_text(errors="replace"))]
    assert found == []


def test_a_wrong_reference_is_seen():
    text = "docs/NOTHING.md docs/API.md DESIGN section 99, DESIGN section 5 (MEASURED points 1, 77) MEASURED 10"
    assert list(wrong_references("x", text)) == ["x: docs/NOTHING.md", "x: DESIGN section 99", "x: MEASURED 77"]


# ---- tables ----------------------------------------------------------------------------------------------------------------
def test_tables_are_the_codes():
    done = subprocess.run([ROOT / "tools/doc-tables", BUILD], stdout=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_a_stale_table_is_seen(tmp_path):
    """The same tool on a copy in which one row of each kind is wrong."""
    for name in ("docs", "tools"):
        (tmp_path / name).mkdir()
    for name in ("docs/API.md", "docs/OPERATIONS.md", "tools/doc-tables", "tools/api-table"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
        (tmp_path / name).chmod(0o755)
    for name in ("base", "hsm", "kms", "vault", "tests", ".git"):
        (tmp_path / name).symlink_to(ROOT / name)
    api, operations = tmp_path / "docs/API.md", tmp_path / "docs/OPERATIONS.md"
    text = api.read_text()
    for old, new in (("| GetKeyRing | unary |", "| GetKeyRing | server stream |"), ("| ABORTED | `CONFLICT` |", "| INTERNAL | `CONFLICT` |"),
                     ("| `RATE_LIMITED` |", "| `RATE_UNLIMITED` |"), ("| bytes of one segment of a name | 63 |", "")):
        assert old in text
        text = text.replace(old, new)
    api.write_text(text)
    operations.write_text(operations.read_text().replace("| `listen` | text |", "| `listen` | number |"))
    done = subprocess.run([tmp_path / "tools/doc-tables", BUILD], stdout=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1
    for word in ("GetKeyRing", "ABORTED", "RATE_LIMITED", "RATE_UNLIMITED", "one segment of a name", "`listen` | number"):
        assert word in done.stdout, f"{word}: {done.stdout}"


# ---- folders ---------------------------------------------------------------------------------------------------------------
NO_README = {".ci"}  # one script
OWNED_BELOW = ("proto/", "docs/examples", "policies/tables", "kms/store/migrations", "tests/unit/", "tests/integration/", "tests/fuzz/corpus/")


def folders():
    """Every folder with files of ours; folders below these are described by the one README above them."""
    found = {str(pathlib.PurePath(p).parent) for p in tracked()}
    return sorted(f for f in found if f not in NO_README | {"."} and not f.startswith(OWNED_BELOW))


def named(structure, file):
    """By name, as `call.[ch]`, or as a pattern with a star. A module is one thing: its .c names its .h and the other way round."""
    stem, _, ext = file.rpartition(".")
    endings = r"(c|h|\[ch\])" if ext in ("c", "h") else re.escape(ext)
    whole = rf"{re.escape(stem)}\.{endings}" if stem else re.escape(file)
    if re.search(rf"(?<![\w./-]){whole}(?![\w-])", structure):
        return True
    for pattern in re.findall(r"[\w.-]*\*[\w.*-]*", structure):
        if re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), file):
            return True
    return False


def missing_from(folder, files):
    """What the folder's README does not say, in words."""
    readme = folder / "README.md"
    if not readme.exists():
        return ["there is no README.md"]
    parts = re.split(r"^## ", readme.read_text(), flags=re.M)
    if not parts[-1].startswith("Code structure\n"):
        return ['README.md does not end in "## Code structure"']
    code = (".c", ".h", ".py", ".mjs", ".mk", "")
    said = [f"{f} is not named" for f in files if f not in ("README.md", ".gitignore")
            and not named(parts[-1] if pathlib.PurePath(f).suffix in code else readme.read_text(), f)]
    for word in re.findall(r"^-? ?`?([a-z_]+\.(?:c|h|py|md|mk))`?[ ,]", parts[-1], re.M):
        if word not in files:
            said.append(f"{word} is named and not there")
    return said


@pytest.mark.parametrize("folder", folders())
def test_every_folder_has_a_readme_that_names_its_files(folder):
    files = [pathlib.PurePath(p).name for p in tracked(f"{folder}/*") if str(pathlib.PurePath(p).parent) == folder]
    assert missing_from(ROOT / folder, files) == []


def test_a_stale_readme_is_seen(tmp_path):
    (tmp_path / "README.md").write_text("# x\n\nData: d.json.\n\n## Code structure\n\n- `a.[ch]` - one\n- `b.c`, `c_*.c` - two\n- `gone.c` - three\n")
    assert missing_from(tmp_path, ["README.md", "a.c", "a.h", "b.c", "b.h", "c_1.c", "d.json"]) == ["gone.c is named and not there"]
    assert missing_from(tmp_path, ["a.c", "b.c", "ab.c", "b.py", "gone.c", "e.json"]) == ["ab.c is not named", "b.py is not named", "e.json is not named"]
    (tmp_path / "README.md").write_text("# x\n\n## Code structure\n\n## More\n")
    assert missing_from(tmp_path, []) == ['README.md does not end in "## Code structure"']
    assert missing_from(tmp_path / "nowhere", []) == ["there is no README.md"]
