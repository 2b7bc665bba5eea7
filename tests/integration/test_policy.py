"""Who may do what: the shipped roles, the tenants' boundary, and policy that changes while the daemon runs."""
import os

import pytest

from claviger.audit.v1 import audit_pb2
from claviger.envelope.v1 import envelope_pb2 as env
from claviger.identity.v1 import identity_pb2 as idy
from claviger.lifecycle.v1 import lifecycle_pb2 as life
from claviger.masters.v1 import masters_pb2
from claviger.policy.v1 import policy_pb2 as pol
from claviger.system.v1 import system_pb2
from claviger.tenants.v1 import tenants_pb2 as ten
from conftest import ENCRYPT_DECRYPT, msg, res
from kit.client import DEADLINE, in_threads
from kit.wire import Code, refused

FRESH = "fresh-name"


def data_plane(c, key):
    ring = key.rsplit("/", 2)[0]
    location = ring.rsplit("/", 2)[0]
    return {
        "kms.cryptoKeys.encrypt": lambda: c.kms.Encrypt(msg.EncryptRequest(name=key, plaintext=b"x")),
        "kms.cryptoKeys.decrypt": lambda: c.kms.Decrypt(msg.DecryptRequest(name=key, ciphertext=b"x")),
        "kms.random.generate": lambda: c.kms.GenerateRandomBytes(msg.GenerateRandomBytesRequest(location=location, length_bytes=8, protection_level=res.HSM)),
        "envelope.wrap": lambda: c.env.Wrap(env.WrapRequest(name=key, plaintext_key=b"x")),
        "envelope.unwrap": lambda: c.env.Unwrap(env.UnwrapRequest(name=key, wrapped_key=b"x")),
        "envelope.generateDataKey": lambda: c.env.GenerateDataKey(env.GenerateDataKeyRequest(name=key)),
        "envelope.rewrap": lambda: c.env.Rewrap(env.RewrapRequest(name=key, ciphertext=b"x")),
        "envelope.encrypt": lambda: c.env.BatchEncrypt(env.BatchEncryptRequest(name=key, items=[{}])),
        "envelope.decrypt": lambda: c.env.BatchDecrypt(env.BatchDecryptRequest(name=key, items=[{}])),
        "rewrap batch": lambda: c.env.BatchRewrap(env.BatchRewrapRequest(name=key, items=[{}])),
        "rewrap stream": lambda: next(c.env.RewrapStream(iter([env.RewrapStreamRequest(name=key, items=[{}])]), timeout=DEADLINE)),
        "stream": lambda: next(c.env.EncryptStream(iter([env.EncryptStreamRequest(name=key, items=[{}])]), timeout=DEADLINE)),
    }


def key_reads(c, key):
    ring = key.rsplit("/", 2)[0]
    location, version = ring.rsplit("/", 2)[0], key + "/cryptoKeyVersions/1"
    return {
        "kms.keyRings.get": lambda: c.kms.GetKeyRing(msg.GetKeyRingRequest(name=ring)),
        "kms.keyRings.list": lambda: c.kms.ListKeyRings(msg.ListKeyRingsRequest(parent=location)),
        "kms.cryptoKeys.get": lambda: c.kms.GetCryptoKey(msg.GetCryptoKeyRequest(name=key)),
        "kms.cryptoKeys.list": lambda: c.kms.ListCryptoKeys(msg.ListCryptoKeysRequest(parent=ring)),
        "kms.cryptoKeyVersions.get": lambda: c.kms.GetCryptoKeyVersion(msg.GetCryptoKeyVersionRequest(name=version)),
        "kms.cryptoKeyVersions.list": lambda: c.kms.ListCryptoKeyVersions(msg.ListCryptoKeyVersionsRequest(parent=key)),
    }


