"""Protection level HSM: the key is made on the token and used there, over deaths of the processes and absences of the token."""
import collections
import itertools
import os
import shutil
import signal
import threading
import time

import grpc
import pytest

from claviger.envelope.v1 import envelope_pb2 as env
from claviger.lifecycle.v1 import lifecycle_pb2 as life
from claviger.masters.v1 import masters_pb2 as mas
from conftest import World, msg, res
from google.protobuf import field_mask_pb2
from kit.client import DEADLINE, AuditLog
from kit.instance import SLOWER, until
from kit.wire import Code, Details, crc32c, refused
from test_kmsctl import USAGE, Ctl

HSM, SOFTWARE = res.HSM, res.SOFTWARE
OVERHEAD, MOST = 100, 8192
AWAY = (Code.UNAVAILABLE, "HSM_UNAVAILABLE")


def make(world, ring=None, **fields):
    return world.key(ring, version_template=dict(protection_level=HSM), **fields)


@pytest.fixture(scope="module")
def hsm_key(world, ring):
    return make(world, ring)


def get(world, name):
    return world.keyadmin.kms.GetCryptoKey(msg.GetCryptoKeyRequest(name=name))


# ---- as Cloud KMS shows it ---------------------------------------------------------------------------------------------------
def test_shown_in_every_view(world, ring):
    audit = AuditLog(world.admin)
    start, key = audit.position(), make(world, ring)
    k, v = get(world, key), world.keyadmin.kms.GetCryptoKeyVersion(msg.GetCryptoKeyVersionRequest(name=f"{key}/cryptoKeyVersions/1"))
    assert (k.version_template.protection_level, k.primary.protection_level, v.protection_level) == (HSM, HSM, HSM)
    assert v.algorithm == res.CryptoKeyVersion.GOOGLE_SYMMETRIC_ENCRYPTION and v.state == res.CryptoKeyVersion.ENABLED
    listed = {x.name: x for x in world.keyadmin.kms.ListCryptoKeys(msg.ListCryptoKeysRequest(parent=ring)).crypto_keys}
    assert listed[key].primary.protection_level == HSM
    assert '"protection":"HSM"' in audit.one(start, action="kms.cryptoKeys.create", resource=key, outcome="ok").event.after
    software = world.key(ring)
    assert get(world, software).version_template.protection_level == get(world, software).primary.protection_level == SOFTWARE
    second = world.rotate(key)
    assert world.keyadmin.kms.GetCryptoKeyVersion(msg.GetCryptoKeyVersionRequest(name=second)).protection_level == HSM


def test_the_level_never_changes(world, ring, hsm_key):
    def update(name, level, path):
        return world.keyadmin.kms.UpdateCryptoKey(msg.UpdateCryptoKeyRequest(
            crypto_key=dict(name=name, version_template=dict(protection_level=level)), update_mask=field_mask_pb2.FieldMask(paths=[path])))
    software = world.key(ring)
    for path in ("version_template", "version_template.protection_level"):
        for name, other in ((hsm_key, SOFTWARE), (software, HSM)):
            with refused(Code.INVALID_ARGUMENT, field="crypto_key.version_template.protection_level"):
                update(name, other, path)
        assert update(hsm_key, HSM, path).version_template.protection_level == HSM
    for level in (res.EXTERNAL, res.EXTERNAL_VPC):
        with refused(Code.UNIMPLEMENTED, "PROTECTION_LEVEL"):
            world.key(ring, version_template=dict(protection_level=level))


# ---- use ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [0, 1, 1000, MOST - 3])
def test_encrypt_and_decrypt(world, hsm_key, size):
    plain, aad = os.urandom(size), b"aad"
    c = world.orders.kms.Encrypt(msg.EncryptRequest(name=hsm_key, plaintext=plain, additional_authenticated_data=aad,
                                                    plaintext_crc32c={"value": crc32c(plain)}))
    assert c.protection_level == HSM and c.name == f"{hsm_key}/cryptoKeyVersions/1" and c.verified_plaintext_crc32c
    assert len(c.ciphertext) == size + OVERHEAD and c.ciphertext[:8] == b"CLVe\x01\0\0\0" and c.ciphertext_crc32c.value == crc32c(c.ciphertext)
    d = world.orders.kms.Decrypt(msg.DecryptRequest(name=hsm_key, ciphertext=c.ciphertext, additional_authenticated_data=aad))
    assert (d.plaintext, d.protection_level, d.used_primary) == (plain, HSM, True) and d.plaintext_crc32c.value == crc32c(plain)
    assert world.encrypt(hsm_key, plain, additional_authenticated_data=aad) != c.ciphertext


