"""The audit log: every call, every field, never a secret; and receipts that can be checked."""
import base64
import hashlib
import os
import re
import threading
import time

import grpc
import pytest

from claviger.audit.v1 import audit_pb2
from claviger.envelope.v1 import envelope_pb2 as env
from claviger.policy.v1 import policy_pb2 as pol
from claviger.tenants.v1 import tenants_pb2 as ten
from conftest import ENCRYPT_DECRYPT, msg, res
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from kit.client import DEADLINE, AuditLog, in_threads
from kit.instance import until
from kit.wire import Code, refused

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def leaf_of(instance, identity):
    cert = x509.load_pem_x509_certificate(instance.cert(identity)[0].read_bytes())
    return hashlib.sha256(cert.public_bytes(serialization.Encoding.DER)).digest()


def every_call(world, ring):
    """(who, action, resource, key version or "", call) for one good call of every kind."""
    key = world.key(ring)
    version = key + "/cryptoKeyVersions/1"
    sealed = world.encrypt(key)
    wrapped = world.orders.env.Wrap(env.WrapRequest(name=key, plaintext_key=b"k")).wrapped_key
    k, o, a, x = world.keyadmin.kms, world.orders, world.admin, world.word("audited")
    new_ring = f"{world.location}/keyRings/{x}"
    template = dict(purpose=ENCRYPT_DECRYPT)
    return [
        ("acme-keyadmin", "kms.keyRings.create", new_ring, "", k.CreateKeyRing, msg.CreateKeyRingRequest(parent=world.location, key_ring_id=x)),
        ("acme-keyadmin", "kms.keyRings.get", ring, "", k.GetKeyRing, msg.GetKeyRingRequest(name=ring)),
        ("acme-keyadmin", "kms.keyRings.list", world.location, "", k.ListKeyRings, msg.ListKeyRingsRequest(parent=world.location)),
        ("acme-keyadmin", "kms.cryptoKeys.create", f"{ring}/cryptoKeys/{x}", "", k.CreateCryptoKey,
         msg.CreateCryptoKeyRequest(parent=ring, crypto_key_id=x, crypto_key=template)),
        ("acme-keyadmin", "kms.cryptoKeys.get", key, "", k.GetCryptoKey, msg.GetCryptoKeyRequest(name=key)),
        ("acme-keyadmin", "kms.cryptoKeys.list", ring, "", k.ListCryptoKeys, msg.ListCryptoKeysRequest(parent=ring)),
        ("acme-keyadmin", "kms.cryptoKeys.update", key, "", k.UpdateCryptoKey,
         msg.UpdateCryptoKeyRequest(crypto_key=dict(name=key, labels={"a": "b"}), update_mask={"paths": ["labels"]})),
        ("acme-keyadmin", "kms.cryptoKeyVersions.create", key, key + "/cryptoKeyVersions/2", k.CreateCryptoKeyVersion,
         msg.CreateCryptoKeyVersionRequest(parent=key)),
        ("acme-keyadmin", "kms.cryptoKeys.setPrimary", key, "", k.UpdateCryptoKeyPrimaryVersion,
         msg.UpdateCryptoKeyPrimaryVersionRequest(name=key, crypto_key_version_id="2")),
        ("acme-keyadmin", "kms.cryptoKeyVersions.get", version, "", k.GetCryptoKeyVersion, msg.GetCryptoKeyVersionRequest(name=version)),
        ("acme-keyadmin", "kms.cryptoKeyVersions.list", key, "", k.ListCryptoKeyVersions, msg.ListCryptoKeyVersionsRequest(parent=key)),
        ("acme-orders", "kms.cryptoKeys.encrypt", key, key + "/cryptoKeyVersions/2", o.kms.Encrypt, msg.EncryptRequest(name=key, plaintext=b"x")),
        ("acme-orders", "kms.cryptoKeys.encrypt", version, version, o.kms.Encrypt, msg.EncryptRequest(name=version, plaintext=b"x")),
        ("acme-orders", "kms.cryptoKeys.decrypt", key, version, o.kms.Decrypt, msg.DecryptRequest(name=key, ciphertext=sealed)),
        ("acme-orders", "kms.random.generate", world.location, "", o.kms.GenerateRandomBytes,
         msg.GenerateRandomBytesRequest(location=world.location, length_bytes=8, protection_level=res.HSM)),
        ("acme-orders", "envelope.wrap", key, key + "/cryptoKeyVersions/2", o.env.Wrap, env.WrapRequest(name=key, plaintext_key=b"k")),
        ("acme-orders", "envelope.unwrap", key, version, o.env.Unwrap, env.UnwrapRequest(name=key, wrapped_key=wrapped)),
        ("acme-orders", "envelope.generateDataKey", key, key + "/cryptoKeyVersions/2", o.env.GenerateDataKey, env.GenerateDataKeyRequest(name=key)),
        ("acme-orders", "envelope.rewrap", key, key + "/cryptoKeyVersions/2", o.env.Rewrap, env.RewrapRequest(name=key, ciphertext=sealed)),
        ("acme-orders", "envelope.encrypt", key, key + "/cryptoKeyVersions/2", o.env.BatchEncrypt, env.BatchEncryptRequest(name=key, items=[{}] * 3)),
        ("acme-orders", "envelope.decrypt", key, version, o.env.BatchDecrypt,
         env.BatchDecryptRequest(name=key, items=[dict(ciphertext=sealed), dict(ciphertext=b"bad")])),
        ("acme-orders", "envelope.rewrap", key, key + "/cryptoKeyVersions/2", o.env.BatchRewrap,
         env.BatchRewrapRequest(name=key, items=[dict(ciphertext=sealed), dict(ciphertext=b"bad")])),
        ("acme-keyadmin", "kms.cryptoKeyVersions.update", version, version, k.UpdateCryptoKeyVersion, msg.UpdateCryptoKeyVersionRequest(
            crypto_key_version=dict(name=version, state=res.CryptoKeyVersion.DISABLED), update_mask={"paths": ["state"]})),
        ("acme-keyadmin", "kms.cryptoKeyVersions.destroy", version, version, k.DestroyCryptoKeyVersion, msg.DestroyCryptoKeyVersionRequest(name=version)),
        ("acme-keyadmin", "kms.cryptoKeyVersions.restore", version, version, k.RestoreCryptoKeyVersion, msg.RestoreCryptoKeyVersionRequest(name=version)),
        ("admin", "tenants.get", "projects/acme", "", a.tenants.GetTenant, ten.GetTenantRequest(name="projects/acme")),
        ("admin", "tenants.list", "", "", a.tenants.ListTenants, ten.ListTenantsRequest()),
        ("admin", "policy.get", "", "", a.policy.GetPolicy, pol.GetPolicyRequest()),
    ]


