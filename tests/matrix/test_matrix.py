"""Every RPC x every identity x everything that is another's or not there: one refusal, byte for byte."""
import collections

import pytest
from claviger.policy.v1 import policy_pb2 as pol

import requests
import rows
import walk
from conftest import IDENTITIES, STRANGERS
from walk import Code, shapes, told

TENANTS_PEOPLE = [i for i, tenant in IDENTITIES.items() if tenant]


@pytest.mark.parametrize("identity", TENANTS_PEOPLE)
def test_what_is_anothers_is_refused_alike_whether_it_is_there_or_not(walked, refusal, identity):
    seen = collections.Counter()
    for row in walked.table:
        walked_row, problems = walk.told_apart(walked, row, identity, refusal)
        assert problems == [], "\n".join(problems)
        seen += walked_row
    assert seen[False] > 1000 and (seen[True] > 200 or identity in ("acme-auditor", "globex-nothing")), seen


@pytest.mark.parametrize("identity", TENANTS_PEOPLE)
def test_an_item_that_is_anothers_is_refused_alike_beside_ones_own(walked, identity):
    """Batches are decided item by item: the refused item among permitted ones says no more than a call refused whole."""
    own = walked.places[IDENTITIES[identity]]
    other, = [p for t, p in walked.places.items() if t != own.tenant]
    caller, mixed = walked.callers[identity], 0
    for row in walked.table:
        for path in requests.text_fields(row.request.DESCRIPTOR):
            if not requests.in_items(row, path) or not walked.taken(row, path, "key"):
                continue
            found = set()
            for name in (other.key, *other.absent("key").values(), other.no_tenant("key")):
                answer = caller(row, requests.batch(row, path, own.key, name))
                found.add((answer.code, answer.body and answer.body.results[1].SerializeToString()))
                assert answer.each()[-1] is Code.PERMISSION_DENIED, (row, name)
            assert len(found) == 1, (row, found)
            mixed += walked.permitted(identity, row.action, own.key)
    assert (mixed > 0) == walked.permitted(identity, "envelope.encrypt", own.key)


@pytest.mark.parametrize("identity", IDENTITIES)
def test_what_is_not_permitted_is_refused_alike_whether_it_is_there_or_not(walked, refusal, identity):
    """In one's own tenant, and for the platform's people in all of them."""
    seen = collections.Counter()
    for step, answer in walked.of(identity=identity).items():
        if step.whose == "foreign" or not walked.taken(step.row, step.path, step.kind):
            continue
        allowed = walked.permitted(identity, step.row.action, step.name)
        if not allowed:
            assert answer.shape == refusal, f"{answer}: {step}"
        else:
            assert answer.code is not Code.PERMISSION_DENIED, step
            if not step.there and step.path and answer.code is not Code.INVALID_ARGUMENT:
                assert set(answer.each()) == {Code.NOT_FOUND}, f"{answer} {answer.body}: {step}"
        seen[allowed, step.there] += 1
    assert seen[False, True] > 10 and seen[False, False] > 10 and (seen[True, False] + seen[True, True] > 0) == (identity != "globex-nothing"), seen


def test_what_is_there_and_permitted_is_found(walked):
    """The twin: the names that are refused are real ones."""
    kind_of = {"ring": "keyRings", "key": "cryptoKeys", "version": "cryptoKeyVersions"}
    for tenant, place in walked.places.items():
        for kind, method in (("ring", "GetKeyRing"), ("key", "GetCryptoKey"), ("version", "GetCryptoKeyVersion")):
            for identity in (i for i, t in IDENTITIES.items() if t == tenant and walked.permitted(i, f"kms.{kind_of[kind]}.get", place.there(kind))):
                answer, = [a for s, a in walked.of(identity=identity, name=place.there(kind), path=("name",)).items() if s.row.method == method]
                assert answer.code is Code.OK and answer.body.name == place.there(kind)
    answer, = [a for s, a in walked.of(identity="admin", name="projects/globex").items() if s.row.method == "GetTenant"]
    assert answer.body.location == "us"