def key_changes(c, key):
    ring = key.rsplit("/", 2)[0]
    location, version = ring.rsplit("/", 2)[0], key + "/cryptoKeyVersions/1"
    mask = {"paths": ["labels"]}
    return {
        "kms.keyRings.create": lambda: c.kms.CreateKeyRing(msg.CreateKeyRingRequest(parent=location, key_ring_id=FRESH)),
        "kms.cryptoKeys.create": lambda: c.kms.CreateCryptoKey(msg.CreateCryptoKeyRequest(parent=ring, crypto_key_id=FRESH,
                                                                                          crypto_key=dict(purpose=ENCRYPT_DECRYPT))),
        "kms.cryptoKeys.update": lambda: c.kms.UpdateCryptoKey(msg.UpdateCryptoKeyRequest(crypto_key=dict(name=key), update_mask=mask)),
        "kms.cryptoKeys.setPrimary": lambda: c.kms.UpdateCryptoKeyPrimaryVersion(
            msg.UpdateCryptoKeyPrimaryVersionRequest(name=key, crypto_key_version_id="1")),
        "kms.cryptoKeys.rotate": lambda: c.life.RotateKey(life.RotateKeyRequest(name=key)),
        "kms.usage.get": lambda: c.life.GetUsage(life.GetUsageRequest(name=version)),
        "kms.cryptoKeyVersions.create": lambda: c.kms.CreateCryptoKeyVersion(msg.CreateCryptoKeyVersionRequest(parent=key)),
        "kms.cryptoKeyVersions.update": lambda: c.kms.UpdateCryptoKeyVersion(msg.UpdateCryptoKeyVersionRequest(
            crypto_key_version=dict(name=version, state=res.CryptoKeyVersion.DISABLED), update_mask={"paths": ["state"]})),
        "kms.cryptoKeyVersions.destroy": lambda: c.kms.DestroyCryptoKeyVersion(msg.DestroyCryptoKeyVersionRequest(name=version)),
        "kms.cryptoKeyVersions.restore": lambda: c.kms.RestoreCryptoKeyVersion(msg.RestoreCryptoKeyVersionRequest(name=version)),
    }


def platform(c):
    return {
        "tenants.create": lambda: c.tenants.CreateTenant(ten.CreateTenantRequest(tenant_id="umbrella", tenant=dict(location="eu"))),
        "tenants.list": lambda: c.tenants.ListTenants(ten.ListTenantsRequest()),
        "tenants.get": lambda: c.tenants.GetTenant(ten.GetTenantRequest(name="projects/acme")),
        "tenants.suspend": lambda: c.tenants.SuspendTenant(ten.SuspendTenantRequest(name="projects/acme")),
        "tenants.resume": lambda: c.tenants.ResumeTenant(ten.ResumeTenantRequest(name="projects/acme")),
        "tenants.delete": lambda: c.tenants.DeleteTenant(ten.DeleteTenantRequest(name="projects/acme")),
        "tenants.restore": lambda: c.tenants.RestoreTenant(ten.RestoreTenantRequest(name="projects/acme")),
        "tenants.export": lambda: next(c.tenants.ExportTenant(ten.ExportTenantRequest(name="projects/acme"), timeout=DEADLINE)),
        "identity.principals.create": lambda: c.identity.CreatePrincipal(idy.CreatePrincipalRequest(
            principal_id=FRESH, principal=dict(tenant="projects/acme", san="dns:x.example"))),
        "identity.principals.get": lambda: c.identity.GetPrincipal(idy.GetPrincipalRequest(name="principals/admin")),
        "identity.principals.list": lambda: c.identity.ListPrincipals(idy.ListPrincipalsRequest()),
        "identity.principals.update": lambda: c.identity.UpdatePrincipal(idy.UpdatePrincipalRequest(
            principal=dict(name="principals/admin", state=2), update_mask={"paths": ["state"]})),
        "policy.get": lambda: c.policy.GetPolicy(pol.GetPolicyRequest()),
        "policy.apply": lambda: c.policy.ApplyPolicy(pol.ApplyPolicyRequest()),
        "policy.test": lambda: c.policy.TestPolicy(pol.TestPolicyRequest()),
        "audit.tail": lambda: next(c.audit.Tail(audit_pb2.TailRequest(), timeout=DEADLINE)),
        "audit.status": lambda: c.audit.GetStatus(audit_pb2.GetStatusRequest()),
        "system.status": lambda: c.system.GetStatus(system_pb2.GetStatusRequest()),
        "masters.get": lambda: c.masters.GetMasterStatus(masters_pb2.GetStatusRequest()),
        "masters.rotate": lambda: c.masters.RotateMaster(masters_pb2.RotateRequest(token_cloned=True)),
        "masters.pause": lambda: c.masters.PauseRotation(masters_pb2.PauseRotationRequest()),
        "masters.destroy": lambda: c.masters.DestroyMaster(masters_pb2.DestroyRequest(version=1)),
        "seals.get": lambda: c.seals.GetSealStatus(masters_pb2.GetStatusRequest()),
        "seals.rotate": lambda: c.seals.RotateSeal(masters_pb2.RotateRequest(token_cloned=True)),
        "seals.pause": lambda: c.seals.PauseRotation(masters_pb2.PauseRotationRequest()),
        "seals.destroy": lambda: c.seals.DestroySeal(masters_pb2.DestroyRequest(version=1)),
    }


