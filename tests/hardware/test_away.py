"""A token that goes and comes back, and an hsm process that is killed: cached keys notice nothing, the rest says when to come back, and
nobody has to restart anything."""
import os
import random
import signal
import subprocess
import threading
import time

import pytest

from claviger.system.v1 import system_pb2
from faults import SHIM, Shim
from kit.suite import World
from kit.instance import BUILD, PATIENCE, until
from load import Load, every_key, open_all
from service import BACK, SLOWER, Service, hsm_timeout

LONG = bool(os.environ.get("LONG"))


@pytest.fixture
def plain(fresh):
    """No shim: the real module alone."""
    fresh.configure(hsm_timeout=hsm_timeout())
    return fresh


def kmsctl(instance, *arguments):
    cert, key = instance.cert("admin")
    env = {"PATH": os.environ["PATH"], "KMS_ENDPOINT": instance.endpoint, "KMS_CA": str(instance.cert("ca")[0]),
           "KMS_OPERATOR_CERT": str(cert), "KMS_OPERATOR_KEY": str(key)}
    done = subprocess.run([BUILD / "bin/kmsctl", *arguments], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE)
    return done.returncode, done.stdout


def test_the_tokens_folder_goes_and_comes_back(plain):
    """Under load, and without anybody killing anything: the process that had the token open loses it and finds it again."""
    s = Service(World(plain.start()), None)
    away = plain.dir / "tokens-away"
    with Load(s.world, every_key(s.world), 7) as load:
        for _ in range(3 if LONG else 1):
            until(lambda: load.done > 20, 10, "traffic")
            (plain.dir / "tokens").rename(away)
            try:
                until(lambda: s.cold() is not None, 10, "UNAVAILABLE")
                until(lambda: s.health()[0] == "degraded", 5, "degraded")
                code, said = kmsctl(plain, "status")
                assert "degraded" in said and "HSM" in said, said
                s.cached()
            finally:
                away.rename(plain.dir / "tokens")
            s.back()
            until(lambda: s.health() == ("healthy", ""), 5, "healthy")
            assert "healthy" in kmsctl(plain, "status")[1]
    assert load.wrong == [], load.wrong[:3]
    s.unharmed()
    plain.restart()
    open_all(World(plain), load.sealed[::4])


def test_hsm_killed_at_random_moments(plain):
    s = Service(World(plain.start()), None)
    rng = random.Random(11)
    with Load(s.world, every_key(s.world), 11) as load:
        for i in range(60 if LONG else 3):
            load.stop.wait(rng.uniform(0.0, 0.3))
            before = plain.children().get("hsm")
            if before is not None:
                os.kill(before, signal.SIGKILL)
            until(lambda: plain.children().get("hsm") not in (None, before), 10, "a new hsm process")
            if i % 3 == 2:
                s.back()
                s.cached()
        s.back()
    assert load.wrong == [] and load.done > 20, load.wrong[:3]
    assert plain.log.count("role=hsm") > 3 and "signal=KILL" in plain.log
    s.unharmed(but=["hsm"])
    plain.restart()
    open_all(World(plain), load.sealed[::4])


def test_core_and_hsm_die_while_the_token_is_away(plain):
    """The worst moment for a core to start: no store key is to be had. It waits for the token, and the daemon with it."""
    s = Service(World(plain.start()), None)
    away = plain.dir / "tokens-away"
    (plain.dir / "tokens").rename(away)
    try:
        for role in ("hsm", "core"):
            before = plain.children()[role]
            os.kill(before, signal.SIGKILL)
            until(lambda: plain.children().get(role) not in (None, before), 10, f"a new {role}")
        until(lambda: plain.log.count("role=core") >= 4, 15, "a core that cannot start, and the next one")
        assert plain.process.poll() is None, plain.log[-2000:]
    finally:
        away.rename(plain.dir / "tokens")
    s.world = World(plain)
    until(lambda: plain.log.count("core is serving") >= 2, 10, "service")
    s.back(within=2 * BACK)  # two processes start, one after the other
    s.everything_opens()


def test_the_module_is_being_replaced(fresh):
    """An upgrade of the vendor's package: for a moment there is no module, and hsm happens to die in it."""
    module = fresh.state / "module.so"
    shim = Shim(fresh)
    module.write_bytes(SHIM.read_bytes())
    fresh.configure(hsm_module=module, hsm_timeout=hsm_timeout())
    s = Service(World(fresh.start()), shim)
    gone = fresh.state / "module.gone"
    module.rename(gone)
    before = fresh.children()["hsm"]
    os.kill(before, signal.SIGKILL)
    until(lambda: "the PKCS#11 module" in fresh.log, 10, "a process that misses it")
    assert s.cold() is not None
    s.cached()
    assert fresh.process.poll() is None, fresh.log[-2000:]
    gone.rename(module)
    s.back()
    s.unharmed(but=["hsm"])


def test_many_who_wait_for_a_hung_token_hold_up_nobody_else(service):
    """Each hang is sat out by the slow lane until hsm_timeout; the fast lane and the operator's status go on beside it."""
    s = service
    mark = s.shim.plan("C_Sign hang always")
    stop, waited = threading.Event(), []

    def wait_for_it():
        while not stop.is_set():
            begun = time.monotonic()
            s.cold()
            waited.append(time.monotonic() - begun)
    threads = [threading.Thread(target=wait_for_it) for _ in range(12)]
    for t in threads:
        t.start()
    end, cached, status = time.monotonic() + 2.5 * SLOWER, [], []
    while time.monotonic() < end or len(waited) <= 12 and time.monotonic() < end + PATIENCE:
        for work, took in ((s.cached, cached), (s.health, status)):
            begun = time.monotonic()
            work()
            took.append(time.monotonic() - begun)
    stop.set()
    s.shim.lift()
    for t in threads:
        t.join(PATIENCE)
    assert len(s.shim.hits(mark, "C_Sign")) >= 2 and len(waited) > 12
    mostly = [sorted(x)[len(x) // 2] for x in (cached, status, waited)]
    assert mostly[0] < 0.3 * SLOWER and mostly[1] < 1 * SLOWER and mostly[2] < 4 * SLOWER, mostly
    s.back()
    s.unharmed(but=["hsm"])


def test_status_says_what_is_wrong(service):
    s = service
    mark = s.shim.plan("C_SignInit 0x30 always", "C_OpenSession 0xe0 always")
    assert s.cold() is not None
    seen = [None]

    def told():  # the anchor may have met it before the token was looked at again
        seen[0] = s.world.admin.system.GetStatus(system_pb2.GetStatusRequest())
        return "CKR_TOKEN_NOT_PRESENT" in "; ".join(seen[0].reasons) and not seen[0].hsm.logged_in
    until(told, what="the reason")
    assert seen[0].health == "degraded", seen[0]
    code, said = kmsctl(s.instance, "status")
    assert "degraded" in said and "CKR_TOKEN_NOT_PRESENT" in said, said
    assert s.shim.hits(mark, "C_OpenSession")
    s.shim.lift()
    s.back()
    until(lambda: s.health() == ("healthy", ""), 5, "healthy")
