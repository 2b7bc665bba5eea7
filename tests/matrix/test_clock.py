"""The wall clock jumps by an hour and by ten years, both ways, and stands still: nothing expired is accepted, nothing is given back,
the log keeps its order and shows the jump, and nobody spins."""
import datetime
import itertools
import json
import pathlib
import time

import pytest
from claviger.audit.v1 import audit_pb2
from claviger.envelope.v1 import envelope_pb2 as env
from claviger.system.v1 import system_pb2
from conftest import World
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from google.cloud.kms.v1 import service_pb2 as msg
from kit import certs
from kit.client import DEADLINE, connect
from kit.instance import TRUST_DOMAIN, until
from kit.wire import Code, refused

import rows
from clock import LIBRARY, REAL, SteppedInstance

pytestmark = pytest.mark.skipif(rows.SANITIZED, reason="libfaketime and sanitizers both want to be first")
IDENTITIES = ("admin", "acme-keyadmin", "acme-orders", "globex-keyadmin", "globex-billing")
STEPS = ["+10y", "+1h", "-1h", "-10y", REAL]
AGE = 30 * 365 * certs.DAY
HOUR = datetime.timedelta(hours=1)
DAY_BUDGET = 400
MONTH_BUDGET = 60


@pytest.fixture(scope="module")
def far(base):
    """An authority and certificates for every identity that are good at any time the clock is set to, and two that are not."""
    folder = base / "far"
    folder.mkdir()
    _authority(folder)
    ca = certs.load(folder, "far-ca")
    pairs = {name: certs.issue(folder, name, ca, uris=[_uri(name)], start=-AGE, end=AGE) for name in IDENTITIES}
    pairs["hour"] = certs.issue(folder, "hour", ca, uris=[_uri("acme-orders")], start=-HOUR / 2, end=HOUR / 2)
    pairs["admin-hour"] = certs.issue(folder, "admin-hour", ca, uris=[_uri("admin")], start=-HOUR / 2, end=HOUR / 2)
    pairs["year"] = certs.issue(folder, "year", ca, uris=[_uri("acme-orders")], start=-365 * certs.DAY, end=365 * certs.DAY)
    return folder, pairs


def _uri(name):
    return f"spiffe://{TRUST_DOMAIN}/{name}"


def _authority(folder):
    """As certs.make_ca, which counts in days: from one day ago for thirty; here the day is as long as thirty years."""
    real, certs.DAY = certs.DAY, AGE
    try:
        certs.make_ca(folder, "far-ca")
    finally:
        certs.DAY = real


def _revocations(folder, start, end):
    """Of the far authority: nobody is revoked, and it says so for that long."""
    cert, key = certs.load(folder, "far-ca")
    now = datetime.datetime.utcnow()
    crl = x509.CertificateRevocationListBuilder().issuer_name(cert.subject).last_update(now + start).next_update(now + end)
    return crl.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="module")
def make(copies, far):
    """(instance, world) that trusts the far authority, with settings of one's own."""
    made = []

    def new(**settings):
        folder, pairs = far
        instance = SteppedInstance(copies().dir)
        ca = instance.dir / "certs/ca.pem"
        (instance.dir / "certs/clients.pem").write_bytes(ca.read_bytes() + (folder / "far-ca.pem").read_bytes())
        (instance.dir / "certs/far.crl").write_bytes(_revocations(folder, -2 * HOUR, 2 * HOUR))
        instance.configure(client_ca_file="certs/clients.pem", **settings)
        instance.cert = lambda name: pairs.get(name) or (ca, None)
        made.append(instance)
        instance.start()
        return World(instance)
    yield new
    for instance in made:
        assert instance.stop() == 0, instance.log


@pytest.fixture(scope="module")
def shared(make):
    return make(items_per_tenant_day=DAY_BUDGET)


@pytest.fixture(scope="module")
def watched(make):
    """Another: it asks whether certificates were revoked, forgets keys after a second, and gives a tenant little a month."""
    return make(client_crl_file="certs/far.crl", key_cache_ttl="1s", items_per_tenant_month=MONTH_BUDGET)


@pytest.fixture
def other(watched):
    yield watched
    watched.instance.step(REAL)


@pytest.fixture
def world(shared):
    yield shared
    shared.instance.step(REAL)


@pytest.fixture(scope="module")
def key(shared):
    return shared.key()


def with_cert(world, pair):
    return connect(world.instance, None, cert=pair[0], key=pair[1])


def test_all_four_have_our_clock(world):
    for role, pid in {"monitor": world.instance.process.pid, **world.instance.children()}.items():
        assert LIBRARY in pathlib.Path(f"/proc/{pid}/maps").read_text(), role
    assert len(world.instance.children()) == 3


