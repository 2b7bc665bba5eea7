"""claviger.envelope.v1: wrapping, data keys, rewrapping, batches and streams."""
import os
import queue
import threading

import grpc
import pytest

from conftest import res
from claviger.envelope.v1 import envelope_pb2 as env
from claviger.identity.v1 import identity_pb2 as idy
from google.rpc import code_pb2
from kit.client import DEADLINE
from kit.wire import Code, crc32c, refused

CONTEXT = {"table": "people", "column": "email", "ключ": "значение"}
OVERHEAD = 112


def wrap(world, key, plain=b"k" * 32, who=None, **kw):
    return (who or world.orders).env.Wrap(env.WrapRequest(name=key, plaintext_key=plain, **kw))


def unwrap(world, key, wrapped, who=None, **kw):
    return (who or world.orders).env.Unwrap(env.UnwrapRequest(name=key, wrapped_key=wrapped, **kw))


# ---- wrap, unwrap ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [1, 16, 32, 1024])
@pytest.mark.parametrize("context", [{}, CONTEXT])
def test_wrap_and_unwrap(world, key, size, context):
    plain = os.urandom(size)
    w = wrap(world, key, plain, context=context, plaintext_key_crc32c={"value": crc32c(plain)})
    assert w.name == key + "/cryptoKeyVersions/1" and w.verified_plaintext_key_crc32c and w.wrapped_key_crc32c.value == crc32c(w.wrapped_key)
    assert len(w.wrapped_key) == size + OVERHEAD
    backwards = dict(reversed(context.items()))  # the order of pairs does not matter
    u = unwrap(world, key, w.wrapped_key, context=backwards, wrapped_key_crc32c={"value": crc32c(w.wrapped_key)})
    assert u.plaintext_key == plain and u.name == w.name and u.used_primary and u.plaintext_key_crc32c.value == crc32c(plain)


def test_wrap_refuses(world, key):
    for plain in (b"", b"x" * 1025):
        with refused(Code.INVALID_ARGUMENT, field="plaintext_key"):
            wrap(world, key, plain)
    with refused(Code.INVALID_ARGUMENT, "CRC32C_MISMATCH", "plaintext_key_crc32c"):
        wrap(world, key, plaintext_key_crc32c={"value": 1})
    w = wrap(world, key).wrapped_key
    with refused(Code.INVALID_ARGUMENT, "CRC32C_MISMATCH", "wrapped_key_crc32c"):
        unwrap(world, key, w, wrapped_key_crc32c={"value": 1})
    with refused(Code.INVALID_ARGUMENT, field="name"):
        unwrap(world, key + "/cryptoKeyVersions/1", w)
    with refused(Code.NOT_FOUND):
        wrap(world, key + "x")


def test_context_limits_and_their_twins(world, key):
    most = {f"k{i}": "v" for i in range(32)}
    assert unwrap(world, key, wrap(world, key, context=most).wrapped_key, context=most).plaintext_key
    with refused(Code.INVALID_ARGUMENT):
        wrap(world, key, context={**most, "one": "more"})
    longest = {"k": "v" * (8192 - 6 - 4 - 1)}
    assert unwrap(world, key, wrap(world, key, context=longest).wrapped_key, context=longest).plaintext_key
    with refused(Code.INVALID_ARGUMENT, field="context"):
        wrap(world, key, context={"k": longest["k"] + "v"})


@pytest.mark.parametrize("context", [{}, {"table": "people", "column": "email"}, {**CONTEXT, "x": ""}, {**CONTEXT, "table": "People"},
                                     {"table": "people", "column": "email", "ключ": ""}, {"tablepeople": "", "column": "email", "ключ": "значение"}])
