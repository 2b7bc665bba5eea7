"""What is not a name but could carry something across: page tokens, idempotency keys, request ids, positions in the log, and what
a stream is told later. From the table and the descriptors, like the rest: a list with page tokens that is new is here."""
import itertools

import pytest
from claviger.audit.v1 import audit_pb2
from google.cloud.kms.v1 import service_pb2 as msg
from kit.client import AuditLog
from kit.instance import SLOWER
from kit.wire import Code

import requests
from conftest import IDENTITIES

KEY = "claviger-idempotency-key"


def shape(call):
    """All that a caller sees of one call: its code, its words, its details."""
    details = [v for k, v in call.trailing_metadata() or () if k == "grpc-status-details-bin"]
    return call.code(), call.details(), tuple(details)


def ask(caller, row, request, metadata=()):
    call = caller.channel.unary_unary(row.path, row.request.SerializeToString, row.response.FromString).future(
        request, timeout=20 * SLOWER, metadata=list(metadata))
    call.exception(timeout=20 * SLOWER)
    return call


# ---- page tokens ------------------------------------------------------------------------------------------------------------
def lists(table):
    return [r for r in table if r.kind == "unary" and "page_token" in r.request.DESCRIPTOR.fields_by_name]


# What they list takes a day to come about: test_destruction_clock.py has their tokens.
LATER = {"ListCertificates", "ListTenantCertificates"}


def about(walked, row, identity, place):
    """The request of a list for that tenant's things, as that identity may ask for them; None: it may not."""
    for path in requests.text_fields(row.request.DESCRIPTOR):
        for kind in ("version", "key", "ring", "location", "tenant"):
            found = [s for s, a in walked.of(row=row, identity=identity, path=path, kind=kind).items()
                     if s.there and s.name == place.there(kind) and a.code is Code.OK]
            if found:
                return requests.build(row, path, found[0].name)
    return row.request() if walked.permitted(identity, row.action, "") else None


@pytest.fixture(scope="module")
def tokens(walked, world, places):
    """Genuine tokens: (row, identity) -> (request, token). In both tenants everything is there twice, or there is no second page."""
    for place, who in ((places["acme"], world.keyadmin), (places["globex"], world.keyadmin2)):
        world.key(world.ring(who, f"projects/{place.tenant}/locations/{place.location}"), who=who)
        world.key(place.ring, who=who)
    found = {}
    for row in lists(walked.table):
        if row.method in LATER:
            continue
        for identity, tenant in IDENTITIES.items():
            request = about(walked, row, identity, places[tenant or "acme"])
            if request is None:
                continue
            request.page_size = 1
            call = ask(walked.callers[identity], row, request)
            assert call.code() is Code.OK, (row, identity, call.details())
            token = call.result().next_page_token
            assert token, (row, identity)
            found[row, identity] = request, token
    return found


def test_every_list_gave_tokens(walked, tokens):
    rows = {r for r, _ in tokens}
    assert {str(r) for r in rows} == {str(r) for r in lists(walked.table) if r.method not in LATER} and len(rows) >= 5
    assert {r.method for r in lists(walked.table)} >= LATER
    for row in rows:
        assert len([1 for r, _ in tokens if r is row]) >= 2, row


def test_a_token_is_of_its_list_and_its_caller(walked, tokens):
    """Used by anybody else, or for anything else, it is what garbage is: refused in the same words."""
    wrong = 0
    for (row, identity), (request, _) in tokens.items():
        caller, ours = walked.callers[identity], type(request)()
        ours.CopyFrom(request)
        ours.page_token = "garbage"
        garbage = shape(ask(caller, row, ours))
        assert garbage[0] is Code.INVALID_ARGUMENT and b"page_token" in garbage[2][0]
        for (other_row, other), (_, token) in tokens.items():
            ours.page_token = token
            answer = ask(caller, row, ours)
            if (other_row, other) == (row, identity):
                assert answer.code() is Code.OK, row  # the twin
                continue
            assert shape(answer) == garbage, (row, identity, other_row, other)
            wrong += 1
    assert wrong > 100


