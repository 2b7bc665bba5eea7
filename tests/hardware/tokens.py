"""The three independent PKCS#11 implementations from Debian, and how a new token of each is made. What each can and cannot do is
test_modules.py's; daemons on them are test_daemons.py's."""
import ctypes
import os
import pathlib
import re
import shutil
import subprocess

import pytest

from claviger.identity.v1 import identity_pb2 as idy
from claviger.tenants.v1 import tenants_pb2 as ten
from faults import BUILD
from kit.instance import ROOT, SLOWER
from kit.suite import World

HERE = pathlib.Path(__file__).resolve().parent
CAPABLE, SERVED = BUILD / "hardware/capable", BUILD / "hardware/served/served"
LABEL, PIN = "claviger-test", "123456"
URI = f"pkcs11:token={LABEL}"
NO_CURVES = "CKM_EDDSA CKM_EC_EDWARDS_KEY_PAIR_GEN CKM_ECDSA CKM_EC_KEY_PAIR_GEN"
NO_SIGN = f"sign (it lacks {NO_CURVES})"
NO_DATA = "the token cannot do anchor (it keeps no data objects: C_CreateObject: CKR_ATTRIBUTE_VALUE_INVALID)"
PINS = [LABEL, "87654321", "76543210"]  # its security officer's: opencryptoki's first one is always that


class Softhsm:
    package, module = "softhsm2", "/usr/lib/softhsm/libsofthsm2.so"
    make = PINS
    run, lines = (), ""

    def config(self, tokens):
        return f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n"


class Nss:
    """Its database takes no data objects: no anchor, and stored known answers in a file of hsm's."""
    package, module = "libnss3", "/usr/lib/x86_64-linux-gnu/libsoftokn3.so"
    make = ["", "", ""]  # its token cannot be named by C_InitToken, and is made without a PIN
    run, lines = (), ""

    def config(self, tokens):
        return (f"directories.tokendir = {tokens}\nlibrary.parameters = configdir='sql:{tokens}' certPrefix='' keyPrefix='' "
                f"secmod='secmod.db' dbTokenDescription='{LABEL}' flags=noModDB\n")


class Opencryptoki:
    """Debian's soft token has no curves and no AES-GCM, and does not know the length of a secret that was imported."""
    package, module = "opencryptoki", "/usr/lib/x86_64-linux-gnu/pkcs11/libopencryptoki.so"
    make = PINS
    lines = "hsm_read_paths = /etc/opencryptoki\nhsm_write_paths = /run/lock/opencryptoki, /dev/shm\n"

    @property
    def run(self):
        alone = subprocess.run(["unshare", "--mount", "--ipc", "--pid", "--fork", "true"], stderr=subprocess.DEVNULL).returncode == 0
        if os.geteuid() != 0 or not alone:
            why = "opencryptoki admits root alone, and a daemon of its own needs namespaces: make capabilities, as root"
            pytest.fail(why) if os.environ.get("CLV_CAPABILITIES") else pytest.skip(why)
        return (HERE / "ock",)

    def config(self, tokens):
        return "directories.tokendir = /var/lib/opencryptoki\n"


# such a tree neither filters nor confines (base/confine.h)
SANITIZED = any(mark in (BUILD / "bin/kmsd-hsm").read_bytes() for mark in (b"__asan_init", b"__tsan_init", b"__gcov_dump"))
LANDLOCK = not SANITIZED and ctypes.CDLL(None).syscall(444, None, 0, 1) > 0  # landlock_create_ruleset: the kernel's version of it
KINDS = [Softhsm(), Nss(), Opencryptoki()]
each = pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.package)


def installed(kind):
    assert pathlib.Path(kind.module).exists(), f"{kind.module} is missing: apt-get install {kind.package}, or tools/deps test"


def run(kind, folder, *commands, timeout=60):
    """Programs one after the other beside a token of that kind: (exit code of the last or the first that failed, everything they said)."""
    installed(kind)
    beside = kind.run
    script = folder / "commands"
    script.write_text("set -eu\n" + "".join(" ".join("'" + str(w).replace("'", "'\\''") + "'" for w in c) + "\n" for c in commands))
    done = subprocess.run([*beside, *([folder / "root"] if beside else []), "sh", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=timeout * SLOWER)
    return done.returncode, done.stdout


def said(text, *names):
    return dict(re.findall(rf"^({'|'.join(names)}):? ?(.*)$", text, re.M))


def maker(kind, module, conf, folder):
    """The command that makes a new token of that kind: folder is for what it counts."""
    return [CAPABLE, module, URI, conf, folder, "only", *kind.make]


# ---- daemons on them --------------------------------------------------------------------------------------------------------------------
INIT = ["init", "--admin", "admin", "--admin-san", "spiffe://dev.claviger/admin", "--policy-dir", ROOT / "policies"]
CLONED = ["--token-backup", "vendor-clone"]


def on(instance, kind, **settings):
    """The stopped instance before `kmsd init`, with a new token of that kind."""
    for name in ("state", "tokens"):
        shutil.rmtree(instance.dir / name)
        (instance.dir / name).mkdir(mode=0o700)
    conf = instance.dir / "softhsm2.conf"
    conf.write_text(kind.config(instance.dir / "tokens"))
    (instance.dir / "pin").write_text(PIN + "\n")
    for line in kind.lines.splitlines():
        key, value = line.split(" = ")
        settings[key] = value
    # on a busy machine one use of a key, which NSS decrypts each time, may take a while
    instance.configure(hsm_module=kind.module, hsm_token=URI, hsm_timeout=f"{min(60, 20 * SLOWER)}s", **settings)
    scratch = instance.dir / "scratch"
    scratch.mkdir()
    return maker(kind, kind.module, conf, scratch)


def populate(instance):
    """Tenants and principals as tools/dev-instance makes them."""
    world = World(instance.start())
    for tenant, location in (("acme", "eu"), ("globex", "us")):
        world.admin.tenants.CreateTenant(ten.CreateTenantRequest(tenant_id=tenant, tenant=dict(location=location)))
    for name in ("acme-keyadmin", "acme-orders", "globex-keyadmin", "globex-billing"):
        world.admin.identity.CreatePrincipal(idy.CreatePrincipalRequest(
            principal_id=name, principal=dict(tenant=f"projects/{name.split('-')[0]}", san=f"spiffe://dev.claviger/{name}")))
    assert instance.stop() == 0, instance.log


def again_on_nss(instance):
    """The stopped instance anew: its token is NSS's, its floor a file."""
    (instance.dir / "anchor").mkdir(mode=0o700)
    make = on(instance, Nss(), anchor_file="anchor/floor")
    assert run(Nss(), instance.dir, make)[0] == 0
    code, said = instance.run(*INIT, *CLONED)
    assert code == 0 and "master, seal and audit key on the token" in said, said
    populate(instance)
    return instance