def test_the_limit_is_cloud_kmss(world, hsm_key):
    with refused(Code.INVALID_ARGUMENT, field="plaintext"):
        world.encrypt(hsm_key, b"x" * (MOST + 1))
    with refused(Code.INVALID_ARGUMENT, field="plaintext"):
        world.encrypt(hsm_key, b"x" * MOST, additional_authenticated_data=b"y")
    assert world.decrypt(hsm_key, world.encrypt(hsm_key, b"x" * MOST)) == b"x" * MOST
    assert world.encrypt(world.key(), b"x" * 65536)


def test_nothing_else_decrypts(world, ring, hsm_key):
    other, software = make(world, ring), world.key(ring)
    sealed = world.encrypt(hsm_key, b"card")
    seen = set()

    def no(name, ciphertext, **kw):
        with pytest.raises(grpc.RpcError) as e:
            world.decrypt(name, ciphertext, **kw)
        seen.add((e.value.code(), Details(e.value).reason, e.value.details()))
    for at in [0, 3, 4, 7, 9, 30, 41, 71, 73, 83, 85, len(sealed) - 1]:
        no(hsm_key, sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1:])
    no(hsm_key, sealed[:-1])
    no(hsm_key, sealed + b"x")
    no(hsm_key, sealed, additional_authenticated_data=b"other")
    no(other, sealed)
    no(software, sealed)
    no(hsm_key, sealed[:3] + b"E" + sealed[4:] + b"x" * 12)  # the other level's type over this level's version
    mixed = world.encrypt(software, b"x" * 40)
    no(software, mixed[:3] + b"e" + mixed[4:])
    no(hsm_key, world.orders.env.Wrap(env.WrapRequest(name=hsm_key, plaintext_key=b"k" * 16)).wrapped_key)
    no(hsm_key, sealed[:3] + b"k" + sealed[4:])
    assert len(seen) == 1, seen
    assert world.decrypt(hsm_key, sealed) == b"card"


def test_wrap_data_keys_and_rewrap(world, ring):
    key, context = make(world, ring), {"table": "cards"}
    w = world.orders.env.Wrap(env.WrapRequest(name=key, plaintext_key=b"k" * 32, context=context))
    assert w.wrapped_key[:4] == b"CLVw" and len(w.wrapped_key) == 32 + OVERHEAD
    assert world.orders.env.Unwrap(env.UnwrapRequest(name=key, wrapped_key=w.wrapped_key, context=context)).plaintext_key == b"k" * 32
    g = world.orders.env.GenerateDataKey(env.GenerateDataKeyRequest(name=key, context=context))
    again = world.orders.env.GenerateDataKey(env.GenerateDataKeyRequest(name=key, context=context))
    assert len(g.plaintext_key) == 32 and g.plaintext_key != again.plaintext_key
    assert world.orders.env.Unwrap(env.UnwrapRequest(name=key, wrapped_key=g.wrapped_key, context=context)).plaintext_key == g.plaintext_key
    data = world.encrypt(key, b"card")
    world.rotate(key)
    for old, use in ((w.wrapped_key, dict(context=context)), (data, {})):
        r = world.orders.env.Rewrap(env.RewrapRequest(name=key, ciphertext=old, **use))
        assert r.source_name.endswith("/1") and r.name.endswith("/2") and not r.already_newest and r.ciphertext[3] == old[3]
    assert world.decrypt(key, r.ciphertext) == world.decrypt(key, data) == b"card"