CHANGES = {  # action: what before and after say
    "kms.cryptoKeyVersions.create": ("", '{"state":"ENABLED"}'),
    "kms.cryptoKeyVersions.update": ('{"state":"ENABLED"}', '{"state":"DISABLED"}'),
    "kms.cryptoKeyVersions.destroy": ('{"state":"DISABLED"}', '{"state":"DESTROY_SCHEDULED"}'),
    "kms.cryptoKeyVersions.restore": ('{"state":"DESTROY_SCHEDULED"}', '{"state":"DISABLED"}'),
}


def test_every_call_leaves_its_event_with_all_its_fields_and_a_receipt_that_checks(world, ring):
    start, digest = world.audit.position(), world.admin.policy.GetPolicy(pol.GetPolicyRequest()).digest
    made = []
    for who, action, resource, version, call, request in every_call(world, ring):
        id_ = world.word("req-")
        before = time.time_ns()
        _, done = call.with_call(request, metadata=[("x-request-id", id_), ("traceparent", TRACE)])
        items = [b"bad" in i.SerializeToString() for i in getattr(request, "items", ())]
        made.append((who, action, resource, version, (len(items), sum(items)), id_, before, time.time_ns(), dict(done.trailing_metadata())["claviger-receipt"]))
    by_id = {e.event.request_id: e for e in world.audit.read(start)}
    for who, action, resource, version, items, id_, before, after, receipt in made:
        entry = by_id[id_]
        e = entry.event
        tenant = who.split("-")[0] if "-" in who else ""
        assert (e.principal, e.auth_method, e.tenant, e.action, e.resource, e.key_version) == (who, "mtls", tenant, action, resource, version), e
        assert (e.active_tenant, entry.tenant) == ("acme", "projects/acme") if resource else ("", ""), e
        assert (e.outcome, e.code, e.reason, e.address, e.listener, e.trace_id) == ("ok", "OK", "", "127.0.0.1", "main", TRACE), e
        assert e.rule and e.policy_digest == digest and e.certificate == leaf_of(world.instance, who) and e.repeats == 0
        assert before <= e.time_unix_ns <= after and 0 < e.duration_ns <= after - before and len(e.id) == 16
        if action in CHANGES:
            assert (e.before, e.after) == CHANGES[action]
        assert (e.items, e.items_failed) == items
        check_receipt(entry, receipt)
    assert len({e.event.id for e in by_id.values()}) == len(by_id)


