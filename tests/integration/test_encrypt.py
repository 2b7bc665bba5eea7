"""Encrypt and Decrypt: round trips, and every way in which a ciphertext can be wrong."""
import os
import random

import pytest

from claviger.envelope.v1 import envelope_pb2 as env
from conftest import msg, res
from kit.wire import Code, crc32c, refused

OVERHEAD = 112  # docs/FORMATS.md: header 40, commitment 32, nonce 24, tag 16
MAX = 65536
PLAIN = b"tax id 12-3456789"


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 1000, MAX])
def test_round_trip(world, key, size):
    plain, aad = os.urandom(size), os.urandom(size % 99)
    r = world.orders.kms.Encrypt(msg.EncryptRequest(name=key, plaintext=plain, additional_authenticated_data=aad))
    assert r.name == key + "/cryptoKeyVersions/1" and r.protection_level == res.SOFTWARE
    assert len(r.ciphertext) == size + OVERHEAD and (size < 4 or plain not in r.ciphertext)
    d = world.orders.kms.Decrypt(msg.DecryptRequest(name=key, ciphertext=r.ciphertext, additional_authenticated_data=aad))
    assert d.plaintext == plain and d.used_primary and d.protection_level == res.SOFTWARE


def test_equal_plaintexts_never_look_equal(world, key):
    sealed = {world.encrypt(key, PLAIN) for _ in range(50)}
    assert len(sealed) == 50 and len({s[40:] for s in sealed}) == 50


def test_checksums_are_verified_when_sent_and_always_returned(world, key):
    aad = b"table=people"
    r = world.orders.kms.Encrypt(msg.EncryptRequest(name=key, plaintext=PLAIN, additional_authenticated_data=aad))
    assert r.ciphertext_crc32c.value == crc32c(r.ciphertext)
    assert not r.verified_plaintext_crc32c and not r.verified_additional_authenticated_data_crc32c
    r = world.orders.kms.Encrypt(msg.EncryptRequest(
        name=key, plaintext=PLAIN, additional_authenticated_data=aad, plaintext_crc32c={"value": crc32c(PLAIN)},
        additional_authenticated_data_crc32c={"value": crc32c(aad)}))
    assert r.verified_plaintext_crc32c and r.verified_additional_authenticated_data_crc32c
    d = world.orders.kms.Decrypt(msg.DecryptRequest(
        name=key, ciphertext=r.ciphertext, additional_authenticated_data=aad, ciphertext_crc32c={"value": crc32c(r.ciphertext)},
        additional_authenticated_data_crc32c={"value": crc32c(aad)}))
    assert d.plaintext == PLAIN and d.plaintext_crc32c.value == crc32c(PLAIN)
    empty = world.orders.kms.Encrypt(msg.EncryptRequest(name=key, plaintext_crc32c={"value": 0}))
    assert empty.verified_plaintext_crc32c  # the checksum of nothing is 0, and it was sent


@pytest.mark.parametrize("name", ["plaintext_crc32c", "additional_authenticated_data_crc32c"])
@pytest.mark.parametrize("wrong", [0, 1, -1, 1 << 32, 1 << 62])
def test_a_wrong_checksum_is_refused_on_encrypt(world, key, name, wrong):
    right = crc32c(PLAIN if name == "plaintext_crc32c" else b"a")
    with refused(Code.INVALID_ARGUMENT, "CRC32C_MISMATCH", name):
        world.encrypt(key, PLAIN, additional_authenticated_data=b"a", **{name: {"value": right + wrong if wrong else 0}})


@pytest.mark.parametrize("name", ["ciphertext_crc32c", "additional_authenticated_data_crc32c"])
def test_a_wrong_checksum_is_refused_on_decrypt(world, key, name):
    sealed = world.encrypt(key, PLAIN)
    with refused(Code.INVALID_ARGUMENT, "CRC32C_MISMATCH", name):
        world.decrypt(key, sealed, **{name: {"value": 12345}})


