"""A daemon that has seen everything: markers in all that a client sends or is given, in calls made well and in every way badly."""
import contextlib
import secrets as random_source

import grpc
import pytest
from claviger.envelope.v1 import envelope_pb2 as env
from claviger.identity.v1 import identity_pb2
from claviger.policy.v1 import policy_pb2
from claviger.tenants.v1 import tenants_pb2
from google.cloud.kms.v1 import resources_pb2 as res, service_pb2 as msg
from google.protobuf import wrappers_pb2
from kit.client import connect
from kit.instance import SLOWER

import rows
from truth import Truth


class Markers:
    """Secrets nobody can have by chance. One of its own for every place it is put in."""

    def __init__(self):
        self.all = {}

    def __call__(self, where, text=False):
        value = random_source.token_hex(16).encode() if text else random_source.token_bytes(32)
        self.known(where, value)
        return value.decode() if text else value

    def known(self, where, value):
        self.all[f"{where} {len(self.all)}"] = value


@contextlib.contextmanager
def fails():
    with pytest.raises(grpc.RpcError):
        yield


def drive(world, key, other, client, stranger, markers):
    """Every call of the data plane with markers in all that it takes. Returns the ciphertexts that were made."""
    m, kms, e, made = markers, client.kms, client.env, []
    aad, context = m("aad"), {m("context key", text=True): m("context", text=True)}
    sealed = kms.Encrypt(msg.EncryptRequest(name=key, plaintext=m("plaintext"), additional_authenticated_data=aad)).ciphertext
    kms.Decrypt(msg.DecryptRequest(name=key, ciphertext=sealed, additional_authenticated_data=aad))
    wrapped = e.Wrap(env.WrapRequest(name=key, plaintext_key=m("wrapped key"), context=context)).wrapped_key
    e.Unwrap(env.UnwrapRequest(name=key, wrapped_key=wrapped, context=context))
    data_key = e.GenerateDataKey(env.GenerateDataKeyRequest(name=key, context=context))
    m.known("data key", data_key.plaintext_key)
    again = e.Rewrap(env.RewrapRequest(name=key, ciphertext=sealed, additional_authenticated_data=aad)).ciphertext
    made += [sealed, wrapped, data_key.wrapped_key, again]
    m.known("random", kms.GenerateRandomBytes(msg.GenerateRandomBytesRequest(
        location=world.location, length_bytes=32, protection_level=res.HSM)).data)
    items = [{"plaintext": m("batch"), "context": {"c": m("batch context", text=True)}} for _ in range(20)]
    batch = e.BatchEncrypt(env.BatchEncryptRequest(name=key, items=items))
    e.BatchDecrypt(env.BatchDecryptRequest(name=key, items=[
        {"ciphertext": r.ciphertext, "context": i["context"]} for r, i in zip(batch.results, items)]))
    stream = list(e.EncryptStream(iter([env.EncryptStreamRequest(name=key, items=[{"plaintext": m("stream")}])] * 2), timeout=10 * SLOWER))
    list(e.DecryptStream(iter([env.DecryptStreamRequest(name=key, items=[{"ciphertext": stream[0].results[0].ciphertext}])]), timeout=10 * SLOWER))
    old = [{"ciphertext": sealed, "additional_authenticated_data": aad}, {"ciphertext": wrapped, "context": context}]
    world.rotate(key)
    moved = e.BatchRewrap(env.BatchRewrapRequest(name=key, items=old)).results
    streamed = list(e.RewrapStream(iter([env.RewrapStreamRequest(name=key, items=old)] * 2), timeout=10 * SLOWER))
    assert all(r.version == r.source_version + 1 for r in [*moved, *streamed[0].results, *streamed[1].results])
    made += [r.ciphertext for r in moved]
    badly(key, other, client, stranger, m, sealed, wrapped, aad)
    return made + [r.ciphertext for r in batch.results]


