"""Where secrets may lie: markers in everything that is secret, every call that carries one made well and badly, then a look into every
file, every process's arguments and environment, and the memory of all four."""
import contextlib
import os
import pathlib
import re
import secrets as random_source
import stat
import time

import grpc
import pytest
from claviger.envelope.v1 import envelope_pb2 as env
from conftest import World
from google.cloud.kms.v1 import resources_pb2 as res, service_pb2 as msg
from google.protobuf import wrappers_pb2
from kit.client import connect
from kit.instance import until

import memory
import rows

CLOSED_S = 2  # after its connection has closed, a plaintext is gone within


not_sanitized = pytest.mark.skipif(rows.SANITIZED, reason="under sanitizers memory is kept, not wiped, and terabytes of it are their own")


class Markers:
    """Secrets nobody can have by chance. One of its own for every place it is put in."""

    def __init__(self):
        self.all = {}

    def __call__(self, where, text=False):
        value = random_source.token_hex(16).encode() if text else random_source.token_bytes(32)
        self.all[f"{where} {len(self.all)}"] = value
        return value.decode() if text else value

    def known(self, where, value):
        self.all[f"{where} {len(self.all)}"] = value


@contextlib.contextmanager
def fails():
    with pytest.raises(grpc.RpcError):
        yield


def drive(world, key, other, client, stranger, markers):
    """Every call of the data plane with markers in all that it takes, made well and in every way badly."""
    m, kms, e = markers, client.kms, client.env
    aad, context = m("aad"), {"column": m("context", text=True)}
    sealed = kms.Encrypt(msg.EncryptRequest(name=key, plaintext=m("plaintext"), additional_authenticated_data=aad)).ciphertext
    kms.Decrypt(msg.DecryptRequest(name=key, ciphertext=sealed, additional_authenticated_data=aad))
    wrapped = e.Wrap(env.WrapRequest(name=key, plaintext_key=m("wrapped key"), context=context)).wrapped_key
    e.Unwrap(env.UnwrapRequest(name=key, wrapped_key=wrapped, context=context))
    made = e.GenerateDataKey(env.GenerateDataKeyRequest(name=key, context=context))
    m.known("data key", made.plaintext_key)
    e.Rewrap(env.RewrapRequest(name=key, ciphertext=sealed, additional_authenticated_data=aad))
    m.known("random", kms.GenerateRandomBytes(msg.GenerateRandomBytesRequest(
        location=world.location, length_bytes=32, protection_level=res.HSM)).data)
    items = [{"plaintext": m("batch"), "context": {"c": m("batch context", text=True)}} for _ in range(20)]
    batch = e.BatchEncrypt(env.BatchEncryptRequest(name=key, items=items))
    e.BatchDecrypt(env.BatchDecryptRequest(name=key, items=[
        {"ciphertext": r.ciphertext, "context": i["context"]} for r, i in zip(batch.results, items)]))
    stream = list(e.EncryptStream(iter([env.EncryptStreamRequest(name=key, items=[{"plaintext": m("stream")}])] * 2), timeout=10))
    list(e.DecryptStream(iter([env.DecryptStreamRequest(name=key, items=[{"ciphertext": stream[0].results[0].ciphertext}])]), timeout=10))

    # ---- and badly ----
    wrong = wrappers_pb2.Int64Value(value=1)
    with fails():
        kms.Encrypt(msg.EncryptRequest(name=key, plaintext=m("bad checksum"), plaintext_crc32c=wrong))
    with fails():
        kms.Encrypt(msg.EncryptRequest(name=key, plaintext=m("too long") + b"x" * 65536))
    with fails():
        kms.Encrypt(msg.EncryptRequest(name=key + "/" + m("bad name", text=True), plaintext=m("with a bad name")))
    with fails():
        kms.Encrypt(msg.EncryptRequest(name=key + "x", plaintext=m("absent key")))
    with fails():
        kms.Encrypt(msg.EncryptRequest(name=other, plaintext=m("another's key"), additional_authenticated_data=m("another's aad")))
    with fails():
        kms.Decrypt(msg.DecryptRequest(name=key, ciphertext=sealed, additional_authenticated_data=m("wrong aad")))
    with fails():
        kms.Decrypt(msg.DecryptRequest(name=key, ciphertext=sealed[:-1] + bytes([sealed[-1] ^ 1]), additional_authenticated_data=aad))
    with fails():
        e.Unwrap(env.UnwrapRequest(name=key, wrapped_key=wrapped, context={"column": m("wrong context", text=True)}))
    with fails():
        e.Wrap(env.WrapRequest(name=key, plaintext_key=m("too long a key") * 40))
    with fails():
        client.raw("/claviger.envelope.v1.Envelope/Wrap", b"\x0a\xff\xff" + m("malformed"))
    with fails():
        client.raw("/claviger.envelope.v1.Envelope/NoSuchMethod", m("unknown method"))
    with fails():
        stranger.kms.Encrypt(msg.EncryptRequest(name=key, plaintext=m("stranger")))
    mixed = e.BatchEncrypt(env.BatchEncryptRequest(name=key, items=[{"plaintext": m("mixed")}, {"plaintext": m("mixed, refused"), "name": other}]))
    assert mixed.failed == 1
    gone = kms.Encrypt.future(msg.EncryptRequest(name=key, plaintext=m("cancelled")))
    gone.cancel()


