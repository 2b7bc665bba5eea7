"""Many at once: clients that all come back together, idle connections until nothing is left, denied calls without pause, foul messages."""
import gzip
import selectors
import socket
import ssl
import struct
import time

from target import BATCH, END, GONE, HEALTH, RANDOM, READY, WRAP, call, frame, h, headers, hold, message

HELLO = h.PREFACE + frame(h.SETTINGS) + call(1, headers(HEALTH), message(b""))


class Visitor:
    """One honest client: connects, asks for health, leaves when answered. Turned away, it comes back later."""

    def __init__(self, t, source):
        self.t, self.source, self.sock, self.due, self.wait, self.tries = t, source, None, 0, 0.05, 0

    def begin(self):
        self.tries += 1
        s = socket.socket()
        s.setblocking(False)
        s.bind((self.source, 0))
        s.connect_ex(("127.0.0.1", self.t.port))
        self.sock = self.t.context().wrap_socket(s, do_handshake_on_connect=False)
        self.raw, self.state, self.buffer = s, "connect", b""

    def step(self):
        """What it waits for, or True when served, or None when turned away."""
        try:
            if self.state == "connect":
                self.sock.do_handshake()
                self.state = "answer"
                self.sock.send(HELLO)
            while True:
                data = self.sock.recv(65536)
                if not data:
                    return self.away()
                self.buffer += data
                if self.served():
                    self.sock.close()
                    return True
        except ssl.SSLWantReadError:
            return selectors.EVENT_READ
        except ssl.SSLWantWriteError:
            return selectors.EVENT_WRITE
        except GONE:
            return self.away()

    def served(self):
        at, acked = 0, False
        while len(self.buffer) - at >= 9:
            n = int.from_bytes(self.buffer[at:at + 3], "big")
            kind, flags, sid = self.buffer[at + 3], self.buffer[at + 4], int.from_bytes(self.buffer[at + 5:at + 9], "big")
            if kind == h.SETTINGS and not flags and not acked:
                self.sock.send(h.SETTINGS_ACK)
                acked = True
            if kind == h.HEADERS and sid == 1 and flags & END:
                return True
            at += 9 + n
        self.buffer = self.buffer[at:]
        return False

    def away(self):
        self.sock.close()
        self.due, self.wait = time.monotonic() + self.wait, min(self.wait * 2, 2)
        return None