# ---- idempotency keys -------------------------------------------------------------------------------------------------------
def test_anothers_idempotency_key_is_no_key_at_all(walked, world, places, refusal):
    """B, with the key that A has used for the very thing that B asks for, hears the refusal of a fresh key, byte by byte."""
    tried = 0
    mine, theirs = walked.callers["globex-keyadmin"], walked.callers["acme-keyadmin"]
    for row in walked.table:
        if row.kind != "unary" or "change" not in row.flags:
            continue
        steps = [s for s, a in walked.of(row=row, identity="globex-keyadmin", whose="foreign", beside=None).items() if a.shape == refusal]
        steps = [s for s in steps if s.there and s.kind != "principal"][:2]
        for s in steps:
            used, fresh = f"matrix-{row.method}-{tried}", f"matrix-fresh-{tried}"
            request = requests.build(row, s.path, s.name, f"idem{tried}" if s.child is None else s.child)
            ask(theirs, row, request, [(KEY, used)])
            answers = [shape(ask(mine, row, request, [(KEY, k)])) for k in (used, fresh, used)]
            assert len(set(answers)) == 1 and answers[0][0] is Code.PERMISSION_DENIED, (s, answers)
            tried += 1
    assert tried >= 8


def test_the_same_key_in_both_tenants_is_two(walked, world, places):
    row, = [r for r in walked.table if r.method == "CreateKeyRing"]
    made = [ask(walked.callers[f"{t}-keyadmin"], row, msg.CreateKeyRingRequest(
        parent=places[t].there("location"), key_ring_id="one-key-two-tenants"), [(KEY, "of-both")]).result().name for t in ("acme", "globex")]
    assert made[0].startswith("projects/acme/") and made[1].startswith("projects/globex/")


# ---- the log ----------------------------------------------------------------------------------------------------------------
def test_positions_and_request_ids_of_anothers_events_show_nothing(walked, world, places):
    """What an answer's trailer says of its event leads the tenant's own auditor to it, and another's to nothing."""
    row, = [r for r in walked.table if r.method == "Encrypt"]
    receipts = {}
    for tenant, who in (("acme", "acme-orders"), ("globex", "globex-billing")):
        call = ask(walked.callers[who], row, msg.EncryptRequest(name=places[tenant].key, plaintext=b"x"), [("x-request-id", "the-same-id")])
        assert call.code() is Code.OK
        receipts[tenant] = int(dict(call.trailing_metadata())["claviger-receipt"].split()[1])
    auditor = walked.callers["acme-auditor"]
    tail = auditor.channel.unary_stream("/claviger.audit.v1.Audit/Tail", audit_pb2.TailRequest.SerializeToString, audit_pb2.TailResponse.FromString)
    seen = list(tail(audit_pb2.TailRequest(tenant="projects/acme", from_index=min(receipts.values())), timeout=20 * SLOWER))
    assert {r.tenant for r in seen} == {"projects/acme"} and receipts["acme"] in [r.index for r in seen]
    for index in (receipts["globex"], receipts["globex"] + 1):
        assert receipts["globex"] not in [r.index for r in tail(audit_pb2.TailRequest(tenant="projects/acme", from_index=index), timeout=20 * SLOWER)]
    every = AuditLog(world.admin).read(min(receipts.values()))  # the twin: both are in the log
    assert [e.tenant for e in every if e.event.request_id == "the-same-id"] == ["projects/acme", "projects/globex"]


# ---- later in a stream ------------------------------------------------------------------------------------------------------
def test_a_stream_is_told_no_more_in_its_second_message(walked, places):
    """It began well, with a key of one's own; then something of another's is named, that is there or not."""
    streams = [r for r in walked.table if r.kind == "both stream" and not r.public]
    assert streams
    for row, identity in itertools.product(streams, ("acme-orders", "globex-billing")):
        own = places[IDENTITIES[identity]]
        other, = [p for p in places.values() if p is not own]
        open_stream = walked.callers[identity].channel.stream_stream(row.path, row.request.SerializeToString, row.response.FromString)
        path = next(p for p in requests.text_fields(row.request.DESCRIPTOR) if walked.taken(row, p, "key"))
        heard = set()
        for name in (other.key, *other.absent("key").values(), other.no_tenant("key")):
            call = open_stream(iter([requests.build(row, path, own.key), requests.build(row, path, name)]), timeout=20 * SLOWER)
            answers = []
            try:
                answers = [a.SerializeToString() for a in call][1:]
            except Exception:  # noqa: BLE001
                pass
            heard.add((shape(call), tuple(answers)))
        assert len(heard) == 1, (row, identity, heard)
        (code, _, details), answers = heard.pop()
        assert code is Code.PERMISSION_DENIED or b"PERMISSION_DENIED" in b"".join(answers), (row, code, answers)
