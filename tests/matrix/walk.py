"""The walk: every RPC, every identity, every place of every kind. What was answered is kept; test_matrix.py judges it."""
import collections
import dataclasses
import functools
import itertools

import grpc

from claviger.policy.v1 import policy_pb2 as pol
from kit.instance import SLOWER

import requests

DEADLINE = 20 * SLOWER
WINDOW = 32
GARBAGE = "?"
KINDS = ("tenant", "location", "ring", "key", "version", "principal")
Code = grpc.StatusCode


class Place:
    """What is there in one tenant, and by what names something could be there."""

    def __init__(self, tenant, location, key):
        self.tenant, self.location, self.key = tenant, location, key
        self.ring = key.rsplit("/", 2)[0]
        self.children = [tenant, self.ring.rsplit("/", 1)[1], key.rsplit("/", 1)[1], "2"]  # what a create could find taken

    def there(self, kind):
        return {"tenant": f"projects/{self.tenant}", "location": f"projects/{self.tenant}/locations/{self.location}", "ring": self.ring,
                "key": self.key, "version": self.key + "/cryptoKeyVersions/1",
                "principal": f"principals/{'acme-orders' if self.tenant == 'acme' else 'globex-billing'}"}[kind]

    def absent(self, kind):
        """why -> a name of that kind inside this tenant at which nothing is."""
        here = self.there(kind)
        if kind == "principal":
            return {"absent": "principals/nobody-at-all"}
        if kind == "tenant":
            return {}
        elsewhere = "us" if self.location == "eu" else "eu"
        names = {"wrong location": here.replace(f"/locations/{self.location}", f"/locations/{elsewhere}"),
                 "unknown location": here.replace(f"/locations/{self.location}", "/locations/mars")}
        for part, segment in (("ring", self.ring), ("key", self.key)):
            if segment in here:
                names["absent " + part] = here.replace(segment, segment + "x")
        if kind == "version":
            names["absent version"] = self.key + "/cryptoKeyVersions/999"
        return names

    def no_tenant(self, kind):
        """The same in a tenant that is nowhere."""
        return self.there(kind).replace(f"projects/{self.tenant}", "projects/no-such-tenant")


@dataclasses.dataclass(frozen=True)
class Answer:
    """All that a caller sees, but for the ids of the request."""
    code: object
    message: str
    metadata: tuple
    body: object = None

    @property
    def shape(self):
        return self.code, self.message, self.metadata

    def each(self):
        """The code of every item where the answer is a batch's, else its own."""
        results = getattr(self.body, "results", None)
        if self.code is not Code.OK or not results:
            return [self.code]
        return [_CODES[r.status.code] for r in results]

    def __str__(self):
        return f"{self.code.name} {self.message!r}"


_CODES = {c.value[0]: c for c in Code}
IDS = ("x-request-id", "claviger-event", "claviger-receipt")


def _answer(call, body):
    metadata = tuple(sorted((k, v) for k, v in (*(call.initial_metadata() or ()), *(call.trailing_metadata() or ())) if k not in IDS))
    return Answer(call.code(), call.details() or "", metadata, body)


class Caller:
    """One identity's calls to any row: unary ones in flight together, one answer of a stream."""

    def __init__(self, client):
        self.channel, self.stubs = client.channel, {}

    def _stub(self, row):
        if row.path not in self.stubs:
            make = {"unary": self.channel.unary_unary, "server stream": self.channel.unary_stream, "both stream": self.channel.stream_stream}
            self.stubs[row.path] = make[row.kind](row.path, row.request.SerializeToString, row.response.FromString)
        return self.stubs[row.path]

    def begin(self, row, request):
        stub = self._stub(row)
        if row.kind == "unary":
            return stub.future(request, timeout=DEADLINE)
        return stub(request if row.kind == "server stream" else iter([request]), timeout=DEADLINE)

    def end(self, row, call):
        if row.kind == "unary":
            body = None if call.exception(timeout=DEADLINE) else call.result()
            return _answer(call, body)
        try:
            body = next(call)
        except StopIteration:
            return _answer(call, None)
        except grpc.RpcError:
            return _answer(call, None)
        call.cancel()
        return Answer(Code.OK, "", (), body)

    def __call__(self, row, request):
        return self.end(row, self.begin(row, request))


