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
from kit.instance import SLOWER

HERE = pathlib.Path(__file__).resolve().parent
CAPABLE = BUILD / "hardware/capable"
LABEL = "claviger-test"
URI = f"pkcs11:token={LABEL}"
SOFTHSM = "/usr/lib/softhsm/libsofthsm2.so"
NO_CURVES = "CKM_EDDSA CKM_EC_EDWARDS_KEY_PAIR_GEN CKM_ECDSA CKM_EC_KEY_PAIR_GEN"
NO_LIMITS = "master-1: COPYABLE; master-1: ALLOWED_MECHANISMS; seal-1: COPYABLE; seal-1: ALLOWED_MECHANISMS"


class Softhsm:
    package, module = "softhsm2", SOFTHSM
    make = ["make", LABEL, "87654321", "76543210"]
    run = ()
    said = {
        "token": f"{LABEL}; SoftHSM project; SoftHSM v2; firmware 2.6",
        "lacks": "", "weaknesses": "", "imported": "a named weakness", "audit key": "Ed25519",
        "kdf": "ran: 23 checks", "sign": "ran: 11 checks", "gcm": "ran: 150 checks", "anchor": "ran: 77 checks",
    }

    def config(self, folder):
        return f"directories.tokendir = {folder}/token\nobjectstore.backend = file\nlog.level = ERROR\n"


class Nss:
    """Its database takes no data objects, so it can have neither anchor nor stored known answers."""
    package, module = "libnss3", "/usr/lib/x86_64-linux-gnu/libsoftokn3.so"
    make = ["make", "", "", ""]  # its token cannot be named by C_InitToken, and is made without a PIN
    run = ()
    said = {
        "token": f"{LABEL}; Mozilla Foundation; NSS 3; firmware 0.0",
        "lacks": "CKM_EDDSA CKM_EC_EDWARDS_KEY_PAIR_GEN",
        "weaknesses": NO_LIMITS + "; master-1: no stored known answer; seal-1: no stored known answer",
        "imported": "a named weakness", "audit key": "P-256",
        "kdf": "ran: 23 checks", "sign": "ran: 11 checks", "gcm": "ran: 150 checks",
        "anchor": "cannot: ERR_INTERNAL HSM_ERROR C_CreateObject: CKR_ATTRIBUTE_VALUE_INVALID (0x13)",
    }

    def config(self, folder):
        return (f"directories.tokendir = {folder}/token\nlibrary.parameters = configdir='sql:{folder}/token' certPrefix='' keyPrefix='' "
                f"secmod='secmod.db' dbTokenDescription='{LABEL}' flags=noModDB\n")


class Opencryptoki:
    """Debian's soft token has no curves and no AES-GCM, and does not know the length of a secret that was imported."""
    package, module = "opencryptoki", "/usr/lib/x86_64-linux-gnu/pkcs11/libopencryptoki.so"
    make = ["make", LABEL, "87654321", "76543210"]  # its security officer's first PIN is always that
    said = {
        "token": f"{LABEL}; IBM Corp.; IBM SoftTok; firmware 1.0",
        "lacks": NO_CURVES + " CKM_AES_GCM", "weaknesses": NO_LIMITS,
        "imported": "claviger-master-7 on the token: VALUE_LEN is not what this key needs",
        "kdf": "ran: 23 checks",
        "sign": f"cannot: ERR_STATE HSM_MECHANISM the token lacks {NO_CURVES} CKM_AES_GCM",
        "gcm": f"cannot: ERR_STATE HSM_MECHANISM the token lacks {NO_CURVES} CKM_AES_GCM",
        "anchor": "ran: 77 checks",
    }

    @property
    def run(self):
        alone = subprocess.run(["unshare", "--mount", "--ipc", "--pid", "--fork", "true"], stderr=subprocess.DEVNULL).returncode == 0
        if os.geteuid() != 0 or not alone:
            why = "opencryptoki admits root alone, and a daemon of its own needs namespaces: make capabilities, as root"
            pytest.fail(why) if os.environ.get("CLV_CAPABILITIES") else pytest.skip(why)
        return (HERE / "ock",)

    def config(self, folder):
        return "directories.tokendir = /var/lib/opencryptoki\n"


@pytest.fixture
def folder():
    # not in /dev/shm: opencryptoki's is hidden there (ock)
    made = pathlib.Path(tempfile.mkdtemp(prefix="clv-modules-"))
    yield made
    shutil.rmtree(made)


def capable(kind, folder, module=None, config=None, make=None):
    """(exit code, what it said, line by line) on a new token of that kind."""
    assert pathlib.Path(kind.module).exists(), f"{kind.module} is missing: apt-get install {kind.package}, or tools/deps test"
    for name in ("token", "state"):
        (folder / name).mkdir(exist_ok=True)
    conf = folder / "module.conf"
    conf.write_text(config or kind.config(folder))
    run = [*kind.run, *([folder / "root"] if kind.run else []), CAPABLE, module or kind.module, URI, conf, folder / "state",
           *(kind.make if make is None else make)]
    done = subprocess.run(run, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60 * SLOWER)
    return done.returncode, dict(re.findall(r"^(token|lacks|weaknesses|imported|audit key|kdf|sign|gcm|anchor|BROKEN):? ?(.*)$", done.stdout, re.M)), done.stdout


@pytest.mark.parametrize("kind", [Softhsm(), Nss(), Opencryptoki()], ids=lambda k: k.package)
def test_exactly_these_groups_run(kind, folder):
    code, said, text = capable(kind, folder)
    assert code == 0 and said == kind.said, text
    version = subprocess.run(["dpkg-query", "-W", "-f", "${Package} ${Version}", kind.package], stdout=subprocess.PIPE, text=True, check=True)
    print(f"\n{version.stdout}\n{text}")


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
    conf.write_text(Softhsm().config(folder))
    subprocess.run(["softhsm2-util", "--init-token", "--free", "--label", LABEL, "--pin", "123456", "--so-pin", "87654321"], check=True,
                   stdout=subprocess.DEVNULL, env={**os.environ, "SOFTHSM2_CONF": str(conf)})
    (folder / "state").mkdir()

    def run(rules):
        (folder / "state/plan").write_text(f"plan 1\n{rules}\n")
        answer = capable(Softhsm(), folder, module=SHIM, config=conf.read_text() + f"# shim = {folder}/state\n", make=[])
        assert any("called" not in line for line in (folder / "state/log").read_text().splitlines()), "no fault was made"
        return answer
    return run


def test_a_mechanism_that_is_missing_is_named(fresh_soft):
    code, said, text = fresh_soft("C_GetMechanismInfo 0x70 every:8")  # the last of the eight that are asked for at each opening
    assert code == 0 and said["lacks"] == "CKM_AES_KEY_GEN" and said["kdf"] == "ran: 23 checks", text
    assert said["gcm"] == "cannot: ERR_STATE HSM_MECHANISM the token lacks CKM_AES_KEY_GEN", text


@pytest.mark.parametrize("rules", ["C_Sign flip:7 from:12", "C_Decrypt flip:7 from:9", "C_SetAttributeValue 0x30 from:3"],
                         ids=["hmac", "gcm", "anchor"])
def test_a_token_that_is_wrong_is_no_token_that_cannot(fresh_soft, rules):
    code, said, text = fresh_soft(rules)
    assert code == 1 and "BROKEN" in said, text
