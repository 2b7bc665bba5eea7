"""google.cloud.kms.v1: key rings, keys and versions, and everything the service refuses."""
import time

import pytest

from conftest import ENCRYPT_DECRYPT, msg, res
from kit.client import in_threads
from kit.wire import Code, crc32c, refused

V = res.CryptoKeyVersion
ENABLED, DISABLED, SCHEDULED = V.ENABLED, V.DISABLED, V.DESTROY_SCHEDULED


# ---- rings ------------------------------------------------------------------------------------------------------------
def test_ring_is_created_once_read_and_listed(world):
    ring = world.keyadmin.kms.CreateKeyRing(msg.CreateKeyRingRequest(parent=world.location, key_ring_id="Some-Ring_1"))
    assert ring.name == world.location + "/keyRings/Some-Ring_1"
    assert abs(ring.create_time.seconds - time.time()) < 60
    assert world.orders.kms.GetKeyRing(msg.GetKeyRingRequest(name=ring.name)) == ring
    assert ring in world.keyadmin.kms.ListKeyRings(msg.ListKeyRingsRequest(parent=world.location)).key_rings
    with refused(Code.ALREADY_EXISTS):
        world.keyadmin.kms.CreateKeyRing(msg.CreateKeyRingRequest(parent=world.location, key_ring_id="Some-Ring_1"))
    with refused(Code.NOT_FOUND):
        world.keyadmin.kms.GetKeyRing(msg.GetKeyRingRequest(name=world.location + "/keyRings/some-ring_1"))  # case counts


@pytest.mark.parametrize("name", ["", "/", "x", "projects/acme", "projects//locations/eu/keyRings/r", "projects/acme/locations/eu/keyRings/",
                                  "projects/acme/locations/eu/keyRings/..", "projects/acme/locations/eu/keyRings/a/../b",
                                  "projects/acme/locations/eu/keyRings/a%2fb", "projects/acme/locations/eu/keyRings/r/",
                                  "projects/Acme/locations/eu/keyRings/r", "projects/acme/locations/EU/keyRings/r",
                                  "projects/acme/locations/eu/keyrings/r", "projects/acme/locations/eu/keyRings/r/cryptoKeys/k",
                                  "projects/acme/locations/eu/keyRings/" + "r" * 64, "x" * 5000, "projects/acme/locations/eu/keyRings/é"])
def test_bad_ring_names_are_refused_by_grammar(world, name):
    with refused(Code.INVALID_ARGUMENT, field="name"):
        world.keyadmin.kms.GetKeyRing(msg.GetKeyRingRequest(name=name))


def test_longest_ring_name_is_allowed(world):
    request = msg.CreateKeyRingRequest(parent=world.location, key_ring_id="r" * 63)
    assert world.keyadmin.kms.CreateKeyRing(request).name.endswith("r" * 63)
    for bad in ("r" * 64, "", "a b", "a/b", ".", "ä"):
        with refused(Code.INVALID_ARGUMENT, field="key_ring_id"):
            world.keyadmin.kms.CreateKeyRing(msg.CreateKeyRingRequest(parent=world.location, key_ring_id=bad))


def test_a_location_where_the_tenant_is_not_is_not_found(world):
    with refused(Code.NOT_FOUND):
        world.keyadmin.kms.CreateKeyRing(msg.CreateKeyRingRequest(parent="projects/acme/locations/us", key_ring_id="x"))
    with refused(Code.NOT_FOUND):
        world.keyadmin.kms.ListKeyRings(msg.ListKeyRingsRequest(parent="projects/acme/locations/us"))


# ---- keys -------------------------------------------------------------------------------------------------------------
def create_key(world, ring, key_id=None, skip=False, **fields):
    fields.setdefault("purpose", ENCRYPT_DECRYPT)
    return world.keyadmin.kms.CreateCryptoKey(msg.CreateCryptoKeyRequest(
        parent=ring, crypto_key_id=key_id or world.word("k"), crypto_key=res.CryptoKey(**fields), skip_initial_version_creation=skip))