def check_receipt(entry, receipt):
    """As a client would, with nothing but SHA-256."""
    origin, index, digest = receipt.split()
    assert origin == "claviger/dev" and int(index) == entry.index
    assert hashlib.sha256(b"\0" + entry.leaf).hexdigest() == digest
    assert len(entry.leaf) == 89 and len(entry.nonce) == 32 and entry.leaf[0] == 1
    assert entry.leaf[1:17] == entry.event.id and int.from_bytes(entry.leaf[17:25], "big") == entry.event.time_unix_ns
    assert entry.leaf[57:] == hashlib.sha256(entry.nonce + entry.bytes).digest()


def test_what_failed_has_its_event_too(world, key):
    start = world.audit.position()
    cases = [
        (Code.NOT_FOUND, "error", "NOT_FOUND", "", lambda m: world.orders.kms.Encrypt(msg.EncryptRequest(name=key + "x"), metadata=m), key + "x"),
        (Code.INVALID_ARGUMENT, "error", "CIPHERTEXT", "", lambda m: world.orders.kms.Decrypt(msg.DecryptRequest(name=key, ciphertext=b"x"), metadata=m), key),
        (Code.INVALID_ARGUMENT, "error", "INVALID", "CRC32C_MISMATCH", lambda m: world.orders.kms.Encrypt(
            msg.EncryptRequest(name=key, plaintext_crc32c={"value": 1}), metadata=m), key),
        (Code.ALREADY_EXISTS, "error", "EXISTS", "", lambda m: world.keyadmin.kms.CreateCryptoKey(msg.CreateCryptoKeyRequest(
            parent=key.rsplit("/", 2)[0], crypto_key_id=key.rsplit("/", 1)[1], crypto_key=dict(purpose=ENCRYPT_DECRYPT)), metadata=m), key),
        (Code.FAILED_PRECONDITION, "error", "STATE", "KEY_VERSION_STATE", lambda m: world.keyadmin.kms.RestoreCryptoKeyVersion(
            msg.RestoreCryptoKeyVersionRequest(name=key + "/cryptoKeyVersions/1"), metadata=m), key + "/cryptoKeyVersions/1"),
    ]
    for code, outcome, name, reason, call, resource in cases:
        id_ = world.word("bad-")
        with refused(code) as r:
            call([("x-request-id", id_)])
        entry = world.audit.one(start, request_id=id_)
        assert (entry.event.outcome, entry.event.code, entry.event.reason, entry.event.resource) == (outcome, name, reason, resource)
        check_receipt(entry, dict(r.error.trailing_metadata())["claviger-receipt"])
    id_ = world.word("denied-")
    with refused(Code.PERMISSION_DENIED) as r:
        world.keyadmin.kms.Encrypt(msg.EncryptRequest(name=key), metadata=[("x-request-id", id_)])
    entry = world.audit.one(start, request_id=id_)  # answered without waiting for the disk: no receipt, but on record
    assert (entry.event.outcome, entry.event.code, entry.event.rule) == ("denied", "DENIED", "key-administrator.no-use")
    assert "claviger-receipt" not in dict(r.error.trailing_metadata())