@dataclasses.dataclass(frozen=True)
class Step:
    row: object
    identity: str
    path: tuple  # the field that held the name; () for a request without one
    kind: str
    whose: str  # own, foreign or "" (platform: both are another's; unregistered: neither)
    there: bool
    why: str
    name: str
    child: str = None
    beside: tuple = None  # (another field, a name of one's own at which nothing is)

    def __str__(self):
        child = f" + {self.child}" if self.child else f" beside {'.'.join(self.beside[0])}={self.beside[1]}" if self.beside else ""
        return f"{self.identity} {self.row}({'.'.join(self.path)}={self.name}{child}) [{self.whose} {self.kind}, {self.why}]"


class Walk:
    def __init__(self, table, clients, identities, places, admin):
        self.table, self.identities, self.places, self.admin = table, identities, places, admin
        self.callers = {name: Caller(c) for name, c in clients.items()}
        self.answers = {}    # Step -> Answer
        self.garbage = {}    # (row, identity, path) -> Answer
        self.rules = {}      # (identity, action, name) -> allowed
        self.index = {}      # (row, identity, whose), None for any -> answers

    # ---- what to ask ----
    def permitted(self, identity, action, name):
        """Policy's own word, asked of the daemon as its administrator; a principal's name stands for the instance."""
        name = "" if name.startswith("principals/") else name
        if (identity, action, name) not in self.rules:
            self.rules[identity, action, name] = self.admin.policy.TestPolicy(pol.TestPolicyRequest(
                principal=f"principals/{identity}", action=action, resource=name)).allowed
        return self.rules[identity, action, name]

    def _steps(self, row, identity):
        own = self.identities.get(identity)
        if not requests.text_fields(row.request.DESCRIPTOR):
            yield Step(row, identity, (), "", "", False, "no name", "")
        for path in requests.text_fields(row.request.DESCRIPTOR):
            if requests.is_child(path):
                continue
            for kind in KINDS:
                for place in self.places.values():
                    whose = "own" if own == place.tenant else "foreign" if own else ""
                    yield Step(row, identity, path, kind, whose, True, "there", place.there(kind))
                    for why, name in place.absent(kind).items():
                        yield Step(row, identity, path, kind, whose, False, why, name)
                if kind != "principal":
                    for place in self.places.values():
                        yield Step(row, identity, path, kind, "foreign" if own else "", False, "no such tenant", place.no_tenant(kind))

    def _children(self, row, steps):
        """The same with every child's name that is or is not there."""
        if not any(requests.is_child(p) for p in requests.text_fields(row.request.DESCRIPTOR)):
            return
        for s in steps:
            if s.whose == "foreign" and s.path:
                for child in self.places[next(t for t in self.places if t != self.identities[s.identity])].children:
                    yield dataclasses.replace(s, child=child)

    def _first_name(self, row, identity):
        """(path, kind) of the field that says what the request is about: the one that complains of garbage, and what it takes."""
        for path in requests.text_fields(row.request.DESCRIPTOR):
            garbage = self.garbage[row, identity, path]
            if garbage.code is Code.INVALID_ARGUMENT and ".".join(path).encode() in dict(garbage.metadata).get("grpc-status-details-bin", b""):
                for s, a in self.of(row=row, identity=identity, whose="foreign", path=path).items():
                    if a.code is Code.PERMISSION_DENIED:
                        return path, s.kind
        return None, None

    def _second(self, row, identity):
        """Another's name in any further field, while the first holds one of one's own at which nothing is, so that nothing is changed."""
        path, kind = self._first_name(row, identity)
        place = self.places.get(self.identities.get(identity))
        if path is None or place is None or not place.absent(kind):
            return
        beside = (path, list(place.absent(kind).values())[-1])
        other, = [p for p in self.places.values() if p is not place]
        for second in requests.text_fields(row.request.DESCRIPTOR):
            if second == path or requests.is_child(second):
                continue
            for k in ("tenant", "key", "version", "principal"):
                names = {"there": other.there(k), "no such tenant": other.no_tenant(k)} | dict(list(other.absent(k).items())[-1:])
                for why, name in names.items():
                    yield Step(row, identity, second, k, "foreign", why == "there", why, name, beside=beside)

    def harmless(self, s):
        """Nothing that would be done is asked for: a permitted change of what is there."""
        if s.identity not in self.identities or "change" not in s.row.flags:
            return True
        if s.whose == "foreign":
            return True
        return not self.permitted(s.identity, s.row.action, s.name) if s.there or not s.path else True

    def would_change(self, row):
        """Who is not asked at all: the call names nothing, they may make it, and it would be done."""
        if requests.text_fields(row.request.DESCRIPTOR):
            return set()
        return {i for i in self.identities if not self.harmless(Step(row, i, (), "", "", False, "no name", ""))}

    # ---- asking ----
    def _ask(self, steps):
        waiting = collections.deque()
        for s in steps:
            caller = self.callers[s.identity]
            waiting.append((s, caller.begin(s.row, requests.build(s.row, s.path, s.name, s.child, s.beside and dict([s.beside])))))
            if len(waiting) >= WINDOW:
                self._take(waiting.popleft())
        while waiting:
            self._take(waiting.popleft())

    def _take(self, item):
        step, call = item
        answer = self.callers[step.identity].end(step.row, call)
        self.answers[step] = answer
        for key in itertools.product((step.row, None), (step.identity, None), (step.whose, None)):
            self.index.setdefault(key, {})[step] = answer

    def row(self, row):
        for identity, caller in self.callers.items():
            for path in requests.text_fields(row.request.DESCRIPTOR):
                self.garbage[row, identity, path] = caller(row, requests.build(row, path, GARBAGE))
            steps = [s for s in self._steps(row, identity) if self.harmless(s)]
            # Two of each kind first: a field that takes no names of that kind, and a caller that nobody knows, are not asked on.
            first = [s for s in steps if s.why in ("there", "no such tenant", "no name") or s.kind == "principal"]
            self._ask(first)
            on = {(s.path, s.kind) for s in first if self.answers[s].code not in (Code.INVALID_ARGUMENT, Code.UNAUTHENTICATED)}
            steps = [s for s in steps if (s.path, s.kind) in on]
            self._ask([s for s in steps if s not in self.answers])
            self._ask(list(self._children(row, steps)))
            self._ask(list(self._second(row, identity)))
        return self

    def all(self):
        for row in self.table:
            if not row.public:
                self.row(row)
        return self

    # ---- what was learnt ----
    def of(self, row=None, identity=None, whose=None, **want):
        found = self.index.get((row, identity, whose), {})
        return {s: a for s, a in found.items() if all(getattr(s, k) == v for k, v in want.items())}

    @functools.cache
    def taken(self, row, path, kind):
        """Whether that field takes names of that kind: somebody's was answered with anything but a complaint about it."""
        return any(a.code not in (Code.INVALID_ARGUMENT, Code.UNAUTHENTICATED) for a in self.of(row=row, path=path, kind=kind, beside=None).values())

    def complaints(self):
        """Rows that were not exercised: all that a tenant's people were told is that the request is malformed."""
        said = []
        for row in self.table:
            if row.public:
                continue
            for identity, tenant in self.identities.items():
                if tenant and not any(a.code is Code.PERMISSION_DENIED for s, a in self.of(row=row, identity=identity).items() if s.whose != "own"):
                    heard = sorted({str(a) for a in self.of(row=row, identity=identity).values()})
                    said.append(f"{row}: no request of {identity} came as far as a refusal; it heard {heard}")
        return said