def test_limits_and_their_twins(world, key):
    full = b"\xff" * MAX
    sealed = world.encrypt(key, full, additional_authenticated_data=full)
    assert world.decrypt(key, sealed, additional_authenticated_data=full) == full
    with refused(Code.INVALID_ARGUMENT, field="plaintext"):
        world.encrypt(key, full + b"x")
    with refused(Code.INVALID_ARGUMENT, field="additional_authenticated_data"):
        world.encrypt(key, b"", additional_authenticated_data=full + b"x")
    with refused(Code.INVALID_ARGUMENT, field="ciphertext"):
        world.decrypt(key, sealed + b"x", additional_authenticated_data=full)
    with refused(Code.INVALID_ARGUMENT, field="additional_authenticated_data"):
        world.decrypt(key, sealed, additional_authenticated_data=full + b"x")


def test_the_order_of_checks(world, ring, key):
    """Name grammar, permission, existence, state, fields."""
    long = b"x" * (MAX + 1)
    with refused(Code.INVALID_ARGUMENT, field="name"):
        world.encrypt("projects/acme/nonsense", long, who=world.keyadmin)
    with refused(Code.PERMISSION_DENIED):
        world.encrypt(ring + "/cryptoKeys/absent", long, who=world.keyadmin)
    with refused(Code.NOT_FOUND):
        world.encrypt(ring + "/cryptoKeys/absent", long)
    with refused(Code.NOT_FOUND):
        world.decrypt(ring + "/cryptoKeys/absent", long * 2)
    other = world.key(ring)
    world.set_state(other + "/cryptoKeyVersions/1", res.CryptoKeyVersion.DISABLED)
    with refused(Code.FAILED_PRECONDITION, "KEY_VERSION_DISABLED"):
        world.encrypt(other, long)
    with refused(Code.INVALID_ARGUMENT, field="plaintext"):
        world.encrypt(key, long, plaintext_crc32c={"value": 7})


@pytest.mark.parametrize("kind", ["", "/cryptoKeyVersions/1"])
def test_a_version_may_be_named_to_encrypt_but_not_to_decrypt(world, key, kind):
    sealed = world.encrypt(key + kind, PLAIN)
    assert world.decrypt(key, sealed) == PLAIN
    if kind:
        with refused(Code.INVALID_ARGUMENT, field="name"):
            world.decrypt(key + kind, sealed)
    with refused(Code.INVALID_ARGUMENT, field="name"):
        world.encrypt(key.rsplit("/", 2)[0], PLAIN)


def test_rotation_old_versions_decrypt_new_ones_encrypt(world, ring):
    key = world.key(ring)
    first = world.encrypt(key, PLAIN)
    world.rotate(key)
    second = world.encrypt(key, PLAIN)
    one, two = (world.orders.kms.Decrypt(msg.DecryptRequest(name=key, ciphertext=c)) for c in (first, second))
    assert (one.plaintext, one.used_primary, two.plaintext, two.used_primary) == (PLAIN, False, PLAIN, True)
    assert world.orders.kms.Encrypt(msg.EncryptRequest(name=key, plaintext=b"")).name.endswith("/2")
    assert world.orders.kms.Encrypt(msg.EncryptRequest(name=key + "/cryptoKeyVersions/1", plaintext=b"")).name.endswith("/1")
    world.set_state(key + "/cryptoKeyVersions/1", res.CryptoKeyVersion.DISABLED)
    with refused(Code.FAILED_PRECONDITION, "KEY_VERSION_DISABLED"):  # at once, although its key was in the cache
        world.decrypt(key, first)
    assert world.decrypt(key, second) == PLAIN
    world.set_state(key + "/cryptoKeyVersions/1", res.CryptoKeyVersion.ENABLED)
    assert world.decrypt(key, first) == PLAIN


