"""What a request goes through before any handler sees it: sizes, shapes, deadlines."""
import gzip
import os
import threading
import time

import grpc
import pytest

from claviger.envelope.v1 import envelope_pb2 as env
from claviger.system.v1 import system_pb2
from conftest import World, msg, res
from kit.client import DEADLINE, connect
from kit.instance import PATIENCE, until
from kit.wire import Code, Details, field, refused, varint

ENCRYPT = "/google.cloud.kms.v1.KeyManagementService/Encrypt"
WRAP = "/claviger.envelope.v1.Envelope/Wrap"
BATCH = "/claviger.envelope.v1.Envelope/BatchEncrypt"
MEBIBYTE = 1 << 20


def test_unknown_fields_are_skipped_as_protobuf_wants(world, key):
    good = msg.EncryptRequest(name=key, plaintext=b"x").SerializeToString()
    answer = msg.EncryptResponse.FromString(world.orders.raw(ENCRYPT, good + field(1000, b"future") + field(1001, 7)))
    assert world.decrypt(key, answer.ciphertext) == b"x"


MALFORMED = {
    "cut in a length": lambda k: field(1, k)[:-1], "cut in a tag": lambda k: field(1, k) + b"\x80", "endless varint": lambda k: field(1, k) + b"\xff" * 11,
    "field zero": lambda k: field(1, k) + b"\x02\x00", "group": lambda k: field(1, k) + b"\x0b\x0c", "wire type 7": lambda k: field(1, k) + b"\x0f",
    "length beyond the end": lambda k: field(1, k) + b"\x12\xff\xff\xff\xff\x0f", "negative length": lambda k: field(1, k) + b"\x12" + b"\xff" * 9 + b"\x01",
    "wrong wire type for a known field": lambda k: varint(1 << 3) + varint(5), "noise": lambda k: b"\xde\xad\xbe\xef" * 20,
    "a submessage twice": lambda k: field(1, k) + field(7, field(1, 5)) + field(7, field(1, 6)),
}


@pytest.mark.parametrize("why", MALFORMED)
def test_malformed_messages_are_refused(world, key, why):
    with refused(Code.INVALID_ARGUMENT, "MALFORMED_MESSAGE"):
        world.orders.raw(ENCRYPT, MALFORMED[why](key.encode()))
    assert world.encrypt(key)  # and the connection lives


def test_a_malformed_message_is_on_record(new_world):
    world = new_world
    start = world.audit.position()
    with refused(Code.INVALID_ARGUMENT, "MALFORMED_MESSAGE"):
        world.orders.raw(ENCRYPT, b"\xff\xff", metadata=[("x-request-id", "broken-1")])
    e = world.audit.one(start, request_id="broken-1").event
    assert (e.outcome, e.code, e.reason, e.action, e.address) == ("refused", "INVALID", "MALFORMED_MESSAGE", "kms.cryptoKeys.encrypt", "127.0.0.1")


@pytest.mark.parametrize("bad", [b"\0", b"\0x", b"/cryptoKeys/a\0b", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"\x7f", b"\n"])
def test_names_with_nul_control_or_bad_utf8_are_refused(world, key, bad):
    for text in (key.encode() + bad, bad + key.encode(), key.encode()[:20] + bad + key.encode()[20:]):
        with refused(Code.INVALID_ARGUMENT, "MALFORMED_MESSAGE", "name"):
            world.orders.raw(ENCRYPT, field(1, text))


@pytest.mark.parametrize("bad", ["..", "/../", "%2e%2e", "\u202e", "ｅu", "е"])
def test_names_that_only_look_right_are_refused(world, key, bad):
    for name in (key + bad, key.replace("/eu/", f"/{bad}/"), key.replace("acme", bad), key + "/" + bad):
        with refused(Code.INVALID_ARGUMENT, field="name"):
            world.encrypt(name)


