"""Where the attackers aim: sockets to the daemon from any loopback address, requests as bytes, and pushing until something gives."""
import pathlib
import socket
import ssl
import struct
import sys
import time

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "integration/front"))

import harness as h  # noqa: E402
from harness import frame  # noqa: E402

WRAP = "/claviger.envelope.v1.Envelope/Wrap"
STREAM = "/claviger.envelope.v1.Envelope/EncryptStream"
RANDOM = "/google.cloud.kms.v1.KeyManagementService/GenerateRandomBytes"
BATCH = "/claviger.envelope.v1.Envelope/BatchEncrypt"
HEALTH = "/grpc.health.v1.Health/Check"
END, READY = 1, 4  # flags: END_STREAM, END_HEADERS
GONE = (ConnectionError, ssl.SSLError, EOFError, OSError)  # TimeoutError is one too: look for it first


def literal(name, value):
    """A header that leaves no trace in the table; both as they are, lengths by RFC 7541 5.1."""
    return b"\0" + length(len(name)) + name + length(len(value)) + value


def length(n, bits=7):
    top = (1 << bits) - 1
    if n < top:
        return bytes([n])
    out, n = bytes([top]), n - top
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def headers(path, extra=b""):
    """A gRPC request's header block without use of the dynamic table."""
    path = path.encode()
    return (b"\x83\x87\x04" + length(len(path)) + path + b"\x01\x01a" + extra
            + literal(b"te", b"trailers") + literal(b"content-type", b"application/grpc"))


def message(payload):
    return b"\0" + struct.pack(">I", len(payload)) + payload


def call(sid, block, body):
    """A whole unary call as frames."""
    parts = [body[i:i + 16384] for i in range(0, len(body), 16384)]
    return (frame(h.HEADERS, READY, sid, block)
            + b"".join(frame(h.DATA, END * (i == len(parts) - 1), sid, p) for i, p in enumerate(parts)))


def streams(first=1):
    return iter(range(first, 1 << 31, 2))


class Target:
    """spec: port, certs (folder), key (a resource name that the good client uses), net (of this attack's own addresses)."""

    def __init__(self, spec):
        self.spec, self.port, self.key = spec, spec["port"], spec["key"]
        self.certs = pathlib.Path(spec["certs"])
        self.used = 0
        self.contexts = {}

    def address(self, net_of_its_own=False):
        """One of its own: what the front holds against one attack's address is not held against the next."""
        self.used += 250 - self.used % 250 if net_of_its_own else 1
        return f"127.{self.spec['net']}.{self.used // 250}.{self.used % 250 + 1}"

    def context(self, who="globex-billing"):
        if who not in self.contexts:
            ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            ctx.check_hostname, ctx.verify_mode = False, ssl.CERT_NONE
            ctx.set_alpn_protocols(["h2"])
            ctx.load_cert_chain(self.certs / f"{who}.pem", self.certs / f"{who}.key")
            self.contexts[who] = ctx
        return self.contexts[who]

    def tcp(self, source=None, timeout=10):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)  # so that "sent" means "taken", nearly
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        s.settimeout(timeout)
        s.bind((source or self.address(), 0))
        s.connect(("127.0.0.1", self.port))
        return s

    def tls(self, source=None, who="globex-billing"):
        return self.context(who).wrap_socket(self.tcp(source))

    def raw(self, source=None, who="globex-billing", settings=b""):
        """TLS, preface, SETTINGS both ways and acknowledged: then it may misbehave."""
        s = self.tls(source, who)
        s.sendall(h.PREFACE + frame(h.SETTINGS, 0, 0, settings))
        frames = h.Frames(s)
        while (f := frames.next(10)) is not None and f[0] != h.SETTINGS:
            pass
        if f is None:
            raise EOFError("no SETTINGS")
        s.sendall(h.SETTINGS_ACK)
        self.window = 65535  # of the connection, as far as it is known yet
        for i in range(0, len(frames.buf) - 12, 9):
            if frames.buf[i + 3] == h.WINDOW_UPDATE and frames.buf[i + 5:i + 9] == b"\0\0\0\0":
                self.window += int.from_bytes(frames.buf[i + 9:i + 13], "big")
                break
        return s


class Push:
    """Sends for so long, or until the other side ends it. `sent` counts what the kernel took."""

    def __init__(self):
        self.sent, self.cut_after_s, self.codes, self.paced = 0, None, [], 0

    def run(self, sock, chunk, seconds, once=False, read=False):
        start, at, view = time.monotonic(), 0, memoryview(chunk)
        sock.settimeout(0.1)
        while time.monotonic() - start < seconds:
            try:
                n = sock.send(view[at:at + 65536])
                self.sent += n
                at += n
                if at == len(chunk):
                    if once:
                        break
                    at = 0
                if read:
                    self.drain(sock)
            except (TimeoutError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                self.paced += 1
            except GONE:
                self.cut_after_s = time.monotonic() - start
                self.codes = self.last_words(sock)
                break
        return self

    @staticmethod
    def drain(sock):
        sock.settimeout(0)
        try:
            while sock.recv(65536):
                pass
        except (ssl.SSLWantReadError, BlockingIOError, TimeoutError):
            pass
        sock.settimeout(0.1)

    @staticmethod
    def last_words(sock):
        try:
            return [code for _, code in h.goaways(h.Frames(sock).rest(0.3))]
        except GONE:
            return []  # the reset overtook them

    def result(self, **more):
        return {"sent": self.sent, "cut_after_s": self.cut_after_s, "codes": self.codes, "paced": self.paced, **more}


def is_cut(sock, seconds=2):
    """(True, codes) when the other side ends the connection in time."""
    try:
        return True, [code for _, code in h.goaways(h.Frames(sock).rest(seconds))]
    except TimeoutError:
        return False, []
    except GONE:
        return True, []


def hold(seconds):
    time.sleep(seconds)  # an attacker's patience, not a test's