def test_batches_and_streams(world, ring, hsm_key):
    software = world.key(ring)
    items = [env.EncryptItem(plaintext=b"%d" % n, name=software if n % 3 == 0 else "") for n in range(100)]
    items[7].plaintext = b"x" * (MOST + 1)
    done = world.orders.env.BatchEncrypt(env.BatchEncryptRequest(name=hsm_key, items=items))
    assert done.failed == 1 and done.results[7].status.code == Code.INVALID_ARGUMENT.value[0]
    good = [n for n in range(100) if n != 7]
    assert collections.Counter(done.results[n].ciphertext[3:4] for n in good) == {b"E": 34, b"e": 65}
    back = [env.DecryptItem(ciphertext=done.results[n].ciphertext, name=software if n % 3 == 0 else "") for n in good]
    opened = world.orders.env.BatchDecrypt(env.BatchDecryptRequest(name=hsm_key, items=back))
    assert opened.failed == 0 and [r.plaintext for r in opened.results] == [b"%d" % n for n in good]

    def messages():
        for n in range(3):
            yield env.EncryptStreamRequest(name=hsm_key if n == 0 else "", sequence=n, items=[env.EncryptItem(plaintext=b"s%d" % n)])
    answers = list(world.orders.env.EncryptStream(messages()))
    assert [world.decrypt(hsm_key, a.results[0].ciphertext) for a in answers] == [b"s0", b"s1", b"s2"]


def test_states(world, ring):
    key = make(world, ring)
    sealed, version = world.encrypt(key, b"x"), f"{key}/cryptoKeyVersions/1"
    world.set_state(version, res.CryptoKeyVersion.DISABLED)
    for call in (lambda: world.encrypt(key, b"x"), lambda: world.decrypt(key, sealed)):
        with refused(Code.FAILED_PRECONDITION, "KEY_VERSION_DISABLED"):
            call()
    world.set_state(version, res.CryptoKeyVersion.ENABLED)
    assert world.decrypt(key, sealed) == b"x"
    assert world.keyadmin.life.RotateKey(life.RotateKeyRequest(name=key)).name.endswith("/2")
    assert world.decrypt(key, sealed) == b"x"


def test_kmsctl(world, ring):
    ctl, short = Ctl(world), f"acme/eu/{ring.rsplit('/', 1)[1]}/{world.word('card')}"
    made = ctl.json("keys", "create", short, "--protection-level", "hsm")
    assert made["version_template"]["protection_level"] == "HSM" and made["primary"]["protection_level"] == "HSM"
    assert "HSM" in ctl.text("versions", "list", short)
    assert "--protection-level is software or hsm" in ctl("keys", "create", short + "x", "--protection-level", "token", code=USAGE)
    assert ctl.json("keys", "create", short + "y", "--protection-level", "software")["primary"]["protection_level"] == "SOFTWARE"


def test_a_tenant_has_its_share_of_the_token(fresh):
    fresh.configure(token_keys_per_tenant=2)
    w = World(fresh.start())
    first = make(w)
    make(w)
    ring = w.ring()
    for more in (lambda: make(w, ring), lambda: w.rotate(first), lambda: w.keyadmin.life.RotateKey(life.RotateKeyRequest(name=first))):
        with refused(Code.RESOURCE_EXHAUSTED, "TENANT_TOKEN_KEYS"):
            more()
    w.key(ring)  # of the other level there may be more
    other = w.keyadmin2.kms
    other.CreateKeyRing(msg.CreateKeyRingRequest(parent="projects/globex/locations/us", key_ring_id="pii"))
    of_theirs = res.CryptoKey(purpose=res.CryptoKey.ENCRYPT_DECRYPT, version_template=dict(protection_level=HSM))
    other.CreateCryptoKey(msg.CreateCryptoKeyRequest(parent="projects/globex/locations/us/keyRings/pii", crypto_key_id="card", crypto_key=of_theirs))
    assert w.decrypt(first, w.encrypt(first, b"x")) == b"x"


def test_one_tenants_batches_hold_up_nobody_else(new_world):
    """Batches for the token are the longest calls there are. One tenant sends many at once: another tenant's call, which waits for
    the same threads, is served in turn, not behind them all."""
    w, many = new_world, 16
    key, other = make(w), w.keyadmin2
    items = [env.EncryptItem(plaintext=b"x")] * int(500 / SLOWER)
    stop, done, wrong = threading.Event(), itertools.count(), []
    seen = [0]

    def flood():
        while not stop.is_set():
            try:
                w.orders.env.BatchEncrypt(env.BatchEncryptRequest(name=key, items=items), timeout=600)  # they wait for each other
                seen[0] = next(done) + 1
            except grpc.RpcError as e:
                wrong.append(e)
    threads = [threading.Thread(target=flood) for _ in range(many)]
    for t in threads:
        t.start()
    try:
        until(lambda: seen[0] > 8 or wrong, 60 * SLOWER, "the flood")
        waited = []
        for _ in range(9):
            before = seen[0]
            other.kms.ListKeyRings(msg.ListKeyRingsRequest(parent="projects/globex/locations/us"), timeout=60 * SLOWER)
            waited.append(seen[0] - before)
    finally:
        stop.set()
        for t in threads:
            t.join()
    assert not wrong, wrong[:3]
    assert sorted(waited)[4] <= 6, waited  # first come, first served would be some thirteen


