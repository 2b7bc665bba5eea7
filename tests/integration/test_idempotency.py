"""A mutation with an idempotency key happens once, and answers the same again."""
import pytest

from claviger.envelope.v1 import envelope_pb2 as env
from claviger.identity.v1 import identity_pb2 as idy
from claviger.policy.v1 import policy_pb2 as pol
from claviger.tenants.v1 import tenants_pb2 as ten
from conftest import ENCRYPT_DECRYPT, msg
from kit.client import in_threads
from kit.wire import Code, refused

NAME = "claviger-idempotency-key"


def meta(key):
    return [(NAME, key)]


def create_version(world, key, idem, who=None):
    return (who or world.keyadmin).kms.CreateCryptoKeyVersion(msg.CreateCryptoKeyVersionRequest(parent=key), metadata=meta(idem))


def count(world, key):
    return world.keyadmin.kms.ListCryptoKeyVersions(msg.ListCryptoKeyVersionsRequest(parent=key)).total_size


def test_the_same_request_has_one_effect_and_one_answer(world, ring):
    key = world.key(ring)
    idem, start = world.word("same"), world.audit.position()
    first = create_version(world, key, idem)
    assert [create_version(world, key, idem) for _ in range(3)] == [first] * 3 and count(world, key) == 2
    assert create_version(world, key, world.word("next")).name.endswith("/3")
    events = world.audit.find(start, action="kms.cryptoKeyVersions.create")
    assert [(e.event.outcome, e.event.reason) for e in events] == [("ok", "")] + [("ok", "IDEMPOTENT_REPLAY")] * 3 + [("ok", "")]


def test_it_holds_over_a_restart(new_world):
    world = new_world
    key = world.key()
    first = create_version(world, key, "over-restart")
    world.instance.restart()
    world = type(world)(world.instance)
    assert create_version(world, key, "over-restart") == first and count(world, key) == 2


def test_another_request_under_the_same_key_is_refused(world, ring):
    one, two = world.key(ring), world.key(ring)
    idem = world.word("reused")
    create_version(world, one, idem)
    with refused(Code.INVALID_ARGUMENT, "IDEMPOTENCY_KEY_REUSED"):
        create_version(world, two, idem)
    assert count(world, two) == 1


def test_keys_are_the_callers_own_and_the_methods_own(world, ring):
    idem, mine, theirs = world.word("scoped"), world.key(ring), world.key2()
    create_version(world, mine, idem)
    assert create_version(world, theirs, idem, world.keyadmin2).name == theirs + "/cryptoKeyVersions/2"
    name = mine + "/cryptoKeyVersions/2"
    assert world.keyadmin.kms.DestroyCryptoKeyVersion(msg.DestroyCryptoKeyVersionRequest(name=name), metadata=meta(idem)).name == name


@pytest.mark.parametrize("bad", ["x" * 129, "with space"], ids=["too long", "with space"])
def test_keys_that_are_not_clean_do_not_pass_for_clean_ones(world, ring, bad):
    """What cannot be kept must not be ignored: the caller believes that its retry is safe."""
    key = world.key(ring)
    with refused(Code.INVALID_ARGUMENT, "IDEMPOTENCY_KEY"):
        create_version(world, key, bad)
    assert count(world, key) == 1


def test_the_longest_key_works(world, ring):
    key = world.key(ring)
    assert create_version(world, key, "x" * 128) == create_version(world, key, "x" * 128) and count(world, key) == 2


def test_a_refused_request_leaves_no_record(world, ring):
    idem = world.word("refused")
    with refused(Code.NOT_FOUND):
        create_version(world, ring + "/cryptoKeys/later", idem)
    world.keyadmin.kms.CreateCryptoKey(msg.CreateCryptoKeyRequest(parent=ring, crypto_key_id="later", crypto_key=dict(purpose=ENCRYPT_DECRYPT)))
    assert create_version(world, ring + "/cryptoKeys/later", idem).name.endswith("/2")


def test_an_answer_is_given_again_only_to_whom_it_is_still_permitted(new_world):
    world = new_world
    key = world.key()
    create_version(world, key, "then-denied")
    now = world.admin.policy.GetPolicy(pol.GetPolicyRequest())
    documents = [pol.Document(name=d.name, yaml=d.yaml.replace(b"principals: [acme-keyadmin]", b"principals: [acme-other]")) for d in now.documents]
    world.admin.policy.ApplyPolicy(pol.ApplyPolicyRequest(documents=documents, expected_version=now.version))
    with refused(Code.PERMISSION_DENIED):
        create_version(world, key, "then-denied")


def test_duplicates_at_once_have_exactly_one_effect(world, ring):
    for _ in range(4):
        key = world.key(ring)
        idem = world.word("race")
        answers = in_threads(8, lambda i: create_version(world, key, idem))
        assert all(a == answers[0] for a in answers) and not isinstance(answers[0], Exception), answers
        assert count(world, key) == 2


def test_duplicates_at_once_of_what_can_only_be_done_once(world, ring):
    """The loser finds the thing done already: still the winner's answer, not a refusal."""
    for _ in range(4):
        version = world.key(ring) + "/cryptoKeyVersions/1"
        idem = world.word("once")
        answers = in_threads(8, lambda i: world.keyadmin.kms.DestroyCryptoKeyVersion(msg.DestroyCryptoKeyVersionRequest(name=version), metadata=meta(idem)))
        assert all(a == answers[0] for a in answers) and not isinstance(answers[0], Exception), answers
    ids = [world.word("tenant-") for _ in range(3)]
    for id_ in ids:
        answers = in_threads(6, lambda i: world.admin.tenants.CreateTenant(ten.CreateTenantRequest(tenant_id=id_, tenant=dict(location="eu")), metadata=meta("t" + id_)))
        assert all(a == answers[0] for a in answers) and not isinstance(answers[0], Exception), answers


def test_other_mutations_too(world):
    request = idy.CreatePrincipalRequest(principal_id=world.word("p-idem"), principal=dict(tenant="projects/acme", san=f"dns:{world.word('h')}.example"))
    first = world.admin.identity.CreatePrincipal(request, metadata=meta("principal"))
    assert world.admin.identity.CreatePrincipal(request, metadata=meta("principal")) == first
    with refused(Code.ALREADY_EXISTS):
        world.admin.identity.CreatePrincipal(request)


def test_reads_and_uses_take_no_notice_of_it(world, key):
    a, b = (world.orders.env.Wrap(env.WrapRequest(name=key, plaintext_key=b"k"), metadata=meta("use")).wrapped_key for _ in range(2))
    assert a != b