def all_denied(calls):
    shapes = set()
    for action, call in calls.items():
        with refused(Code.PERMISSION_DENIED, "PERMISSION_DENIED") as r:
            call()
        shapes.add(r.shape)
    assert len(shapes) == 1  # no denial says more than another


def test_key_administrators_use_no_key(world, key):
    all_denied(data_plane(world.keyadmin, key))
    for call in key_reads(world.keyadmin, key).values():
        call()


def test_services_administer_nothing(world, key):
    before = world.keyadmin.kms.GetCryptoKey(msg.GetCryptoKeyRequest(name=key))
    all_denied(key_changes(world.orders, key))
    assert world.keyadmin.kms.GetCryptoKey(msg.GetCryptoKeyRequest(name=key)) == before
    for call in key_reads(world.orders, key).values():
        call()
    assert world.decrypt(key, world.encrypt(key))


def test_tenants_people_run_no_platform(world):
    for client in (world.orders, world.keyadmin, world.billing):
        all_denied(platform(client))
    assert FRESH not in str(world.admin.identity.ListPrincipals(idy.ListPrincipalsRequest()))


def test_the_administrator_neither_sees_nor_uses_keys(world, key):
    all_denied({**data_plane(world.admin, key), **key_reads(world.admin, key), **key_changes(world.admin, key)})


def test_nobody_reaches_another_tenant_and_cannot_tell_whether_it_is_there(world, key):
    there = world.key2()
    absent = [there + "x", "projects/globex/locations/eu/keyRings/r/cryptoKeys/k", "projects/no-such-tenant/locations/us/keyRings/r/cryptoKeys/k"]
    for us, calls in ((world.orders, data_plane), (world.orders, key_reads), (world.keyadmin, key_changes), (world.keyadmin, key_reads)):
        for action in calls(us, there):
            shapes = set()
            for name in [there] + absent:
                with refused(Code.PERMISSION_DENIED) as r:
                    calls(us, name)[action]()
                shapes.add(r.shape)
            assert len(shapes) == 1, action
    start = world.audit.position()
    with refused(Code.PERMISSION_DENIED):
        world.keyadmin2.kms.GetCryptoKey(msg.GetCryptoKeyRequest(name=key))
    e = world.audit.one(start, principal="globex-keyadmin", action="kms.cryptoKeys.get")
    assert (e.event.rule, e.event.outcome, e.event.resource, e.tenant) == ("tenant-boundary", "denied", key, "projects/globex")


def test_in_ones_own_tenant_denied_says_nothing_of_existence(world, key):
    shapes = set()
    for name in (key, key + "x", key.replace("/eu/", "/us/")):
        with refused(Code.PERMISSION_DENIED) as r:
            world.keyadmin.kms.Encrypt(msg.EncryptRequest(name=name))
        shapes.add(r.shape)
    assert len(shapes) == 1
    with refused(Code.NOT_FOUND):  # permitted and absent
        world.orders.kms.Encrypt(msg.EncryptRequest(name=key + "x"))


# ---- tenants ---------------------------------------------------------------------------------------------------------------
def test_tenants_are_made_read_and_listed(world):
    create = lambda id_, **t: world.admin.tenants.CreateTenant(ten.CreateTenantRequest(tenant_id=id_, tenant=t))  # noqa: E731
    t = create("initech", location="eu", display_name="Initech ÄÖ 名前")
    assert (t.name, t.location, t.display_name) == ("projects/initech", "eu", "Initech ÄÖ 名前") and t.create_time.seconds
    assert world.admin.tenants.GetTenant(ten.GetTenantRequest(name=t.name)) == t
    seen, token = [], ""
    while True:
        r = world.admin.tenants.ListTenants(ten.ListTenantsRequest(page_size=1, page_token=token))
        assert len(r.tenants) <= 1
        seen, token = seen + [x.name for x in r.tenants], r.next_page_token
        if not token:
            break
    assert seen == sorted(seen) and {"projects/acme", "projects/globex", t.name} <= set(seen)
    with refused(Code.ALREADY_EXISTS):
        create("initech", location="us")
    with refused(Code.NOT_FOUND):
        world.admin.tenants.GetTenant(ten.GetTenantRequest(name="projects/absent"))
    for bad in ("Acme", "a", "", "-a", "a-", "1a", "a_b", "x" * 64, "platform", "projects", "a/b"):
        with refused(Code.INVALID_ARGUMENT, field="tenant_id"):
            create(bad, location="eu")
    for bad in ("EU", "", "mars", "e"):
        with refused(Code.INVALID_ARGUMENT, field="tenant.location"):
            create("fine", location=bad)
    with refused(Code.INVALID_ARGUMENT):
        create("fine", location="eu", display_name="two\nlines")
    with refused(Code.INVALID_ARGUMENT, field="tenant.display_name"):
        create("fine", location="eu", display_name="x" * 200)
    assert create("x" * 63, location="us").name.endswith("x" * 63)