def test_a_key_is_made_with_version_one_as_primary(world, ring):
    key = create_key(world, ring, labels={"env": "dev", "team": "pii"})
    assert key.primary.name == key.name + "/cryptoKeyVersions/1"
    assert (key.primary.state, key.primary.algorithm, key.primary.protection_level) == (ENABLED, V.GOOGLE_SYMMETRIC_ENCRYPTION, res.SOFTWARE)
    assert key.primary.HasField("generate_time") and not key.primary.HasField("destroy_time")
    assert (key.purpose, key.version_template.algorithm) == (ENCRYPT_DECRYPT, V.GOOGLE_SYMMETRIC_ENCRYPTION)
    assert key.destroy_scheduled_duration.seconds == 30 * 86400 and not key.HasField("rotation_period")
    assert dict(key.labels) == {"env": "dev", "team": "pii"}
    assert world.orders.kms.GetCryptoKey(msg.GetCryptoKeyRequest(name=key.name)) == key
    assert world.orders.kms.GetCryptoKeyVersion(msg.GetCryptoKeyVersionRequest(name=key.primary.name)) == key.primary


def test_a_key_without_a_first_version_encrypts_nothing(world, ring):
    key = create_key(world, ring, skip=True)
    assert not key.HasField("primary")
    assert len(world.keyadmin.kms.ListCryptoKeyVersions(msg.ListCryptoKeyVersionsRequest(parent=key.name)).crypto_key_versions) == 0
    with refused(Code.FAILED_PRECONDITION, "KEY_NO_PRIMARY"):
        world.encrypt(key.name)
    first = world.keyadmin.kms.CreateCryptoKeyVersion(msg.CreateCryptoKeyVersionRequest(parent=key.name))
    assert first.name.endswith("/1") and first.state == ENABLED
    with refused(Code.FAILED_PRECONDITION, "KEY_NO_PRIMARY"):  # a new version is not primary by itself
        world.encrypt(key.name)
    key = world.keyadmin.kms.UpdateCryptoKeyPrimaryVersion(msg.UpdateCryptoKeyPrimaryVersionRequest(name=key.name, crypto_key_version_id="1"))
    assert key.primary == first
    assert world.decrypt(key.name, world.encrypt(key.name)) == b"jane@example.com"


DAY = 86400
BAD_FIELDS = [
    (dict(purpose=0), Code.INVALID_ARGUMENT, "crypto_key.purpose"),
    (dict(purpose=99), Code.INVALID_ARGUMENT, "crypto_key.purpose"),
    (dict(purpose=res.CryptoKey.ASYMMETRIC_SIGN), Code.UNIMPLEMENTED, None),
    (dict(purpose=res.CryptoKey.MAC), Code.UNIMPLEMENTED, None),
    (dict(version_template=dict(protection_level=res.EXTERNAL)), Code.UNIMPLEMENTED, None),
    (dict(version_template=dict(protection_level=77)), Code.UNIMPLEMENTED, None),
    (dict(version_template=dict(algorithm=V.AES_256_GCM)), Code.INVALID_ARGUMENT, "crypto_key.version_template.algorithm"),
    (dict(version_template=dict(algorithm=4711)), Code.INVALID_ARGUMENT, "crypto_key.version_template.algorithm"),
    (dict(import_only=True), Code.UNIMPLEMENTED, None),
    (dict(crypto_key_backend="projects/x"), Code.UNIMPLEMENTED, None),
    (dict(key_access_justifications_policy=dict()), Code.UNIMPLEMENTED, None),
    (dict(labels={"Env": "dev"}), Code.INVALID_ARGUMENT, "crypto_key.labels"),
    (dict(labels={"1env": "dev"}), Code.INVALID_ARGUMENT, "crypto_key.labels"),
    (dict(labels={"": "dev"}), Code.INVALID_ARGUMENT, "crypto_key.labels"),
    (dict(labels={"env": "a b"}), Code.INVALID_ARGUMENT, "crypto_key.labels"),
    (dict(labels={"e" * 64: "x"}), Code.INVALID_ARGUMENT, "crypto_key.labels"),
    (dict(labels={f"l{i}": "" for i in range(65)}), Code.INVALID_ARGUMENT, None),
    (dict(rotation_period=dict(seconds=DAY - 1)), Code.INVALID_ARGUMENT, "crypto_key.rotation_period"),
    (dict(rotation_period=dict(seconds=DAY, nanos=1)), Code.INVALID_ARGUMENT, "crypto_key.rotation_period"),
    (dict(rotation_period=dict(seconds=DAY)), Code.INVALID_ARGUMENT, "crypto_key.next_rotation_time"),
    (dict(next_rotation_time=dict(seconds=1)), Code.INVALID_ARGUMENT, "crypto_key.next_rotation_time"),
    (dict(destroy_scheduled_duration=dict(seconds=DAY - 1)), Code.INVALID_ARGUMENT, "crypto_key.destroy_scheduled_duration"),
    (dict(destroy_scheduled_duration=dict(seconds=121 * DAY)), Code.INVALID_ARGUMENT, "crypto_key.destroy_scheduled_duration"),
]


