"""One daemon, one good client, one attacker: runs an attack and holds the daemon to what every attack is held to."""
import itertools
import json
import os
import pathlib
import select
import subprocess
import sys
import time

import claviger_pb  # noqa: F401
from claviger.system.v1 import system_pb2
from google.cloud.kms.v1 import resources_pb2 as res, service_pb2 as msg
from kit.client import connect
from kit.instance import BUILD, until

HERE = pathlib.Path(__file__).resolve().parent
LONG = os.environ.get("LONG") == "1"
GROWTH_MB = 64       # of all four processes together
P99_TIMES = 3        # of the quiet p99,
P99_FLOOR_MS = 20    # or this: a call is handed on by six threads, and each may wait for a slice of 3 ms while all cores are in use
P99_SHARED_MS = 100  # the same where others have more than OTHERS of the machine: only a stall can be told from their noise then
OTHERS = 0.1
RECOVERY_S = 1
RECOVERY_SHARED_S = 10
PERIOD_S = 0.004     # good.py
QUIET_CALLS = 2000 if LONG else 150  # a minute has more noise than half a second
TRIES = 5            # of the p99 alone: other work on the same cores must not fail a test, a real stall fails every time


class Process:
    """A helper that answers a line with a line. Its own process, so that its interpreter's lock is not ours."""

    def __init__(self, script, spec, nice=0):
        # A session of its own: the kernel shares the cores between sessions first, as it does between a daemon and its neighbours.
        self.process = subprocess.Popen([sys.executable, HERE / script, json.dumps(spec)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, start_new_session=True, preexec_fn=lambda: os.nice(nice))

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def answered(self, seconds=0):
        return bool(select.select([self.process.stdout], [], [], seconds)[0])

    def answer(self, seconds):
        assert self.answered(seconds), f"no answer from {self.process.args[1].name} in {seconds} s"
        line = self.process.stdout.readline()
        assert line, f"{self.process.args[1].name} died"
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def slope_mb_per_minute(samples):
    """Of resident memory, by least squares over the second half of an attack: what the first half filled stays full."""
    half = samples[len(samples) // 2:]
    t, mb = (sum(s[i] for s in half) / max(1, len(half)) for i in (0, 1))
    spread = sum((s[0] - t) ** 2 for s in half)
    return 60 * sum((s[0] - t) * (s[1] - mb) for s in half) / spread if spread else 0.0


class Outcome:
    def __init__(self, **fields):
        self.__dict__.update(fields)

    def __str__(self):
        d, q = self.during, self.quiet
        return (f"{self.name}: {d['n']} good calls, p99 {d['p99']:.1f} ms (quiet {q['p99']:.1f}), worst {d['max']:.0f} ms; grew {self.growth_mb:.1f} MB {self.grew}; "
                f"recovered in {self.recovery_s:.2f} s; cpu front {self.cpu_s['front']:.1f} core {self.cpu_s['core']:.1f} s of {self.seconds:.1f}, others {self.others:.0%}; "
                f"accepted {self.accepted} refused {self.refused} policed {self.policed}; {self.result}")


class Arena:
    nets = itertools.count(10)

    def __init__(self, instance):
        self.instance = instance
        self.admin, keyadmin = connect(instance, "admin"), connect(instance, "acme-keyadmin")
        ring = keyadmin.kms.CreateKeyRing(msg.CreateKeyRingRequest(parent="projects/acme/locations/eu", key_ring_id="arena")).name
        self.key = keyadmin.kms.CreateCryptoKey(msg.CreateCryptoKeyRequest(
            parent=ring, crypto_key_id="key", crypto_key=res.CryptoKey(purpose=res.CryptoKey.ENCRYPT_DECRYPT))).name
        self.spec = {"port": int(instance.endpoint.rsplit(":", 1)[1]), "certs": str(instance.dir / "certs"), "key": self.key,
                     "pygen": str(BUILD / "pygen")}
        self.good = Process("good.py", self.spec)
        self.attacker = Process("attacker.py", self.spec, nice=19)  # it has a machine of its own, in truth
        self.pids = instance.children()
        assert set(self.pids) == {"front", "core", "hsm"}
        assert self.window(20, 10)["n"] >= 20, "the good client does not work"

    def close(self):
        self.good.close()
        self.attacker.close()

    # ---- looking
    def window(self, n, seconds):
        self.good.ask(f"window {n} {seconds}")
        return self.good.answer(seconds + 10)

    def status(self):
        return self.admin.system.GetStatus(system_pb2.GetStatusRequest())

    def rss(self):
        """Resident MB of each process."""
        out = {}
        for role, pid in {"monitor": self.instance.process.pid, **self.pids}.items():
            path = pathlib.Path(f"/proc/{pid}/status")
            assert path.exists(), f"{role} has died:\n" + self.instance.log[-3000:]
            text = path.read_text()
            out[role] = int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024
        return out

    def rss_mb(self):
        return sum(self.rss().values())

    def cpu_s(self):
        out = {}
        for role, pid in self.pids.items():
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            out[role] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return out

    def counted(self, before, what, atleast, seconds=3):
        """A counter of System.GetStatus has grown by so much: the front reports each second."""
        return until(lambda: getattr(self.status().traffic, what) - getattr(before, what) >= atleast, seconds,
                     f"{what} + {atleast}")

    def reconnects(self):
        """How long a new good client needs until it is answered."""
        start = time.monotonic()
        client = connect(self.instance, "acme-orders")
        try:
            client.kms.GenerateRandomBytes(msg.GenerateRandomBytesRequest(location="projects/acme/locations/eu", length_bytes=8,
                                                                          protection_level=res.HSM), timeout=30)
        finally:
            client.close()
            self.instance.clients.remove(client)
        return time.monotonic() - start

    def quiet(self):
        """The good client while the attacker computes and sends nothing: in truth it has a machine of its own, so what its
        computing costs the others here is not the daemon's doing, and stands on both sides of the comparison."""
        self.attacker.ask(json.dumps({"attack": "spin", "net": 0, "seconds": QUIET_CALLS * PERIOD_S}))
        self.window(0, 0)
        quiet = self.window(QUIET_CALLS, 20)
        self.attacker.answer(60)
        return quiet

    def busy_s(self):
        """CPU seconds so far: of the whole machine, and of what belongs to this test."""
        tick, pids = os.sysconf("SC_CLK_TCK"), [self.instance.process.pid, self.good.process.pid, self.attacker.process.pid, *self.pids.values()]
        machine = [int(t) for t in pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        fields = [pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in pids]
        own = sum(int(f[11]) + int(f[12]) for f in fields) / tick + sum(os.times()[:2])
        return (sum(machine) - machine[3] - machine[4]) / tick, own

    # ---- doing
    def run(self, name, meanwhile=None, attempts=TRIES, **args):
        for left in reversed(range(attempts)):
            o = self.once(name, meanwhile, args)
            o.limit_ms = max(P99_SHARED_MS if o.others > OTHERS else P99_FLOOR_MS, P99_TIMES * o.quiet["p99"])
            print(o)
            if o.during["p99"] <= o.limit_ms or left == 0:
                break
        assert o.during["p99"] <= o.limit_ms, o
        return o

    def once(self, name, meanwhile, args):
        now, rss_by, begun = self.status(), self.rss(), time.monotonic()
        before, entries, rss, cpu = now.traffic, now.journal.entries, sum(rss_by.values()), self.cpu_s()
        busy, own = self.busy_s()
        quiet = self.quiet()
        assert quiet["failed"] == [], (quiet, self.instance.log[-3000:])
        start, peak, peak_by, samples = time.monotonic(), rss, rss_by, []
        self.attacker.ask(json.dumps({"attack": name, "net": next(self.nets), **args}))
        while not self.attacker.answered(0.05):
            by = self.rss()
            samples.append((time.monotonic() - start, sum(by.values())))
            if sum(by.values()) >= peak:
                peak, peak_by = sum(by.values()), by
            if meanwhile:
                meanwhile()
            assert time.monotonic() - start < args.get("seconds", 0) + 180, "the attacker does not end"
        seconds, during = time.monotonic() - start, self.window(0, 0)
        busy, own = (after - before for after, before in zip(self.busy_s(), (busy, own)))
        others = max(0, busy - own) / os.cpu_count() / (time.monotonic() - begun)
        result = self.attacker.answer(1)
        assert "error" not in result, result["error"]
        recovery = self.reconnects()
        after = self.window(20, 5)
        cpu = {r: s - cpu[r] for r, s in self.cpu_s().items()}
        # what every attack is held to
        assert self.instance.children() == self.pids, "a process died:\n" + self.instance.log[-3000:]
        assert during["failed"] == [] and after["failed"] == [], (during, after, result)
        assert during["n"] >= 20, during
        assert peak - rss < GROWTH_MB, f"grew by {peak - rss:.0f} MB: {rss_by} to {peak_by} {result}"
        assert recovery < (RECOVERY_S if others <= OTHERS else RECOVERY_SHARED_S), f"{recovery:.2f} s to be served after it"
        traffic = self.status().traffic
        journal = self.status().journal.entries - entries
        return Outcome(name=name, quiet=quiet, during=during, result=result, growth_mb=peak - rss, others=others, slope=slope_mb_per_minute(samples), grew={r: round(mb - rss_by[r], 1) for r, mb in peak_by.items()}, recovery_s=recovery, seconds=seconds, cpu_s=cpu,
                       before=before, journal=journal,
                       accepted=traffic.connections_accepted - before.connections_accepted,
                       refused=traffic.connections_refused - before.connections_refused,
                       policed=traffic.connections_policed - before.connections_policed)
