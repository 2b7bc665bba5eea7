"""Moving data to a key's newest version: batches and streams, under rotation, over deaths of either side; and whole CSV files by kmsctl."""
import base64
import collections
import json
import os
import random
import re
import resource
import signal
import subprocess
import threading

import grpc
import pytest

from claviger.envelope.v1 import envelope_pb2 as env
from claviger.identity.v1 import identity_pb2 as idy
from claviger.lifecycle.v1 import lifecycle_pb2 as life
from claviger.policy.v1 import policy_pb2
from conftest import res
from google.rpc import code_pb2
from kit.client import DEADLINE, Background
from kit.instance import BUILD, SLOWER, until
from kit.wire import Code, crc32c, refused
from test_envelope import CONTEXT, Feed, wrap
from test_kmsctl import CONFLICT, DENIED, FAILED, INVALID, USAGE, Ctl



def sealed_under(world, key, plain, **kw):
    return world.encrypt(key, plain, **kw)


def batch(world, name, items, who=None):
    return (who or world.orders).env.BatchRewrap(env.BatchRewrapRequest(name=name, items=items))


def stream(world, requests, who=None):
    return (who or world.orders).env.RewrapStream(iter(requests), timeout=DEADLINE)


def message(key, ciphertexts, sequence=0):
    return env.RewrapStreamRequest(name=key, sequence=sequence, items=[dict(ciphertext=c) for c in ciphertexts])


def kvid(ciphertext):
    return ciphertext[8:24]


# ---- items ----------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("level", [res.SOFTWARE, res.HSM])
def test_data_and_wrapped_keys_of_every_version_in_one_batch(world, ring, level):
    key, marker = world.key(ring, version_template=dict(protection_level=level)), os.urandom(48)
    data = [sealed_under(world, key, marker, additional_authenticated_data=b"aad")]
    keys = [wrap(world, key, marker, context=CONTEXT).wrapped_key]
    for _ in range(2):
        world.rotate(key)
        data.append(sealed_under(world, key, marker, additional_authenticated_data=b"aad"))
        keys.append(wrap(world, key, marker, context=CONTEXT).wrapped_key)
    items = []  # the types alternate, and the versions: what is kept from one item to the next is not taken for another's
    for d, k in zip(data, keys):
        items += [dict(ciphertext=d, additional_authenticated_data=b"aad", ciphertext_crc32c={"value": crc32c(d)}),
                  dict(ciphertext=k, context=CONTEXT, ciphertext_crc32c={"value": crc32c(k)})]
    done = batch(world, key, items)
    assert done.failed == 0 and [r.source_version for r in done.results] == [1, 1, 2, 2, 3, 3] and {r.version for r in done.results} == {3}
    assert [r.already_newest for r in done.results] == [False] * 4 + [True] * 2
    assert [r.ciphertext for r in done.results[4:]] == [data[2], keys[2]]  # as they were
    assert marker not in done.SerializeToString()
    newest = kvid(data[2])
    for i, r in enumerate(done.results):
        assert r.ciphertext_crc32c.value == crc32c(r.ciphertext) and kvid(r.ciphertext) == newest
        if i % 2:
            opened = world.orders.env.Unwrap(env.UnwrapRequest(name=key, wrapped_key=r.ciphertext, context=CONTEXT))
            assert opened.plaintext_key == marker and opened.used_primary
        else:
            assert world.decrypt(key, r.ciphertext, additional_authenticated_data=b"aad") == marker