@pytest.mark.parametrize("fields,code,field", BAD_FIELDS, ids=lambda v: str(v)[:40] if isinstance(v, dict) else "")
def test_fields_that_are_not_served_are_refused_and_nothing_is_made(world, ring, fields, code, field):
    key_id = world.word("refused")
    with refused(code, field=field):
        create_key(world, ring, key_id, **fields)
    with refused(Code.NOT_FOUND):
        world.keyadmin.kms.GetCryptoKey(msg.GetCryptoKeyRequest(name=f"{ring}/cryptoKeys/{key_id}"))


def test_the_just_allowed_twins(world, ring):
    in_90_days = int(time.time()) + 90 * DAY
    key = create_key(world, ring, labels={"e" * 63: "v" * 63, **{f"l{i}": "" for i in range(63)}},
                     rotation_period=dict(seconds=DAY), next_rotation_time=dict(seconds=in_90_days),
                     destroy_scheduled_duration=dict(seconds=120 * DAY),
                     version_template=dict(protection_level=res.SOFTWARE, algorithm=V.GOOGLE_SYMMETRIC_ENCRYPTION))
    assert len(key.labels) == 64 and key.rotation_period.seconds == DAY and key.next_rotation_time.seconds == in_90_days
    assert key.destroy_scheduled_duration.seconds == 120 * DAY
    with refused(Code.INVALID_ARGUMENT, field="crypto_key"):
        world.keyadmin.kms.CreateCryptoKey(msg.CreateCryptoKeyRequest(parent=ring, crypto_key_id="nothing"))
    with refused(Code.ALREADY_EXISTS):
        create_key(world, ring, key.name.rsplit("/", 1)[1])
    with refused(Code.UNIMPLEMENTED):
        world.keyadmin.kms.CreateCryptoKey(msg.CreateCryptoKeyRequest(parent=ring, crypto_key_id="wrapping", trusted_wrapping_enabled=True,
                                                                      crypto_key=res.CryptoKey(purpose=ENCRYPT_DECRYPT)))
    with refused(Code.NOT_FOUND):  # the ring's existence comes before the fields
        create_key(world, world.location + "/keyRings/absent", purpose=99)


# ---- update: field masks ------------------------------------------------------------------------------------------------
def update_key(world, name, paths, **fields):
    request = msg.UpdateCryptoKeyRequest(crypto_key=res.CryptoKey(name=name, **fields))
    request.update_mask.paths.extend(paths)
    return world.keyadmin.kms.UpdateCryptoKey(request)


def test_update_changes_what_the_mask_names_and_nothing_else(world, ring):
    when = int(time.time()) + 10 * DAY
    key = create_key(world, ring, labels={"a": "1"})
    changed = update_key(world, key.name, ["labels"], labels={"b": "2"}, rotation_period=dict(seconds=7 * DAY))
    assert dict(changed.labels) == {"b": "2"} and not changed.HasField("rotation_period")
    changed = update_key(world, key.name, ["rotation_period", "next_rotation_time"], labels={"c": "3"},
                         rotation_period=dict(seconds=7 * DAY), next_rotation_time=dict(seconds=when))
    assert dict(changed.labels) == {"b": "2"} and changed.rotation_period.seconds == 7 * DAY and changed.next_rotation_time.seconds == when
    changed = update_key(world, key.name, ["rotation_period", "next_rotation_time"])
    assert not changed.HasField("rotation_period") and not changed.HasField("next_rotation_time")
    assert dict(update_key(world, key.name, ["labels"]).labels) == {}
    assert world.keyadmin.kms.GetCryptoKey(msg.GetCryptoKeyRequest(name=key.name)).primary == key.primary