def test_who_is_nobody_hears_one_thing(walked):
    """Not registered, or registered and disabled: the same words for every RPC and every name."""
    found = {name: shapes(walked.of(identity=name)) for name in STRANGERS}
    assert all(len(f) == 1 for f in found.values()) and len({shape for f in found.values() for shape in f}) == 1, found
    assert next(iter(found["nobody"]))[0] is Code.UNAUTHENTICATED
    for name in STRANGERS:
        assert {s.row for s in walked.of(identity=name)} == {r for r in walked.table if not r.public}


def test_policy_is_asked_for_every_action(walked):
    """TestPolicy is what the matrix goes by: of each action it must permit somebody of a tenant or of the platform something."""
    for row in walked.table:
        if row.action:
            anything = [""] + [p.there(k) for p in walked.places.values() for k in walk.KINDS if k != "principal"]
            assert any(walked.permitted(i, row.action, name) for i in IDENTITIES for name in anything), row


# ---- nothing is left out ------------------------------------------------------------------------------------------------
def test_every_row_was_exercised(walked, table):
    assert len(table) > 30 and {r.path for r in walked.table} == {r.path for r in table}
    assert walked.complaints() == []
    for row in table:
        if not row.public:
            asked = {s.identity for s in walked.of(row=row)}
            assert asked | walked.would_change(row) == {*IDENTITIES, *STRANGERS}, row
            assert len(asked) > 5, row


def test_every_name_that_a_row_takes_was_tried(walked):
    """A field that is read as a name complains of garbage: each such field took a name of some kind."""
    named = 0
    for row in walked.table:
        for path in requests.text_fields(row.request.DESCRIPTOR):
            if row.public or requests.is_child(path):
                continue
            complained = [a for i in IDENTITIES if (a := walked.garbage[row, i, path]).code is Code.INVALID_ARGUMENT]
            if not complained or not any(_blames(a, path) for a in complained):
                continue
            named += 1
            assert any(walked.taken(row, path, kind) for kind in walk.KINDS) or _free_text(row, path), (row, path)
    assert named > 20


def _blames(answer, path):
    return ".".join(path).encode() in dict(answer.metadata).get("grpc-status-details-bin", b"")


def _free_text(row, path):
    """Checked by rules of their own, after the decision: garbage is refused, and no name is meant."""
    return path[-1] in ("filter", "order_by", "page_token", "display_name", "san", "location", "action", "principal")


def test_public_rows_say_the_same_to_everybody(walked, table):
    public = [r for r in table if r.public]
    assert public and all(not r.action for r in public) and all(r.action for r in table if not r.public)
    for row in public:
        if row.kind != "unary":
            continue
        found = {(a.shape, a.body.SerializeToString() if a.body else None)
                 for a in (caller(row, row.request()) for caller in walked.callers.values())}
        assert len(found) == 1, row


def test_a_row_that_cannot_be_filled_is_named(walked):
    """What happens to a new RPC whose request the rules of requests.py cannot fill: here one whose every request is empty."""
    real, = [r for r in walked.table if r.method == "GetCryptoKey"]
    stubborn = rows.Row(real.service, real.method, real.kind, real.action, real.flags, pol.GetPolicyRequest, real.response)
    said = walk.Walk([stubborn], {}, walked.identities, walked.places, walked.admin)
    said.callers = walked.callers
    heard = said.row(stubborn).complaints()
    assert len(heard) == len(TENANTS_PEOPLE) and all("GetCryptoKey" in h and "INVALID_ARGUMENT" in h for h in heard)


def test_a_row_of_a_service_without_stubs_is_named():
    with pytest.raises(KeyError):
        rows.table("### claviger.unheard.v1.Of\n| Get | unary | `unheard.get` | control |\n")