# ---- policy that changes: an instance of its own, because it is one for all ----------------------------------------------------
EXTRA = b"""version: 1
roles:
  - name: reader
    rules:
      - id: reader.no-encrypt
        effect: deny
        actions: [kms.cryptoKeys.encrypt]
        resources: ["projects/{tenant}/locations/eu/keyRings/*/cryptoKeys/frozen"]
bindings:
  - role: reader
    tenant: acme
    principals: [acme-orders]
"""


def current(world):
    return world.admin.policy.GetPolicy(pol.GetPolicyRequest())


def apply(world, extra=(), version=None, **kw):
    now = current(world)
    documents = [d for d in now.documents if d.name in ("roles.yaml", "bindings.yaml")] + [pol.Document(name=n, yaml=y) for n, y in extra]
    return world.admin.policy.ApplyPolicy(pol.ApplyPolicyRequest(documents=documents, expected_version=now.version if version is None else version, **kw))


def test_policy_changes_at_once_atomically_and_on_record(new_world):
    world = new_world
    one = current(world)
    assert one.version == 1 and {d.name for d in one.documents} == {"roles.yaml", "bindings.yaml"} and len(one.digest) == 32
    ring = world.ring()
    frozen = world.keyadmin.kms.CreateCryptoKey(msg.CreateCryptoKeyRequest(parent=ring, crypto_key_id="frozen", crypto_key=dict(purpose=ENCRYPT_DECRYPT))).name
    free = world.key(ring)
    sealed = world.encrypt(frozen)
    # dry run: checked, answered, not in force
    assert apply(world, [("extra.yaml", EXTRA)], dry_run=True).digest != one.digest and current(world) == one
    assert world.encrypt(frozen)
    start = world.audit.position()
    two = apply(world, [("extra.yaml", EXTRA)])
    assert two.version == 2 and two.creator == "admin" and two.digest != one.digest and current(world) == two
    with refused(Code.PERMISSION_DENIED):  # explicit deny wins over the allow of `service`
        world.encrypt(frozen)
    assert world.encrypt(free) and world.decrypt(frozen, sealed)
    change = world.audit.one(start, action="policy.apply").event
    assert (change.outcome, change.principal, change.before) == ("ok", "admin", '{"version":1}') and two.digest.hex() in change.after
    denied = world.audit.one(start, action="kms.cryptoKeys.encrypt", outcome="denied").event
    assert (denied.rule, denied.policy_digest, denied.code) == ("reader.no-encrypt", two.digest, "DENIED")
    allowed = world.audit.one(start, action="kms.cryptoKeys.encrypt", outcome="ok").event
    assert (allowed.rule, allowed.policy_digest) == ("service.use", two.digest)
    # a stale version changes nothing
    for stale in (0, 1, 3):
        with refused(Code.ABORTED, "POLICY_CHANGED"):
            apply(world, version=stale)
    assert current(world) == two
    # and it survives a restart
    world.instance.restart()
    world = type(world)(world.instance)
    assert current(world) == two
    with refused(Code.PERMISSION_DENIED):
        world.encrypt(frozen)