def badly(key, other, client, stranger, m, sealed, wrapped, aad):
    kms, e, wrong = client.kms, client.env, wrappers_pb2.Int64Value(value=1)
    with fails():
        kms.Encrypt(msg.EncryptRequest(name=key, plaintext=m("bad checksum"), plaintext_crc32c=wrong))
    with fails():
        kms.Encrypt(msg.EncryptRequest(name=key, plaintext=m("too long") + b"x" * 65536))
    with fails():
        kms.Encrypt(msg.EncryptRequest(name=key + "/no name", plaintext=m("with a bad name")))
    with fails():
        kms.Encrypt(msg.EncryptRequest(name=key + "x", plaintext=m("absent key")))
    with fails():
        kms.Encrypt(msg.EncryptRequest(name=other, plaintext=m("another's key"), additional_authenticated_data=m("another's aad")))
    with fails():
        kms.Decrypt(msg.DecryptRequest(name=key, ciphertext=sealed, additional_authenticated_data=m("wrong aad")))
    with fails():
        kms.Decrypt(msg.DecryptRequest(name=key, ciphertext=sealed[:-1] + bytes([sealed[-1] ^ 1]), additional_authenticated_data=aad))
    with fails():
        kms.Decrypt(msg.DecryptRequest(name=key, ciphertext=m("no ciphertext") * 4))
    with fails():
        e.Unwrap(env.UnwrapRequest(name=key, wrapped_key=wrapped, context={"column": m("wrong context", text=True)}))
    with fails():
        e.Wrap(env.WrapRequest(name=key, plaintext_key=m("too long a key") * 40))
    with fails():
        e.Wrap(env.WrapRequest(name=key, plaintext_key=m("too many pairs"), context={m(f"pair {i}", text=True): "v" for i in range(33)}))
    with fails():
        client.raw("/claviger.envelope.v1.Envelope/Wrap", b"\x0a\xff\xff" + m("malformed"))
    with fails():
        client.raw("/claviger.envelope.v1.Envelope/NoSuchMethod", m("unknown method"))
    with fails():
        stranger.kms.Encrypt(msg.EncryptRequest(name=key, plaintext=m("stranger")))
    mixed = e.BatchEncrypt(env.BatchEncryptRequest(name=key, items=[{"plaintext": m("mixed")}, {"plaintext": m("mixed, refused"), "name": other}]))
    assert mixed.failed == 1
    with fails():
        list(e.EncryptStream(iter([env.EncryptStreamRequest(name=key, items=[{"plaintext": m("stream, good")}]),
                                   env.EncryptStreamRequest(name=other, items=[{"plaintext": m("stream, refused")}])] * 40), timeout=10 * SLOWER))
    wrong_items = [{"ciphertext": sealed, "additional_authenticated_data": m("rewrap, wrong aad")}, {"ciphertext": m("rewrap, no ciphertext") * 4},
                   {"ciphertext": sealed, "context": {m("rewrap, a key", text=True): m("rewrap, a value", text=True)}, "ciphertext_crc32c": wrong}]
    assert e.BatchRewrap(env.BatchRewrapRequest(name=key, items=wrong_items)).failed == 3
    with fails():
        list(e.RewrapStream(iter([env.RewrapStreamRequest(name=key, items=wrong_items), env.RewrapStreamRequest(name=other, items=wrong_items)]),
                            timeout=10 * SLOWER))
    gone = kms.Encrypt.future(msg.EncryptRequest(name=key, plaintext=m("cancelled")))
    gone.cancel()


def administer(world, client, telling, hidden):
    """What administrators say. telling: names, which stand in the store and in events as they are; hidden: what the store seals."""
    t, h, admin = telling, hidden, world.admin
    name = lambda where: "n" + t(where, text=True)  # noqa: E731  a letter comes first
    ring = world.keyadmin.kms.CreateKeyRing(msg.CreateKeyRingRequest(parent=world.location, key_ring_id=name("ring name"))).name
    key = world.keyadmin.kms.CreateCryptoKey(msg.CreateCryptoKeyRequest(
        parent=ring, crypto_key_id=name("key name"),
        crypto_key=res.CryptoKey(purpose=res.CryptoKey.ENCRYPT_DECRYPT, labels={"l" + h("label", text=True): h("label's value", text=True)}))).name
    tenant = admin.tenants.CreateTenant(tenants_pb2.CreateTenantRequest(
        tenant_id=name("tenant name"), tenant=dict(location="us", display_name=h("tenant's display name", text=True)))).name
    admin.identity.CreatePrincipal(identity_pb2.CreatePrincipalRequest(
        principal_id=name("principal name"),
        principal=dict(tenant=tenant, san=f"spiffe://dev.claviger/{h('SAN', text=True)}")))
    now = admin.policy.GetPolicy(policy_pb2.GetPolicyRequest())
    documents = [policy_pb2.Document(name=d.name, yaml=d.yaml + b"# " + h("policy text", text=True).encode() + b"\n") for d in now.documents]
    admin.policy.ApplyPolicy(policy_pb2.ApplyPolicyRequest(documents=documents, expected_version=now.version))
    with fails():
        client.kms.Encrypt(msg.EncryptRequest(name=key + name("absent key's name"), plaintext=b"x"))
    client.kms.Encrypt(msg.EncryptRequest(name=key, plaintext=b"x"))


