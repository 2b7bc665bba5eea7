"""A guard waits out its days, by the wall clock: a version in use is kept, and may go when it has not been used for so long."""
import pytest
from claviger.lifecycle.v1 import lifecycle_pb2 as life
from claviger.policy.v1 import policy_pb2 as pol
from conftest import World
from google.cloud.kms.v1 import resources_pb2 as res, service_pb2 as msg
from kit.instance import until
from kit.wire import Code, refused

import rows
from clock import SteppedInstance

pytestmark = pytest.mark.skipif(rows.SANITIZED, reason="libfaketime and sanitizers both want to be first")


def test_it_waits_out_its_days(copies):
    world = World(SteppedInstance(copies().dir).start())
    key = world.key(versions=2)
    one = f"{key}/cryptoKeyVersions/1"
    sealed = world.orders.kms.Encrypt(msg.EncryptRequest(name=one, plaintext=b"x")).ciphertext
    now = world.admin.policy.GetPolicy(pol.GetPolicyRequest())
    text = b'version: 1\nguards:\n  - id: three.days\n    resources: ["projects/acme/**"]\n    unused_days: 3\n'
    world.admin.policy.ApplyPolicy(pol.ApplyPolicyRequest(documents=[*now.documents, pol.Document(name="guards.yaml", yaml=text)], expected_version=now.version))

    def destroy():
        return world.keyadmin.kms.DestroyCryptoKeyVersion(msg.DestroyCryptoKeyVersionRequest(name=one)).state

    def at(days, hours=0):
        world.instance.step(f"+{days * 24 + hours}h")

    def used():
        return world.keyadmin.life.GetUsage(life.GetUsageRequest(name=one)).versions[0].last_use.seconds
    first = used()
    with refused(Code.FAILED_PRECONDITION, "KEY_VERSION_IN_USE"):
        destroy()
    at(2)
    assert world.decrypt(key, sealed) == b"x"  # somebody does need it
    until(lambda: used() - first >= 2 * 24 * 3600 - 60, 10)
    for days, hours in ((3, 1), (4, 23)):  # three days after the first use are not enough
        at(days, hours)
        with refused(Code.FAILED_PRECONDITION, "KEY_VERSION_IN_USE"):
            destroy()
    at(-1)  # nor is a clock that went back
    with refused(Code.FAILED_PRECONDITION, "KEY_VERSION_IN_USE"):
        destroy()
    at(5, 1)
    assert destroy() == res.CryptoKeyVersion.DESTROY_SCHEDULED
    assert world.instance.stop() == 0, world.instance.log