def test_context_keys_given_twice_are_refused(world, key):
    entry = lambda k, v: field(3, field(1, k) + field(2, v))  # noqa: E731
    good = field(1, key.encode()) + field(2, b"k" * 16) + entry(b"a", b"1")
    assert world.orders.raw(WRAP, good + entry(b"b", b"1"))
    for twice in (entry(b"a", b"1"), entry(b"a", b"2")):
        with refused(Code.INVALID_ARGUMENT, "MALFORMED_MESSAGE", "context"):
            world.orders.raw(WRAP, good + twice)
    with refused(Code.INVALID_ARGUMENT, "MALFORMED_MESSAGE", "context"):
        world.orders.raw(WRAP, good + field(3, b"") + field(3, field(1, b"")))  # the empty key, in both of its forms
    for bad in (b"\xff", b"\0"):
        with refused(Code.INVALID_ARGUMENT, "MALFORMED_MESSAGE"):
            world.orders.raw(WRAP, good + entry(b"c", bad))


def test_many_small_parts_are_bounded(world, key):
    """128 KiB of empty entries would be hundreds of megabytes of structs."""
    for payload in (field(2, b"") * 65536, field(9999, b"") * 30000, field(2, field(2, b"")) * 30000):
        with refused(Code.INVALID_ARGUMENT):
            world.orders.raw(BATCH, field(1, key.encode()) + payload)
    assert world.encrypt(key)


@pytest.mark.parametrize("size", [256 * 1024 + 1, MEBIBYTE, 5 * MEBIBYTE])
def test_messages_over_the_limit_are_refused(new_world, size):
    world = new_world
    key = world.key()
    assert world.encrypt(key)  # connected before: the address will be barred for a moment
    rude = connect(world.instance, "acme-orders")
    with pytest.raises(grpc.RpcError) as e:
        rude.raw(ENCRYPT, field(1, key.encode()) + field(9, b"x" * size))
    # a slip is refused kindly by the core; far beyond it the front cuts, before the core sees a byte
    assert e.value.code() == (Code.RESOURCE_EXHAUSTED if size < 320 * 1024 else Code.UNAVAILABLE), e.value
    assert world.encrypt(key)
    until(lambda: _works(world, key))  # after a pause the sender may go on


def _works(world, key):
    """With a connection of its own: one that was refused waits longer and longer on its client's side."""
    client = connect(world.instance, "acme-orders")
    try:
        return world.encrypt(key, who=client)
    except grpc.RpcError as e:
        assert e.code() in (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED), e
        return False
    finally:
        client.close()


def test_the_largest_message_is_served(world, key):
    plain, n = b"x" * 65536, 3
    r = world.orders.env.BatchEncrypt(env.BatchEncryptRequest(name=key, items=[dict(plaintext=plain)] * n))
    assert r.failed == 0
    fill = 256 * 1024 - len(env.BatchEncryptRequest(name=key, items=[dict(plaintext=plain)] * n).SerializeToString())
    request = env.BatchEncryptRequest(name=key, items=[dict(plaintext=plain)] * n).SerializeToString()
    request += field(9999, b"p" * (fill - len(varint(9999 << 3 | 2)) - 3))
    assert len(request) == 256 * 1024
    assert env.BatchEncryptResponse.FromString(world.orders.raw(BATCH, request)).failed == 0


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_requests_are_refused(new_world, compression):
    world = new_world
    key = world.key()
    assert world.encrypt(key)  # connected before: the address will be barred for a moment
    rude = connect(world.instance, "acme-orders")
    with pytest.raises(grpc.RpcError) as e:
        rude.kms.Encrypt(msg.EncryptRequest(name=key, plaintext=b"x" * 10000), compression=compression)
    assert e.value.code() in (Code.UNIMPLEMENTED, Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED), e.value
    assert len(gzip.compress(b"x" * 10000)) < 100  # else it proved nothing
    assert world.encrypt(key)
    until(lambda: _works(world, key))


def test_a_long_header_is_refused(new_world):
    world = new_world
    key = world.key()
    assert world.encrypt(key)  # connected before: the address will be barred for a moment
    rude = connect(world.instance, "acme-orders")
    for n in (6000, 100000):
        with pytest.raises(grpc.RpcError) as e:
            rude.kms.Encrypt(msg.EncryptRequest(name=key), metadata=[("x-long", os.urandom(n).hex())])
        assert e.value.code() in (Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE, Code.INTERNAL), e.value
        assert world.encrypt(key)
        until(lambda: _works(world, key))