def test_every_wrong_unwrap_is_refused_alike(world, key, context):
    w = wrap(world, key, context=CONTEXT).wrapped_key
    with refused(Code.INVALID_ARGUMENT, "CIPHERTEXT") as wrong_context:
        unwrap(world, key, w, context=context)
    sealed = world.encrypt(key, b"k" * 32)
    other = world.key(key.rsplit("/", 2)[0])
    for name, bytes_ in ((key, sealed), (key, w[:-1]), (key, w[:50] + bytes([w[50] ^ 1]) + w[51:]), (key, b""), (other, w), (key, w[:3] + b"E" + w[4:])):
        with refused(Code.INVALID_ARGUMENT, "CIPHERTEXT") as r:
            unwrap(world, name, bytes_, context=CONTEXT)
        assert r.shape == wrong_context.shape
    with refused(Code.INVALID_ARGUMENT, "CIPHERTEXT"):  # and a wrapped key is no ciphertext either
        world.decrypt(key, wrap(world, key).wrapped_key)


# ---- data keys ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ask,get", [(0, 32), (16, 16), (24, 24), (32, 32), (48, 48), (64, 64)])
def test_data_keys(world, key, ask, get):
    r = world.orders.env.GenerateDataKey(env.GenerateDataKeyRequest(name=key, key_bytes=ask, context=CONTEXT))
    assert len(r.plaintext_key) == get and r.plaintext_key_crc32c.value == crc32c(r.plaintext_key)
    assert r.wrapped_key_crc32c.value == crc32c(r.wrapped_key) and r.name == key + "/cryptoKeyVersions/1"
    assert unwrap(world, key, r.wrapped_key, context=CONTEXT).plaintext_key == r.plaintext_key
    only = world.orders.env.GenerateDataKey(env.GenerateDataKeyRequest(name=key, key_bytes=ask, wrapped_only=True))
    assert only.plaintext_key == b"" and not only.HasField("plaintext_key_crc32c")
    assert len(unwrap(world, key, only.wrapped_key).plaintext_key) == get


def test_data_keys_of_other_sizes_are_refused(world, key):
    for size in (1, 15, 17, 31, 33, 65, 4096, 2**32 - 1):
        with refused(Code.INVALID_ARGUMENT, field="key_bytes"):
            world.orders.env.GenerateDataKey(env.GenerateDataKeyRequest(name=key, key_bytes=size))


def test_data_keys_are_all_different(world, key):
    keys = {world.orders.env.GenerateDataKey(env.GenerateDataKeyRequest(name=key)).plaintext_key for _ in range(50)}
    assert len(keys) == 50


# ---- rewrap ---------------------------------------------------------------------------------------------------------------------
def test_rewrap_moves_to_the_newest_version_and_shows_no_plaintext(world, ring):
    key = world.key(ring)
    marker = os.urandom(64)
    wrapped = wrap(world, key, marker, context=CONTEXT).wrapped_key
    sealed = world.encrypt(key, marker, additional_authenticated_data=b"aad")
    same = world.orders.env.Rewrap(env.RewrapRequest(name=key, ciphertext=wrapped, context=CONTEXT))
    assert same.already_newest and same.ciphertext == wrapped and same.name == same.source_name == key + "/cryptoKeyVersions/1"
    world.rotate(key)
    one = world.orders.env.Rewrap(env.RewrapRequest(name=key, ciphertext=wrapped, context=CONTEXT, ciphertext_crc32c={"value": crc32c(wrapped)}))
    two = world.orders.env.Rewrap(env.RewrapRequest(name=key, ciphertext=sealed, additional_authenticated_data=b"aad"))
    for r in (one, two):
        assert (r.source_name[-2:], r.name[-2:], r.already_newest) == ("/1", "/2", False) and r.ciphertext_crc32c.value == crc32c(r.ciphertext)
        assert marker not in r.SerializeToString()
    assert unwrap(world, key, one.ciphertext, context=CONTEXT).plaintext_key == marker and unwrap(world, key, one.ciphertext, context=CONTEXT).used_primary
    assert world.decrypt(key, two.ciphertext, additional_authenticated_data=b"aad") == marker


