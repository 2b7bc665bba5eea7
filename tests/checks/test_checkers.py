"""The checkers of `make layers`, `banned` and `headers` really see what they are for: each is run on a small tree with one
violation planted in it, and on that tree without it, where it must pass. (On the real tree `make test` runs them.)"""
import shutil
import subprocess

import pytest
from conftest import BUILD, ROOT

HEADER = "/*\n * Purpose: p. Owns: o. Threads: t. Errors: e. Limits: l. Secrets: s.\n */\n"


def repository(folder, files):
    """The checkers with a few files, in a repository of their own: they read what git lists."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    shutil.copytree(ROOT / "tools", folder / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "docs").mkdir(exist_ok=True)
    shutil.copy2(ROOT / "docs/LAYERS", folder / "docs/LAYERS")
    subprocess.run("git init -q . && git add -A", shell=True, cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A good file in every folder that docs/LAYERS names."""
    layers = [line.split(":")[0] for line in (ROOT / "docs/LAYERS").read_text().splitlines() if line and line[0] != "#"]
    assert len(layers) > 10
    return repository(tmp_path_factory.mktemp("tree"), {f"{f}/good.c": '#include "base/err.h"\n' for f in layers})


def check(tree, tool, *args):
    done = subprocess.run([tree / "tools" / tool, *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    return done.returncode, done.stdout


def planted(tree, name, text, tool, *args):
    """The checker's outcome with one more file in the tree."""
    path = tree / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    try:
        subprocess.run(["git", "add", name], cwd=tree, check=True)
        return check(tree, tool, *args)
    finally:
        path.unlink()
        subprocess.run(["git", "rm", "-q", "--cached", name], cwd=tree, check=True)


@pytest.mark.parametrize("tool", ["check-layers", "check-banned"])
def test_a_good_tree_passes(tree, tool):
    code, said = check(tree, tool)
    files = len(list(tree.rglob("good.c")))
    assert (code, said) == (0, f"{tool.removeprefix('check-')}: {files} passed, 0 failed\n")


@pytest.mark.parametrize("name, include", [
    ("base/zz.c", "kms/store/store.h"),       # the floor includes nobody
    ("hsm/zz.c", "kms/name/name.h"),          # hsm is below kms
    ("kms/limit/zz.c", "kms/store/store.h"),  # its line allows base alone
    ("kms/name/zz.h", "vault/service/call.h"),
    ("vault/front/zz.c", "hsm/hsm.h"),        # the front has no key
    ("vault/front/zz.c", "vault/rpc/rpc.h"),
    ("vault/service/zz.c", "vault/rpc/rpc.h"),  # handlers are free of any transport
    ("vault/service/zz.c", "../base/err.h"),
    ("kms/audit/zz.c", "event.h"),            # not from the root
    ("kms/keyring/zz.c", "google/rpc/code.pb-c.h"),
])
def test_layers_sees_a_wrong_include(tree, name, include):
    code, said = planted(tree, name, f'#include "{include}"\n', "check-layers")
    assert code != 0 and said.startswith(f'{name}:1: "{include}" ') and said.endswith(", 1 failed\n"), said


@pytest.mark.parametrize("name, include", [("kms/limit/zz.c", "base/err.h"), ("vault/rpc/zz.c", "vault/service/call.h"),
                                           ("vault/service/zz.c", "google/rpc/code.pb-c.h")])
def test_layers_allows_what_the_page_allows(tree, name, include):
    code, said = planted(tree, name, f'#include "{include}"\n', "check-layers")
    assert code == 0, said


@pytest.mark.parametrize("name, line, why", [
    ("base/zz.c", "    strcpy(a, b);", "banned call"),
    ("kms/name/zz.c", "    int n = atoi(s);", "banned call"),
    ("vault/ops/zz.c", "    system(cmd);", "banned call"),
    ("vault/service/zz.c", "    assert(x);", "INVARIANT"),
    ("kms/crypto/zz.c", "    if (memcmp(tag, want, 16) == 0)", "variable time"),
    ("kms/authn/zz.c", "    if (bytes_equal(token, mine))", "variable time"),
    ("kms/keyring/zz.c", "    if (memcmp(secret_borrow(a), p, 32) == 0)", "a key compared"),
    ("kms/keyring/zz.c", "    if (!bytes_equal(BYTES(t->salt, 32), BYTES(m.salt, 32)))", "a key compared"),
    ("kms/crypto/zz.c", "    return bcmp(l1, again, 32);", "a key compared"),
    ("kms/crypto/zz.c", "    if (memcmp(small1, level, 32) == 0 && secret_equal(l1, again))", None),
    ("hsm/zz.c", "    const char *e = getenv(\"HOME\");", "environment"),
    ("kms/audit/zz.c", "    printf(\"x\");", "libraries do not print"),
    ("kms/store/zz.c", "    snprintf(q, sizeof q, \"SELECT x FROM %s\", t);", "SQL made by a format string"),
    ("vault/service/zz.c", "    buf_putf(&q, \"DELETE FROM record WHERE name = '%s'\", name);", "SQL made by a format string"),
    ("kms/keyring/zz.c", "    snprintf(q, sizeof q, \"PRAGMA %s\", t);", "SQL made by a format string"),
    ("kms/store/zz.c", "    TRY(db_prepare(d, text, &st, e));", "not a literal"),
    ("kms/store/zz.c", "    TRY(db_exec(d, q, e));", "not a literal"),
    ("vault/service/zz.c", "    sqlite3_prepare_v2(h, \"SELECT 1\", -1, &st, NULL);", "goes through"),
    ("kms/store/zz.c", "    sqlite3_exec(d->h, q, NULL, NULL, NULL);", "goes through"),
    ("kms/store/zz.c", "    TRY(db_prepare(d, \"SELECT body FROM record WHERE name = ?1\", &st, e)); TRY(db_exec(d,", None),
    ("base/zz.c", "    f(\"strcpy(a, b)\"); /* strcpy(a, b) */ g(); // strcpy(a, b)", None),
])
def test_banned_sees_a_wrong_line(tree, name, line, why):
    code, said = planted(tree, name, f"void f(void)\n{{\n{line}\n}}\n", "check-banned")
    if why is None:  # words in strings and comments are not calls
        assert code == 0, said
        return
    assert code != 0 and said.startswith(f"{name}:3: ") and why in said and said.endswith(", 1 failed\n"), said


def test_banned_accepts_a_line_that_says_why(tree):
    code, said = planted(tree, "base/zz.c", "int n = atoi(s); // banned-ok: a test\n", "check-banned")
    assert code == 0, said


def test_headers_sees_what_is_wrong(tmp_path):
    small = repository(tmp_path / "small", {"base/good.h": HEADER + "#include <stddef.h>\nsize_t f(void);\n",
                                            "base/alone.h": HEADER + "size_t f(void);\n",
                                            "base/silent.h": HEADER.replace("Secrets: s.", "") + "int f(void);\n"})
    code, said = check(small, "check-headers", BUILD)
    assert code == 1 and said.endswith("headers: 1 passed, 2 failed\n"), said
    assert "base/alone.h" in said and 'base/silent.h: no "Secrets:"' in said and "good.h" not in said


@pytest.mark.parametrize("name", ["check-layers", "check-banned"])
def test_a_check_that_reads_nothing_has_not_passed(tmp_path, name):
    code, said = check(repository(tmp_path / "empty", {}), name)
    assert code != 0, said