def test_request_ids_that_are_not_clean_are_not_kept(world, key):
    start = world.audit.position()
    for bad in ("x" * 129, "two words"):
        world.orders.kms.Encrypt(msg.EncryptRequest(name=key), metadata=[("x-request-id", bad), ("traceparent", bad)])
    world.orders.kms.Encrypt(msg.EncryptRequest(name=key), metadata=[("x-request-id", "x" * 128)])
    events = world.audit.find(start, action="kms.cryptoKeys.encrypt")
    assert [(e.event.request_id, e.event.trace_id) for e in events] == [("", ""), ("", ""), ("x" * 128, "")]


# ---- nothing secret, anywhere --------------------------------------------------------------------------------------------------
def forms(marker):
    """How bytes might stand in a file: as they are, in hex, and in Base64 at each of its three alignments."""
    yield marker
    yield marker.hex().encode()
    yield marker.hex().upper().encode()
    for shift in range(3):
        yield base64.b64encode(b"\0" * shift + marker)[4 if shift else 0:-4]


def test_no_plaintext_key_or_context_stands_in_any_file(new_world):
    world = new_world
    key = world.key(labels={"visible-in-no-file": "label-value"})
    markers = {n: b"<<" + os.urandom(15).hex().encode() + b">>" for n in ("plain", "aad", "context key", "context value", "wrapped", "item", "bad item", "stream")}
    text = {n: m.decode() for n, m in markers.items()}
    context = {text["context key"]: text["context value"]}
    sealed = world.encrypt(key, markers["plain"], additional_authenticated_data=markers["aad"])
    assert world.decrypt(key, sealed, additional_authenticated_data=markers["aad"]) == markers["plain"]
    wrapped = world.orders.env.Wrap(env.WrapRequest(name=key, plaintext_key=markers["wrapped"], context=context)).wrapped_key
    world.orders.env.Unwrap(env.UnwrapRequest(name=key, wrapped_key=wrapped, context=context))
    data_key = world.orders.env.GenerateDataKey(env.GenerateDataKeyRequest(name=key, context=context))
    markers["data key"] = data_key.plaintext_key
    world.rotate(key)
    world.orders.env.Rewrap(env.RewrapRequest(name=key, ciphertext=wrapped, context=context))
    world.orders.env.BatchEncrypt(env.BatchEncryptRequest(name=key, items=[dict(plaintext=markers["item"], context=context),
                                                                          dict(plaintext=markers["bad item"] * 3000)]))
    list(world.orders.env.EncryptStream(iter([env.EncryptStreamRequest(name=key, items=[dict(plaintext=markers["stream"])])]), timeout=DEADLINE))
    with refused(Code.INVALID_ARGUMENT):  # what is refused is not kept either
        world.encrypt(key, markers["plain"], plaintext_crc32c={"value": 1})
    for bad_name in (text["plain"], key + "/" + text["plain"]):
        with refused(Code.INVALID_ARGUMENT):
            world.encrypt(bad_name, b"")
    events = b"".join(e.bytes for e in world.audit.read())
    assert b"acme-orders" in events  # the eye sees
    pin = (world.instance.dir / "pin").read_bytes().strip()
    seen_key_name = False
    world.instance.stop()
    for round_ in range(2):  # stopped, and after a start that recovers
        for path in [p for p in world.instance.dir.rglob("*") if p.is_file() and "certs" not in p.parts and p.name not in ("pin", "so-pin")]:
            content = path.read_bytes()
            seen_key_name |= key.encode() in content
            for name, marker in markers.items():
                for form in forms(marker):
                    assert form not in content, (name, path)
            assert pin not in content, path
            assert b"label-value" not in content, path  # sealed: a stolen database shows names and sizes only
        world.instance.start()
        world.instance.stop()
    assert seen_key_name
    for name, marker in markers.items():
        assert not any(form in events for form in forms(marker)), name