def test_rewrap_refuses_what_decrypt_refuses(world, key):
    wrapped = wrap(world, key, context=CONTEXT).wrapped_key
    shapes = set()
    for ciphertext, context in ((wrapped, {}), (wrapped[:-1], CONTEXT), (b"", CONTEXT), (wrapped[:3] + b"E" + wrapped[4:], CONTEXT), (os.urandom(150), {})):
        with refused(Code.INVALID_ARGUMENT, "CIPHERTEXT") as r:
            world.orders.env.Rewrap(env.RewrapRequest(name=key, ciphertext=ciphertext, context=context))
        shapes.add(r.shape)
    assert len(shapes) == 1
    with refused(Code.INVALID_ARGUMENT, field="context"):
        world.orders.env.Rewrap(env.RewrapRequest(name=key, ciphertext=wrapped, context=CONTEXT, additional_authenticated_data=b"x"))
    with refused(Code.INVALID_ARGUMENT, "CRC32C_MISMATCH", "ciphertext_crc32c"):
        world.orders.env.Rewrap(env.RewrapRequest(name=key, ciphertext=wrapped, context=CONTEXT, ciphertext_crc32c={"value": 1}))


# ---- batches -------------------------------------------------------------------------------------------------------------------
def batch_encrypt(world, name, items, who=None):
    return (who or world.orders).env.BatchEncrypt(env.BatchEncryptRequest(name=name, items=items))


def batch_decrypt(world, name, items, who=None):
    return (who or world.orders).env.BatchDecrypt(env.BatchDecryptRequest(name=name, items=items))


def test_a_thousand_items_and_not_one_more(world, key):
    plain = [f"person {i}".encode() for i in range(1000)]
    sealed = batch_encrypt(world, key, [dict(plaintext=p, context={"id": str(i)}) for i, p in enumerate(plain)])
    assert sealed.failed == 0 and len(sealed.results) == 1000 and all(r.status.code == 0 and r.name[-2:] == "/1" for r in sealed.results)
    opened = batch_decrypt(world, key, [dict(ciphertext=r.ciphertext, context={"id": str(i)}) for i, r in enumerate(sealed.results)])
    assert opened.failed == 0 and [r.plaintext for r in opened.results] == plain
    for n in (0, 1001):
        with refused(Code.INVALID_ARGUMENT, field="items"):
            batch_encrypt(world, key, [dict(plaintext=b"x")] * n)


def test_items_and_single_calls_speak_one_format(world, key):
    r = batch_encrypt(world, key, [dict(plaintext=b"p", additional_authenticated_data=b"a"), dict(plaintext=b"q")])
    assert world.decrypt(key, r.results[0].ciphertext, additional_authenticated_data=b"a") == b"p" and world.decrypt(key, r.results[1].ciphertext) == b"q"
    assert batch_decrypt(world, key, [dict(ciphertext=world.encrypt(key, b"r"))]).results[0].plaintext == b"r"


