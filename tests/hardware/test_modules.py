"""hsm/ on three independent PKCS#11 implementations from Debian: what each can do, and by name what it cannot (capable.c says it). Nothing is
skipped: a group that did not run has its reason here, and a package that is not installed fails the test."""
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

import pytest

from faults import BUILD, SHIM
from tokens import CAPABLE, LABEL, LANDLOCK, NO_CURVES, NO_DATA, NO_SIGN, SANITIZED, SERVED, URI, Opencryptoki, Softhsm, each, maker, run, said

ROOT = pathlib.Path(__file__).resolve().parents[2]
NO_LIMITS = "master-1: COPYABLE; master-1: ALLOWED_MECHANISMS; seal-1: COPYABLE; seal-1: ALLOWED_MECHANISMS"
NO_GCM = "gcm (it lacks CKM_AES_GCM)"
# What each token says of itself and of the groups, in process (capable.c); then through the confined kmsd-hsm (served.c).
IN_PROCESS = {
    "softhsm2": {
        "token": f"{LABEL}; SoftHSM project; SoftHSM v2; firmware 2.6",
        "lacks": "", "weaknesses": "", "imported": "a named weakness", "audit key": "Ed25519",
        "kdf": "ran: 23 checks", "sign": "ran: 11 checks", "gcm": "ran: 150 checks", "anchor": "ran: 78 checks",
    },
    "libnss3": {
        "token": f"{LABEL}; Mozilla Foundation; NSS 3; firmware 0.0",
        "lacks": "CKM_EDDSA CKM_EC_EDWARDS_KEY_PAIR_GEN",
        "weaknesses": NO_LIMITS,
        "imported": "a named weakness", "audit key": "P-256",
        "kdf": "ran: 23 checks", "sign": "ran: 11 checks", "gcm": "ran: 150 checks",
        "anchor": f"cannot: ERR_UNIMPLEMENTED HSM_MECHANISM {NO_DATA}",
    },
    "opencryptoki": {
        "token": f"{LABEL}; IBM Corp.; IBM SoftTok; firmware 1.0",
        "lacks": NO_CURVES + " CKM_AES_GCM", "weaknesses": NO_LIMITS,
        "imported": "claviger-master-7 on the token: VALUE_LEN is not what this key needs",
        "kdf": "ran: 23 checks", "sign": f"cannot: ERR_STATE HSM_MECHANISM the token cannot do {NO_SIGN}",
        "gcm": f"cannot: ERR_STATE HSM_MECHANISM the token cannot do {NO_GCM}", "anchor": "ran: 78 checks",
    },
}
CONFINED = {"Seccomp": "2", "NoNewPrivs": "1"}
THROUGH_KMSD_HSM = {
    "softhsm2": {"cannot": "", "audit key": "Ed25519", "kdf": "ran: 14 checks", "sign": "ran: 6 checks", "gcm": "ran: 43 checks",
                 "anchor": "ran: 17 checks", "another process": "ran: 12 checks"},
    "libnss3": {"cannot": "", "audit key": "P-256", "kdf": "ran: 14 checks", "sign": "ran: 6 checks", "gcm": "ran: 43 checks",
                "anchor": f"cannot: ERR_UNIMPLEMENTED HSM_MECHANISM {NO_DATA}", "another process": "ran: 10 checks"},
    "opencryptoki": {"cannot": NO_SIGN, "kdf": "ran: 14 checks",
                     "sign": f"cannot: ERR_STATE HSM_MECHANISM the token cannot do {NO_SIGN}: the audit key is on the token, Ed25519 or P-256: use "
                             "another token, or enable one of the two",
                     "gcm": f"cannot: ERR_STATE HSM_MECHANISM the token cannot do {NO_GCM}: keys of protection level HSM need another token; "
                            "all else serves", "anchor": "ran: 17 checks",
                     "another process": "ran: 4 checks"},
}


@pytest.fixture
def folder():
    # not in /dev/shm: opencryptoki's is hidden there (ock)
    made = pathlib.Path(tempfile.mkdtemp(prefix="clv-modules-"))
    yield made
    shutil.rmtree(made)


def begin(kind, folder, config=None):
    for name in ("token", "state"):
        (folder / name).mkdir(exist_ok=True)
    conf = folder / "module.conf"
    conf.write_text(config or kind.config(folder / "token"))
    return conf


def capable(kind, folder, module=None, config=None, make=True):
    """(exit code, what it said, line by line) on a new token of that kind."""
    conf = begin(kind, folder, config)
    code, text = run(kind, folder, [CAPABLE, module or kind.module, URI, conf, folder / "state", *(["make", *kind.make] if make else [])])
    return code, said(text, *IN_PROCESS["softhsm2"], "BROKEN"), text


@each
def test_exactly_these_groups_run(kind, folder):
    code, words, text = capable(kind, folder)
    assert code == 0 and words == IN_PROCESS[kind.package], text
    version = subprocess.run(["dpkg-query", "-W", "-f", "${Package} ${Version}", kind.package], stdout=subprocess.PIPE, text=True, check=True)
    print(f"\n{version.stdout}\n{text}")