@pytest.mark.parametrize("paths", [[], ["purpose"], ["name"], ["primary"], ["labels", "nonsense"], ["labels.a"], ["*"], ["destroy_scheduled_duration"]])
def test_masks_that_are_not_served_are_refused(world, key, paths):
    before = world.keyadmin.kms.GetCryptoKey(msg.GetCryptoKeyRequest(name=key))
    with refused(Code.INVALID_ARGUMENT, field="update_mask"):
        update_key(world, key, paths, labels={"x": "y"})
    assert world.keyadmin.kms.GetCryptoKey(msg.GetCryptoKeyRequest(name=key)) == before


def test_update_needs_a_key_that_exists(world, ring):
    with refused(Code.NOT_FOUND):
        update_key(world, ring + "/cryptoKeys/absent", ["nonsense"])
    with refused(Code.INVALID_ARGUMENT, field="crypto_key"):
        world.keyadmin.kms.UpdateCryptoKey(msg.UpdateCryptoKeyRequest())


# ---- versions: the state machine ------------------------------------------------------------------------------------------
def act(world, what, version):
    kms = world.keyadmin.kms
    if what == "enable":
        return world.set_state(version, ENABLED)
    if what == "disable":
        return world.set_state(version, DISABLED)
    if what == "destroy":
        return kms.DestroyCryptoKeyVersion(msg.DestroyCryptoKeyVersionRequest(name=version))
    if what == "restore":
        return kms.RestoreCryptoKeyVersion(msg.RestoreCryptoKeyVersionRequest(name=version))
    return kms.UpdateCryptoKeyPrimaryVersion(msg.UpdateCryptoKeyPrimaryVersionRequest(
        name=version.split("/cryptoKeyVersions/")[0], crypto_key_version_id=version.rsplit("/", 1)[1]))


INTO = {ENABLED: [], DISABLED: ["disable"], SCHEDULED: ["destroy"]}
MOVES = [(ENABLED, "enable", ENABLED), (ENABLED, "disable", DISABLED), (ENABLED, "destroy", SCHEDULED), (ENABLED, "restore", "KEY_VERSION_STATE"),
         (ENABLED, "primary", ENABLED),
         (DISABLED, "enable", ENABLED), (DISABLED, "disable", DISABLED), (DISABLED, "destroy", SCHEDULED),
         (DISABLED, "restore", "KEY_VERSION_STATE"), (DISABLED, "primary", "KEY_VERSION_NOT_ENABLED"),
         (SCHEDULED, "enable", "KEY_VERSION_STATE"), (SCHEDULED, "disable", "KEY_VERSION_STATE"), (SCHEDULED, "destroy", "KEY_VERSION_STATE"),
         (SCHEDULED, "restore", DISABLED), (SCHEDULED, "primary", "KEY_VERSION_NOT_ENABLED")]


@pytest.mark.parametrize("start,what,end", MOVES, ids=[f"{V.CryptoKeyVersionState.Name(s)}-{w}" for s, w, _ in MOVES])
def test_every_move_of_a_version(world, ring, start, what, end):
    version = create_key(world, ring).name + "/cryptoKeyVersions/1"
    for step in INTO[start]:
        act(world, step, version)
    get = lambda: world.orders.kms.GetCryptoKeyVersion(msg.GetCryptoKeyVersionRequest(name=version))  # noqa: E731
    assert get().state == start
    if isinstance(end, str):
        with refused(Code.FAILED_PRECONDITION, end):
            act(world, what, version)
        assert get().state == start
        return
    act(world, what, version)
    after = get()
    assert after.state == end and after.HasField("destroy_time") == (end == SCHEDULED)
    if end == SCHEDULED:
        assert abs(after.destroy_time.seconds - time.time() - 30 * DAY) < 60