# Fields that say where, which or how, and may stand in an event; every other one holds a secret until it is named here.
TELLING = {"name", "parent", "location", "key_ring_id", "crypto_key_id", "crypto_key_version_id", "tenant_id", "principal_id", "tenant",
           "principal", "filter", "order_by", "page_token", "display_name", "labels", "san", "sans", "document", "reason", "request_id",
           "roles", "action", "resource", "role", "service", "host", "symbol", "list_services", "file_by_filename",
           "file_containing_symbol", "all_extension_numbers_of_type"}


def every_field(client, table, secret, telling):
    """For every text or bytes field of every unary request: a call with a marker there. They fail, or do not: it is what they leave."""
    def fill(message, at, f):
        marks = telling if f.name in TELLING else secret
        if f.type == f.TYPE_BYTES:
            setattr(message, f.name, marks(f"{at}.{f.name}"))
        elif f.label == f.LABEL_REPEATED:
            getattr(message, f.name).append(marks(f"{at}.{f.name}", text=True))
        else:
            setattr(message, f.name, marks(f"{at}.{f.name}", text=True))

    def paths(descriptor, depth=4):
        for f in descriptor.fields:
            if f.type in (f.TYPE_STRING, f.TYPE_BYTES):
                yield [f]
            elif f.type == f.TYPE_MESSAGE and depth and not f.message_type.full_name.startswith("google.protobuf."):
                yield from ([f, *rest] for rest in paths(f.message_type, depth - 1))
    calls = []
    for row in table:
        if row.kind != "unary":
            continue
        for path in paths(row.request.DESCRIPTOR):
            request = row.request()
            put(request, f"{row.method}", path, fill, telling if path[0].name in TELLING else secret)
            calls.append(client.channel.unary_unary(row.path).future(request.SerializeToString(), timeout=10 * SLOWER))
    for c in calls:
        with contextlib.suppress(grpc.RpcError):
            c.result()
    return len(calls)


def put(message, at, path, fill, marks):
    f, *rest = path
    if f.type == f.TYPE_MESSAGE and f.message_type.GetOptions().map_entry:
        if f.message_type.fields_by_name["value"].type == f.TYPE_STRING:
            getattr(message, f.name)[marks(f"{at}.{f.name} key", text=True)] = marks(f"{at}.{f.name} value", text=True)
        return
    if not rest:
        fill(message, at, f)
        return
    inner = getattr(message, f.name)
    put(inner.add() if f.label == f.LABEL_REPEATED else inner, f"{at}.{f.name}", rest, fill, marks)


class Driven:
    def __init__(self, instance, world_of):
        self.instance, self.world, self.markers = instance, world_of(instance), Markers()
        self.telling, self.hidden = Markers(), Markers()
        self.key, self.other = self.world.key(versions=2), self.world.key2()
        self.client, self.stranger = connect(instance, "acme-orders"), connect(instance, "globex-billing")
        self.ciphertexts = drive(self.world, self.key, self.other, self.client, self.stranger, self.markers)
        self.token_key = self.world.key(version_template=dict(protection_level=res.HSM))
        drive(self.world, self.token_key, self.other, self.client, self.stranger, self.markers)
        self.calls = sum(every_field(connect(instance, who), rows.table(), self.markers, self.telling)
                         for who in ("admin", "acme-keyadmin", "acme-orders"))
        administer(self.world, self.client, self.telling, self.hidden)
        self.truth = Truth(instance)
        self.pin = {"PIN": self.truth.pin}
        self.pids = {"monitor": instance.process.pid, **instance.children()}

    def part(self):
        self.instance.close_clients()