class Driven:
    """A daemon that has seen everything. Its clients are still connected until part()."""

    def __init__(self, instance, folder):
        self.instance, self.world, self.markers = instance, World(instance), Markers()
        self.key, other = self.world.key(versions=2), self.world.key2()
        self.client, self.stranger = connect(instance, "acme-orders"), connect(instance, "globex-billing")
        drive(self.world, self.key, other, self.client, self.stranger, self.markers)
        self.pin = {"PIN": (instance.dir / "pin").read_bytes().strip()}
        self.pids = {"monitor": instance.process.pid, **instance.children()}

    def part(self):
        self.client.close()
        self.stranger.close()


@pytest.fixture(scope="module")
def driven(copies, base):
    if os.geteuid() != 0:
        pytest.skip("only root may look into the memory of a process that is not dumpable")
    instance = copies()
    instance.configure(log_level="debug")
    instance.start()
    made = Driven(instance, base)
    yield made
    assert instance.stop() == 0, instance.log


def told(hits):
    return "\n".join(sorted(f"{name}: {region}" for name, region in hits))


# ---- processes, while everything is at work -------------------------------------------------------------------------------
def test_arguments_and_environments_hold_no_secret(driven):
    for role, pid in driven.pids.items():
        for file in ("cmdline", "environ"):
            data = pathlib.Path(f"/proc/{pid}/{file}").read_bytes()
            for name, secret in {**driven.markers.all, **driven.pin}.items():
                assert all(s not in data for s in memory.spellings(secret)), (role, file, name)
    for role in ("hsm", "core", "front"):  # nothing that a library could be told by
        assert pathlib.Path(f"/proc/{driven.pids[role]}/environ").read_bytes() == b"LANG=C.UTF-8\0LD_BIND_NOW=1\0"


@not_sanitized
def test_the_pin_lies_in_locked_memory_of_hsm_and_nowhere_else(driven):
    for role in ("monitor", "front", "core"):
        assert not memory.in_memory(driven.pids[role], driven.pin), role
    hits = memory.in_memory(driven.pids["hsm"], driven.pin)
    assert all(region.locked for _, region in hits), told(hits)


@not_sanitized
def test_monitor_and_hsm_see_no_plaintext(driven):
    for role in ("monitor", "hsm"):
        seen = {k: v for k, v in driven.markers.all.items() if role == "monitor" or not k.startswith("random")}
        hits = memory.in_memory(driven.pids[role], seen)
        assert not hits, f"{role}: {told(hits)}"