def test_use_in_each_state(world, ring):
    key = create_key(world, ring)
    sealed = world.encrypt(key.name)
    for into, reason in (("disable", "KEY_VERSION_DISABLED"), ("destroy", "KEY_VERSION_DESTROY_SCHEDULED")):
        act(world, into, key.primary.name)
        for use in (lambda: world.encrypt(key.name), lambda: world.decrypt(key.name, sealed), lambda: world.encrypt(key.primary.name)):
            with refused(Code.FAILED_PRECONDITION, reason):
                use()
    act(world, "restore", key.primary.name)
    act(world, "enable", key.primary.name)
    assert world.decrypt(key.name, sealed) == b"jane@example.com"  # it never lost its material


@pytest.mark.parametrize("paths,state,field", [(["state"], 0, "crypto_key_version.state"), (["state"], SCHEDULED, "crypto_key_version.state"),
                                               (["state"], V.DESTROYED, "crypto_key_version.state"), (["state"], 1234, "crypto_key_version.state"),
                                               ([], DISABLED, "update_mask"), (["algorithm"], DISABLED, "update_mask")])
def test_versions_take_no_other_update(world, key, paths, state, field):
    request = msg.UpdateCryptoKeyVersionRequest(crypto_key_version=V(name=key + "/cryptoKeyVersions/1", state=state))
    request.update_mask.paths.extend(paths)
    with refused(Code.INVALID_ARGUMENT, field=field):
        world.keyadmin.kms.UpdateCryptoKeyVersion(request)


@pytest.mark.parametrize("number", ["0", "01", "-1", "", "x", "2147483648", "1 ", "1/2"])
def test_bad_version_numbers(world, key, number):
    with refused(Code.INVALID_ARGUMENT, field="crypto_key_version_id"):
        act(world, "primary", f"{key}/cryptoKeyVersions/{number}") if "/" not in number else world.keyadmin.kms.UpdateCryptoKeyPrimaryVersion(
            msg.UpdateCryptoKeyPrimaryVersionRequest(name=key, crypto_key_version_id=number))
    with refused(Code.INVALID_ARGUMENT, field="name"):
        world.keyadmin.kms.GetCryptoKeyVersion(msg.GetCryptoKeyVersionRequest(name=f"{key}/cryptoKeyVersions/{number}"))


def test_a_version_that_is_not_there(world, key):
    for call in (lambda: act(world, "primary", key + "/cryptoKeyVersions/99"), lambda: act(world, "destroy", key + "/cryptoKeyVersions/99"),
                 lambda: act(world, "enable", key + "/cryptoKeyVersions/99"), lambda: world.encrypt(key + "/cryptoKeyVersions/2147483647")):
        with refused(Code.NOT_FOUND):
            call()
    with refused(Code.INVALID_ARGUMENT, field="crypto_key_version.state"):
        world.keyadmin.kms.CreateCryptoKeyVersion(msg.CreateCryptoKeyVersionRequest(parent=key, crypto_key_version=V(state=DISABLED)))
    assert len(world.keyadmin.kms.ListCryptoKeyVersions(msg.ListCryptoKeyVersionsRequest(parent=key)).crypto_key_versions) == 1


# ---- lists ---------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def many(world):
    """A ring with five keys; the first has twelve versions, of which 3 and 11 are disabled."""
    ring = world.ring()
    keys = [create_key(world, ring, f"key-{n}", labels={"n": str(n), "odd": "yes" if n % 2 else "no"}).name for n in range(5)]
    for _ in range(11):
        world.keyadmin.kms.CreateCryptoKeyVersion(msg.CreateCryptoKeyVersionRequest(parent=keys[0]))
    for n in (3, 11):
        world.set_state(f"{keys[0]}/cryptoKeyVersions/{n}", DISABLED)
    return ring, keys


def versions_of(world, parent, who=None, **kw):
    r = (who or world.keyadmin).kms.ListCryptoKeyVersions(msg.ListCryptoKeyVersionsRequest(parent=parent, **kw))
    return [int(v.name.rsplit("/", 1)[1]) for v in r.crypto_key_versions], r


def keys_of(world, parent, who=None, **kw):
    r = (who or world.keyadmin).kms.ListCryptoKeys(msg.ListCryptoKeysRequest(parent=parent, **kw))
    return [k.name.rsplit("/", 1)[1] for k in r.crypto_keys], r