BAD_DOCUMENTS = {
    "not yaml": (b"version: 1\nroles: [", None),
    "unknown key": (EXTRA.replace(b"effect:", b"efect:"), 6),
    "unknown action": (EXTRA.replace(b"kms.cryptoKeys.encrypt", b"kms.cryptoKeys.encypt"), 7),
    "unknown effect": (EXTRA.replace(b"deny", b"perhaps", 1), 6),
    "unknown role": (EXTRA.replace(b"role: reader", b"role: writer"), 10),
    "resource outside the tenant": (EXTRA.replace(b"projects/{tenant}/", b"projects/globex/"), 8),
    "role twice": (EXTRA.replace(b"name: reader", b"name: service").replace(b"role: reader", b"role: service"), 3),
    "rule twice": (EXTRA.replace(b"reader.no-encrypt", b"service.use"), 5),
    "data plane for the platform": (EXTRA.replace(b"deny", b"allow", 1).replace(b"projects/{tenant}/locations/eu/keyRings/*/cryptoKeys/frozen", b"**")
                                    .replace(b"tenant: acme", b"tenant: platform").replace(b"acme-orders", b"admin"), 7),
    "tab": (EXTRA.replace(b"  - name", b"\t- name"), None),
    "anchor": (EXTRA.replace(b"deny", b"&x deny", 1), 6),
    "two documents": (EXTRA + b"---\nversion: 1\n", None),
    "other version": (EXTRA.replace(b"version: 1", b"version: 2"), 1),
    "empty": (b"", None),
    "bad utf-8": (EXTRA.replace(b"reader", b"\xff\xfe"), None),
}


@pytest.mark.parametrize("why", BAD_DOCUMENTS)
def test_a_policy_that_is_not_clear_is_refused_with_its_line_and_nothing_changes(world, key, why):
    text, line = BAD_DOCUMENTS[why]
    before = current(world)
    with refused(Code.INVALID_ARGUMENT, "POLICY_INVALID", "documents") as r:
        apply(world, [("extra.yaml", text)])
    assert "extra.yaml" + (f":{line}:" if line else ":") in r.error.details(), r.error.details()
    assert current(world) == before and world.encrypt(key)


def test_policies_need_documents_and_have_limits(world):
    version = current(world).version
    ask = lambda documents: world.admin.policy.ApplyPolicy(pol.ApplyPolicyRequest(documents=documents, expected_version=version))  # noqa: E731
    for documents in ([], [dict(name="a", yaml=b"version: 1\n")] * 65, [dict(name="", yaml=b"")], [dict(name="n" * 129, yaml=b"")]):
        with refused(Code.INVALID_ARGUMENT):
            ask(documents)
    with refused(Code.INVALID_ARGUMENT):
        ask([dict(name="a.yaml", yaml=b"# " + b"x" * 131072)])
    assert current(world).version == version


def test_two_who_apply_at_once_one_wins(new_world):
    world = new_world
    results = in_threads(6, lambda i: apply(world, [("extra.yaml", EXTRA + b"# %d\n" % i)], version=1))
    won = [r for r in results if not isinstance(r, Exception)]
    assert len(won) == 1 and {r.code() for r in results if isinstance(r, Exception)} == {Code.ABORTED}
    assert current(world).digest == won[0].digest and current(world).version == 2


def test_what_would_be_decided(world, key):
    ask = lambda who, action, resource="", docs=(): world.admin.policy.TestPolicy(pol.TestPolicyRequest(  # noqa: E731
        principal="principals/" + who, action=action, resource=resource, documents=docs))
    r = ask("acme-orders", "kms.cryptoKeys.encrypt", key)
    assert r.allowed and r.rule == "service.use"
    r = ask("acme-keyadmin", "kms.cryptoKeys.encrypt", key)
    assert not r.allowed and r.rule == "key-administrator.no-use"
    r = ask("globex-billing", "kms.cryptoKeys.encrypt", key)
    assert not r.allowed and r.rule == "tenant-boundary"
    assert ask("admin", "tenants.create").allowed
    documents = [d for d in current(world).documents] + [pol.Document(name="extra.yaml", yaml=EXTRA)]
    assert ask("acme-orders", "kms.cryptoKeys.encrypt", key.rsplit("/", 1)[0] + "/frozen", documents).rule == "reader.no-encrypt"
    assert ask("acme-orders", "kms.cryptoKeys.encrypt", key.rsplit("/", 1)[0] + "/frozen").allowed  # only asked, not applied
    with refused(Code.NOT_FOUND):
        ask("nobody", "kms.cryptoKeys.encrypt", key)
    with refused(Code.INVALID_ARGUMENT, field="action"):
        ask("acme-orders", "kms.cryptoKeys.encypt", key)
    with refused(Code.INVALID_ARGUMENT, field="resource"):
        ask("acme-orders", "kms.cryptoKeys.encrypt", "nonsense")


def test_the_files_are_not_read_again(new_world, tmp_path):
    """What stands in policies/ after init is nobody's policy."""
    assert not any(p.name.endswith(".yaml") for p in new_world.instance.dir.rglob("*"))
    assert os.path.exists(new_world.instance.state / "store.db")