# ---- tampering ------------------------------------------------------------------------------------------------------------
def wrong_ones(world, key):
    """name -> (key, ciphertext, aad): all of them wrong, each in its own way."""
    aad = b"row=17"
    sealed = world.encrypt(key, PLAIN, additional_authenticated_data=aad)
    other = world.key(key.rsplit("/", 2)[0])
    foreign = world.encrypt(world.key2(), PLAIN, who=world.billing, additional_authenticated_data=aad)
    wrapped = world.orders.env.Wrap(env.WrapRequest(name=key, plaintext_key=PLAIN)).wrapped_key
    swapped = world.encrypt(key, PLAIN, additional_authenticated_data=aad)
    bad = {
        "empty": (key, b"", aad), "one byte": (key, b"C", aad), "header only": (key, sealed[:40], aad), "cut by one": (key, sealed[:-1], aad),
        "no body": (key, sealed[:OVERHEAD], aad), "one more": (key, sealed + b"\0", aad), "doubled": (key, sealed * 2, aad),
        "random": (key, os.urandom(200), aad), "zeros": (key, bytes(200), aad), "header and noise": (key, sealed[:40] + os.urandom(200), aad),
        "other aad": (key, sealed, b"row=18"), "no aad": (key, sealed, b""), "other key": (other, sealed, aad), "foreign tenant": (key, foreign, aad),
        "a wrapped key": (key, wrapped, b""), "type changed": (key, sealed[:3] + b"W" + sealed[4:], aad),
        "version of the format": (key, sealed[:4] + b"\2" + sealed[5:], aad), "body of another": (key, sealed[:96] + swapped[96:], aad),
        "nonce of another": (key, sealed[:72] + swapped[72:96] + sealed[96:], aad),
        "commitment of another": (key, sealed[:40] + swapped[40:72] + sealed[72:], aad),
        "tag of another": (key, sealed[:-16] + swapped[-16:], aad),
    }
    for i in range(len(sealed)):
        flipped = bytearray(sealed)
        flipped[i] ^= 1 << random.randrange(8)
        bad[f"bit in byte {i}"] = (key, bytes(flipped), aad)
    return bad


def test_every_wrong_ciphertext_is_refused_alike(world, key):
    shapes = {}
    for why, (name, ciphertext, aad) in wrong_ones(world, key).items():
        with refused(Code.INVALID_ARGUMENT, "CIPHERTEXT") as r:
            world.decrypt(name, ciphertext, additional_authenticated_data=aad)
        shapes.setdefault(r.shape, []).append(why)
        assert r.details.bad_request is None and r.details.retry is None
    assert len(shapes) == 1, shapes  # nothing tells one cause from another


def test_long_ciphertexts_sampled(world, key):
    sealed = bytearray(world.encrypt(key, os.urandom(MAX)))
    for i in random.sample(range(len(sealed)), 20):
        sealed[i] ^= 0x80
        with refused(Code.INVALID_ARGUMENT, "CIPHERTEXT"):
            world.decrypt(key, bytes(sealed))
        sealed[i] ^= 0x80
    assert len(world.decrypt(key, bytes(sealed))) == MAX


def test_tenants_with_equal_names_share_nothing(world):
    """The same ring and key names in two tenants: neither opens what the other sealed."""
    names = []
    for who, location in ((world.keyadmin, world.location), (world.keyadmin2, world.location2)):
        ring = who.kms.CreateKeyRing(msg.CreateKeyRingRequest(parent=location, key_ring_id="twin")).name
        names.append(who.kms.CreateCryptoKey(msg.CreateCryptoKeyRequest(
            parent=ring, crypto_key_id="twin", crypto_key=res.CryptoKey(purpose=res.CryptoKey.ENCRYPT_DECRYPT))).name)
    ours, theirs = world.encrypt(names[0], PLAIN), world.encrypt(names[1], PLAIN, who=world.billing)
    for name, sealed, who in ((names[0], theirs, world.orders), (names[1], ours, world.billing)):
        with refused(Code.INVALID_ARGUMENT, "CIPHERTEXT"):
            world.decrypt(name, sealed, who=who)
