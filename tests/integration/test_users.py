"""Each process under a user of its own: what root can set up, and what anybody else is told."""
import os
import pathlib
import pwd
import shutil
import tempfile

import pytest

from conftest import World
from kit.instance import Instance

FRONT, CORE, HSM = "nobody", "games", "daemon"  # on every Debian; none of them owns anything here


@pytest.fixture
def apart(template):
    """A copy that other users can reach: pytest's own folders are for their owner alone."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="clv-"))
    folder.chmod(0o711)
    instance = template.copy(folder / "i")
    yield instance
    instance.stop()
    shutil.rmtree(folder)


def give(path, user):
    uid = pwd.getpwnam(user).pw_uid
    for p in [path, *path.rglob("*")]:
        os.chown(p, uid, -1)


def owner_of(pid):
    with open(f"/proc/{pid}/status") as f:
        ids = next(line for line in f if line.startswith("Uid:")).split()[1:]
    assert len(set(ids)) == 1  # real, effective, saved and filesystem: there is no way back
    return pwd.getpwuid(int(ids[0])).pw_name


def test_users_of_their_own(apart):
    if os.getuid() != 0:
        apart.configure(user_front=FRONT)
        code, said = apart.run()
        assert code != 0 and "root" in said
        return
    apart.dir.chmod(0o711)
    (apart.dir / "certs").chmod(0o755)
    (apart.dir / "certs/ca.pem").chmod(0o644)
    (apart.dir / "softhsm2.conf").chmod(0o644)
    give(apart.dir / "tokens", HSM)
    give(apart.state, CORE)
    (apart.state / "hsm").mkdir(exist_ok=True)
    give(apart.state / "hsm", HSM)
    apart.configure(user_front=FRONT, user_core=CORE, user_hsm=HSM)
    apart.start()
    assert {role: owner_of(pid) for role, pid in apart.children().items()} == {"front": FRONT, "core": CORE, "hsm": HSM}
    world = World(apart)
    key = world.key()
    sealed = world.encrypt(key, b"across three users")
    assert world.decrypt(key, sealed) == b"across three users"
    assert (apart.run_dir.stat().st_mode & 0o777) == 0o710  # the gate of the core's socket
    assert (apart.state.stat().st_mode & 0o077) in (0, 0o011)
    owners = {}
    for path in [*apart.state.rglob("*"), *apart.run_dir.rglob("*")]:
        st = path.lstat()
        owners.setdefault(pwd.getpwuid(st.st_uid).pw_name, set()).add(path.name)
        open_to_others = {"core.sock": 0o066, "endpoint": 0o044}.get(path.name, 0)  # in run_dir, which is the gate
        assert st.st_mode & 0o077 == open_to_others, (path, oct(st.st_mode))
    assert FRONT not in owners, owners
    assert {"store.db", "store.db-wal", "journal", "core.sock"} <= owners[CORE] and "hsm" in owners[HSM], owners
    assert not {"store.db", "store.db-wal", "journal"} & owners[HSM], owners


def test_a_user_that_does_not_exist(apart):
    apart.configure(user_core="no-such-user-here")
    code, said = apart.run()
    assert code != 0 and "no-such-user-here" in said
