"""A stand-in monitor and core around the real kmsd-front, and small clients that may misbehave."""
import contextlib
import ctypes
import datetime
import os
import pathlib
import resource
import select
import shutil
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
import time

import h2.config
import h2.connection
import h2.events
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # as in kit/__init__.py
ROOT = pathlib.Path(__file__).resolve().parents[3]
FRONT = pathlib.Path(os.environ.get("CLV_BUILD", ROOT / "build/dev")).resolve() / "bin/kmsd-front"
SLOWER = int(os.environ.get("CLV_SLOW", 1))  # as in kit/instance.py: a sanitizer's tree gets longer deadlines
PATIENCE = 60 * SLOWER  # for what must come true at all: a busy machine is no fault
SOON = 10 * SLOWER  # the same, where the twin would take longer still
MAGIC = 0xC1A6
CONFIG, TLS_FILES, LISTENER, CORE_CHANNEL = 1, 2, 3, 4
RELOAD, DRAIN, READY, FATAL = 9, 10, 11, 12
CONN_NEW, CONN_ACK, CONN_CLOSED, CONN_KILL, FRONT_STATS = 1, 2, 3, 4, 5

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


SETTINGS_ACK = frame(SETTINGS, 1)
# :method POST, :scheme http, :path /x, te: trailers, content-type: all literal or static, no dynamic table
REQUEST = b"\x83\x86\x44\x02/x\x41\x01a"


def packet(kind, body=b"", seq=0):
    return struct.pack(">HHII", MAGIC, kind, seq, len(body)) + body


def send_packet(sock, kind, body=b"", fds=(), seq=0):
    socket.send_fds(sock, [packet(kind, body, seq)], list(fds))


def recv_packet(sock, timeout=PATIENCE):
    sock.settimeout(timeout)
    data = sock.recv(70000)
    if not data:
        raise EOFError
    magic, kind, seq, n = struct.unpack(">HHII", data[:12])
    assert magic == MAGIC and n == len(data) - 12
    return kind, seq, data[12:]


def make_cert(folder, name, key=None, serial=None):
    """A self-signed certificate: the front judges nobody, so any will do."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.utcnow()
    cert = (x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
            .serial_number(serial or x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=9))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
            .sign(key, hashes.SHA256()))
    c, k = folder / f"{name}.pem", folder / f"{name}.key"
    c.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    k.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                    serialization.NoEncryption()))
    return c, k


def send_body(conn, sid, body, end=False):
    for i in range(0, len(body), 16384):
        conn.send_data(sid, body[i:i + 16384], end_stream=end and i + 16384 >= len(body))


class Core:
    """Acks every connection and echoes each request's body, by python3-h2."""

    def __init__(self, run_dir):
        self.lock = threading.Lock()
        self.new, self.closed, self.names, self.stats = {}, [], [], []
        self.answer = 1            # 1 go on, 0 close, None silence
        self.hold = threading.Event()
        self.hold.set()            # cleared: requests wait for it
        self.raw = None            # a callable(sock): takes the connection over from the echo
        self.socks = []
        path = str(run_dir / "core.sock")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(512)
        self.channel = None
        threading.Thread(target=self._accept, daemon=True).start()

    def attach(self):
        """A new channel; returns the front's end."""
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel = mine
        threading.Thread(target=self._serve_channel, args=(mine,), daemon=True).start()
        return theirs

    def _serve_channel(self, ch):
        ch.setblocking(True)
        while True:
            try:
                data = ch.recv(70000)
            except OSError:
                return
            if not data:
                return
            _, kind, seq, _ = struct.unpack(">HHII", data[:12])
            body = data[12:]
            with self.lock:
                if kind == CONN_NEW:
                    self.new[body[:16]] = self._parse_new(body[16:])
                elif kind == CONN_CLOSED:
                    self.closed.append(body)
                elif kind == FRONT_STATS:
                    self.stats.append(struct.unpack(">IQQQ", body))
            if kind == CONN_NEW and self.answer is not None:
                with contextlib.suppress(OSError):
                    ch.send(packet(CONN_ACK, body[:16] + bytes([self.answer]), seq))

    @staticmethod
    def _parse_new(b):
        def v16(b):
            n = struct.unpack(">H", b[:2])[0]
            return b[2:2 + n], b[2 + n:]
        listener, b = v16(b)
        address, b = v16(b)
        count, b, certs = b[0], b[1:], []
        for _ in range(count):
            n = struct.unpack(">I", b[:4])[0]
            certs.append(b[4:4 + n])
            b = b[4 + n:]
        assert b == b""
        return {"listener": listener.decode(), "address": address.decode(), "certs": certs}

    def kill(self, ident):
        self.channel.send(packet(CONN_KILL, ident))

    def _accept(self):
        while True:
            try:
                sock, name = self.listener.accept()
            except OSError:
                return
            with self.lock:
                self.names.append(name)
                self.socks.append(sock)
            threading.Thread(target=self._guard, args=(self.raw or self._echo, sock), daemon=True).start()

    @staticmethod
    def _guard(fn, sock):
        with contextlib.suppress(OSError, h2.exceptions.ProtocolError):
            fn(sock)
        sock.close()

    def _echo(self, sock):
        conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None,
                                                                   validate_inbound_headers=False))
        conn.initiate_connection()
        sock.sendall(conn.data_to_send())
        bodies = {}
        while True:
            data = sock.recv(65536)
            if not data:
                return
            for ev in conn.receive_data(data):
                if isinstance(ev, h2.events.RequestReceived):
                    bodies[ev.stream_id] = b""
                elif isinstance(ev, h2.events.DataReceived):
                    bodies[ev.stream_id] += ev.data
                    conn.acknowledge_received_data(ev.flow_controlled_length, ev.stream_id)
                elif isinstance(ev, h2.events.StreamEnded):
                    if not self.hold.is_set():
                        sock.sendall(conn.data_to_send())
                        self.hold.wait(PATIENCE)
                    conn.send_headers(ev.stream_id, [(":status", "200")])
                    send_body(conn, ev.stream_id, bodies.pop(ev.stream_id))
                    conn.send_headers(ev.stream_id, [("grpc-status", "0")], end_stream=True)
            out = conn.data_to_send()
            if out:
                sock.sendall(out)

    def close(self):
        self.hold.set()
        self.listener.close()
        for s in self.socks + ([self.channel] if self.channel else []):
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)
            s.close()