def test_versions_are_in_numeric_order(world, many):
    assert versions_of(world, many[1][0])[0] == list(range(1, 13))
    for order in ("name", "name asc"):
        assert versions_of(world, many[1][0], order_by=order)[0] == list(range(1, 13))
    assert versions_of(world, many[1][0], order_by="name desc")[0] == list(range(12, 0, -1))


@pytest.mark.parametrize("order", ["", "name desc"])
@pytest.mark.parametrize("size", [1, 5, 11, 12, 13])
def test_pages_join_to_the_whole(world, many, order, size):
    seen, token, pages = [], "", 0
    while True:
        page, r = versions_of(world, many[1][0], page_size=size, page_token=token, order_by=order)
        assert len(page) <= size and r.total_size == 12
        seen, token, pages = seen + page, r.next_page_token, pages + 1
        if not token:
            break
    assert seen == (list(range(1, 13)) if not order else list(range(12, 0, -1)))
    assert pages == -(-12 // size)


def test_page_sizes(world, many):
    assert len(versions_of(world, many[1][0], page_size=0)[0]) == 12
    assert len(versions_of(world, many[1][0], page_size=2**31 - 1)[0]) == 12  # more than a page may hold: capped, not refused
    with refused(Code.INVALID_ARGUMENT, field="page_size"):
        versions_of(world, many[1][0], page_size=-1)


def test_a_token_serves_only_its_own_caller_and_query(world, many):
    ring, keys = many
    token = keys_of(world, ring, page_size=2)[1].next_page_token
    assert keys_of(world, ring, page_size=2, page_token=token)[0] == ["key-2", "key-3"]
    assert keys_of(world, ring, page_size=1, page_token=token)[0] == ["key-2"]  # the size of a page is not the query
    other_ring = world.ring()
    uses = [lambda t: keys_of(world, ring, who=world.orders, page_token=t), lambda t: keys_of(world, other_ring, page_token=t),
            lambda t: keys_of(world, ring, page_token=t, order_by="name desc"), lambda t: keys_of(world, ring, page_token=t, filter="name:key"),
            lambda t: versions_of(world, keys[0], page_token=t),
            lambda t: world.keyadmin.kms.ListKeyRings(msg.ListKeyRingsRequest(parent=world.location, page_token=t))]
    for use in uses:
        with refused(Code.INVALID_ARGUMENT, field="page_token"):
            use(token)
    for bad in (token[:-1], token[:-1] + ("A" if token[-1] != "A" else "B"), token + "A", "x", "=" * 10, token.swapcase(), "A" * 5000):
        with refused(Code.INVALID_ARGUMENT, field="page_token"):
            keys_of(world, ring, page_token=bad)


@pytest.mark.parametrize("text,expected", [("state=ENABLED", [n for n in range(1, 13) if n not in (3, 11)]), ("state=DISABLED", [3, 11]),
                                           ("state=DESTROYED", []), ("name:cryptoKeyVersions/1", [1, 10, 11, 12]),
                                           ("state=DISABLED AND name:cryptoKeyVersions/1", [11]), ('state="DISABLED"', [3, 11])])
def test_filters_of_versions(world, many, text, expected):
    found, r = versions_of(world, many[1][0], filter=text)
    assert found == expected
    paged, token = [], ""
    while True:  # filters and pages together
        page, r = versions_of(world, many[1][0], filter=text, page_size=1, page_token=token)
        paged, token = paged + page, r.next_page_token
        if not token:
            break
    assert paged == expected


@pytest.mark.parametrize("text,expected", [("name:key-3", ["key-3"]), ("labels.odd=yes", ["key-1", "key-3"]),
                                           ("labels.odd=no AND labels.n=4", ["key-4"]), ("labels.odd=maybe", []), ("labels.absent=x", []),
                                           ("name:key AND labels.odd=no", ["key-0", "key-2", "key-4"])])
def test_filters_of_keys(world, many, text, expected):
    assert keys_of(world, many[0], filter=text)[0] == expected


@pytest.mark.parametrize("text", ["state", "state=", "state=enabled", "state=ENABLED OR state=DISABLED", "state!=ENABLED", "nonsense=1", "labels.=x",
                                  "labels.n=1", "name=x", "state=ENABLED AND", "AND", " ", "create_time>1", 'name:"x', "NOT state=ENABLED",
                                  " AND ".join(["name:x"] * 9)])
def test_filters_of_versions_that_are_refused(world, many, text):
    with refused(Code.INVALID_ARGUMENT, field="filter"):
        versions_of(world, many[1][0], filter=text)


@pytest.mark.parametrize("text", ["state=ENABLED", "purpose=ENCRYPT_DECRYPT", "labels.n"])
def test_filters_of_keys_that_are_refused(world, many, text):
    with refused(Code.INVALID_ARGUMENT, field="filter"):
        keys_of(world, many[0], filter=text)


@pytest.mark.parametrize("order", ["create_time", "name up", "NAME", "name,state", "name  desc", "desc"])
def test_orders_that_are_refused(world, many, order):
    with refused(Code.INVALID_ARGUMENT, field="order_by"):
        versions_of(world, many[1][0], order_by=order)


def test_lists_of_what_is_not_there(world, many):
    with refused(Code.NOT_FOUND):
        keys_of(world, world.location + "/keyRings/absent", order_by="nonsense")  # existence comes before fields
    with refused(Code.NOT_FOUND):
        versions_of(world, many[0] + "/cryptoKeys/absent")
    with refused(Code.INVALID_ARGUMENT, field="version_view"):
        keys_of(world, many[0], version_view=9)
    with refused(Code.INVALID_ARGUMENT, field="view"):
        versions_of(world, many[1][0], view=-1)
    assert keys_of(world, many[0], version_view=V.FULL)[0] == keys_of(world, many[0])[0]


# ---- what is not served ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["AsymmetricSign", "AsymmetricDecrypt", "MacSign", "MacVerify", "GetPublicKey", "RawEncrypt", "RawDecrypt",
                                    "ImportCryptoKeyVersion", "CreateImportJob", "GetImportJob", "ListImportJobs", "Decapsulate",
                                    "DeleteCryptoKey", "DeleteCryptoKeyVersion", "ListRetiredResources", "GetRetiredResource", "encrypt", "", "Encrypt/"])