@each
def test_through_the_confined_process(kind, folder):
    """The same groups, asked of kmsd-hsm over its channel; and found again by another process after a death."""
    conf = begin(kind, folder)
    code, text = run(kind, folder, maker(kind, kind.module, conf, folder / "state"),
                     [SERVED, kind.module, URI, conf, folder / "state", kind.lines])
    words = said(text, *THROUGH_KMSD_HSM["softhsm2"], "BROKEN", *CONFINED)
    assert code == 0, text
    confined = {w: words.pop(w).strip() for w in CONFINED}
    assert SANITIZED or confined == CONFINED, text
    assert words == THROUGH_KMSD_HSM[kind.package], text
    print(f"\n{text}")


@pytest.mark.skipif(not LANDLOCK, reason="the kernel has no Landlock, or the build does not use it")
def test_what_its_confinement_does_not_name_is_not_opened(folder):
    """opencryptoki's locks and shared memory are for hsm_write_paths to name: without it the module does not begin, and nothing hangs."""
    kind = Opencryptoki()
    conf = begin(kind, folder)
    code, text = run(kind, folder, maker(kind, kind.module, conf, folder / "state"), [SERVED, kind.module, URI, conf, folder / "state"])
    assert code == 1 and "BROKEN no kmsd-hsm: C_Initialize" in text, text


def cells(heading):
    """The rows of the table in docs/OPERATIONS.md whose first column is called that."""
    text = (ROOT / "docs/OPERATIONS.md").read_text()
    table = re.search(rf"^\| {heading} \|.*\n\| ---.*\n((?:\|.*\n)+)", text, re.M)
    return [[c.strip() for c in row.strip("|").split("|")] for row in table.group(1).splitlines()]


def test_the_page_for_operators():
    """Its table of the groups is the code's; its table of tokens is what was found here."""
    needs = subprocess.run([CAPABLE, "needs"], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert {row[0]: row[2] for row in cells("group")} == {**dict(line.split(" needs: ") for line in needs.splitlines()), "anchor": "private data objects"}
    for row in cells("token"):
        package, version = row[1].split(" ")
        words = IN_PROCESS[package]
        can = ["yes" if words[g].startswith("ran") else "no" for g in ("kdf", "sign", "gcm", "anchor")]
        can[1] = words.get("audit key", "no")
        daemon = "yes" if "no" not in (can[0], can[1], can[3]) else "no" if "no" in can[:2] else "with `anchor_file`"
        assert row[2:8] == [*can, daemon, words["lacks"]], row
        installed = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", package], stdout=subprocess.PIPE, text=True, check=True).stdout
        assert re.match(rf"(\d+:)?{re.escape(version)}[^0-9.]", installed), (row, installed)
    assert {row[1].split(" ")[0] for row in cells("token")} == set(IN_PROCESS)


def test_opencryptoki_leaves_nothing(folder):
    places = [pathlib.Path(p) for p in ("/var/lib/opencryptoki", "/etc/opencryptoki", "/dev/shm", "/run/lock")]

    def ours():
        return {p: (p.stat().st_mtime_ns, [(x, x.stat().st_mtime_ns) for x in sorted(p.rglob("*"))])
                for p in places[:2]}, [x for p in places[2:] for x in p.rglob("*opencryptoki*")]

    before = ours()
    assert capable(Opencryptoki(), folder)[0] == 0
    assert ours() == before
    assert list((folder / "root/lib").rglob("OBJ.IDX")), "its token was not in the test's folder"


# ---- the program itself can fail ------------------------------------------------------------------------------------

@pytest.fixture
def fresh_soft(folder):
    """A token that was made, and on which nothing was done yet."""
    (folder / "token").mkdir()
    conf = folder / "softhsm2.conf"
    conf.write_text(Softhsm().config(folder / "token"))
    subprocess.run(["softhsm2-util", "--init-token", "--free", "--label", LABEL, "--pin", "123456", "--so-pin", "87654321"], check=True,
                   stdout=subprocess.DEVNULL, env={**os.environ, "SOFTHSM2_CONF": str(conf)})
    (folder / "state").mkdir()

    def run(rules):
        (folder / "state/plan").write_text(f"plan 1\n{rules}\n")
        answer = capable(Softhsm(), folder, module=SHIM, config=conf.read_text() + f"# shim = {folder}/state\n", make=False)
        assert any("called" not in line for line in (folder / "state/log").read_text().splitlines()), "no fault was made"
        return answer
    return run


def test_a_mechanism_that_is_missing_is_named(fresh_soft):
    code, words, text = fresh_soft("C_GetMechanismInfo 0x70 every:8")  # the last of the eight that are asked for at each opening
    assert code == 0 and words["lacks"] == "CKM_AES_KEY_GEN" and words["kdf"] == "ran: 23 checks", text
    assert words["gcm"] == "cannot: ERR_STATE HSM_MECHANISM the token cannot do gcm (it lacks CKM_AES_KEY_GEN)", text


@pytest.mark.parametrize("rules", ["C_Sign flip:7 from:12", "C_Decrypt flip:7 from:9", "C_SetAttributeValue 0x30 from:3"],
                         ids=["hmac", "gcm", "anchor"])
def test_a_token_that_is_wrong_is_no_token_that_cannot(fresh_soft, rules):
    code, words, text = fresh_soft(rules)
    assert code == 1 and "BROKEN" in words, text