# ---- time ------------------------------------------------------------------------------------------------------------------------
def test_a_deadline_that_passes_is_deadline_exceeded(world, key):
    codes = set()
    for timeout in (1e-6, 1e-4, 2e-4, 4e-4):
        for _ in range(20):
            try:
                world.orders.kms.Encrypt(msg.EncryptRequest(name=key, plaintext=b"x" * 65536), timeout=timeout)
            except grpc.RpcError as e:
                codes.add(e.code())
    assert codes == {Code.DEADLINE_EXCEEDED}
    assert world.encrypt(key)


def test_calls_that_are_cancelled_leave_nothing_behind(world, key):
    futures = [world.orders.kms.Encrypt.future(msg.EncryptRequest(name=key, plaintext=b"x" * 60000), timeout=DEADLINE) for _ in range(200)]
    for f in futures[::2]:
        f.cancel()
    for f in futures[1::2]:
        assert f.result().ciphertext
    status = lambda: world.admin.system.GetStatus(system_pb2.GetStatusRequest())  # noqa: E731
    until(lambda: status().traffic.calls_in_flight <= 1, what="every call ended")
    assert status().health == "healthy"


def test_an_open_stream_is_not_counted_against_unary_calls(world, key):
    hold = threading.Event()

    def messages():
        yield env.EncryptStreamRequest(name=key, items=[{}])
        hold.wait(PATIENCE)
    calls = [world.orders.env.EncryptStream(messages(), timeout=PATIENCE) for _ in range(20)]
    for c in calls:
        next(c)
    begun = time.monotonic()
    for _ in range(20):
        world.encrypt(key)
    assert time.monotonic() - begun < PATIENCE / 4  # none of them waits for a stream to end
    hold.set()
    for c in calls:
        assert list(c) == []


def test_rates_are_limited_by_principal(fresh):
    fresh.configure(rate_per_principal=20)
    world = World(fresh.start())
    key = world.key()
    begun = time.monotonic()
    calls = [world.orders.kms.Encrypt.future(msg.EncryptRequest(name=key, plaintext=b"x"), timeout=DEADLINE) for _ in range(200)]
    refusals = [c for c in calls if c.exception() is not None]
    took, sealed = time.monotonic() - begun, 200 - len(refusals)
    assert 20 <= sealed <= 20 * (took + 1) + 1 and refusals
    for e in refusals:
        assert (e.code(), Details(e).reason) == (Code.RESOURCE_EXHAUSTED, "RATE_LIMITED") and Details(e).retry.retry_delay.seconds >= 1
    assert world.keyadmin.kms.GetCryptoKey(msg.GetCryptoKeyRequest(name=key))  # another principal has its own
    with refused(Code.RESOURCE_EXHAUSTED, "RATE_LIMITED"):  # a batch counts its items
        world.orders.env.BatchEncrypt(env.BatchEncryptRequest(name=key, items=[{}] * 100))
    until(lambda: _works(world, key))


def test_status_tells_how_it_is(world, key):
    s = world.admin.system.GetStatus(system_pb2.GetStatusRequest())
    assert (s.health, list(s.reasons), s.trust_domain, list(s.locations)) == ("healthy", [], "dev.claviger", ["eu", "us"])
    assert s.hsm.logged_in and s.hsm.token_label == "claviger" and (s.hsm.master_version, s.hsm.seal_epoch, s.hsm.audit_key_version) == (1, 1, 1)
    assert s.tenants >= 2 and s.principals >= 5 and s.policy_version >= 1 and s.journal.admits and s.journal.entries > 0
    hits, calls = s.cache.hits, s.cache.hsm_calls
    world.encrypt(key)
    for _ in range(50):
        world.encrypt(key)
    s = world.admin.system.GetStatus(system_pb2.GetStatusRequest())
    assert s.cache.hits >= hits + 50 and s.cache.hsm_calls == calls  # a warm path asks the HSM nothing


def test_protection_levels_of_answers(world, key):
    assert world.orders.kms.Encrypt(msg.EncryptRequest(name=key)).protection_level == res.SOFTWARE