def test_one_bad_item_of_each_kind_fails_alone(world, ring, key):
    off = world.key(ring)
    world.set_state(off + "/cryptoKeyVersions/1", res.CryptoKeyVersion.DISABLED)
    good = dict(plaintext=b"good")
    bad = [(dict(plaintext=b"x" * 65537), code_pb2.INVALID_ARGUMENT, "INVALID"),
           (dict(plaintext=b"x", context={"a": "b"}, additional_authenticated_data=b"c"), code_pb2.INVALID_ARGUMENT, "INVALID"),
           (dict(plaintext=b"x", name=ring + "/cryptoKeys/absent"), code_pb2.NOT_FOUND, "NOT_FOUND"),
           (dict(plaintext=b"x", name=off), code_pb2.FAILED_PRECONDITION, "KEY_VERSION_DISABLED"),
           (dict(plaintext=b"x", name=key + "/cryptoKeyVersions/77"), code_pb2.NOT_FOUND, "NOT_FOUND"),
           (dict(plaintext=b"x", name="projects/globex/locations/us/keyRings/a/cryptoKeys/b"), code_pb2.PERMISSION_DENIED, "PERMISSION_DENIED")]
    items = [x for item, _, _ in bad for x in (good, item)] + [good]
    r = batch_encrypt(world, key, items)
    assert r.failed == len(bad) and len(r.results) == len(items)
    for i, result in enumerate(r.results):
        if i % 2 == 0:
            assert result.status.code == 0 and world.decrypt(key, result.ciphertext) == b"good" and result.name.startswith(key)
        else:
            _, code, reason = bad[i // 2]
            assert (result.status.code, result.status.reason) == (code, reason) and result.status.message
            assert not result.ciphertext and not result.name


def test_bad_items_of_a_decrypt_batch(world, ring, key):
    other = world.key(ring)
    sealed = world.encrypt(key, b"good")
    good = dict(ciphertext=sealed)
    wrapped = wrap(world, key).wrapped_key
    bad = [dict(ciphertext=b""), dict(ciphertext=sealed[:-1]), dict(ciphertext=sealed, context={"a": "b"}), dict(ciphertext=sealed, name=other),
           dict(ciphertext=wrapped), dict(ciphertext=sealed, additional_authenticated_data=b"x")]
    r = batch_decrypt(world, key, [x for b in bad for x in (good, b)] + [good])
    assert [x.plaintext for x in r.results] == [b"good", b""] * len(bad) + [b"good"] and r.failed == len(bad)
    assert len({x.status.SerializeToString() for x in r.results[1::2]}) == 1 and r.results[1].status.reason == "CIPHERTEXT"
    assert r.results[1].status.code == code_pb2.INVALID_ARGUMENT
    mixed = batch_decrypt(world, "", [dict(ciphertext=sealed, name=key), dict(ciphertext=world.encrypt(other, b"o"), name=other)])
    assert [x.plaintext for x in mixed.results] == [b"good", b"o"]


def test_a_batch_whose_name_is_bad_or_missing_is_refused_as_a_whole(world, key):
    with refused(Code.INVALID_ARGUMENT, field="name"):
        batch_encrypt(world, "", [dict(plaintext=b"x")])
    with refused(Code.INVALID_ARGUMENT, field="items.name"):
        batch_encrypt(world, key, [dict(plaintext=b"x"), dict(plaintext=b"x", name="nonsense")])
    with refused(Code.INVALID_ARGUMENT, field="name"):  # though no item needs it
        batch_encrypt(world, "nonsense", [dict(plaintext=b"x", name=key)])
    with refused(Code.INVALID_ARGUMENT, field="name"):
        list(world.orders.env.EncryptStream(iter([env.EncryptStreamRequest(name="nonsense", items=[env.EncryptItem(plaintext=b"x", name=key)])])))
    with refused(Code.PERMISSION_DENIED):  # nothing of it is permitted
        batch_encrypt(world, "projects/globex/locations/us/keyRings/a/cryptoKeys/b", [dict(plaintext=b"x")] * 3)
    with refused(Code.PERMISSION_DENIED):
        batch_encrypt(world, key, [dict(plaintext=b"x")], who=world.keyadmin)


# ---- streams --------------------------------------------------------------------------------------------------------------------
class Feed:
    """A request iterator that a test pushes into."""

    def __init__(self):
        self.q = queue.Queue()

    def __iter__(self):
        return iter(self.q.get, None)

    def push(self, m):
        self.q.put(m)

    def end(self):
        self.q.put(None)


def encrypt_messages(key, n, items=3):
    return [env.EncryptStreamRequest(name=key if i == 0 else "", sequence=1000 + i,
                                     items=[dict(plaintext=f"{i}/{j}".encode()) for j in range(items)]) for i in range(n)]


def test_streams_answer_each_message_in_order(world, key):
    sealed = list(world.orders.env.EncryptStream(iter(encrypt_messages(key, 50)), timeout=DEADLINE))
    assert [r.sequence for r in sealed] == [1000 + i for i in range(50)] and all(r.failed == 0 and len(r.results) == 3 for r in sealed)
    requests = [env.DecryptStreamRequest(name=key, sequence=i, items=[dict(ciphertext=x.ciphertext) for x in r.results]) for i, r in enumerate(sealed)]
    opened = list(world.orders.env.DecryptStream(iter(requests), timeout=DEADLINE))
    assert [x.plaintext for r in opened for x in r.results] == [f"{i}/{j}".encode() for i in range(50) for j in range(3)]


def test_a_stream_without_messages_ends_well(world):
    assert list(world.orders.env.EncryptStream(iter(()), timeout=DEADLINE)) == []


def test_a_bad_item_does_not_end_a_stream_but_a_bad_message_does(world, key):
    feed = Feed()
    call = world.orders.env.EncryptStream(iter(feed), timeout=DEADLINE)
    feed.push(env.EncryptStreamRequest(name=key, items=[dict(plaintext=b"a"), dict(plaintext=b"x" * 65537)]))
    r = next(call)
    assert r.failed == 1 and [x.status.code for x in r.results] == [0, code_pb2.INVALID_ARGUMENT]
    feed.push(env.EncryptStreamRequest(items=[dict(plaintext=b"b")]))
    assert next(call).failed == 0
    feed.push(env.EncryptStreamRequest(name=key))
    with refused(Code.INVALID_ARGUMENT, field="items"):
        next(call)
    feed.end()


def test_a_stream_gives_receipts_and_events_for_each_message(world, key):
    start = world.audit.position()
    call = world.orders.env.EncryptStream(iter(encrypt_messages(key, 4, items=5)), timeout=DEADLINE)
    assert len(list(call)) == 4
    events = world.audit.find(start, action="envelope.encrypt", principal="acme-orders", outcome="ok")  # refusals of others may come late
    assert [e.event.items for e in events] == [5] * 4 and all(e.event.key_version == key + "/cryptoKeyVersions/1" for e in events)
    receipt = dict(call.trailing_metadata())["claviger-receipt"].split()  # of the last message
    assert receipt[1] == str(events[-1].index)


def test_back_pressure_a_client_that_does_not_read_is_not_answered_without_end(world, key):
    """One answer under way at a time: the daemon takes no more messages than it can answer."""
    taken, stop, big = [], threading.Event(), b"x" * 60000

    def feed():
        for i in range(3000):
            if stop.is_set():
                return
            taken.append(i)
            yield env.EncryptStreamRequest(name=key, sequence=i, items=[dict(plaintext=big)])
    call = world.orders.env.EncryptStream(feed(), timeout=DEADLINE)
    next(call)
    before = -1
    while len(taken) != before:  # until nothing more is taken
        before = len(taken)
        stop.wait(0.3)
    assert len(taken) < 400, "24 MB and more were taken in although nobody read the answers"
    stop.set()
    rest = sum(1 for _ in call)
    assert rest + 1 == len(taken)  # and none of the taken ones was lost


def test_a_stream_cancelled_in_the_middle(world, key):
    for _ in range(5):
        feed = Feed()
        call = world.orders.env.EncryptStream(iter(feed), timeout=DEADLINE)
        for m in encrypt_messages(key, 3):
            feed.push(m)
        next(call)
        call.cancel()
        feed.end()
        with pytest.raises(grpc.RpcError) as e:
            list(call)
        assert e.value.code() == Code.CANCELLED
    assert world.encrypt(key)


def test_a_principal_disabled_in_mid_stream_gets_no_next_answer(new_world):
    world = new_world
    key = world.key()
    feed = Feed()
    call = world.orders.env.EncryptStream(iter(feed), timeout=DEADLINE)
    one, two = encrypt_messages(key, 2)
    feed.push(one)
    assert next(call).failed == 0
    request = idy.UpdatePrincipalRequest(principal=idy.Principal(name="principals/acme-orders", state=idy.Principal.DISABLED))
    request.update_mask.paths.append("state")
    world.admin.identity.UpdatePrincipal(request)
    feed.push(two)
    with refused(Code.UNAUTHENTICATED):
        next(call)
    feed.end()


def test_a_version_disabled_in_mid_stream_fails_the_items(world, ring):
    key = world.key(ring)
    feed = Feed()
    call = world.orders.env.EncryptStream(iter(feed), timeout=DEADLINE)
    one, two = encrypt_messages(key, 2)
    feed.push(one)
    assert next(call).failed == 0
    world.set_state(key + "/cryptoKeyVersions/1", res.CryptoKeyVersion.DISABLED)
    feed.push(two)
    r = next(call)
    assert r.failed == 3 and {x.status.reason for x in r.results} == {"KEY_VERSION_DISABLED"}
    feed.end()
    assert list(call) == []
