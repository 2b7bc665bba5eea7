"""The same kinds of attack by python3-h2, an HTTP/2 implementation that shares no line with ours: it also reads what the front says."""
import ssl
import time

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import hyperframe.frame as hf
from target import GONE, RANDOM, STREAM, WRAP, message

ANSWERS = message(b"\x0a\x1cprojects/globex/locations/us\x10\x80\x08\x18\x02")  # GenerateRandomBytes, 1 KiB


def request(path, extra=()):
    return [(":method", "POST"), (":scheme", "https"), (":path", path), (":authority", "a"), ("te", "trailers"),
            ("content-type", "application/grpc"), *extra]


class Speaker:
    """A connection that is set up by the book. `said` has the codes of the GOAWAYs it was told."""

    def __init__(self, t, settings=None):
        self.sock = t.tls()
        self.conn = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None, validate_outbound_headers=False))
        if settings:
            self.conn.local_settings = h2.settings.Settings(client=True, initial_values=settings)
        self.conn.initiate_connection()
        self.left, self.said, self.over, self.paced, self.reset, self.ended, self.acked = b"", [], False, 0, 0, 0, False
        self.flush()
        end = time.monotonic() + 10
        while not self.acked and not self.over and time.monotonic() < end:
            self.pump(1)

    def flush(self):
        """Sends what the library has ready, as fast as it is taken; for a second at most."""
        data, end = self.left + self.conn.data_to_send(), time.monotonic() + 1
        while data and not self.over and time.monotonic() < end:
            try:
                self.sock.settimeout(0.1)
                data = data[self.sock.send(data):]
            except (TimeoutError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                self.paced += 1
                self.pump(0, reply=False)
            except GONE:
                self.pump(0.3, reply=False)
                self.over = True
        self.left = data

    def pump(self, seconds, reply=True):
        """Everything that has come. The last words of the other side count even when it has closed."""
        self.sock.settimeout(seconds)
        while not self.over:
            try:
                data = self.sock.recv(65536)
            except (TimeoutError, ssl.SSLWantReadError):
                break
            except GONE:
                data = b""
            self.over = self.over or not data
            for e in self.conn.receive_data(data) if data else ():
                self.acked |= isinstance(e, h2.events.RemoteSettingsChanged)
                self.reset += isinstance(e, h2.events.StreamReset)
                self.ended += isinstance(e, h2.events.StreamEnded)
                if isinstance(e, h2.events.ConnectionTerminated):
                    self.said.append(int(e.error_code))
                    self.over = True
            self.sock.settimeout(0)
        if reply and not self.over:
            self.flush()

    def stream(self, path, extra=(), end=False):
        sid = self.conn.get_next_available_stream_id()
        self.conn.send_headers(sid, request(path, extra), end_stream=end)
        return sid


def reset(s, state):
    s.conn.reset_stream(s.stream(WRAP), h2.errors.ErrorCodes.CANCEL)


def ping(s, state):
    s.conn.ping(b"12345678")


def settings(s, state):
    s.conn.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 70000})


def window_update(s, state):
    s.conn.increment_flow_control_window(1)


def priority(s, state):
    s.conn.prioritize(2 ** 20 + 1, weight=7)


def empty_data(s, state):
    if "sid" not in state:
        state["sid"] = s.stream(STREAM)
    s.conn.send_data(state["sid"], b"")


def continuation(s, state):
    if "begun" not in state:
        state["begun"] = True
        f = hf.HeadersFrame(1, s.conn.encoder.encode(request(WRAP)))
        state["more"] = hf.ContinuationFrame(1, b"").serialize()
        s.sock.sendall(f.serialize())
    s.sock.sendall(state["more"])


def large_headers(s, state):
    state["n"] = state.get("n", 0) + 1
    s.stream(WRAP, [(f"x-filler-{state['n']}-{i}", "v" * 900) for i in range(60)])


KINDS = {"reset": reset, "ping": ping, "settings": settings, "window update": window_update, "priority": priority,
         "empty data": empty_data, "continuation": continuation, "large headers": large_headers}


def h2_floods(t, seconds, kinds=tuple(KINDS)):
    """Each kind over a connection of its own, as fast as the library can, until the other side ends it or the time is over."""
    out = {}
    for kind in kinds:
        s, state, n = Speaker(t), {}, 0
        end = time.monotonic() + seconds / len(kinds)
        start = time.monotonic()
        while time.monotonic() < end and not s.over:
            try:
                for _ in range(50):
                    KINDS[kind](s, state)
                    n += 1
                s.flush()
                s.pump(0)
            except GONE:
                s.pump(0.5, reply=False)
                s.over = True
        took = time.monotonic() - start
        if not s.over and not s.said:
            s.pump(0.05, reply=False)
        out[kind] = {"frames": n, "paced": s.paced, "over": s.over, "said": s.said, "seconds": took}
        s.sock.close()
    return out


def h2_stalls(t, conns, each, seconds):
    """A window of 0 in the first SETTINGS, calls whose answers then cannot leave, and patience."""
    held, body = [], ANSWERS
    for _ in range(conns):
        s = Speaker(t, {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
        for _ in range(each):
            s.conn.send_data(s.stream(RANDOM), body, end_stream=True)
        s.flush()
        held.append(s)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for s in held:
            s.pump(0.01)
    out = {"connections": len(held), "calls": conns * each, "reset": sum(s.reset for s in held), "ended": sum(s.ended for s in held),
           "over": sum(s.over for s in held)}
    for s in held:
        s.sock.close()
    return out
