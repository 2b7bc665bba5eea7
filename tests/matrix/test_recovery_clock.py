"""A recovery administrator's time under a clock that jumps: let in between its making and its end by the wall clock, and never longer
than that by the boot clock, which no setting of the wall clock moves."""
import os
import time

import grpc
import pytest
from claviger.system.v1 import system_pb2
from kit import certs
from kit.client import connect
from kit.instance import TRUST_DOMAIN, until
from kit.wire import Code, refused

import rows
from clock import REAL, SteppedInstance

pytestmark = [pytest.mark.skipif(rows.SANITIZED, reason="libfaketime and sanitizers both want to be first"),
              pytest.mark.skipif(os.geteuid() != 0, reason="recover-admin is for root")]
SAN = f"spiffe://{TRUST_DOMAIN}/rescue"


def made_for(copies, period):
    """Made with the real clock, served under ours."""
    i = SteppedInstance(copies().dir)
    before = time.monotonic()
    code, said = i.run("recover-admin", "--admin", "rescue", "--admin-san", SAN, "--for", period, "--reason", "a drill")
    assert code == 0, said
    after, wall = time.monotonic(), time.time()
    day = certs.DAY
    certs.issue(i.dir / "certs", "rescue", certs.load(i.dir / "certs", "ca"), uris=[SAN], start=-3 * day, end=3 * day)
    i.start()
    return i, connect(i, "rescue"), before, after, wall


def asks(client):
    return client.system.GetStatus(system_pb2.GetStatusRequest())


def test_no_clock_that_jumps_lets_it_in_longer(copies):
    i, rescue, *_ = made_for(copies, "1h")
    try:
        asks(rescue)
        for away in ("+2h", "-1h", "+1d", "-2d"):  # behind its end, and before its making
            i.step(away)
            with refused(Code.UNAUTHENTICATED):
                asks(rescue)
            i.step(REAL)
            asks(rescue)
    finally:
        i.stop()


def test_a_clock_that_is_set_back_all_the_time(copies):
    """By the wall clock its time never ends: each time it is asked, the clock stands at its beginning."""
    i, rescue, before, after, wall = made_for(copies, "6s")
    try:
        i.step(time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(wall + 1)))  # it stands there

        def over():
            asked = time.monotonic()
            try:
                asks(rescue)
            except grpc.RpcError as e:
                assert e.code() == Code.UNAUTHENTICATED, e
                return True
            assert asked - after < 6.0, "prolonged by the wall clock"
        until(over, 60, "its end by the boot clock")
        assert time.monotonic() - before >= 6.0
    finally:
        i.stop()