# ---- certificates -----------------------------------------------------------------------------------------------------------
def test_a_certificate_is_good_in_its_time_only(world, key, far):
    _, pairs = far
    good_at = {"hour": {REAL}, "year": {"+1h", "-1h", REAL}, "acme-orders": set(STEPS)}
    old = {name: with_cert(world, pairs[name]) for name in good_at}
    for client in old.values():
        world.encrypt(key, who=client)  # all are good now, and stay connected
    met = []
    for step in STEPS:
        world.instance.step(step)
        met.append({name: with_cert(world, pairs[name]) for name in good_at})
        for name, client in itertools.chain(old.items(), met[-1].items()):
            if step in good_at[name]:
                world.encrypt(key, who=client)
            else:
                with refused(Code.UNAUTHENTICATED):
                    world.encrypt(key, who=client)
    for clients in met:
        clients["year"].close()
        clients["hour"].close()


def test_a_clock_that_stands_still_judges_by_where_it_stands(world, key, far):
    _, pairs = far
    client, now = with_cert(world, pairs["hour"]), datetime.datetime.now()
    for when, good in ((now, True), (now + 3 * HOUR, False), (now - 3 * HOUR, False), (now, True)):
        world.instance.step(when.strftime("%Y-%m-%d %H:%M:%S"))
        for _ in range(3):
            if good:
                world.encrypt(key, who=client)
            else:
                with refused(Code.UNAUTHENTICATED):
                    world.encrypt(key, who=client)


def test_who_connected_while_the_clock_was_wrong_is_heard_when_it_is_right(world, key, far):
    _, pairs = far
    world.instance.step("+10y")
    client = with_cert(world, pairs["year"])
    with refused(Code.UNAUTHENTICATED):
        world.encrypt(key, who=client)
    world.instance.step(REAL)

    def heard():  # a refused chain is looked at again once a second
        try:
            return world.encrypt(key, who=client)
        except Exception as e:  # noqa: BLE001
            assert "UNAUTHENTICATED" in str(e)
    until(heard, 5, "the client is heard")


def test_back_and_forth_again_and_again(world, key, far):
    _, pairs = far
    client = with_cert(world, pairs["hour"])
    world.encrypt(key, who=client)
    for _ in range(4):
        for step, good in (("+10y", False), (REAL, True), ("-10y", False), (REAL, True)):
            world.instance.step(step)
            if good:
                world.encrypt(key, who=client)
            else:
                with refused(Code.UNAUTHENTICATED):
                    world.encrypt(key, who=client)


def test_a_stream_ends_when_its_certificate_does(world, key, far):
    """Of both kinds: the next message of a client, and the next answer to one that only listens."""
    _, pairs = far
    client, asked = with_cert(world, pairs["hour"]), iter([REAL, "+1h"])

    def requests():
        for step in asked:
            world.instance.step(step)
            yield env.EncryptStreamRequest(name=key, items=[{"plaintext": b"x"}])
    answers = client.env.EncryptStream(requests(), timeout=DEADLINE)
    assert next(answers).failed == 0
    with refused(Code.UNAUTHENTICATED):
        next(answers)
    world.instance.step(REAL)
    listener = with_cert(world, pairs["admin-hour"])
    follow = listener.audit.Tail(audit_pb2.TailRequest(from_index=world.audit.position(), follow=True), timeout=2 * DEADLINE)
    next(follow)  # its own beginning
    world.instance.step("+1h")
    world.encrypt(key)
    with refused(Code.UNAUTHENTICATED):
        for _ in follow:  # the step itself may still have been told
            pass


def test_a_revocation_list_is_good_in_its_time_only(other):
    """One that has run out says nothing about anybody: everybody is refused, on open connections and new ones, until it is right again."""
    key = other.key()
    other.encrypt(key)
    for step, good in (("+1h", True), ("+1d", False), (REAL, True), ("-1d", False), ("+10y", False), (REAL, True)):
        other.instance.step(step)
        fresh = with_cert(other, other.instance.cert("acme-orders"))
        for client in (other.orders, fresh):
            if good:
                other.encrypt(key, who=client)
            else:
                with refused(Code.UNAUTHENTICATED):
                    other.encrypt(key, who=client)
        fresh.close()


# ---- the log ----------------------------------------------------------------------------------------------------------------
def test_the_log_keeps_its_order_and_shows_the_jumps(world, key):
    start, rings = world.audit.position(), []
    for step in STEPS:
        world.instance.step(step)
        rings.append(world.ring())
        world.encrypt(key)
    entries = world.audit.read(start)
    assert [e.index for e in entries] == list(range(start, start + len(entries)))
    ours = [e for e in entries if e.event.action in ("kms.keyRings.create", "kms.cryptoKeys.encrypt")]
    assert [e.event.resource for e in ours if e.event.action == "kms.keyRings.create"] == rings
    assert len(ours) == 2 * len(STEPS) and all(e.event.outcome == "ok" for e in ours)
    hours = [round((e.event.time_unix_ns / 1e9 - time.time()) / 3600) for e in ours[::2]]
    years = [round(h / (365.25 * 24)) for h in hours]
    assert years == [10, 0, 0, -10, 0] and hours[1:3] == [1, -1] and hours[4] == 0, hours
    assert len({e.event.id for e in ours}) == len(ours)


