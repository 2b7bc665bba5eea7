"""Start-up: what is wrong is said in words, with what to do, and with a stable exit code; nothing is started halfway."""
import os
import pathlib
import shutil
import socket
import sqlite3
import subprocess

import pytest

from claviger.identity.v1 import identity_pb2 as idy
from claviger.tenants.v1 import tenants_pb2 as ten
from conftest import World
from grpc.health.v1 import health_pb2
from kit.client import connect
from kit.instance import BUILD, PATIENCE, ROOT, TRUST_DOMAIN, Instance

FAILED, USAGE, CONFIG = 1, 2, 3


def wrong_pin(i):
    (i.dir / "pin").write_text("000000\n")


def world_readable_pin(i):
    (i.dir / "pin").chmod(0o644)


def used_port(i):
    s = socket.socket()
    s.bind(("127.0.0.1", 0))
    s.listen()
    i.kept = s  # open until the instance goes
    i.configure(listen="127.0.0.1:%d" % s.getsockname()[1])


def newer_store(i):
    with sqlite3.connect(i.state / "store.db") as d:
        d.execute("PRAGMA user_version = 99")


def other_key(i):
    shutil.copy(i.dir / "certs/admin.key", i.dir / "certs/server.key")


CASES = {  # what is done to an instance: exit code, words that must be said
    "wrong pin": (wrong_pin, FAILED, ["HSM_PIN", "CKR_PIN_INCORRECT", "try 1 of 3", "correct hsm_pin_file"]),
    "pin file readable by others": (world_readable_pin, FAILED, ["hsm_pin_file", "mode 0644", "chmod 600"]),
    "no pin file": (lambda i: (i.dir / "pin").unlink(), FAILED, ["hsm_pin_file", "No such file"]),
    "no token": (lambda i: [shutil.rmtree(t) for t in (i.dir / "tokens").iterdir()], FAILED, ["HSM_TOKEN", "no token matches hsm_token"]),
    "token folder gone": (lambda i: shutil.rmtree(i.dir / "tokens"), FAILED, ["C_Initialize", "CKR_", "the token folder", "does not exist"]),
    "no module": (lambda i: i.configure(hsm_module="/usr/lib/softhsm/none.so"), FAILED, ["HSM_MODULE", "none.so", "correct hsm_module"]),
    "no pkcs11 module": (lambda i: i.configure(hsm_module="/usr/bin/true"), FAILED, ["HSM_MODULE", "no usable PKCS#11 module"]),
    "pin in the uri": (lambda i: i.configure(hsm_token="pkcs11:token=claviger?pin-value=1"), CONFIG, ["must not hold a PIN", "hsm_pin_file"]),
    "port in use": (used_port, FAILED, ["PORT_IN_USE", "stop it or change listen"]),
    "a name to listen on": (lambda i: i.configure(listen="localhost:0"), CONFIG, ["listen", "not a numeric address"]),
    "config writable by all": (lambda i: i.config.chmod(0o666), CONFIG, ["can be written by others", "chmod go-w"]),
    "no config": (lambda i: i.config.unlink(), CONFIG, ["cannot open configuration", "No such file"]),
    "config is a folder": (lambda i: (i.config.unlink(), i.config.mkdir()), CONFIG, ["kmsd.conf"]),
    "unknown key": (lambda i: i.configure(nonsense=1), CONFIG, ["kmsd.conf:LAST", 'unknown key "nonsense"', "--manual"]),
    "bad value": (lambda i: i.configure(slow_workers="many"), CONFIG, ["kmsd.conf:LAST", "slow_workers"]),
    "value out of range": (lambda i: i.configure(slow_workers=65), CONFIG, ["slow_workers", "64"]),
    "store from a newer version": (newer_store, FAILED, ["STORE_NEWER", "schema 99", "start the version that made it"]),
    "store of another instance": (lambda i: (i.state / "instance").write_text("0" * 32 + "\n"), FAILED, ["STORE_FOREIGN", "another instance"]),
    "not initialised": (lambda i: (shutil.rmtree(i.state), i.state.mkdir(mode=0o700)), FAILED, ["NOT_INITIALISED", "run kmsd init"]),
    "store readable by all": (lambda i: (i.state / "store.db").chmod(0o644), FAILED, ["STORE_PERMISSIONS", "mode 0600"]),
    "state folder writable by all": (lambda i: i.state.chmod(0o777), CONFIG, ["state_dir", "chmod 0700"]),
    "broken certificate": (lambda i: (i.dir / "certs/server.pem").write_text("x"), FAILED, ["TLS_FILES", "no PEM certificate"]),
    "key of another certificate": (other_key, FAILED, ["TLS_FILES", "not the certificate's"]),
    "broken client CA": (lambda i: (i.dir / "certs/ca.pem").write_text("x"), FAILED, ["CA file", "client_ca_file", "certs/ca.pem"]),
}


@pytest.mark.parametrize("why", CASES)
def test_what_is_wrong_is_said(fresh, why):
    damage, code, words = CASES[why]
    fresh.kept = None
    damage(fresh)
    try:
        exit_code, said = fresh.run()
    finally:
        if fresh.kept:
            fresh.kept.close()
    assert exit_code == code, said
    last = [line for line in said.splitlines() if line.startswith("kmsd: ")]
    assert len(last) == 1, said  # said once, in one line, to a person
    if "kmsd.conf:LAST" in words:  # what was added stands in the last line
        words = [w.replace("LAST", str(len(fresh.config.read_text().splitlines()))) for w in words]
    for word in words:
        assert word in last[0], (word, last[0])
    pin = (fresh.dir / "pin").read_text().strip() if (fresh.dir / "pin").exists() else None
    assert not pin or pin not in said
    assert said.count('msg="child started" role=hsm') <= 1, said  # what cannot go on is not tried again
    assert not (fresh.run_dir / "endpoint").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can read everything")