def test_the_rest_of_the_service_is_unimplemented(world, key, method):
    with refused(Code.UNIMPLEMENTED):
        world.orders.raw(f"/google.cloud.kms.v1.KeyManagementService/{method}", msg.EncryptRequest(name=key).SerializeToString())


def test_other_services_are_unimplemented(world):
    for path in ("/google.iam.v1.IAMPolicy/GetIamPolicy", "/x/y", "/" + "a" * 3000):
        with refused(Code.UNIMPLEMENTED):
            world.orders.raw(path, b"")


# ---- random bytes -------------------------------------------------------------------------------------------------------------
def test_random_bytes_come_from_the_token(world):
    ask = lambda n, level=res.HSM, where=world.location: world.orders.kms.GenerateRandomBytes(  # noqa: E731
        msg.GenerateRandomBytesRequest(location=where, length_bytes=n, protection_level=level))
    for n in (8, 1024):
        a, b = ask(n), ask(n)
        assert len(a.data) == n and a.data != b.data and a.data_crc32c.value == crc32c(a.data)
    for n in (7, 1025, 0, -1):
        with refused(Code.INVALID_ARGUMENT, field="length_bytes"):
            ask(n)
    for level in (0, res.SOFTWARE, 99):
        with refused(Code.INVALID_ARGUMENT, field="protection_level"):
            ask(16, level)
    with refused(Code.NOT_FOUND):
        ask(16, where="projects/acme/locations/us")


def test_versions_made_at_once_are_numbered_without_gaps(world, ring):
    """Who loses the race is made again by the service itself, as often as there are others; nothing is made twice or half."""
    key = create_key(world, ring).name
    made = in_threads(8, lambda i: world.keyadmin.kms.CreateCryptoKeyVersion(msg.CreateCryptoKeyVersionRequest(parent=key)))
    lost = [m for m in made if isinstance(m, Exception)]
    assert not lost, lost
    assert versions_of(world, key)[0] == list(range(1, 2 + len(made) - len(lost)))
    assert world.decrypt(key, world.encrypt(key)) == b"jane@example.com"
