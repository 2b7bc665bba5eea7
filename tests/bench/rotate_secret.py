#!/usr/bin/env python3
"""A rotation of the master over many key versions, or of the store's seal secret over as many rows and more, with a client at work: how fast,
what the client notices. `make master`, `make seal`; MASTER_ARGS="--keys N --pace N".

Fails when one call of the client fails, something is left under the old one, or fsck finds anything."""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import sys
import tempfile
import threading
import time

from large_store import fill  # noqa: E402  (and the way to kit)

import claviger_pb  # noqa: E402,F401
from claviger.masters.v1 import masters_pb2 as mas  # noqa: E402
from google.cloud.kms.v1 import resources_pb2 as res, service_pb2 as msg  # noqa: E402
from kit.client import connect  # noqa: E402
from kit.instance import Instance  # noqa: E402
from kit.moving import IDLE, calls_of  # noqa: E402

RING = "projects/acme/locations/eu/keyRings/r"
WARM = RING + "/cryptoKeys/k"


class Client:
    """One call after the other: a warm key, and keys that were never used before."""

    def __init__(self, instance, keys):
        self.who, self.keys = connect(instance, "acme-orders"), keys
        self.took, self.cold, self.stop = [], 0, threading.Event()
        self.sealed = self.who.kms.Encrypt(msg.EncryptRequest(name=WARM, plaintext=b"jane")).ciphertext

    def one(self):
        begun = time.monotonic()
        assert self.who.kms.Decrypt(msg.DecryptRequest(name=WARM, ciphertext=self.sealed)).plaintext == b"jane"
        self.took.append(time.monotonic() - begun)

    def work(self):
        while not self.stop.is_set():
            for _ in range(20):
                self.one()
            n = self.cold * 7919 % self.keys
            self.cold += 1
            name = f"projects/acme/locations/eu/keyRings/fill-{n // 1000:06d}/cryptoKeys/key-{n:09d}"
            sealed = self.who.kms.Encrypt(msg.EncryptRequest(name=name, plaintext=b"jane")).ciphertext
            assert self.who.kms.Decrypt(msg.DecryptRequest(name=name, ciphertext=sealed)).plaintext == b"jane"

    def quantiles(self):
        q = statistics.quantiles(self.took, n=100)
        return {"p50_us": round(q[49] * 1e6), "p99_us": round(q[98] * 1e6), "calls": len(self.took) + 2 * self.cold}


def busy(instance, keys, until):
    """What a client measures while until() runs."""
    client = Client(instance, keys)
    failed = []

    def work():
        try:
            client.work()
        except Exception as e:  # noqa: BLE001
            failed.append(e)
    thread = threading.Thread(target=work)
    thread.start()
    result = until()
    client.stop.set()
    thread.join()
    assert not failed, failed
    return result, client.quantiles()


def rotation(instance, what, patience_s):
    """(rows, seconds) of a whole rotation, from the call to the proof."""
    status, rotate, _ = calls_of(connect(instance, "admin"), what.capitalize())
    begun = time.monotonic()
    to = rotate(mas.RotateRequest()).rotation.to
    while True:
        s = status(mas.GetStatusRequest())
        if s.rotation.state == IDLE and s.current == to:
            return s.rotation.rows_done, time.monotonic() - begun
        assert not s.rotation.trouble, s
        assert time.monotonic() - begun < patience_s, s
        time.sleep(0.05)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--keys", type=int, default=100_000, help="of one version each")
    p.add_argument("--what", choices=("master", "seal"), default="master")
    p.add_argument("--pace", type=int, default=1_000_000, help="master_versions_per_second, seal_rows_per_second")
    p.add_argument("--dir", default=None, help="where to work (a temporary folder)")
    p.add_argument("--json", action="store_true")
    a = p.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="clv-master-", dir=a.dir))
    try:
        i = Instance.create(folder / "i")
        i.configure(master_versions_per_second=a.pace, seal_rows_per_second=a.pace)
        i.start()
        keyadmin = connect(i, "acme-keyadmin")
        keyadmin.kms.CreateKeyRing(msg.CreateKeyRingRequest(parent=RING.rsplit("/", 2)[0], key_ring_id="r"))
        keyadmin.kms.CreateCryptoKey(msg.CreateCryptoKeyRequest(parent=RING, crypto_key_id="k", crypto_key=res.CryptoKey(purpose=res.CryptoKey.ENCRYPT_DECRYPT)))
        i.stop()
        fill(i, a.keys)
        i.start()
        _, before = busy(i, a.keys, lambda: time.sleep(3))
        (rows, took), during = busy(i, a.keys, lambda: rotation(i, a.what, a.keys / 100 + 60))
        assert rows > a.keys * (1 if a.what == "master" else 2)  # a row of the key, too
        i.stop()
        code, said = i.run("fsck", timeout=900)
        assert code == 0, said
        done = {"rows": rows, "seconds": round(took, 2), "per_second": round(rows / took), "before": before, "during": during}
        if a.json:
            print(json.dumps(done))
            return
        print(f"{a.what}: {rows:,} rows moved and proven in {took:.1f} s: {rows / took:,.0f} rows/s; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        for what, q in (("before", before), ("during", during)):
            print(f"one client {what}: p50 {q['p50_us']:,} us, p99 {q['p99_us']:,} us of a warm Decrypt; {q['calls']:,} calls, none failed")
        print("fsck: " + [line for line in said.splitlines() if line.startswith("examined")][-1])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