def test_as_root_permissions_still_count(fresh):
    """Root could read an unreadable file; what others may write is refused all the same."""
    os.chown(fresh.config, 12345, 12345)
    code, said = fresh.run()
    assert code == CONFIG and "12345" in said


def test_an_unreadable_config(fresh):
    if os.geteuid() == 0:  # as somebody who is not root, where root runs the tests
        fresh.config.chmod(0o000)
        done = subprocess.run(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", BUILD / "bin/kmsd", "--config", fresh.config],
                              capture_output=True, text=True, timeout=PATIENCE, cwd="/")
        if done.returncode == 127 or "setpriv" in done.stderr or "failed to execute" in done.stderr:
            done = None  # the build tree itself cannot be reached by others: the daemon's user cannot even start it
        if done is not None:
            assert done.returncode == CONFIG and "Permission denied" in done.stderr, done
    else:
        fresh.config.chmod(0o000)
        code, said = fresh.run()
        assert code == CONFIG and "Permission denied" in said


def test_wrong_pins_are_counted_so_that_the_token_is_not_locked(fresh):
    pin = (fresh.dir / "pin").read_text()
    (fresh.dir / "pin").write_text("111111\n")
    assert "try 1 of 3" in fresh.run()[1]
    code, said = fresh.run()
    assert code == FAILED and "CKR_PIN_INCORRECT" not in said, said  # the second try within the minute does not reach the token
    (fresh.dir / "pin").write_text(pin)
    code, said = fresh.run()
    assert code == FAILED and "HSM_PIN" in said  # not even with the right one: one try a minute


def init(instance, **popen):
    return instance.run("init", "--admin", "mallory", "--admin-san", f"spiffe://{TRUST_DOMAIN}/mallory", "--policy-dir", ROOT / "policies", **popen)


def files_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix not in (".lock",)}


def keys_of(instance):
    """The token's objects; its own record of logins is not one of them."""
    return {k: v for k, v in files_of(instance.dir / "tokens").items() if k.suffix == ".object" and k.name != "token.object"}


def test_a_second_init_overwrites_nothing(fresh):
    state, token = files_of(fresh.state), keys_of(fresh)
    code, said = init(fresh)
    assert code == FAILED and "ALREADY_INITIALISED" in said and "Nothing was changed" in said
    assert token and keys_of(fresh) == token
    assert {k: v for k, v in files_of(fresh.state).items() if k.name in ("instance", "store.db")} == {k: v for k, v in state.items() if k.name in ("instance", "store.db")}
    with fresh.start():
        world = World(fresh)
        assert world.decrypt(key := world.key(), world.encrypt(key))


def test_init_on_a_token_that_has_keys_overwrites_none(fresh):
    shutil.rmtree(fresh.state)
    fresh.state.mkdir(mode=0o700)
    token = keys_of(fresh)
    code, said = init(fresh)
    assert code == FAILED and "Nothing was changed" in said and "another instance" in said
    assert token and keys_of(fresh) == token
    assert not (fresh.state / "store.db").exists()


def test_init_needs_to_be_told_who(fresh):
    for arguments in (["init"], ["init", "--admin", "x"], ["init", "--admin", "x", "--admin-san"], ["nonsense"], ["--nonsense"], ["init", "run"]):
        code, said = fresh.run(*arguments)
        assert code == USAGE and "kmsd: " in said


def test_a_second_daemon_on_the_same_state_is_refused(fresh):
    fresh.start()
    code, said = fresh.run()
    assert code == FAILED and "ALREADY_RUNNING" in said and "stop it first" in said
    assert World(fresh).admin.health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING


def test_a_second_start_keeps_the_data(new_world):
    world = new_world
    key = world.key(versions=2)
    sealed = world.encrypt(key)
    for _ in range(2):
        world.instance.restart()
        world = World(world.instance)
        assert world.decrypt(key, sealed) == b"jane@example.com"


def test_check_says_what_is_well_and_what_is_not_and_changes_nothing(fresh):
    before = files_of(fresh.dir)
    code, said = fresh.run("check")
    assert code == 0 and "wrong" not in said and "hsm_pin_file" in said
    assert files_of(fresh.dir) == before
    (fresh.dir / "pin").chmod(0o644)
    (fresh.dir / "certs/ca.pem").unlink()
    code, said = fresh.run("check")
    assert code == CONFIG and said.count("wrong ") == 2 and "chmod 600" in said and "client_ca_file" in said


def test_it_speaks_of_itself(fresh):
    assert fresh.run("--version")[0] == 0 and fresh.run("--help")[0] == 0
    code, dump = fresh.run("--dump-config")
    assert code == 0 and "hsm_pin_file" in dump
    again = fresh.dir / "dumped.conf"
    again.write_text(dump)
    done = subprocess.run([BUILD / "bin/kmsd", "--config", again, "--dump-config"], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == dump  # what it prints, it reads


def test_the_first_administrator_is_the_only_one(base):
    instance = Instance.create(base / "bare", "--bare")
    with instance.start():
        world_admin = connect(instance, "admin")
        assert [p.name for p in world_admin.identity.ListPrincipals(idy.ListPrincipalsRequest()).principals] == ["principals/admin"]
        assert len(world_admin.tenants.ListTenants(ten.ListTenantsRequest()).tenants) == 0
    assert pathlib.Path(instance.dir / "state").stat().st_mode & 0o777 == 0o700
    for p in (instance.dir / "state").rglob("*"):
        assert p.stat().st_mode & 0o077 == 0, p