def _steps(entries):
    """(years it should have been, years it is) of each recorded step, relative to now."""
    found = []
    for e in entries:
        if e.event.action == "system.clockStep":
            when = [datetime.datetime.strptime(json.loads(t)["wall"][:19], "%Y-%m-%dT%H:%M:%S") for t in (e.event.before, e.event.after)]
            found.append(tuple(round((w - datetime.datetime.utcnow()).days / 365.25) for w in when))
    return found


def test_a_daemon_that_starts_in_the_past_goes_on_where_it_was(make):
    """And each step is on record: those that happened while it ran, and the one that it only finds."""
    world = make()
    key = world.key()
    kept = world.encrypt(key, b"kept")
    world.instance.step("+10y")
    future = world.encrypt(key, b"from the future")
    until(lambda: _steps(world.audit.read(0)) == [(0, 10)], 5, "the step is on record")
    world.instance.step(REAL)
    until(lambda: _steps(world.audit.read(0)) == [(0, 10), (10, 0)], 5, "the step back is on record")
    before = world.audit.read(0)
    assert world.instance.stop() == 0
    world.instance.step("-10y")  # while nobody runs
    world = World(world.instance.start())
    world.names = itertools.count(100)
    assert (world.decrypt(key, kept), world.decrypt(key, future)) == (b"kept", b"from the future")
    ring = world.ring()
    after = world.audit.read(0)
    assert [e.bytes for e in after[:len(before)]] == [e.bytes for e in before]
    assert [e.index for e in after] == list(range(len(after)))
    assert after[-1].event.time_unix_ns < before[0].event.time_unix_ns
    until(lambda: _steps(world.audit.read(0)) == [(0, 10), (10, 0), (0, -10)], 5, "the step that nobody saw is on record")
    assert any(e.event.resource == ring for e in after[len(before):])


# ---- what counts by the boot clock, and does not notice -----------------------------------------------------------------------
def _cpu_s(world):
    """Seconds of processor time of all four processes, all threads."""
    total = 0
    for pid in (world.instance.process.pid, *world.instance.children().values()):
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


@pytest.mark.parametrize("step", [*STEPS, "2031-05-06 07:08:09"])
def test_nobody_spins(world, key, step):
    """Half a second in which nothing is asked: what all four do meanwhile is little, the price of the faked clock included. Whoever spins
    does so in each half second."""
    world.instance.step(step)
    if step in STEPS:
        world.encrypt(key)
    shares = []

    def at_rest():
        used, start = _cpu_s(world), time.monotonic()
        until(lambda: time.monotonic() - start > 0.5)
        shares.append((_cpu_s(world) - used) / (time.monotonic() - start))
        return shares[-1] < 0.1
    assert any(at_rest() for _ in range(6)), shares


def test_calls_and_streams_go_on_through_the_jumps(world, key):
    """Deadlines are of the boot clock: none passes early, no answer comes late, and who follows the log hears of everything."""
    start = world.audit.position()
    follow = world.admin.audit.Tail(audit_pb2.TailRequest(from_index=start, follow=True), timeout=2 * DEADLINE)
    next(follow)  # its own beginning
    pairs = env.EncryptStreamRequest(name=key, items=[{"plaintext": b"x"}])
    asked = iter(STEPS)

    def requests():
        for step in asked:
            world.instance.step(step)
            yield pairs
    assert [r.failed for r in world.orders.env.EncryptStream(requests(), timeout=DEADLINE)] == [0] * len(STEPS)
    for step in STEPS:
        world.instance.step(step)
        begun = time.monotonic()
        world.encrypt(key)
        assert time.monotonic() - begun < DEADLINE / 2
    heard = [next(follow) for _ in range(2 * len(STEPS))]
    assert [r.index for r in heard] == list(range(heard[0].index, heard[0].index + len(heard)))
    follow.cancel()


def test_cached_keys_stay_cached(world, key):
    cache = lambda: world.admin.system.GetStatus(system_pb2.GetStatusRequest()).cache  # noqa: E731
    world.encrypt(key)
    before = cache()
    for step in STEPS:
        world.instance.step(step)
        world.encrypt(key)
    after = cache()
    assert (after.misses, after.hsm_calls) == (before.misses, before.hsm_calls) and after.hits > before.hits