def crowd(t, clients, seconds, at_once=500, per_address=250):
    """As many at once as it is told; each comes back until it was served. When the first, half, and all of them were, in seconds."""
    sources = [t.address() for _ in range((clients + per_address - 1) // per_address)]
    waiting = [Visitor(t, sources[i // per_address]) for i in range(clients)]
    selector, start, times, turned, active = selectors.DefaultSelector(), time.monotonic(), [], 0, 0

    def follow(v, want):
        nonlocal active, turned
        if want is True:
            times.append(time.monotonic() - start)
            active -= 1
        elif want is None:
            turned += 1
            active -= 1
            waiting.append(v)
        else:
            selector.register(v.sock, want, v)

    while len(times) < clients and time.monotonic() - start < seconds:
        now, later = time.monotonic(), []
        for v in waiting:
            if v.due > now or active >= at_once:
                later.append(v)
                continue
            v.begin()
            active += 1
            selector.register(v.sock, selectors.EVENT_WRITE, v)
        waiting[:] = later
        for key, _ in selector.select(0.02):
            selector.unregister(key.fileobj)
            follow(key.data, key.data.step())
    for key in list(selector.get_map().values()):
        key.data.sock.close()
    at = lambda q: times[int(q * (len(times) - 1))] if times else None  # noqa: E731
    return {"served": len(times), "turned_away": turned, "first_s": at(0), "half_s": at(.5), "all_s": at(1)}


def half_hands(t, n, per_address, seconds):
    """A ClientHello from each of many addresses in many nets, and not a byte more: how many stand at the end."""
    hello, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    o = t.context().wrap_bio(hello, out)
    try:
        o.do_handshake()
    except ssl.SSLWantReadError:
        first = out.read()
    begun, selector, end, sent = [], selectors.DefaultSelector(), time.monotonic() + seconds, 0
    for i in range(n):
        if i % per_address == 0:
            source = t.address(net_of_its_own=True)
        s = socket.socket()
        s.setblocking(False)
        s.bind((source, 0))
        s.connect_ex(("127.0.0.1", t.port))
        selector.register(s, selectors.EVENT_WRITE)
        begun.append(s)
    while time.monotonic() < end:
        for key, _ in selector.select(0.05):
            selector.unregister(key.fileobj)
            try:
                key.fileobj.send(first)
                sent += 1
            except GONE:
                pass
    standing = 0
    for s in begun:
        try:
            while s.recv(65536):
                pass
        except BlockingIOError:
            standing += 1
        except GONE:
            pass
        s.close()
    return {"begun": n, "sent": sent, "standing": standing}


def idle(t, n, addresses, seconds, tls=True):
    """Connections that are opened and kept: how many stand, how many were refused."""
    held, refused, sources = [], 0, [t.address() for _ in range(addresses)]
    for i in range(n):
        try:
            held.append(t.raw(sources[i % addresses]) if tls else t.tcp(sources[i % addresses]))
        except GONE:
            refused += 1
    hold(seconds)
    ended = 0
    for s in held:
        s.settimeout(0)
        try:
            while s.recv(65536):
                pass
            ended += 1
        except (ssl.SSLWantReadError, BlockingIOError):
            pass
        except GONE:
            ended += 1
        s.close()
    return {"standing": len(held) - ended, "refused": refused + ended}


def denied(t, seconds, window=80):
    """A valid certificate that may not: another tenant's key, as fast as the daemon answers."""
    body = message(b"\x0a" + bytes([len(t.key)]) + t.key.encode() + b"\x12\x10" + b"k" * 16)
    s, block, end = t.raw(), headers(WRAP), time.monotonic() + seconds
    frames, sid, opened, codes, ended = h.Frames(s), 1, 0, 0, False
    while not ended and (time.monotonic() < end or opened):
        out = []
        while opened + len(out) < window and time.monotonic() < end:
            out.append(call(sid, block, body))
            sid += 2
        if out:
            s.sendall(b"".join(out))
            opened += len(out)
        while True:
            f = frames.next(5)
            if f is None:
                ended = True
                break
            if f[0] == h.HEADERS and f[1] & END:
                opened -= 1
                codes += 1
            if len(frames.buf) < 9 and opened < window // 2:
                break
    s.close()
    return {"answered": codes, "cut": ended}


def foul_messages(t, seconds):
    """Oversized, deeply nested, bombs: what each leads to; repeated until the time is over."""
    nested = b""
    while len(nested) < 200_000:
        nested = b"\x12" + varint(len(nested)) + nested if len(nested) < 40_000 else nested * 2
    groups = b"\x0b" * 100_000
    bodies = {
        "gzip bomb": (WRAP, b"\1" + frame_length(gzip.compress(b"\0" * 50_000_000))),
        "claims 4 GB": (WRAP, b"\0\xff\xff\xff\xff" + b"x" * 1000),
        "over 256 KiB": (WRAP, message(b"\x12" + varint(262_145) + b"x" * 262_145)),
        "over 320 KiB": (WRAP, message(b"\x12" + varint(400_000) + b"x" * 400_000)),
        "nested": (BATCH, message(nested[:262_000])),
        "groups": (BATCH, message(groups)),
        "empty items": (BATCH, message(b"\x12\x00" * 130_000)),
        "long varint": (RANDOM, message(b"\x10" + b"\xff" * 200_000)),
        "two messages": (WRAP, message(b"x" * 40) * 2),
    }
    seen, end = {k: {"cut": 0, "answered": 0, "silent": 0} for k in bodies}, time.monotonic() + seconds
    while time.monotonic() < end:
        for kind, (path, body) in bodies.items():
            try:
                s = t.raw()
                frames, window, at = h.Frames(s), 65535, 0
                s.sendall(frame(h.HEADERS, READY, 1, headers(path)))
                while at < len(body):
                    n = min(16384, window, len(body) - at)
                    if n:
                        s.sendall(frame(h.DATA, END * (at + n == len(body)), 1, body[at:at + n]))
                        at, window = at + n, window - n
                    else:
                        f = frames.next(2)
                        if f is None or f[0] == h.GOAWAY:
                            raise EOFError
                        if f[0] == h.HEADERS and f[1] & END:
                            seen[kind]["answered"] += 1
                            break
                        if f[0] == h.WINDOW_UPDATE and f[2] == 1:
                            window += int.from_bytes(f[3], "big")
                while at == len(body):
                    f = frames.next(2)
                    if f is None or f[0] == h.GOAWAY:
                        raise EOFError
                    if f[0] in (h.HEADERS, h.RST) and f[2] == 1 and (f[1] & END or f[0] == h.RST):
                        seen[kind]["answered"] += 1
                        break
                s.close()
            except TimeoutError:
                seen[kind]["silent"] += 1
            except GONE:
                seen[kind]["cut"] += 1
    return seen


def frame_length(payload):
    return struct.pack(">I", len(payload)) + payload


def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])
