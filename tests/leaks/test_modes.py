"""Modes and owners of everything that kmsd makes: ours alone, whatever the umask it is started with."""
import os
import pathlib
import shutil
import stat
import subprocess

import pytest
from claviger.tenants.v1 import tenants_pb2
from kit.client import AuditLog, connect
from kit.instance import ROOT


def modes(folder):
    """(relative path, mode, owner) of all that is below, sockets too."""
    for path in sorted(folder.rglob("*")):
        st = path.lstat()
        yield path.relative_to(folder).as_posix(), st, stat.S_IMODE(st.st_mode)


# In run_dir, whose own mode is the gate: the socket that a front of another user must reach, and the address for everybody.
OPEN = {"core.sock": 0o666, "endpoint": 0o644}


def check(folder):
    seen = set()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name, st, mode in modes(folder):
        want = 0o700 if stat.S_ISDIR(st.st_mode) else OPEN.get(name, 0o600)
        assert mode == want, f"{name} has mode {mode:o}"
        assert (st.st_uid, st.st_gid) == (os.getuid(), os.getgid()), name
        assert not stat.S_ISLNK(st.st_mode), name
        seen.add(name)
    return seen


@pytest.fixture
def careless():
    """A umask that takes nothing away, as some service managers and shells have it."""
    before = os.umask(0)
    yield
    os.umask(before)


def test_init_and_a_life_with_no_umask(base, careless, template):
    """init, a start, calls, a token backup, a stop: in folders that were not there before."""
    folder = base / "modes"
    instance = template.copy(folder)
    try:
        for made in (instance.state, instance.run_dir, folder / "tokens"):
            shutil.rmtree(made)
        conf = folder / "softhsm2.conf"
        (folder / "tokens").mkdir(mode=0o700)
        subprocess.run([ROOT / "tools/softhsm-token", "claviger", folder / "pin", folder / "so-pin"], check=True, umask=0o077,
                       env={**os.environ, "SOFTHSM2_CONF": str(conf)})
        code, said = instance.run("init", "--admin", "admin", "--admin-san", "spiffe://dev.claviger/admin", "--policy-dir", ROOT / "policies")
        assert code == 0, said
        made = check(instance.state)
        assert {"store.db", "store.lock", "kmsd.lock", "instance", "journal"} <= made and any(n.startswith("token-backup/") for n in made), made
        instance.start()
        # tenants were the template's: this store has an administrator only, and that is enough to write to store and journal
        admin = connect(instance, "admin")
        admin.tenants.CreateTenant(tenants_pb2.CreateTenantRequest(tenant_id="acme", tenant=dict(location="eu")))
        assert AuditLog(admin).position() > 0
        for role, pid in {"monitor": instance.process.pid, **instance.children()}.items():
            assert "Umask:\t0077\n" in pathlib.Path(f"/proc/{pid}/status").read_text(), role
        running = check(instance.state) | check(instance.run_dir)
        assert {"store.db-wal", "store.db-shm", "endpoint", "core.sock"} <= running, running
        assert instance.stop() == 0
        check(instance.state)
        check(instance.run_dir)
    finally:
        instance.stop()
        shutil.rmtree(folder)


@pytest.mark.parametrize("file, mode", [("state/store.db", 0o640), ("state", 0o770), ("pin", 0o604), ("certs/server.key", 0o640)])
def test_what_is_open_to_others_is_refused(fresh, file, mode):
    """The twin: had one of them another mode, kmsd would not start."""
    (fresh.dir / file).chmod(mode)
    code, said = fresh.run()
    assert code in (1, 3) and pathlib.Path(file).name in said, said
    assert f"mode {mode:04o}" in said or "PERMISSIONS" in said, said


def test_folders_are_narrowed(fresh):
    """A folder that others could only read is made ours alone."""
    for folder in (fresh.state, fresh.run_dir):
        folder.chmod(0o755)
    fresh.start()
    check(fresh.state)
    check(fresh.run_dir)
