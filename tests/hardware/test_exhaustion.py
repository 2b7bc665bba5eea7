"""The random nonces of a key of level HSM run out: half of them, and its key gets a new primary version by itself; all of them but the reserve, and
the version seals nothing more, while it opens what it sealed. The counter is put there by counter.c, with kmsd stopped; the rest is kmsd's own."""
import pytest
from claviger.envelope.v1 import envelope_pb2 as env
from claviger.lifecycle.v1 import lifecycle_pb2 as life
from google.cloud.kms.v1 import resources_pb2 as res, service_pb2 as msg
from kit.client import AuditLog
from kit.instance import until
from kit.suite import World
from kit.wire import Code, refused

from faults import BUILD

BLOCK, HALF, END = 1 << 16, 1 << 31, (1 << 32) - (1 << 20)  # kms/keyring/gcm.c: handed out so many at a time
HSM = dict(protection_level=res.HSM)


class Counted:
    """A daemon on SoftHSM2 whose counters of nonces are ours while it is stopped."""

    def __init__(self, instance):
        self.instance = instance
        instance.configure(clock_settle="0s")  # nothing waits for the clock to have gone steadily

    def start(self):
        return World(self.instance.start())

    def put(self, key, to, was=None):
        instance, programs = self.instance, self.instance.programs
        instance.programs = BUILD / "hardware/counter"
        code, said = instance.run("accept-rollback", "--reason", f"{key}/cryptoKeyVersions/1={to}")
        instance.programs = programs
        assert code == 0 and f"-> {to}" in said, said
        assert was is None or f"counter {was} -> " in said, said


@pytest.fixture
def counted(fresh):
    return Counted(fresh)


def primary(world, key):
    return world.keyadmin.kms.GetCryptoKey(msg.GetCryptoKeyRequest(name=key)).primary.name.rsplit("/", 1)[1]


def used(encrypted):
    return encrypted.name.rsplit("/", 1)[1]


def encrypt(world, name, plaintext=b"card"):
    return world.orders.kms.Encrypt(msg.EncryptRequest(name=name, plaintext=plaintext))


def test_at_half_of_them_the_key_rotates_by_itself(counted):
    world = counted.start()
    short, full = world.key(version_template=HSM), world.key(version_template=HSM)
    old = {k: world.encrypt(k, b"before") for k in (short, full)}
    assert counted.instance.stop() == 0
    counted.put(short, HALF - 2 * BLOCK, was=2 * BLOCK)  # the check message's block, and what was drawn since the start
    counted.put(full, HALF - BLOCK, was=2 * BLOCK)
    world = counted.start()
    audit = AuditLog(world.admin)
    start = audit.position()
    assert used(encrypt(world, short)) == used(encrypt(world, full)) == "1"
    until(lambda: primary(world, full) == "2", 30, "its rotation")
    event = audit.one(start, action="kms.cryptoKeys.rotate", outcome="ok").event  # one block short of it, the other key does not
    assert (event.principal, event.resource, event.key_version) == ("system:rotation", full, f"{full}/cryptoKeyVersions/2")
    assert primary(world, short) == "1"
    made = encrypt(world, full)
    assert used(made) == "2" and used(encrypt(world, short)) == "1"
    version = world.keyadmin.kms.GetCryptoKeyVersion(msg.GetCryptoKeyVersionRequest(name=f"{full}/cryptoKeyVersions/2"))
    assert (version.protection_level, version.state) == (res.HSM, res.CryptoKeyVersion.ENABLED)
    for key in (short, full):
        assert world.decrypt(key, old[key]) == b"before"
    assert world.decrypt(full, made.ciphertext) == b"card"
    # The old version, named, draws on and rotates nothing more; the other key's next block is its last below half. Due times are worked in order.
    counted.instance.restart()
    world = World(counted.instance)
    assert used(encrypt(world, f"{full}/cryptoKeyVersions/1")) == "1"
    assert used(encrypt(world, short)) == "1"
    until(lambda: primary(world, short) == "2", 30, "its rotation")
    versions = world.keyadmin.kms.ListCryptoKeyVersions(msg.ListCryptoKeyVersionsRequest(parent=full)).crypto_key_versions
    assert len(versions) == 2 and primary(world, full) == "2" and world.decrypt(full, old[full]) == b"before"


def test_at_the_end_it_seals_nothing_more(counted):
    world = counted.start()
    key = world.key(version_template=HSM)
    version = f"{key}/cryptoKeyVersions/1"
    sealed = world.encrypt(key, b"before")
    wrapped = world.orders.env.Wrap(env.WrapRequest(name=key, plaintext_key=b"k" * 32)).wrapped_key
    assert counted.instance.stop() == 0
    counted.put(key, END)
    world = counted.start()

    def refuses(*names):
        for name in names:
            for call in (lambda: encrypt(world, name), lambda: world.orders.env.Wrap(env.WrapRequest(name=name, plaintext_key=b"k" * 32)),
                         lambda: world.orders.env.GenerateDataKey(env.GenerateDataKeyRequest(name=name))):
                with refused(Code.FAILED_PRECONDITION, "KEY_VERSION_EXHAUSTED"):
                    call()
        batch = world.orders.env.BatchEncrypt(env.BatchEncryptRequest(name=names[0], items=[env.EncryptItem(plaintext=b"x")]))
        assert batch.failed == 1 and batch.results[0].status.code == Code.FAILED_PRECONDITION.value[0]

    def opens():
        assert world.decrypt(key, sealed) == b"before"
        assert world.orders.env.Unwrap(env.UnwrapRequest(name=key, wrapped_key=wrapped)).plaintext_key == b"k" * 32
    refuses(key, version)
    opens()
    assert world.keyadmin.life.RotateKey(life.RotateKeyRequest(name=key)).name.endswith("/2")
    refuses(version)
    assert used(encrypt(world, key)) == "2"
    opens()
    moved = world.orders.env.Rewrap(env.RewrapRequest(name=key, ciphertext=sealed))
    assert moved.name.endswith("/2") and world.decrypt(key, moved.ciphertext) == b"before"
    assert counted.instance.stop() == 0
    code, said = counted.instance.run("fsck")
    assert code == 0, said


def test_the_last_block_is_used_and_then_its_key_rotates(counted):
    """Had nobody rotated it at half: each block that is drawn asks for it again."""
    world = counted.start()
    key = world.key(version_template=HSM)
    assert counted.instance.stop() == 0
    counted.put(key, END - BLOCK, was=BLOCK)
    world = counted.start()
    last = encrypt(world, key)
    assert used(last) == "1"
    until(lambda: primary(world, key) == "2", 30, "its rotation")
    counted.instance.restart()  # what was left of the block is lost
    world = World(counted.instance)
    with refused(Code.FAILED_PRECONDITION, "KEY_VERSION_EXHAUSTED"):
        encrypt(world, f"{key}/cryptoKeyVersions/1")
    assert world.decrypt(key, last.ciphertext) == b"card" and used(encrypt(world, key)) == "2"
