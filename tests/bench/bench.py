#!/usr/bin/python3
"""kmsd against two bare echo servers, in alternation, under one load generator: tests/bench/README.md.

  make bench                                   5 rounds, writes docs/BENCHMARKS.md
  make bench BENCH_ARGS="--rounds 1 --seconds 1 --out -"       a quick look, printed only
  --audit-off build/nolog                      also a build of FLAVOUR=nolog: what the audit gate costs
"""
import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
KEY = "projects/acme/locations/eu/keyRings/pii/cryptoKeys/email"
MASTER_KEYS = 20_000
SHAPES = [(1, 1), (16, 1), (64, 1), (256, 1), (16, 8), (64, 8), (256, 8)]  # in flight, connections


def say(text):
    print(text, file=sys.stderr, flush=True)


class Instance:
    """A kmsd (or its monitor with the echo in the core's place) in a folder of its own, with its own token and CA."""

    def __init__(self, work, name, build, core=None):
        self.dir = os.path.join(work, name)
        self.process = None
        args = [os.path.join(ROOT, "tools/dev-instance"), "--dir", self.dir, "--build", build, "--listen", "127.0.0.1:0"]
        subprocess.run(args + (["--bare"] if core else []), check=True, cwd=ROOT, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        self.bin = os.path.join(build, "bin")
        if core:
            # the monitor looks for its children beside itself: a folder where kmsd-core is the echo
            self.bin = os.path.join(self.dir, "bin")
            os.mkdir(self.bin)
            for program in ("kmsd", "kmsd-front", "kmsd-hsm"):
                shutil.copy(os.path.join(build, "bin", program), self.bin)
            shutil.copy(core, os.path.join(self.bin, "kmsd-core"))

    def start(self):
        endpoint = os.path.join(self.dir, "run/endpoint")
        if os.path.exists(endpoint):
            os.unlink(endpoint)
        with open(os.path.join(self.dir, "bench.log"), "ab") as log:
            self.process = subprocess.Popen([os.path.join(self.bin, "kmsd"), "--config", os.path.join(self.dir, "kmsd.conf")],
                                            stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        for _ in range(200):
            if os.path.exists(endpoint) and os.path.getsize(endpoint) > 0:
                break
            time.sleep(0.05)
        else:
            raise SystemExit(f"no server in {self.dir}: see bench.log there")
        self.target = open(endpoint).read().strip()
        certs = os.path.join(self.dir, "certs")
        client = "acme-orders" if os.path.exists(os.path.join(certs, "acme-orders.pem")) else "admin"
        self.tls = [f"{certs}/ca.pem", f"{certs}/{client}.pem", f"{certs}/{client}.key"]
        self.pids = [self.process.pid] + children(self.process.pid)
        return self

    def stop(self):
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=30)


class TlsEcho:
    def __init__(self, program, certs, threads):
        self.process = subprocess.Popen([program, f"{certs}/ca.pem", f"{certs}/server.pem", f"{certs}/server.key", str(threads)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.target = "127.0.0.1:" + self.process.stdout.readline().strip()
        client = "acme-orders"
        self.tls = [f"{certs}/ca.pem", f"{certs}/{client}.pem", f"{certs}/{client}.key"]
        self.pids = [self.process.pid]

    def stop(self):
        self.process.stdin.close()
        self.process.wait(timeout=10)


def children(pid):
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = open(f"/proc/{entry}/stat").read()
            except OSError:
                continue
            if int(stat.rsplit(")", 1)[1].split()[1]) == pid:
                found.append(int(entry))
    return found


def measure(loadgen, server, method, inflight, connections, seconds, reply=300, warmup=1):
    ca, cert, key = server.tls
    run = subprocess.run(
        [loadgen, "--target", server.target, "--ca", ca, "--cert", cert, "--key", key, "--method", method, "--name", KEY,
         "--bytes", "64", "--reply", str(reply), "--inflight", str(inflight), "--connections", str(connections),
         "--seconds", str(seconds), "--warmup", str(warmup), "--pids", ",".join(map(str, server.pids))],
        capture_output=True, text=True, timeout=seconds + warmup + 60)
    if run.returncode != 0:
        raise SystemExit(f"{method} with {inflight} in flight failed: {run.stdout} {run.stderr}")
    return json.loads(run.stdout)


def rewrap(program, build, server, rounds, seconds):
    """Items per second of a campaign; the key is rotated between its sealing and its moving."""
    env = {"PATH": "/usr/bin:/bin", "KMS_ENDPOINT": server.target, "KMS_CA": server.tls[0], "KMS_CERT": server.tls[1], "KMS_KEY": server.tls[2]}
    run = subprocess.Popen([program, KEY, str(rounds), str(seconds)], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if run.stdout.readline() != "sealed\n":
        raise SystemExit("rewrap: nothing was sealed")
    keyadmin = os.path.join(server.dir, "certs/acme-keyadmin")
    subprocess.run([os.path.join(build, "bin/kmsctl"), "keys", "rotate", KEY], env={**env, "KMS_CERT": keyadmin + ".pem", "KMS_KEY": keyadmin + ".key"},
                   check=True, stdout=subprocess.DEVNULL)
    out, _ = run.communicate("go on\n", timeout=rounds * seconds * 3 + 60)
    if run.returncode != 0:
        raise SystemExit("rewrap failed")
    return json.loads(out)


def rotate(build, what):
    """Rows a second, of a rotation at full pace (rotate_secret.py, an instance of its own)."""
    run = subprocess.run([sys.executable, os.path.join(ROOT, "tests/bench/rotate_secret.py"), "--what", what, "--keys", str(MASTER_KEYS), "--json"],
                         env={**os.environ, "CLV_BUILD": build}, capture_output=True, text=True, timeout=600)
    if run.returncode != 0:
        raise SystemExit(f"the rotation of the {what} failed: {run.stderr}")
    return json.loads(run.stdout)


def fdatasync_us(folder):
    """Median of 4 KiB appends into a file written before, as the journal does it."""
    path = os.path.join(folder, "fdatasync.probe")
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.pwrite(fd, b"\0" * (1 << 20), 0)
    os.fsync(fd)
    took = []
    for i in range(200):
        began = time.monotonic()
        os.pwrite(fd, b"x" * 4096, 4096 * (i % 256))
        os.fdatasync(fd)
        took.append((time.monotonic() - began) * 1e6)
    os.close(fd)
    os.unlink(path)
    return statistics.median(took)


def machine():
    cpu = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    memory = int(open("/proc/meminfo").readline().split()[1]) // 1024
    return f"{cpu}, {os.cpu_count()} cores, {memory} MiB, Linux {platform.release()}"


def middle(runs, field):
    return statistics.median(r[field] for r in runs)


def report(results, columns, notes, moved):
    out = ["# Benchmarks", "", "Written by `make bench`; how is in tests/bench/README.md.", ""]
    out += [f"- {note}" for note in notes] + [""]
    echo = "echo behind our front"
    out += ["## Ratios: calls per second, to the echo behind the same front and to gRPC's own TLS", "",
            "| in flight | connections | call | calls/s | to front echo | to TLS echo | server CPU us a call | front echo | TLS echo |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"]
    for shape in SHAPES:
        base, tls = results[shape][echo], results[shape]["echo, gRPC's TLS"]
        for column in columns:
            if column.startswith("echo"):
                continue
            runs = results[shape][column]
            # ratios within a round: what else the machine did in that minute hits both
            to_front = statistics.median(a["rps"] / b["rps"] for a, b in zip(runs, base))
            to_tls = statistics.median(a["rps"] / b["rps"] for a, b in zip(runs, tls))
            out.append(f"| {shape[0]} | {shape[1]} | {column} | {middle(runs, 'rps'):,.0f} | {to_front:.2f} | {to_tls:.2f} "
                       f"| {middle(runs, 'server_cpu_us'):.1f} | {middle(base, 'server_cpu_us'):.1f} | {middle(tls, 'server_cpu_us'):.1f} |")
    out += ["", "## Latency, microseconds", "", "| in flight | connections | call | p50 | p99 | p99.9 | calls/s | client CPU us a call |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for shape in SHAPES:
        for column in columns:
            runs = results[shape][column]
            out.append(f"| {shape[0]} | {shape[1]} | {column} | {middle(runs, 'p50_us'):,.0f} | {middle(runs, 'p99_us'):,.0f} "
                       f"| {middle(runs, 'p999_us'):,.0f} | {middle(runs, 'rps'):,.0f} | {middle(runs, 'client_cpu_us'):.1f} |")
    out += ["", "## Campaigns: fields of 64 B moved to a key's newest version, 1,000 a batch, two batches on their way", "",
            "| way | fields/s |", "| --- | --- |", f"| RewrapStream | {moved['rewrap']:,} |", f"| BatchDecrypt, then BatchEncrypt | {moved['decrypt_encrypt']:,} |",
            f"| RewrapStream, all on the newest version already | {moved['newest']:,} |", "", f"RewrapStream to the other way, within a round: {moved['ratio']:.2f}."]
    return "\n".join(out) + "\n"


def report_rotations(measured):
    rows = [f"| {what} | {m['rows']:,} | {m['seconds']} | {m['per_second']:,} | {m['during']['p50_us']:,}, {m['during']['p99_us']:,} "
            f"| {m['before']['p50_us']:,}, {m['before']['p99_us']:,} |" for what, m in measured]
    return "\n".join(["", "## Rotation of the master (key versions) and of the store's seal secret (its rows), at full pace, while one client works", "",
                      "| what | rows | seconds | rows/s | warm Decrypt p50, p99 us | before |", "| --- | --- | --- | --- | --- | --- |", *rows]) + "\n"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default="build/dev")
    p.add_argument("--audit-off", metavar="BUILD")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=int, default=2)
    p.add_argument("--shapes", help="1x1,64x8: only these (in flight x connections)")
    p.add_argument("--out", default=os.path.join(ROOT, "docs/BENCHMARKS.md"))
    a = p.parse_args()
    build = os.path.abspath(a.build)
    loadgen = os.path.join(build, "bench/loadgen")
    if a.shapes:
        SHAPES[:] = [tuple(map(int, s.split("x"))) for s in a.shapes.split(",")]
    work = tempfile.mkdtemp(prefix="clv-bench-")
    servers = []
    try:
        kmsd = Instance(work, "kmsd", build)
        servers.append(kmsd.start())
        front = Instance(work, "echo", build, core=os.path.join(build, "bench/echo_front"))
        servers.append(front.start())
        servers.append(TlsEcho(os.path.join(build, "bench/echo_tls"), os.path.join(kmsd.dir, "certs"), 2))
        reply = measure(loadgen, kmsd, "wrap", 1, 1, 1)["reply_bytes"]
        columns = {"echo behind our front": (front, "echo"), "echo, gRPC's TLS": (servers[2], "echo"), "Wrap": (kmsd, "wrap"),
                   "Encrypt": (kmsd, "encrypt")}
        if a.audit_off:
            off = Instance(work, "off", os.path.abspath(a.audit_off))
            servers.append(off.start())
            columns["Wrap, audit off"] = (off, "wrap")
        results = {shape: {name: [] for name in columns} for shape in SHAPES}
        for number in range(a.rounds):
            for shape in SHAPES:
                for name, (server, method) in columns.items():
                    results[shape][name].append(measure(loadgen, server, method, *shape, a.seconds, reply))
            say(f"round {number + 1} of {a.rounds} done")
        notes = [f"Machine: {machine()}; the load generator runs on the same cores.",
                 f"{a.rounds} rounds of {a.seconds} s each, servers in alternation, medians; ratios are taken within a round.",
                 f"64 B plaintext, {reply} B answers (the echoes move as many bytes); TLS 1.3, client certificates, audit on.",
                 f"fdatasync of the journal's disk: median {fdatasync_us(kmsd.dir):.0f} us."]
        moved = rewrap(os.path.join(build, "bench/rewrap"), build, kmsd, a.rounds, a.seconds)
        text = report(results, columns, notes, moved) + report_rotations([(what, rotate(build, what)) for what in ("master", "seal")])
        print(text)
        if a.out != "-":
            with open(a.out, "w") as f:
                f.write(text)
    finally:
        for s in servers:
            s.stop()
        shutil.rmtree(work, ignore_errors=True)


main()