def test_one_bad_item_of_each_kind_fails_alone(world, ring):
    key, off, other = world.key(ring), world.key(ring), world.key(ring)
    old, disabled = sealed_under(world, key, b"good"), sealed_under(world, off, b"x")
    world.rotate(key)
    world.set_state(off + "/cryptoKeyVersions/1", res.CryptoKeyVersion.DISABLED)
    gone = world.key(ring, versions=2)
    under_two = sealed_under(world, gone, b"x")
    world.set_state(gone + "/cryptoKeyVersions/2", res.CryptoKeyVersion.DISABLED)
    good = dict(ciphertext=old)
    bad = [(dict(ciphertext=old, context={"a": "b"}), code_pb2.INVALID_ARGUMENT, "CIPHERTEXT"),
           (dict(ciphertext=old[:-1]), code_pb2.INVALID_ARGUMENT, "CIPHERTEXT"),
           (dict(ciphertext=b""), code_pb2.INVALID_ARGUMENT, "CIPHERTEXT"),
           (dict(ciphertext=old[:3] + b"W" + old[4:]), code_pb2.INVALID_ARGUMENT, "CIPHERTEXT"),
           (dict(ciphertext=old, name=other), code_pb2.INVALID_ARGUMENT, "CIPHERTEXT"),
           (dict(ciphertext=old, ciphertext_crc32c={"value": 1}), code_pb2.INVALID_ARGUMENT, "CRC32C_MISMATCH"),
           (dict(ciphertext=b"x" * (65536 + 113)), code_pb2.INVALID_ARGUMENT, "INVALID"),
           (dict(ciphertext=old, context={"a": "b"}, additional_authenticated_data=b"c"), code_pb2.INVALID_ARGUMENT, "INVALID"),
           (dict(ciphertext=old, name=ring + "/cryptoKeys/absent"), code_pb2.NOT_FOUND, "NOT_FOUND"),
           (dict(ciphertext=disabled, name=off), code_pb2.FAILED_PRECONDITION, "KEY_VERSION_DISABLED"),
           (dict(ciphertext=under_two, name=gone), code_pb2.FAILED_PRECONDITION, "KEY_VERSION_DISABLED"),
           (dict(ciphertext=old, name="projects/globex/locations/us/keyRings/a/cryptoKeys/b"), code_pb2.PERMISSION_DENIED, "PERMISSION_DENIED")]
    done = batch(world, key, [x for item, _, _ in bad for x in (good, item)] + [good])
    assert done.failed == len(bad)
    for i, r in enumerate(done.results):
        if i % 2 == 0:
            assert r.status.code == 0 and (r.source_version, r.version) == (1, 2) and world.decrypt(key, r.ciphertext) == b"good"
        else:
            _, code, reason = bad[i // 2]
            assert (r.status.code, r.status.reason) == (code, reason) and r.status.message, (i, r)
            assert r == env.RewrapResult(status=r.status)  # and nothing else
    assert len({r.status.SerializeToString() for r in done.results[1:10:2]}) == 1  # every cause alike


def test_a_message_that_is_bad_as_a_whole(world, key):
    sealed = dict(ciphertext=world.encrypt(key))
    for name, items, field in (("", [sealed], "name"), (key + "/cryptoKeyVersions/1", [sealed], "name"), (key, [], "items"), (key, [sealed] * 1001, "items"),
                               (key, [sealed, dict(ciphertext=b"x", name="nonsense")], "items.name")):
        with refused(Code.INVALID_ARGUMENT, field=field):
            batch(world, name, items)
        with refused(Code.INVALID_ARGUMENT, field=field):
            list(stream(world, [env.RewrapStreamRequest(name=name, items=items)]))
    for who, name in ((world.orders, "projects/globex/locations/us/keyRings/a/cryptoKeys/b"), (world.keyadmin, key), (world.billing, key), (world.admin, key)):
        with refused(Code.PERMISSION_DENIED):
            batch(world, name, [sealed], who)
        with refused(Code.PERMISSION_DENIED):
            list(stream(world, [env.RewrapStreamRequest(name=name, items=[sealed])], who))
    assert batch(world, key, [sealed] * 1000).failed == 0  # the twin


# ---- streams --------------------------------------------------------------------------------------------------------------------
def test_a_stream_answers_in_order_and_is_on_record(world, ring):
    key = world.key(ring)
    old = [[sealed_under(world, key, f"{i}/{j}".encode()) for j in range(3)] for i in range(20)]
    world.rotate(key)
    start = world.audit.position()
    call = stream(world, [message(key if i == 0 else "", c, 1000 + i) for i, c in enumerate(old)])
    answers = list(call)
    assert [a.sequence for a in answers] == [1000 + i for i in range(20)] and all(a.failed == 0 for a in answers)
    assert [[world.decrypt(key, r.ciphertext) for r in a.results] for a in answers] == [[f"{i}/{j}".encode() for j in range(3)] for i in range(20)]
    assert {(r.source_version, r.version) for a in answers for r in a.results} == {(1, 2)}
    events = world.audit.find(start, action="envelope.rewrap", principal="acme-orders", outcome="ok")
    assert [e.event.items for e in events] == [3] * 20 and {e.event.key_version for e in events} == {key + "/cryptoKeyVersions/2"}
    assert dict(call.trailing_metadata())["claviger-receipt"].split()[1] == str(events[-1].index)
    assert list(stream(world, ())) == []


def test_a_bad_item_does_not_end_a_stream_but_a_bad_message_does(world, ring):
    key, feed = world.key(ring), Feed()
    good, start = world.encrypt(key), world.audit.position()
    call = world.orders.env.RewrapStream(iter(feed), timeout=DEADLINE)
    feed.push(message(key, [good, good[:-1], good]))
    a = next(call)
    assert a.failed == 1 and [r.status.code for r in a.results] == [0, code_pb2.INVALID_ARGUMENT, 0]
    event = world.audit.one(start, action="envelope.rewrap", outcome="ok")
    assert (event.event.items, event.event.items_failed) == (3, 1)
    feed.push(message("", [good]))
    assert next(call).failed == 0
    feed.push(env.RewrapStreamRequest(name=key))
    with refused(Code.INVALID_ARGUMENT, field="items"):
        next(call)
    feed.end()


def rss_kb(pid):
    with open(f"/proc/{pid}/status") as f:
        return int(next(line for line in f if line.startswith("VmRSS:")).split()[1])


def test_a_client_that_does_not_read_is_not_read_from(new_world):
    """The writer is stopped by the reader: little is taken in, core does not grow, and what was taken is answered once, in order."""
    world = new_world
    key, stop, taken, big = world.key(), threading.Event(), [], os.urandom(60000)
    old = [world.encrypt(key, big) for _ in range(3)]
    core = world.instance.children()["core"]
    list(stream(world, [message(key, old)] * 20))  # what one stream costs in any case
    before = rss_kb(core)

    def feed():
        for i in range(2000):  # 360 MB
            if stop.is_set():
                return
            taken.append(i)
            yield message(key, old, i)
    call = world.orders.env.RewrapStream(feed(), timeout=60 * SLOWER)
    first, seen = next(call), -1
    while len(taken) != seen:  # until nothing more is taken
        seen = len(taken)
        stop.wait(0.3)
    grown = (rss_kb(core) - before) / 1024
    print(f"{seen} messages of 180 KB taken in, core grew by {grown:.1f} MB")
    assert seen < 60 and (SLOWER > 1 or grown < 16), (seen, grown)
    stop.set()
    assert [first.sequence] + [a.sequence for a in call] == taken


@pytest.fixture
def midstream(new_world):
    """(world, key, feed, call) of a stream that has answered once."""
    key, feed = new_world.key(), Feed()
    call = new_world.orders.env.RewrapStream(iter(feed), timeout=DEADLINE)
    sealed = new_world.encrypt(key)
    feed.push(message(key, [sealed]))
    assert next(call).failed == 0
    yield new_world, key, sealed, feed, call
    feed.end()


def test_a_principal_disabled_in_mid_stream_gets_no_next_answer(midstream):
    world, _, sealed, feed, call = midstream
    request = idy.UpdatePrincipalRequest(principal=idy.Principal(name="principals/acme-orders", state=idy.Principal.DISABLED))
    request.update_mask.paths.append("state")
    world.admin.identity.UpdatePrincipal(request)
    feed.push(message("", [sealed]))
    with refused(Code.UNAUTHENTICATED):
        next(call)


def test_a_policy_changed_in_mid_stream_holds_from_the_next_message(midstream):
    world, _, sealed, feed, call = midstream
    now = world.admin.policy.GetPolicy(policy_pb2.GetPolicyRequest())
    documents = [policy_pb2.Document(name=d.name, yaml=re.sub(rb"\n *- envelope\.rewrap", b"", d.yaml)) for d in now.documents]
    assert sum(b"envelope.rewrap" in d.yaml for d in now.documents) > sum(b"envelope.rewrap" in d.yaml for d in documents)
    world.admin.policy.ApplyPolicy(policy_pb2.ApplyPolicyRequest(documents=documents, expected_version=now.version))
    feed.push(message("", [sealed]))
    with refused(Code.PERMISSION_DENIED):
        next(call)


def test_a_version_disabled_in_mid_stream_fails_its_items(midstream):
    world, key, sealed, feed, call = midstream
    world.rotate(key)
    newer = world.encrypt(key)
    world.set_state(key + "/cryptoKeyVersions/1", res.CryptoKeyVersion.DISABLED)
    feed.push(message("", [sealed, newer]))
    a = next(call)
    assert [r.status.reason for r in a.results] == ["KEY_VERSION_DISABLED", ""] and a.results[1].already_newest


# ---- rotation under traffic ------------------------------------------------------------------------------------------------------
class Rotating(Background):
    """The key rotates again and again. `known`: the newest version of which that is certain, and which may have been made."""

    def __init__(self, world, key):
        super().__init__()
        self.world, self.key, self.certain, self.possible, self.failed = world, key, 1, 1, []
        self.threads = [threading.Thread(target=self.work)]

    def work(self):
        while not self.stop.wait(0.02):
            self.possible += 1
            try:
                name = self.world.keyadmin.life.RotateKey(life.RotateKeyRequest(name=self.key)).name
            except grpc.RpcError as e:
                self.failed.append(e)
                return
            self.certain = int(name.rsplit("/", 1)[1])


def test_a_campaign_while_the_key_rotates(world, ring):
    """Nothing fails, and each item goes to a version that was primary between its message's sending and its answer."""
    key, feed = world.key(ring), Feed()
    plain = [f"person {i}".encode() for i in range(1000)]
    old = [r.ciphertext for r in world.orders.env.BatchEncrypt(env.BatchEncryptRequest(name=key, items=[dict(plaintext=p) for p in plain])).results]
    moved, span = [], []
    with Rotating(world, key) as rotating:
        until(lambda: rotating.certain > 1, 10)
        call = world.orders.env.RewrapStream(iter(feed), timeout=DEADLINE)
        for n in range(200):
            until(lambda: rotating.certain >= 2 + n // 25, 20)  # it rotates on the way, however fast the way is
            before = rotating.certain
            feed.push(message(key if n == 0 else "", old[n * 5:n * 5 + 5], n))
            a = next(call)
            after = rotating.possible
            assert a.failed == 0 and a.sequence == n and len(a.results) == 5
            assert all(before <= r.version <= after and r.source_version == 1 for r in a.results), (before, after, a)
            moved += [r.ciphertext for r in a.results]
            span.append(a.results[0].version)
        feed.end()
        assert list(call) == []
    assert not rotating.failed and span[-1] >= span[0] + 7 and span == sorted(span)
    last = batch(world, key, [dict(ciphertext=c) for c in moved])
    assert last.failed == 0 and {r.version for r in last.results} == {rotating.certain}
    newest = [r.ciphertext for r in last.results]
    opened = world.orders.env.BatchDecrypt(env.BatchDecryptRequest(name=key, items=[dict(ciphertext=c) for c in newest]))
    assert [r.plaintext for r in opened.results] == plain and len({kvid(c) for c in newest}) == 1


# ---- kmsctl csv rewrap --------------------------------------------------------------------------------------------------------------
class Files:
    """A CSV file, encrypted under the first version of a key that has a second one by now."""

    def __init__(self, world, folder, rows):
        self.world, self.ctl, self.key = world, Ctl(world), world.key()
        short = self.key.split("/")
        self.options = ["--columns", "email,tax_id", "--key", "/".join(short[i] for i in (1, 3, 5, 7)), "--id-column", "id"]
        self.plain, self.old, self.new = folder / "plain.csv", folder / "old.csv", folder / "new.csv"
        self.part, self.place = folder / "new.csv.part", folder / "new.csv.place"
        with open(self.plain, "w", newline="") as f:
            f.write('id,email,"note, plain",tax_id\r\n')
            f.writelines(f'{i},person{i}@example.com,"line {i}\nand ""more""",{"" if i % 3 else 10000 + i}\r\n' for i in range(rows))
        self.old.write_bytes(self.csv("encrypt", self.plain))
        world.rotate(self.key)
        self.newest = kvid(world.encrypt(self.key))

    def csv(self, verb, source, *more):
        return self.ctl("csv", verb, *self.options, "--in", source, *more)

    def command(self, *more):
        return [BUILD / "bin/kmsctl", "--timeout", f"{DEADLINE}s", "csv", "rewrap", *self.options, "--in", self.old, "--out", self.new, *more]

    def rewrap(self, *more, **kw):
        return subprocess.run(self.command(*more), env=self.ctl.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=DEADLINE * 2, **kw)

    def check(self):
        """Complete, nothing beside it, every ciphertext on the newest version, and the original when it is decrypted."""
        assert not self.part.exists() and not self.place.exists()
        assert self.csv("decrypt", self.new) == self.plain.read_bytes()
        fields = re.findall(rb"clv1:([A-Za-z0-9+/=]+)", self.new.read_bytes())
        assert len(fields) == len(re.findall(rb"clv1:", self.old.read_bytes())) > 0
        assert {kvid(base64.b64decode(f)) for f in fields} == {self.newest}
        return len(fields)


@pytest.fixture
def files(world, tmp_path):
    return lambda rows: Files(world, tmp_path, rows)


def test_csv_rewrap(files):
    f = files(2500)
    done = f.rewrap("--progress")
    assert done.returncode == 0, done.stderr
    assert re.search(rb"\r\[#{30}\] 100%  3,334 fields, [0-9,]+ fields/s", done.stderr), done.stderr
    assert b"moved 3,334 fields of 2,500 rows to the newest version, 0 were on it, 0 are no ciphertext" in done.stderr
    assert f.check() == 3334
    again = f.ctl.run("csv", "rewrap", *f.options, "--in", f.new, "--output", "json")
    said = json.loads(again[2].splitlines()[-1])
    assert again[0] == 0 and again[1] == f.new.read_bytes() and (said["moved"], said["newest"], said["rows"]) == (0, 3334, 2500)
    assert f.rewrap("--resume").returncode == CONFLICT  # FILE is there
    f.ctl("csv", "rewrap", *f.options, "--in", f.old, "--resume", code=USAGE)
    f.ctl("csv", "rewrap", "--columns", "email", *f.options[2:4], "--in", f.old, code=INVALID)  # without the id it is bound to
    certs = dict(KMS_SERVICE_CERT=f.ctl.env["KMS_KEYADMIN_CERT"], KMS_SERVICE_KEY=f.ctl.env["KMS_KEYADMIN_KEY"])
    f.ctl("csv", "rewrap", *f.options, "--in", f.old, code=DENIED, **certs)


def records(place):
    try:
        return json.loads(place.read_bytes())["records"]
    except FileNotFoundError:
        return 0


def killed_ten_times(f, rows):
    """Each run is killed at the first moment after it has written down that it is past a random row. False: one was faster than we."""
    reached = 0
    for point in sorted(random.sample(range(1, int(rows * 0.8)), 10)):
        run = subprocess.Popen(f.command("--resume", "--batch", "100"), env=f.ctl.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        until(lambda: records(f.place) > max(point, reached) or run.poll() is not None, 60, f"row {point}")
        run.send_signal(signal.SIGKILL)
        said = run.communicate(timeout=DEADLINE)[1]
        if run.returncode == 0:
            f.new.unlink()
            return False
        assert run.returncode == -signal.SIGKILL, said
        assert reached == 0 or f"going on after record {reached}".encode() in said, (reached, said)
        reached = records(f.place)
        assert not f.new.exists() and reached > point
    return True


def test_csv_rewrap_killed_at_ten_random_points(files):
    """100,000 rows, ten deaths: the same file, and every ciphertext on the newest version."""
    f = files(100_000)
    until(lambda: killed_ten_times(f, 100_000), 60)
    assert f.rewrap().returncode == CONFLICT  # it must be asked for
    done = f.rewrap("--resume")
    assert done.returncode == 0, done.stderr
    assert b"of 100,000 rows" in done.stderr
    print(done.stderr.decode().splitlines()[-1])
    f.check()


WRITES = ("openat", "write", "ftruncate", "fdatasync", "fsync", "rename", "renameat2", "unlink")


class Steps:
    """The calls by which a run changes a file, each a moment to be killed at. How often it notes its place depends on the clock, so that
    how many there are is known only when a run has none left."""

    def __init__(self, f, log):
        self.f, self.log = f, log
        self.names = {str(f.new): "FILE", str(f.part): "part", str(f.place): "place", str(f.place) + ".new": "place.new", str(f.new.parent): "folder"}

    def kill_at(self, call, n):
        """The step's name: what was called, of what. None: the run came to its end before it."""
        for path in (self.f.new, self.f.part, self.f.place):
            path.unlink(missing_ok=True)
        paths = [word for path in self.names for word in ("-P", path)]
        run = subprocess.run(["strace", "-f", "-qq", "-y", "-o", self.log, *paths, "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={n}",
                              *self.f.command("--batch", "10")], env=self.f.ctl.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=DEADLINE)
        if run.returncode == 0:
            return None
        assert run.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), (call, n, run)
        lines = [line for line in self.log.read_text().splitlines() if re.match(rf"\d+ +{call}\(", line)]
        assert len(lines) == n, lines
        return call, next(self.names[p] for p in re.findall(r'[<"]([^<>"]*)[>"]', lines[-1]) if p in self.names)


STEPS = {("openat", "part"), ("ftruncate", "part"), ("openat", "folder"), ("fsync", "folder"), ("write", "part"), ("fdatasync", "part"),
         ("openat", "place.new"), ("write", "place.new"), ("fsync", "place.new"), ("rename", "place.new"), ("renameat2", "part"), ("unlink", "place")}


def state_of(f):
    if f.new.exists():
        return "proven" if f.place.exists() else "complete"
    return "noted" if f.place.exists() else "begun" if f.part.exists() else "nothing"


@pytest.mark.skipif(SLOWER > 1, reason="strace under a sanitizer")
def test_csv_rewrap_killed_at_every_step(files, tmp_path):
    """kill -9 at each call by which it changes a file, from the opening to the end; gone on with, nothing is lost or doubled, and a file that
    is proven complete is left alone."""
    f = files(60)
    steps, met = Steps(f, tmp_path / "calls"), collections.defaultdict(set)
    for call in WRITES:
        for n in range(1, 60):
            step = steps.kill_at(call, n)
            if step is None:
                break
            state, was = state_of(f), f.new.stat() if f.new.exists() else None
            met[state].add(step)
            done = f.rewrap("--resume")
            if state == "complete":  # it died when all was done, the proof removed
                assert done.returncode == CONFLICT and b"OUTPUT_EXISTS" in done.stderr and b"complete" in done.stderr, (step, n, done)
            else:
                assert done.returncode == 0 and b"of 60 rows" in done.stderr, (step, n, state, done)
            if was:
                assert (f.new.stat().st_ino, f.new.stat().st_mtime_ns) == (was.st_ino, was.st_mtime_ns), (step, n)
            assert not f.place.with_name(f.place.name + ".new").exists()
            f.check()
    print(dict(met))
    assert set().union(*met.values()) == STEPS, met
    assert met["begun"] and met["noted"] and ("fsync", "folder") in met["proven"] and met["complete"] <= {("openat", "folder"), ("fsync", "folder"), ("unlink", "place")}, met


def test_csv_rewrap_on_a_disk_that_is_full(files):
    """A row that is written in half and then no more: told, and gone on with when there is room."""
    f = files(3000)

    def little_room():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (123_457, 123_457))
    done = f.rewrap("--batch", "100", preexec_fn=little_room)
    assert done.returncode == FAILED and b"[OUTPUT]" in done.stderr and b"new.csv.part cannot be written" in done.stderr, done
    assert f.part.stat().st_size == 123_457 and 0 < records(f.place) < 3000 and not f.new.exists()
    done = f.rewrap("--resume")
    assert done.returncode == 0, done.stderr
    f.check()


def test_csv_rewrap_over_the_daemons_deaths(new_world, tmp_path):
    """The daemon's core dies again and again; the run mends its stream and says nothing of it."""
    f = Files(new_world, tmp_path, 60_000)
    instance, deaths = new_world.instance, 0
    run = subprocess.Popen(f.command("--batch", "100"), env=f.ctl.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    for wanted in (1_000, 15_000, 30_000):
        until(lambda: records(f.place) > wanted or run.poll() is not None, 60)
        pid = instance.children()["core"]
        os.kill(pid, signal.SIGKILL)
        deaths += run.poll() is None
        until(lambda: instance.children().get("core", pid) != pid, 10)
    said = run.communicate(timeout=DEADLINE * 2)[1]
    assert run.returncode == 0 and deaths > 0, (deaths, said)
    print(f"the core died {deaths} times")
    f.check()