# ---- refusals are bounded --------------------------------------------------------------------------------------------------------
def test_refusals_are_in_full_up_to_ten_then_counted(new_world):
    world = new_world
    start = world.audit.position()
    for _ in range(37):
        with refused(Code.PERMISSION_DENIED):
            world.orders.tenants.ListTenants(ten.ListTenantsRequest())
    for _ in range(3):
        with refused(Code.PERMISSION_DENIED):
            world.billing.tenants.ListTenants(ten.ListTenantsRequest())
    until(lambda: len(world.audit.find(start, outcome="denied")) == 13)
    assert len(world.audit.find(start, outcome="denied", principal="acme-orders")) == 10
    assert len(world.audit.find(start, outcome="denied", principal="globex-billing")) == 3  # another's own allowance
    assert world.instance.stop() == 0
    world = type(world)(world.instance.start())
    counted = world.audit.one(start, principal="acme-orders", repeats=27).event
    assert (counted.action, counted.code, counted.outcome) == ("tenants.list", "DENIED", "refused")


# ---- reading ----------------------------------------------------------------------------------------------------------------------
def tail(client, **kw):
    return client.audit.Tail(audit_pb2.TailRequest(**kw), timeout=DEADLINE)


def test_a_tenant_reads_its_own_events_and_no_others(new_world):
    world = new_world
    now = world.admin.policy.GetPolicy(pol.GetPolicyRequest())
    extra = b"version: 1\nbindings:\n  - role: tenant-auditor\n    tenant: acme\n    principals: [acme-orders]\n"
    world.admin.policy.ApplyPolicy(pol.ApplyPolicyRequest(expected_version=now.version,
                                                          documents=[*now.documents, pol.Document(name="auditor.yaml", yaml=extra)]))
    key, key2 = world.key(), world.key2()
    world.encrypt(key), world.encrypt(key2, who=world.billing)
    ours = list(tail(world.orders, tenant="projects/acme"))
    everything = list(tail(world.admin))
    assert {e.tenant for e in ours} == {"projects/acme"}
    assert [e.index for e in ours] == [e.index for e in everything if e.tenant == "projects/acme" and e.index <= ours[-1].index]
    assert {e.tenant for e in everything} == {"", "projects/acme", "projects/globex"}
    assert [e.index for e in everything] == list(range(len(everything)))  # no gap: the log is one
    for client, tenant in ((world.orders, ""), (world.orders, "projects/globex"), (world.orders, "projects/absent"), (world.billing, "projects/globex")):
        with refused(Code.PERMISSION_DENIED):
            list(tail(client, tenant=tenant))
    assert {e.tenant for e in tail(world.admin, tenant="projects/globex")} == {"projects/globex"}
    with refused(Code.INVALID_ARGUMENT, field="tenant"):
        list(tail(world.admin, tenant="acme"))


def test_where_reading_begins_and_ends(world, key):
    for _ in range(5):
        world.encrypt(key)
    end = world.audit.position()
    assert [e.index for e in tail(world.admin, from_index=end - 4, limit=3)] == [end - 4, end - 3, end - 2]
    assert len(list(tail(world.admin, from_end=True, limit=2))) == 2
    assert list(tail(world.admin, from_index=2**63)) == []