class Front:
    """The real process, with the monitor's side of its channel. Settings override its configuration."""

    def __init__(self, nofile=None, memlock=None, start=True, **settings):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="clv-front-"))
        self.dir.chmod(0o700)
        self.server_cert = make_cert(self.dir, "server")
        self.client_cert = make_cert(self.dir, "client")
        self.core = Core(self.dir)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port = self.listener.getsockname()[1]
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control = mine
        self.log = open(self.dir / "log", "w+b")

        def child():
            os.dup2(theirs.fileno(), 3)
            os.set_inheritable(3, True)
            if nofile:
                resource.setrlimit(resource.RLIMIT_NOFILE, (nofile, nofile))
            if memlock is not None:
                resource.setrlimit(resource.RLIMIT_MEMLOCK, (memlock, memlock))
                ctypes.CDLL(None).prctl(24, 14, 0, 0, 0)  # root may lock what it likes: not without CAP_IPC_LOCK, gone from the bounding set
        self.proc = subprocess.Popen([str(FRONT)], preexec_fn=child, close_fds=False, stderr=self.log, stdin=subprocess.DEVNULL,
                                     stdout=subprocess.DEVNULL, env={})
        theirs.close()
        values = {"state_dir": self.dir, "run_dir": self.dir, "locations": "eu", "trust_domain": "t",
                  "tls_cert_file": self.server_cert[0], "tls_key_file": self.server_cert[1],
                  "client_ca_file": self.server_cert[0], "hsm_token": "pkcs11:token=x", "hsm_pin_file": "/x",
                  "log_level": "debug"} | ({"handshake_timeout": "30s"} if SLOWER > 1 else {}) | settings
        send_packet(mine, CONFIG, "".join(f"{k} = {v}\n" for k, v in values.items()).encode())
        if start:
            self.send_tls(*self.server_cert)
            send_packet(mine, LISTENER, b"main", [self.listener.fileno()])
            self.attach_core()
            kind, _, body = recv_packet(mine)
            assert (kind, body.decode()) == (READY, f"listening on 127.0.0.1:{self.port}"), (kind, body, self.logged())

    def send_tls(self, cert, key):
        with open(cert, "rb") as c, open(key, "rb") as k:
            send_packet(self.control, TLS_FILES, b"", [c.fileno(), k.fileno()])

    def attach_core(self):
        theirs = self.core.attach()
        send_packet(self.control, CORE_CHANNEL, b"", [theirs.fileno()])
        theirs.close()

    def restart_core(self):
        self.core.close()
        self.core = Core(self.dir)

    def drain(self):
        send_packet(self.control, DRAIN)

    def logged(self):
        self.log.flush()
        return (self.dir / "log").read_text()

    def __enter__(self):
        return self

    def __exit__(self, kind, *rest):
        self.control.close()
        code = self.proc.wait(PATIENCE)
        self.core.close()
        self.listener.close()
        text = self.logged()
        self.log.close()
        shutil.rmtree(self.dir)
        print(text)  # pytest shows it where a test fails
        assert code in (0, 1), f"the front ended with {code}: {text}"
        assert "Sanitizer" not in text and "runtime error" not in text, text

    def alive(self):
        """Neither gone nor on its way: a process closes its connections before it can be waited for."""
        if self.proc.poll() is not None:
            return False
        flags = int(pathlib.Path(f"/proc/{self.proc.pid}/stat").read_text().rsplit(")", 1)[1].split()[6])
        return flags & 0x4 == 0  # PF_EXITING

    def cpu_seconds(self):
        fields = (pathlib.Path(f"/proc/{self.proc.pid}/stat").read_text().rsplit(")", 1)[1]).split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    # ---- clients

    def context(self, cert=True, alpn=("h2",)):
        ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        ctx.check_hostname = False
        ctx.verify_mode = ssl.CERT_NONE
        if alpn:
            ctx.set_alpn_protocols(list(alpn))
        if cert:
            ctx.load_cert_chain(*self.client_cert)
        return ctx

    def tcp(self, source="127.0.0.1"):
        s = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE, source_address=(source, 0))
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return s

    def tls(self, ctx=None, source="127.0.0.1"):
        return (ctx or self.context()).wrap_socket(self.tcp(source))

    def raw(self, source="127.0.0.1", ack=True):
        """TLS, preface, SETTINGS, the server's SETTINGS read and acknowledged: then it may misbehave."""
        s = self.tls(source=source)
        s.sendall(PREFACE + frame(SETTINGS))
        if ack:
            wait_for(s, SETTINGS)
            s.sendall(SETTINGS_ACK)
        return s

    def client(self, source="127.0.0.1"):
        return Client(self.tls(source=source))


