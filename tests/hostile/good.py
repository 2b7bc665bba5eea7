"""The well-behaved client: Wrap and Unwrap in turn, one call each PERIOD_MS, for as long as stdin is open. One line in, one line out:
`window N SECONDS` answers what happened since the last window, as soon as N calls or SECONDS have passed. A late call also counts
for the calls that were due behind it, so that one long stall is not one sample."""
import json
import os
import pathlib
import sys
import threading
import time

PERIOD_MS = 4
spec = json.loads(sys.argv[1])
sys.path[:0] = [spec["pygen"]]
os.environ["GRPC_VERBOSITY"] = "NONE"

import grpc  # noqa: E402

import claviger_pb  # noqa: E402,F401
from claviger.envelope.v1 import envelope_pb2 as env, envelope_pb2_grpc  # noqa: E402


class Good:
    def __init__(self):
        certs = pathlib.Path(spec["certs"])
        credentials = grpc.ssl_channel_credentials(*((certs / f).read_bytes() for f in ("ca.pem", "acme-orders.key", "acme-orders.pem")))
        channel = grpc.secure_channel(f"127.0.0.1:{spec['port']}", credentials, [("grpc.max_reconnect_backoff_ms", 100)])
        self.stub = envelope_pb2_grpc.EnvelopeStub(channel)
        self.changed = threading.Condition()
        self.samples, self.failed = [], []
        self.wrapped = None

    def once(self):
        secret = os.urandom(32)
        if self.wrapped is None:
            self.expected = secret
            self.wrapped = self.stub.Wrap(env.WrapRequest(name=spec["key"], plaintext_key=secret), timeout=20)
            return
        answer = self.stub.Unwrap(env.UnwrapRequest(name=spec["key"], wrapped_key=self.wrapped.wrapped_key), timeout=20)
        self.wrapped = None
        if answer.plaintext_key != self.expected:
            raise AssertionError("a wrong answer")

    def forever(self):
        due = time.monotonic()
        while True:
            due = max(due + PERIOD_MS / 1000, time.monotonic() - PERIOD_MS / 1000)
            time.sleep(max(0, due - time.monotonic()))
            start, error = time.monotonic(), None
            try:
                self.once()
            except Exception as e:  # noqa: BLE001
                error, self.wrapped = f"{type(e).__name__}: {getattr(e, 'code', str)() if isinstance(e, grpc.RpcError) else e}", None
            ms = (time.monotonic() - start) * 1000
            with self.changed:
                self.samples.append(ms)
                while (ms := ms - PERIOD_MS) > 0:
                    self.samples.append(ms)
                if error:
                    self.failed.append(error)
                self.changed.notify_all()

    def window(self, n, seconds):
        with self.changed:
            self.changed.wait_for(lambda: len(self.samples) >= n, seconds)
            samples, failed = sorted(self.samples), self.failed
            self.samples, self.failed = [], []
        at = lambda q: samples[min(len(samples) - 1, int(q * len(samples)))] if samples else None  # noqa: E731
        return {"n": len(samples), "failed": failed[:5], "p50": at(.5), "p99": at(.99), "max": at(1)}


def main():
    good = Good()
    threading.Thread(target=good.forever, daemon=True).start()
    for line in sys.stdin:
        _, n, seconds = line.split()
        print(json.dumps(good.window(int(n), float(seconds))), flush=True)


main()