def test_following_sees_what_comes(world, key):
    call = world.admin.audit.Tail(audit_pb2.TailRequest(from_end=True, follow=True), timeout=DEADLINE)
    seen, got = [], threading.Event()

    def read():
        try:
            for r in call:
                seen.append(r)
                got.set()
        except grpc.RpcError as e:
            seen.append(e.code())
    t = threading.Thread(target=read)
    t.start()
    id_ = world.word("followed-")
    until(lambda: world.encrypt(key) and got.is_set())
    world.orders.kms.Encrypt(msg.EncryptRequest(name=key), metadata=[("x-request-id", id_)])
    until(lambda: any(id_.encode() in r.event for r in list(seen)))
    call.cancel()
    t.join(60)
    assert seen[-1] == Code.CANCELLED and [r.index for r in seen[:-1]] == list(range(seen[0].index, seen[0].index + len(seen) - 1))


def test_a_stream_that_follows_ends_when_its_reader_may_no_longer_read(new_world):
    world = new_world
    call = world.admin.audit.Tail(audit_pb2.TailRequest(from_index=0, follow=True), timeout=DEADLINE)
    next(call)
    now = world.admin.policy.GetPolicy(pol.GetPolicyRequest())
    documents = [pol.Document(name=d.name, yaml=d.yaml.replace(b'"audit.*", ', b"")) for d in now.documents]
    world.admin.policy.ApplyPolicy(pol.ApplyPolicyRequest(expected_version=now.version, documents=documents))
    with refused(Code.PERMISSION_DENIED):
        for _ in call:
            pass


def test_calls_at_once_have_one_event_each_and_no_receipt_twice(world, key):
    start = world.audit.position()

    def work(i):
        out = []
        for _ in range(25):
            _, call = world.orders.kms.Encrypt.with_call(msg.EncryptRequest(name=key))
            out.append(dict(call.trailing_metadata())["claviger-receipt"])
        return out
    receipts = [r for out in in_threads(8, work) for r in out]
    entries = {e.index: e for e in world.audit.find(start, action="kms.cryptoKeys.encrypt")}
    assert len(entries) == len(receipts) == len(set(receipts)) == 200
    for r in receipts:
        check_receipt(entries[int(r.split()[1])], r)


def test_the_log_goes_on_over_a_restart(new_world):
    world = new_world
    key = world.key()
    world.encrypt(key)
    before = world.audit.read()
    status = world.admin.audit.GetStatus(audit_pb2.GetStatusRequest())
    assert status.origin == "claviger/dev" and status.admits and status.bytes_free > 0
    world.instance.restart()
    after = AuditLog(type(world)(world.instance).admin).read()
    assert [(e.index, e.leaf, e.bytes) for e in after[:len(before)]] == [(e.index, e.leaf, e.bytes) for e in before]
    assert len({e.event.id for e in after}) == len(after) > len(before)


def test_the_first_events_are_those_of_the_initialisation(world):
    first = world.audit.read(0, limit=3)
    assert [e.event.action for e in first] == ["system.init", "tenants.create", "tenants.create"]
    assert first[0].event.principal == "system:init" and first[0].event.after == "admin"
    assert all(re.fullmatch(r'\{"tenant":"(acme|globex)","location":"(eu|us)"\}', e.event.after) for e in first[1:])


@pytest.mark.parametrize("path", ["/claviger.audit.v1.Audit/Append", "/claviger.audit.v1.Audit/Delete"])
def test_the_log_takes_no_orders(world, path):
    with refused(Code.UNIMPLEMENTED):
        world.admin.raw(path, b"")


def test_a_reader_that_does_not_follow_ends_although_more_comes(world, key):
    """More than a window full, and an event for each entry that is read: who chased the end would never reach it."""
    for _ in range(400):
        world.encrypt(key)
    there, got = world.audit.position(), 0
    for _ in world.admin.audit.Tail(audit_pb2.TailRequest(from_index=0), timeout=4 * DEADLINE):
        got += 1
        world.encrypt(key)
        assert got <= there + 20
    assert there <= got