@not_sanitized
def test_keys_lie_in_locked_memory_of_core_and_nowhere_else(driven):
    """What core keeps in locked memory is looked for everywhere else: in its own other memory and in the other three."""
    keys = memory.key_bytes(driven.pids["core"])
    assert len(keys) > 20, "no keys in core: nothing was looked for"
    for role in ("monitor", "front", "hsm"):
        hits = memory.in_memory(driven.pids[role], keys)
        assert not hits, f"{role}: {told(hits)}"
    some = dict(list(keys.items())[::len(keys) // 20])  # core's memory is large
    hits = memory.in_memory(driven.pids["core"], some)
    assert len({name for name, region in hits if region.locked}) > len(some) / 2  # the search finds them where they are; some move on
    loose = {(name, region) for name, region in hits if not region.locked}
    assert not loose, told(loose)


def test_nothing_is_written_where_nobody_looks(driven):
    """No core file, and no open file outside the instance, a deleted one for instance: what test_no_file_holds_a_secret reads is all."""
    for role, pid in driven.pids.items():
        limits = pathlib.Path(f"/proc/{pid}/limits").read_text()
        assert re.search(r"^Max core file size +0 +0 ", limits, re.M), role
        for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                if stat.S_ISREG(fd.stat().st_mode):
                    where = os.readlink(fd)
                    assert pathlib.Path(where).is_relative_to(driven.instance.dir) and not where.endswith("(deleted)"), (role, where)


# ---- after the connection has closed ------------------------------------------------------------------------------------------
@not_sanitized
def test_plaintext_is_gone_with_its_connection(driven):
    driven.part()
    closed, left = time.monotonic(), None
    while left is None or left and began < closed + CLOSED_S:
        began = time.monotonic()
        left = [(name, f"{role}, {region}") for role in ("front", "core")
                for name, region in memory.in_memory(driven.pids[role], driven.markers.all)]
    assert not left, told(left)


@not_sanitized
def test_the_search_finds_what_is_there(driven):
    """An open stream's key is its memory: so is the search's eyesight."""
    client = connect(driven.instance, "acme-orders")
    request = env.EncryptStreamRequest(name=driven.key, items=[{"plaintext": b"x"}])
    going = iter([request])

    def forever():
        yield next(going)
        until(lambda: done, 10)
    done = []
    stream = client.env.EncryptStream(forever(), timeout=10)
    next(stream)
    assert memory.in_memory(driven.pids["core"], {"name": driven.key.encode()})
    done.append(True)
    stream.cancel()
    client.close()


# ---- files, after all of it and an orderly end --------------------------------------------------------------------------------
def test_no_file_holds_a_secret(driven):
    """Store and its log, journal, run folder, the daemon's log at its most talkative; first running, then stopped."""
    folder, pin_file = driven.instance.dir, driven.instance.dir / "pin"
    everything = {**driven.markers.all, **driven.pin}
    assert (folder / "state/store.db-wal").exists() and memory.in_files(folder, driven.pin) == {("pin", "PIN")}  # it is found where it is
    assert memory.in_files(folder, everything, [pin_file]) == set()
    driven.instance.stop()
    assert memory.in_files(folder, everything, [pin_file]) == set()
    driven.instance.start()


def test_spellings_are_found(tmp_path):
    import base64
    secret = random_source.token_bytes(32)
    for pad in range(4):
        (tmp_path / "f").write_bytes(base64.b64encode(b"n" * pad + secret + b"tail"))
        assert memory.in_files(tmp_path, {"s": secret}) == {("f", "s")}, pad
    (tmp_path / "f").write_bytes(b"x" + secret.hex().upper().encode())
    assert memory.in_files(tmp_path, {"s": secret}) == {("f", "s")}
    (tmp_path / "f").write_bytes(secret[:31])
    assert memory.in_files(tmp_path, {"s": secret}) == set()