# ---- what fails meanwhile ----------------------------------------------------------------------------------------------------
def kill(instance, role):
    pid = instance.children()[role]
    os.kill(pid, signal.SIGKILL)
    until(lambda: instance.children().get(role, pid) != pid, 10 * SLOWER, f"another {role}")


def served(call):
    """Its answer once it is served again; what comes before says UNAVAILABLE, and for the token when to come back."""
    def once():
        try:
            return [call()]
        except grpc.RpcError as e:
            assert e.code() == Code.UNAVAILABLE, e
            details = Details(e)
            assert details.reason != "HSM_UNAVAILABLE" or details.retry is not None
            return None
    return until(once, 20 * SLOWER, "service")[0]


def test_over_deaths_of_hsm_and_core(new_world):
    """Four threads encrypt and decrypt while hsm and core die in turns: no answer is wrong, all that was answered opens."""
    instance, key = new_world.instance, make(new_world)
    stop, wrong, sealed = threading.Event(), [], []

    def work(n):
        count = 0
        while not stop.is_set():
            text = b"%d/%d" % (n, count)
            try:
                c = new_world.encrypt(key, text)
                sealed.append((text, c))
                if new_world.decrypt(key, c) != text:
                    wrong.append(text)
            except grpc.RpcError as e:
                if e.code() != Code.UNAVAILABLE:
                    wrong.append(e)
            count += 1
    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    try:
        for role in ("hsm", "core", "hsm", "core"):
            have = len(sealed)
            until(lambda: len(sealed) > have + 20 or wrong, 20 * SLOWER, "some work")
            kill(instance, role)
        have = len(sealed)
        until(lambda: len(sealed) > have + 20 or wrong, 20 * SLOWER, "work after the last death")
    finally:
        stop.set()
        for t in threads:
            t.join()
    assert not wrong, wrong[:3]
    assert len({c[72:84] for _, c in sealed}) == len(sealed)  # no nonce twice
    for text, c in sealed[:: max(1, len(sealed) // 200)]:
        assert new_world.decrypt(key, c) == text


def test_the_master_rotates_beside_them(fresh):
    """A new master on the token, twice a backup of it: whoever encrypts and decrypts on the token meanwhile hears nothing of that."""
    fresh.configure(hsm_timeout="20s")  # what is asked here is that calls are answered, not how fast the disk is
    w = World(fresh.start())
    ring = w.ring()
    keys = [make(w, ring) for _ in range(6)]
    stop, wrong, done = threading.Event(), [], [0]

    def work():
        for n in itertools.count():
            if stop.is_set():
                return
            key, text = keys[n % len(keys)], b"%d" % n
            try:
                if w.decrypt(key, w.encrypt(key, text)) != text:
                    wrong.append(text)
            except grpc.RpcError as e:
                wrong.append(e)
            done[0] += 1
    thread = threading.Thread(target=work)
    thread.start()
    try:
        until(lambda: done[0] > 5, 20, "some work")
        w.admin.masters.RotateMaster(mas.RotateRequest())
        until(lambda: [m.state for m in w.admin.masters.GetMasterStatus(mas.GetStatusRequest()).versions] ==
              [mas.TokenSecret.RETIRED, mas.TokenSecret.CURRENT], 60, "the rotation")
        have = done[0]
        until(lambda: done[0] > have + 5 or wrong, 20, "work after it")
    finally:
        stop.set()
        thread.join()
    assert not wrong, wrong[:3]


def test_while_the_token_is_away(new_world):
    """The token's folder goes: this level fails and says when to come back, cached keys go on; it returns by itself."""
    instance = new_world.instance
    hot, key = new_world.key(), make(new_world)
    cached, sealed = new_world.encrypt(hot, b"cached"), new_world.encrypt(key, b"card")
    batch = env.BatchDecryptRequest(name=key, items=[env.DecryptItem(ciphertext=sealed)] * 50 + [env.DecryptItem(ciphertext=cached, name=hot)])
    tokens = next(instance.dir.glob("tokens"))
    tokens.rename(instance.dir / "away")
    until(lambda: fails(lambda: new_world.decrypt(key, sealed)), what="the loss to be noticed")
    e = failure(lambda: new_world.encrypt(key, b"x"))
    assert (e.code(), Details(e).reason) == AWAY and Details(e).retry is not None
    assert new_world.decrypt(hot, cached) == b"cached"
    begun = time.monotonic()
    done = new_world.orders.env.BatchDecrypt(batch)
    assert done.failed == 50 and done.results[50].plaintext == b"cached" and done.results[49].status.reason == "HSM_UNAVAILABLE"
    assert time.monotonic() - begun < DEADLINE / 2  # not fifty times hsm_timeout
    with refused(*AWAY):
        make(new_world)
    (instance.dir / "away").rename(tokens)
    assert served(lambda: new_world.decrypt(key, sealed)) == b"card"
    assert new_world.decrypt(key, new_world.encrypt(key, b"again")) == b"again"


def failure(call):
    with pytest.raises(grpc.RpcError) as e:
        call()
    return e.value


def fails(call):
    try:
        call()
        return False
    except grpc.RpcError as e:
        return Details(e).reason == "HSM_UNAVAILABLE"


def test_a_token_from_an_older_backup(fresh):
    """What was made after the backup is not on it: fsck names it, its key waits for the token, the others serve."""
    world = World(fresh.start())
    old = make(world)
    assert fresh.stop() == 0
    tokens, backup = fresh.dir / "tokens", fresh.dir / "older"
    shutil.copytree(tokens, backup)
    world = World(fresh.start())
    world.names = itertools.count(100)
    new = make(world)
    sealed = world.encrypt(new, b"card")
    fresh.restart()
    world = World(fresh)
    assert world.decrypt(new, sealed) == b"card"
    assert fresh.stop() == 0
    code, said = fresh.run("fsck")
    assert code == 0, said
    tokens.rename(fresh.dir / "newer")
    backup.rename(tokens)
    code, said = fresh.run("fsck")
    assert code != 0 and said.count("KEY_OBJECT_ABSENT") == 1 and "1 findings" in said, said
    world = World(fresh.start())
    e = failure(lambda: world.decrypt(new, sealed))
    assert (e.code(), Details(e).reason) == AWAY
    assert world.decrypt(old, world.encrypt(old, b"x")) == b"x"
    assert fresh.stop() == 0
    tokens.rename(backup)
    (fresh.dir / "newer").rename(tokens)
    world = World(fresh.start())
    assert world.decrypt(new, sealed) == b"card"


def test_creations_over_deaths(new_world):
    """Core and hsm die while keys are made: each is there whole or not at all, and what is left on the token is known to the daemon."""
    instance, ring = new_world.instance, new_world.ring()
    stop, made, wrong = threading.Event(), [], []

    def work():
        while not stop.is_set():
            try:
                made.append(make(new_world, ring))
            except grpc.RpcError as e:
                if e.code() not in (Code.UNAVAILABLE, Code.ALREADY_EXISTS):
                    wrong.append(e)
    threads = [threading.Thread(target=work) for _ in range(2)]
    for t in threads:
        t.start()
    try:
        for role in ("core", "hsm", "core"):
            have = len(made)
            until(lambda: len(made) > have + 2 or wrong, 20 * SLOWER, "some keys")
            kill(instance, role)
        have = len(made)
        until(lambda: len(made) > have or wrong, 20 * SLOWER, "a key after the last death")
    finally:
        stop.set()
        for t in threads:
            t.join()
    assert not wrong, wrong[:3]
    there = {k.name for k in new_world.keyadmin.kms.ListCryptoKeys(msg.ListCryptoKeysRequest(parent=ring, page_size=1000)).crypto_keys}
    assert set(made) <= there
    for key in there:
        assert new_world.decrypt(key, new_world.encrypt(key, b"x")) == b"x"
    assert instance.stop() == 0
    code, said = instance.run("fsck", timeout=60)
    assert code == 0, said
