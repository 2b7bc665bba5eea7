"""The PIN is tried at most once a minute, by whatever process and however often it is started anew, so that no token is ever locked."""
import os
import re
import signal
import time

import pytest

from faults import CODES
from kit.instance import until
from service import Service, hsm_timeout
from kit.suite import World

WRONG, LOCKED, OK = CODES["pin incorrect"], CODES["pin locked"], 0


@pytest.fixture
def serving(shim, fresh):
    fresh.configure(hsm_timeout=hsm_timeout())
    return Service(World(fresh.start()), shim)


def the_minute_is_over(instance):
    """The record's time, put back: what a minute of waiting does (test_a_real_minute waits for one)."""
    record = instance.state / "hsm-pin-tries"
    text = record.read_text()
    last = int(re.search(r"last=(\d+)", text)[1])
    record.write_text(re.sub(r"last=\d+", f"last={last - 61:012d}", text))


def kill_hsm(s, times=1):
    for _ in range(times):
        before = s.instance.children()["hsm"]
        os.kill(before, signal.SIGKILL)
        until(lambda: s.instance.children().get("hsm") not in (None, before), 10, "a new hsm process")
        until(lambda: "hsm" in s.instance.children() and s.cold() is not None, 10, "an answer")


def answers(s):
    """What each login was answered since the service was made."""
    return [x.code for x in s.shim.logins()[s.logins:]]


def test_a_wrong_pin_is_tried_once_a_minute(serving):
    s, instance, shim = serving, serving.instance, serving.shim
    pin = instance.dir / "pin"
    right = pin.read_text()
    pin.write_text("00000000\n")
    shim.plan("C_SignInit 0x101 nth:1")  # the token forgets the login
    assert s.cold() is not None
    assert answers(s) == [WRONG]
    kill_hsm(s, 4)  # as a module that crashes would
    s.cached()
    until(lambda: s.health()[0] == "degraded", 5, "degraded")
    until(lambda: "PIN" in s.health()[1], 5, "the reason")
    assert answers(s) == [WRONG]
    instance.stop()
    for _ in range(3):  # a person who tries again, and again
        code, said = instance.run()
        assert code == 1 and "one try a minute" in said, said
    assert answers(s) == [WRONG]
    the_minute_is_over(instance)
    code, said = instance.run()
    assert code == 1 and "refuses the PIN" in said, said
    assert answers(s) == [WRONG, WRONG]
    code, said = instance.run()
    assert code == 1 and "one try a minute" in said, said
    the_minute_is_over(instance)
    pin.write_text(right)  # the third and last would be this one, and it is right
    s.world = type(s.world)(instance.start())
    assert answers(s) == [WRONG, WRONG, OK]
    s.cached()
    s.everything_opens()


def test_a_right_pin_returns_to_service_by_itself(serving):
    """Nothing is restarted and nobody asks: the file is mended, the minute passes."""
    s, instance = serving, serving.instance
    pin = instance.dir / "pin"
    right = pin.read_text()
    pin.write_text("00000000\n")
    s.shim.plan("C_SignInit 0x101 nth:1")
    assert s.cold() is not None
    s.shim.lift()
    pin.write_text(right)
    assert s.cold() is not None  # the minute is not over
    assert answers(s) == [WRONG]
    the_minute_is_over(instance)
    s.back()
    s.unharmed()
    assert answers(s) == [WRONG, OK]


def test_a_locked_pin_is_not_tried_again(serving):
    s, instance, shim = serving, serving.instance, serving.shim
    shim.plan(f"C_Login 0x{LOCKED:x} always", "C_SignInit 0xb3 nth:1")
    assert s.cold() is not None
    assert answers(s) == [LOCKED]
    kill_hsm(s, 2)
    the_minute_is_over(instance)  # no time makes it better: an operator has to say so
    kill_hsm(s, 1)
    s.cached()
    until(lambda: "hsm-pin-tries" in s.health()[1] or "PIN" in s.health()[1], 5, "the reason")
    assert answers(s) == [LOCKED]
    shim.lift()
    (instance.state / "hsm-pin-tries").unlink()
    s.back()
    assert answers(s) == [LOCKED, OK]


def test_a_login_that_hangs_costs_no_try(serving):
    s, shim = serving, serving.shim
    mark = shim.plan("C_Login hang always", "C_SignInit 0x101 nth:1")
    assert s.cold() is not None
    until(lambda: len(shim.hits(mark, "C_Login")) >= 3, 15, "three processes that hang")
    s.cached()
    assert "wrong=0" in (s.instance.state / "hsm-pin-tries").read_text()
    shim.lift()
    s.back()
    s.unharmed(but=["hsm"])


def test_a_pin_file_that_is_gone(serving):
    """Nothing is tried without a PIN, and nothing is counted; the file is back, and so is service."""
    s, instance = serving, serving.instance
    pin = instance.dir / "pin"
    pin.rename(instance.dir / "pin-gone")
    s.shim.plan("C_SignInit 0x101 nth:1")
    assert s.cold() is not None
    s.cached()
    until(lambda: "PIN" in s.health()[1], 5, "the reason")
    (instance.dir / "pin-gone").rename(pin)
    s.back()
    s.unharmed()
    assert answers(s) == [OK]


@pytest.mark.skipif(not os.environ.get("LONG"), reason="two minutes: LONG=1")
def test_a_real_minute(serving):
    s, instance, shim = serving, serving.instance, serving.shim
    (instance.dir / "pin").write_text("00000000\n")
    shim.plan("C_SignInit 0x101 nth:1")
    assert s.cold() is not None
    end = time.monotonic() + 135
    while time.monotonic() < end:
        kill_hsm(s)
    times = [x.time for x in shim.logins() if x.code == WRONG]
    print("wrong PINs at", [f"{t - times[0]:.1f} s" for t in times])
    assert len(times) == 3 and min(b - a for a, b in zip(times, times[1:])) >= 60.0