# ---- what must hold -------------------------------------------------------------------------------------------------------
def shapes(answers):
    found = collections.defaultdict(list)
    for step, a in answers.items():
        found[a.shape].append(step)
    return found


def told(found):
    return "\n".join(f"{shape[0].name} {shape[1]!r} x {len(steps)}, such as {steps[0]}" for shape, steps in found.items())


def told_apart(walked, row, identity, refusal):
    """(how many answers about another's things were looked at, by whether beside one's own name, [what is wrong with them])."""
    seen, problems = collections.Counter(), []
    for path in requests.text_fields(row.request.DESCRIPTOR):
        for kind in KINDS:
            foreign = walked.of(row=row, identity=identity, whose="foreign", path=path, kind=kind)
            for child, beside in {(s.child, s.beside) for s in foreign}:  # the grammar of a child's name comes first, and tells nothing
                found = shapes({s: a for s, a in foreign.items() if (s.child, s.beside) == (child, beside)})
                if len(found) != 1:
                    problems.append("told apart: " + told(found))
                    continue
                shape, steps = found.popitem()
                seen[bool(beside)] += len(steps)
                # the field takes no such name from anybody, or it is the refusal; beside one's own name it may mean nothing
                if not (shape == refusal or shape[0] is Code.INVALID_ARGUMENT or (beside and shape[0] is Code.NOT_FOUND)):
                    problems.append(f"not the refusal: {shape}: {steps[0]}")
    return seen, problems