def test_keys_in_the_cache_grow_old_by_the_boot_clock(other):
    """Their age is absolute, and no wall clock that is set back or stands still prolongs it."""
    key = other.key2()
    misses = lambda: other.admin.system.GetStatus(system_pb2.GetStatusRequest()).cache.misses  # noqa: E731
    for step in ("-1h", (datetime.datetime.now() + HOUR).strftime("%Y-%m-%d %H:%M:%S")):
        other.instance.step(step)

        def missed():
            time.sleep(0.3)  # the month's budget is small
            before, asked = misses(), time.monotonic()
            other.encrypt(key, who=other.billing)
            return asked if misses() > before else None
        loaded = until(missed, what="the key is loaded again")
        until(missed, what="and again")
        assert time.monotonic() - loaded > 0.99


def test_a_retry_is_known_by_its_key_through_the_jumps(world, key):
    """Ten years too: what is forgotten for its age is not forgotten by a clock that has just jumped."""
    metadata = [("claviger-idempotency-key", "through-the-jumps")]
    made = set()
    for step in STEPS:
        world.instance.step(step)
        made.add(world.keyadmin.kms.CreateCryptoKeyVersion(msg.CreateCryptoKeyVersionRequest(parent=key), metadata=metadata).name)
    assert len(made) == 1


def test_a_jump_gives_back_no_rate(make):
    world = make(rate_per_principal=5)
    key = world.key()

    def spend(calls):
        """How many of that many were let through."""
        through = 0
        for _ in range(calls):
            try:
                world.encrypt(key)
                through += 1
            except Exception as e:  # noqa: BLE001
                assert e.code() is Code.RESOURCE_EXHAUSTED, e
        return through
    until(lambda: spend(12) < 12, what="the end of the burst")
    for step in STEPS:
        def at_once():  # where the calls take their time, they are given more anyway
            world.instance.step(REAL)
            start = until(lambda: (now := time.monotonic(), spend(1))[1] == 0 and now, what="nothing left")
            world.instance.step(step)
            through, seconds = spend(6), time.monotonic() - start
            assert through <= 5 * seconds + 1, (step, through, seconds)
            return seconds < 0.6
        until(at_once, what="six calls in a moment")
    world.instance.step("2031-05-06 07:08:09")  # and a clock that stands still takes none away
    until(lambda: spend(1) == 1, what="a call let through again")


# ---- budgets: by the wall clock, and never backwards ---------------------------------------------------------------------------
def _not_at_midnight():
    until(lambda: 24 * 3600 - time.time() % (24 * 3600) > 60, 70, "the next day")


def test_a_step_back_gives_back_no_budget(shared, world):
    _not_at_midnight()
    key, batch = world.key2(), [{"plaintext": b"x"}] * (DAY_BUDGET + 1)

    def take(n):
        return world.billing.env.BatchEncrypt(env.BatchEncryptRequest(name=key, items=batch[:n]))

    def spent():
        with refused(Code.RESOURCE_EXHAUSTED, "BUDGET_DAY"):
            take(1)
    with refused(Code.RESOURCE_EXHAUSTED, "BUDGET_DAY"):
        take(DAY_BUDGET + 1)
    take(DAY_BUDGET)
    for step in (REAL, "-1h", "-10y", REAL):
        world.instance.step(step)
        spent()
    world.instance.step("+1d")  # a new day, and no other is given for going there twice
    take(DAY_BUDGET)
    for step in ("+1d", REAL, "-10y", "+1d"):
        world.instance.step(step)
        spent()
    world.instance.step("-10y")  # nor for starting again in the past
    assert shared.instance.restart()
    again = connect(shared.instance, "globex-billing")
    with refused(Code.RESOURCE_EXHAUSTED, "BUDGET_DAY"):
        again.env.BatchEncrypt(env.BatchEncryptRequest(name=key, items=batch[:1]))


def test_a_month_is_given_once(watched, other):
    _not_at_midnight()
    key, batch = other.key2(), [{"plaintext": b"x"}] * MONTH_BUDGET

    def take(n):
        return other.billing.env.BatchEncrypt(env.BatchEncryptRequest(name=key, items=batch[:n]))

    def spent():
        with refused(Code.RESOURCE_EXHAUSTED, "BUDGET_MONTH"):
            take(1)
    other.instance.configure(client_crl_file="")  # the list would end every visit to another month
    assert other.instance.restart()
    other.billing = connect(other.instance, "globex-billing")
    for n in range(MONTH_BUDGET):  # whatever was used before
        try:
            take(1)
        except Exception as e:  # noqa: BLE001
            assert "RESOURCE_EXHAUSTED" in str(e)
            break
    for step in (REAL, "-10y", "-1h", REAL):
        other.instance.step(step)
        spent()
    other.instance.step("+40d")  # another month
    take(MONTH_BUDGET)
    for step in ("+40d", REAL, "-10y", "+40d"):
        other.instance.step(step)
        spent()