class Frames:
    """Splits what a socket receives into frames."""

    def __init__(self, sock):
        self.sock, self.buf, self.eof = sock, b"", False

    def next(self, timeout=PATIENCE):
        """(type, flags, stream, payload), or None at the end of the connection."""
        self.sock.settimeout(timeout)
        while True:
            if len(self.buf) >= 9:
                n = int.from_bytes(self.buf[:3], "big")
                if len(self.buf) >= 9 + n:
                    head, payload, self.buf = self.buf[:9], self.buf[9:9 + n], self.buf[9 + n:]
                    return head[3], head[4], int.from_bytes(head[5:9], "big"), payload
            try:
                data = self.sock.recv(65536)
            except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
                data = b""
            if not data:
                return None
            self.buf += data

    def rest(self, timeout=PATIENCE):
        out = []
        while (f := self.next(timeout)) is not None:
            out.append(f)
        return out


def wait_for(sock, kind, timeout=PATIENCE):
    frames = Frames(sock)
    while (f := frames.next(timeout)) is not None:
        if f[0] == kind:
            return f
    raise EOFError("the connection ended")


def goaways(frames):
    return [struct.unpack(">II", p[:8]) for k, _, _, p in frames if k == GOAWAY]


class Client:
    """A well-behaved HTTP/2 client."""

    def __init__(self, sock):
        self.sock = sock
        self.conn = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        self.conn.initiate_connection()
        self.goaways, self.done, self.bodies, self.ended = [], {}, {}, False
        self.partial = b""
        self.flush()

    def flush(self):
        out = self.conn.data_to_send()
        if out:
            self.sock.sendall(out)

    def begin(self, body=b"hello", end=True):
        sid = self.conn.get_next_available_stream_id()
        self.conn.send_headers(sid, [(":method", "POST"), (":scheme", "http"), (":path", "/x"), (":authority", "a")])
        send_body(self.conn, sid, b"\0" + struct.pack(">I", len(body)) + body, end)
        self.bodies[sid] = b""
        self.flush()
        return sid

    def pump(self, timeout=PATIENCE):
        self.sock.settimeout(timeout)
        try:
            data = self.sock.recv(65536)
        except (ConnectionError, ssl.SSLEOFError):
            data = b""
        if not data:
            self.ended = True
            return
        whole, self.partial = split_goaways(self.partial + data, self.goaways)
        for ev in self.conn.receive_data(whole):
            if isinstance(ev, h2.events.DataReceived):
                self.bodies[ev.stream_id] += ev.data
                self.conn.acknowledge_received_data(ev.flow_controlled_length, ev.stream_id)
            elif isinstance(ev, h2.events.StreamEnded):
                self.done[ev.stream_id] = self.bodies[ev.stream_id][5:]
        with contextlib.suppress(OSError):
            self.flush()

    def pump_until(self, fn, timeout=PATIENCE):
        end = time.monotonic() + timeout
        while not fn():
            assert not self.ended and time.monotonic() < end, "it did not come true"
            self.pump(max(0.01, end - time.monotonic()))

    def finish(self, sid, timeout=PATIENCE):
        end = time.monotonic() + timeout
        while sid not in self.done and not self.ended and time.monotonic() < end:
            self.pump(max(0.01, end - time.monotonic()))
        return self.done.get(sid)

    def call(self, body=b"hello", timeout=PATIENCE):
        return self.finish(self.begin(body), timeout)

    def close(self):
        self.sock.close()


def split_goaways(data, seen):
    """python3-h2 closes at the first GOAWAY, which says 2^31-1 in a drain: take them out, and note them. (The other frames that are
    whole, what is not yet)."""
    out, i = b"", 0
    while i + 9 <= len(data):
        n = int.from_bytes(data[i:i + 3], "big")
        if i + 9 + n > len(data):
            break
        if data[i + 3] == GOAWAY:
            seen.append(struct.unpack(">II", data[i + 9:i + 17]))
        else:
            out += data[i:i + 9 + n]
        i += 9 + n
    return out, data[i:]


def until(fn, timeout=PATIENCE, what="condition"):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if fn():
            return
        select.select([], [], [], 0.005)
    if fn():  # whoever was not let run meanwhile asks once more
        return
    raise AssertionError(f"{what} did not come true in {timeout} s")
