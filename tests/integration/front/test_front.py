"""kmsd-front as a black box, between a stand-in monitor and core: needs nothing but the binary.
CLV_BUILD=build/dev /usr/bin/python3 -m pytest --confcutdir=tests/integration/front tests/integration/front"""
import contextlib
import os
import pathlib
import resource
import socket
import ssl
import struct
import threading
import time

import harness as h
import pytest
from harness import SLOWER, SOON, Front, Frames, frame, goaways, until, wait_for

CALM, PROTOCOL, SETTINGS_TIMEOUT = 0xB, 0x1, 0x4
TLS_ALERT_CERTIFICATE_REQUIRED, TLS_ALERT_PROTOCOL_VERSION, TLS_ALERT_NO_ALPN = 116, 70, 120


@pytest.fixture
def front():
    with Front(handshake_timeout="30s", max_connections_per_peer="64") as f:  # whoever tests a short one has a front of its own
        yield f


def in_time(what):
    """What a short deadline may cut off on a busy machine, until it came through."""
    return next(got for _ in range(100) if (got := tries(what)) is not None)


def ends_in(sock, seconds):
    """How long until the other side ends the connection; fails when it does not."""
    sock.settimeout(seconds)
    start = time.monotonic()
    while True:
        try:
            if not sock.recv(65536):
                break
        except (ConnectionError, ssl.SSLError) as e:
            assert not isinstance(e, TimeoutError)
            break
    return time.monotonic() - start


# ---- TLS

def test_a_call_passes_and_the_core_learns_who_it_is(front):
    c = front.client()
    body = os.urandom(60_000)
    assert c.call(body) == body
    (ident, info), = front.core.new.items()
    assert info["listener"] == "main" and info["address"] == "127.0.0.1"
    sent = ssl.PEM_cert_to_DER_cert(front.client_cert[0].read_text())
    assert info["certs"] == [sent]
    assert front.core.names == [b"\0clv-" + ident.hex().encode()]
    c.close()
    until(lambda: front.core.closed == [ident], what="CONN_CLOSED")


def test_a_chain_is_passed_on_leaf_first(front):
    other = h.make_cert(front.dir, "issuer")
    chain = front.dir / "chain.pem"
    chain.write_text(front.client_cert[0].read_text() + other[0].read_text())
    ctx = front.context(cert=False)
    ctx.load_cert_chain(chain, front.client_cert[1])
    assert h.Client(front.tls(ctx)).call(b"x") == b"x"
    info, = front.core.new.values()
    assert info["certs"] == [ssl.PEM_cert_to_DER_cert(p.read_text()) for p in (front.client_cert[0], other[0])]


def test_tls_1_3_and_modern_ciphers_only(front):
    s = front.tls()
    assert s.version() == "TLSv1.3" and s.cipher()[0] == "TLS_AES_128_GCM_SHA256"
    old = front.context()
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="(?i)protocol.version"):
        front.tls(old)
    assert front.client().call() == b"hello"


def test_a_client_certificate_is_required(front):
    with pytest.raises(ssl.SSLError, match="(?i)certificate.required"):
        s = front.tls(front.context(cert=False))
        s.sendall(h.PREFACE)
        s.recv(1)  # TLS 1.3: the refusal comes after the client's Finished
    assert front.core.new == {}


def test_too_long_a_chain_is_refused(front):
    chain = front.dir / "long.pem"
    chain.write_text(front.client_cert[0].read_text() + h.make_cert(front.dir, "i")[0].read_text() * 11)
    ctx = front.context(cert=False)
    ctx.load_cert_chain(chain, front.client_cert[1])
    with pytest.raises((ssl.SSLError, ConnectionError)):
        s = front.tls(ctx)
        s.sendall(h.PREFACE)
        assert s.recv(1) == b"never"
    assert front.core.new == {}


@pytest.mark.parametrize("alpn", [(), ("http/1.1",)])
def test_alpn_h2_is_required(front, alpn):
    with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
        s = front.tls(front.context(alpn=alpn))
        s.sendall(h.PREFACE + frame(h.SETTINGS))
        assert s.recv(1) != b""
    assert front.core.new == {}


def test_no_tickets(front):
    s = front.raw()
    assert s.session is None or not s.session.has_ticket


def test_plaintext_is_closed(front):
    s = front.tcp()
    s.sendall(h.PREFACE + frame(h.SETTINGS))
    ends_in(s, SOON)
    assert front.client().call() == b"hello"


# ---- deadlines

def test_half_a_handshake_is_closed_in_time():
    with Front(handshake_timeout=f"{500 * SLOWER}ms") as f:
        out = ssl.MemoryBIO()
        o = f.context().wrap_bio(ssl.MemoryBIO(), out)
        with pytest.raises(ssl.SSLWantReadError):
            o.do_handshake()
        start = time.monotonic()
        silent, half = f.tcp(), f.tcp()
        half.sendall(out.read()[:50])
        ends_in(silent, SOON)
        assert time.monotonic() - start > 0.49 * SLOWER  # not before its time
        ends_in(half, SOON)


def test_no_preface_is_closed_in_time():
    # where the deadline is longer than a second, the second for the acknowledgement of SETTINGS is over first
    for deadline, why in ("700ms", "no HTTP/2 preface in time"), ("30s", "settings not acknowledged in time"):
        with Front(handshake_timeout=deadline) as f:
            start = time.monotonic()
            s, partial = in_time(f.tls), in_time(f.tls)
            with contextlib.suppress(OSError):  # it may be over already
                partial.sendall(h.PREFACE[:10])
            ends_in(s, SOON)
            assert time.monotonic() - start > 0.69
            ends_in(partial, SOON)
            until(lambda: f.logged().count(why) >= 2, what="a word about both")


def test_idle_after_settings_is_not_closed():
    with Front(handshake_timeout=f"{500 * SLOWER}ms") as f:
        c = in_time(lambda: c if (c := f.client()).call() else None)
        time.sleep(0.8 * SLOWER)  # more than the handshake's deadline
        assert c.call() == b"hello"


def test_settings_must_be_acknowledged(front):
    start = time.monotonic()
    s = front.raw(ack=False)
    got = Frames(s).rest()
    assert 0.9 < time.monotonic() - start < SOON
    assert goaways(got) == [(0, SETTINGS_TIMEOUT)]
    assert front.client().call() == b"hello"  # no penalty: it may only have been busy


def test_a_wrong_preface_is_cut(front):
    s = front.tls()
    s.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    ends_in(s, SOON)
    assert "not HTTP/2" in front.logged()


def test_a_thousand_wrong_prefaces_hurt_nobody_else(front):
    """Each ends its own connection: the listener, those in service and the next good client see nothing of it."""
    good, ctx, cut = served(front), front.context(), 0
    for i in range(1000):
        s = front.tls(ctx, source=f"127.{1 + i // 250}.{i % 250}.1")  # one who does it is not heard again for a moment
        s.sendall((b"GET / HTTP/1.1\r\n\r\n", h.PREFACE[:-1] + b"?", bytes(24), b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n")[i % 4])
        ends_in(s, SOON)
        cut += 1
        if i % 100 == 0:
            assert good.call() == b"hello"
            assert front.client(source="127.0.99.1").call() == b"hello"
    assert cut == 1000 and front.logged().count("not HTTP/2") > 0
    assert front.client().call() == good.call() == b"hello"


# ---- floods

def blast(sock, chunk, seconds):
    """Sends chunk over and over; returns what came back once the other side gives up."""
    end = time.monotonic() + seconds
    sock.settimeout(0.2)
    view = memoryview(chunk)
    while time.monotonic() < end:
        try:
            sock.send(view)
        except TimeoutError:
            pass  # paced: that is the point
        except (ConnectionError, ssl.SSLError, OSError):
            break
    else:
        raise AssertionError(f"not cut within {seconds} s")
    try:
        return Frames(sock).rest(1)
    except (ssl.SSLError, OSError):
        return []


def test_rapid_reset_is_paced_then_cut_while_others_are_served(front):
    seen = []
    front.core.raw = lambda sock: sink(sock, seen)
    attacker = front.raw(source="127.0.0.2")
    front.core.raw = None
    victim = front.client()
    assert victim.call() == b"hello"
    result = {}

    def attack():
        chunk = b"".join(frame(h.HEADERS, 5, 1 + 2 * i, h.REQUEST) + frame(h.RST, 0, 1 + 2 * i, b"\0\0\0\x08")
                         for i in range(200_000))
        start = time.monotonic()
        attacker.settimeout(0.2)
        sent = 0
        while time.monotonic() - start < 4 * SOON:
            try:
                sent += attacker.send(chunk[sent:sent + 65536])
            except TimeoutError:
                continue
            except OSError:
                break
        result["seconds"] = time.monotonic() - start
    t = threading.Thread(target=attack)
    t.start()
    worst = 0
    while t.is_alive():
        start = time.monotonic()
        assert victim.call() == b"hello"
        worst = max(worst, time.monotonic() - start)
    t.join()
    assert 4 < result["seconds"] < 3 * SOON
    assert worst < SOON / 2, worst
    # 400 at once, then 200 a second for 5 s: 1,400, and not 200,000
    assert 400 <= seen.count(h.RST) < 2200, seen.count(h.RST)
    assert "too many streams reset" in front.logged()
    # the penalty box: refused at first, served again after it. Should the first quarter of a second be over, the next ones are longer
    for _ in range(6):
        again = tries(lambda: front.raw(source="127.0.0.2"))
        if again is None:
            break
        again.sendall(frame(h.PUSH, 4, 1, b"\0\0\0\x02"))
        ends_in(again, SOON)
    assert again is None and "this address was cut off" in front.logged()
    until(lambda: tries(lambda: front.raw(source="127.0.0.2")), what="the end of the penalty")
    assert victim.call() == b"hello"


def tries(fn):
    try:
        return fn()
    except (OSError, EOFError):
        return None


def sink(sock, kinds):
    """A core that only reads: SETTINGS, then nothing; notes the kinds of frames."""
    sock.sendall(frame(h.SETTINGS))
    frames = Frames(sock)
    frames.sock.recv(24)
    while (f := frames.next(20)) is not None:
        kinds.append(f[0])


FLOODS = {
    "SETTINGS": frame(h.SETTINGS, 0, 0, b"\0\x03\0\0\0\x64") * 1000,
    "PING": frame(h.PING, 0, 0, b"12345678") * 1000,
    "control": frame(h.WINDOW_UPDATE, 0, 0, b"\0\0\0\x01") * 5000,
}


def test_control_floods_are_paced_then_cut(front):
    front.core.raw = lambda sock: sink(sock, [])
    results = {}

    def attack(name, source):
        s = front.raw(source=source)
        start = time.monotonic()
        got = blast(s, FLOODS[name], 4 * SOON)
        results[name] = (time.monotonic() - start, goaways(got))
    threads = [threading.Thread(target=attack, args=(n, f"127.0.0.{i}")) for i, n in enumerate(FLOODS, 2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(results) == sorted(FLOODS)
    for name, (seconds, said) in results.items():
        assert 4 < seconds < 3 * SOON, name
        assert f"too many {name}" in front.logged()
        assert all(code == CALM for _, code in said)
    assert front.alive() and front.cpu_seconds() < 2 * SLOWER


def test_control_within_budget_is_not_cut(front):
    front.core.raw = lambda sock: sink(sock, [])
    s = front.raw()
    s.sendall(frame(h.SETTINGS, 0, 0, b"\0\x03\0\0\0\x64") * 15 + frame(h.PING, 0, 0, b"12345678") * 90)
    time.sleep(0.2)
    s.settimeout(0.1)
    with pytest.raises(TimeoutError):
        Frames(s).rest(0.1)


@pytest.mark.parametrize("payload,end", [
    (frame(h.HEADERS, 0, 1, h.REQUEST) + frame(h.CONTINUATION, 0, 1, b"") * 9, "too many CONTINUATIONs"),
    (frame(h.HEADERS, 0, 1, b"a" * 16384) + frame(h.CONTINUATION, 0, 1, b"a" * 16384) + frame(h.CONTINUATION, 4, 1, b"a"),
     "header block too large"),
    (frame(h.HEADERS, 5, 1, b"a" * 16385), "frame too large"),
    (frame(h.HEADERS, 4, 1, h.REQUEST) + frame(h.DATA, 0, 1, b"\x01\0\0\0\x05hello"), "a compressed message"),
    (frame(h.HEADERS, 4, 1, h.REQUEST) + frame(h.DATA, 0, 1, b"\0\x7f\xff\xff\xff"), "message too large"),
    (frame(h.CONTINUATION, 4, 1, b""), "CONTINUATION outside its header block"),
    (frame(h.PUSH, 4, 1, b"\0\0\0\x02"), "PUSH_PROMISE from a client"),
], ids=["continuations", "block", "frame", "compressed", "message", "continuation", "push"])
def test_breaches_are_cut_at_once_with_goaway(front, payload, end):
    front.core.raw = lambda sock: sink(sock, [])
    s = front.raw()
    s.sendall(payload)
    start = time.monotonic()
    got = Frames(s).rest()
    assert time.monotonic() - start < SOON
    assert len(goaways(got)) == 1
    assert end in front.logged()
    until(lambda: len(front.core.closed) == 1, what="CONN_CLOSED")


def served(front, source="127.0.0.1"):
    """A client that has been answered: SETTINGS are acknowledged, and it may be left alone on a busy machine."""
    c = front.client(source=source)
    assert c.call() == b"hello"
    return c


MISTAKES = {"compressed": b"\x01\0\0\0\x05hello", "too large": b"\0\x00\x10\0\0hello"}


@pytest.mark.parametrize("kind", [*MISTAKES, "meant"])
def test_a_mistake_costs_its_connection_and_not_the_neighbours(front, kind):
    """Behind one address there may be many clients: what a library does by default is not held against the others."""
    front.core.raw = lambda sock: sink(sock, [])
    for _ in range(5):
        s = tries(front.raw)
        if s is None:
            break
        s.sendall(frame(h.HEADERS, 4, 1, h.REQUEST) + (frame(h.DATA, 0, 1, MISTAKES[kind]) if kind in MISTAKES else frame(h.PUSH, 4, 1, b"\0\0\0\x02")))
        assert len(goaways(Frames(s).rest())) == 1
    front.core.raw = None
    if kind in MISTAKES:
        assert front.client().call() == b"hello"
        assert "this address was cut off" not in front.logged()
    else:
        assert s is None and "this address was cut off" in front.logged()


def test_streams_before_the_ack(front):
    s = front.raw(ack=False)
    wait_for(s, h.SETTINGS)
    ids = iter(range(1, 99, 2))
    s.sendall(b"".join(frame(h.HEADERS, 5, next(ids), h.REQUEST) for _ in range(9)))
    s.sendall(h.SETTINGS_ACK)
    s.sendall(b"".join(frame(h.HEADERS, 5, next(ids), h.REQUEST) for _ in range(20)))
    frames, ended = Frames(s), 0
    while ended < 29:
        kind, flags, _, _ = frames.next()
        assert kind != h.GOAWAY
        ended += kind == h.HEADERS and flags & 1
    bad = front.raw(ack=False)
    bad.sendall(b"".join(frame(h.HEADERS, 5, i, h.REQUEST) for i in range(1, 21, 2)))
    assert [code for _, code in goaways(Frames(bad).rest())] in ([CALM], [])
    assert "streams opened without acknowledging SETTINGS" in front.logged()


# ---- caps

def test_the_cap_of_one_address():
    with Front(max_connections_per_peer="5") as f:
        held = [f.client() for _ in range(5)]
        assert all(c.call() == b"hello" for c in held)
        with pytest.raises((OSError, EOFError)):
            f.client().call()
        assert f.client(source="127.0.0.9").call() == b"hello"
        held.pop().close()
        until(lambda: tries(lambda: f.client().call()) == b"hello", what="a free place")
        assert "too many connections of this address" in f.logged()


def another(f, name, source="127.0.0.1"):
    """A client with a certificate of its own."""
    ctx = f.context(cert=False)
    ctx.load_cert_chain(*h.make_cert(f.dir, name))
    return h.Client(f.tls(ctx, source=source))


def test_the_cap_in_total():
    with Front(max_connections="3", max_connections_per_peer="100") as f:
        held = [another(f, f"client-{i}") for i in range(3)]  # one certificate would have one place of the three
        assert all(c.call() == b"hello" for c in held)
        with pytest.raises((OSError, EOFError)):
            f.client(source="127.0.0.7").call()
        assert 'why="too many connections"' in f.logged()


def test_the_share_of_one_certificate():
    """A quarter of the connections, whatever the addresses: the oldest idle one makes room, and where none is idle the newest is refused."""
    with Front(max_connections="16") as f:
        held = [served(f, f"127.0.{i}.1") for i in range(4)]
        sids = [c.begin(end=False) for c in held[1:]]  # three are in the middle of a call
        assert held[0].call() == b"hello"
        fifth = f.client(source="127.0.5.1")
        assert fifth.call() == b"hello"
        held[0].pump_until(lambda: held[0].ended)
        assert held[0].goaways == [(2**31 - 1, 0), (3, 0)]
        busy = fifth.begin(end=False)
        until(lambda: len(f.core.closed) == 1, what="the end of the oldest")
        with pytest.raises((OSError, EOFError, AssertionError)):
            assert f.client(source="127.0.6.1").call() == b"hello"
        assert "makes room for a newer connection" in f.logged() and "too many connections of this certificate" in f.logged()
        assert another(f, "other", "127.0.6.1").call() == b"hello"  # somebody else has a quarter, too
        for c, sid in zip([*held[1:], fifth], [*sids, busy]):
            c.conn.send_data(sid, b"", end_stream=True)
            c.flush()
            assert c.finish(sid) == b"hello" and c.goaways == []


STRANGER, NET_STRANGERS = 2, 32  # IPC_ACK_STRANGER, TURNS_NET_STRANGERS


def test_strangers_are_few(front):
    """Whoever the core does not know may ask, and be told so; one net has room for a few of them."""
    front.core.answer = STRANGER
    held = [served(front, f"127.0.0.{i}") for i in range(1, NET_STRANGERS + 1)]
    with pytest.raises((OSError, EOFError, AssertionError)):
        assert front.client(source="127.0.0.99").call() == b"hello"
    assert "too many connections whose certificates are not trusted" in front.logged()
    assert front.client(source="127.0.1.1").call() == b"hello"
    front.core.answer = 1
    assert front.client(source="127.0.0.99").call() == b"hello"
    front.core.answer = STRANGER
    held.pop().close()
    until(lambda: tries(lambda: front.client(source="127.0.0.99").call()) == b"hello", what="a free place")


NET_SLOTS, LINE, STALL_S = 128, 1024, 1  # TURNS_NET_SLOTS, TURNS_LINE, TURNS_STALL_MS


def test_silent_handshakes_give_way():
    """Everything is as slow as an attacker likes: another net does not notice, and neighbours wait for a second."""
    with Front(handshake_timeout="60s") as f:
        opened = time.monotonic()
        silent = [f.tcp(source=f"127.0.0.{i % 3 + 1}") for i in range(NET_SLOTS + 20)]
        start = time.monotonic()
        assert f.client(source="127.0.1.1").call() == b"hello"
        assert time.monotonic() - start < SOON
        assert "too slow in the handshake" not in f.logged() or time.monotonic() - opened > STALL_S * 0.9  # nobody before their second
        assert f.client(source="127.0.0.9").call() == b"hello"
        assert STALL_S * 0.9 < time.monotonic() - opened and time.monotonic() - start < 2 * SOON
        assert "too slow in the handshake, while others waited" in f.logged()
        assert f.client(source="127.0.0.9").call() == b"hello"
        for s in silent:
            s.close()


def test_a_crowded_net_makes_room_in_line():
    """The line is full of one net's clients: the last of them makes room for another net's, and nobody for one of its own."""
    with Front(handshake_timeout="20s", max_connections="2000", max_connections_per_peer="700") as f:
        crowd = []
        for i in range(NET_SLOTS + LINE + 5):
            s = socket.socket()
            s.setblocking(False)
            s.bind((f"127.0.0.{i % 2 + 1}", 0))
            s.connect_ex(("127.0.0.1", f.port))
            crowd.append(s)
        until(lambda: "too many wait for a handshake" in f.logged(), what="a full line")
        assert f.client(source="127.0.1.1").call() == b"hello"
        assert "too many of its net wait for a handshake" in f.logged()
        for s in crowd:
            s.close()


def test_few_descriptors_neither_spin_nor_lose_the_listener():
    with Front(nofile=64) as f:
        assert "descriptor limit is too low" in f.logged()
        idle = [f.tcp() for _ in range(250)]
        time.sleep(0.3)
        before = f.cpu_seconds()
        time.sleep(1)
        assert f.cpu_seconds() - before < 0.2
        for s in idle:
            s.close()
        start = time.monotonic()
        until(lambda: tries(lambda: f.client().call()) == b"hello", what="service")
        assert time.monotonic() - start < SOON


def test_out_of_descriptors_while_admitted():
    """The cap would have allowed them: the descriptors are gone for another reason, and come back."""
    with Front(nofile=64, max_connections="10") as f:
        used = len(os.listdir(f"/proc/{f.proc.pid}/fd"))
        resource.prlimit(f.proc.pid, resource.RLIMIT_NOFILE, (used + 2, 64))
        waiting = [f.tcp() for _ in range(20)]
        until(lambda: "out of descriptors" in f.logged(), what="EMFILE")
        before = f.cpu_seconds()
        time.sleep(0.5)
        assert f.cpu_seconds() - before < 0.2
        resource.prlimit(f.proc.pid, resource.RLIMIT_NOFILE, (64, 64))
        for s in waiting:
            s.close()
        until(lambda: tries(lambda: f.client().call()) == b"hello", what="service")


# ---- certificates, core, ends

def test_new_certificates_are_for_new_connections(front):
    old = front.client()
    assert old.call() == b"hello"
    before = old.sock.getpeercert(binary_form=True)
    fresh = h.make_cert(front.dir, "fresh")
    front.send_tls(*fresh)
    until(lambda: front.logged().count("certificate loaded") == 2, what="the reload")
    new = front.client()
    assert new.call() == b"hello"
    assert new.sock.getpeercert(binary_form=True) == ssl.PEM_cert_to_DER_cert(fresh[0].read_text()) != before
    assert old.call() == b"hello" and old.goaways == []


def test_a_bad_new_certificate_leaves_the_old_one(front):
    front.send_tls(front.server_cert[0], front.client_cert[1])  # not its key
    until(lambda: "the old one stays" in front.logged(), what="the refusal")
    c = front.client()
    assert c.call() == b"hello"
    assert c.sock.getpeercert(binary_form=True) == ssl.PEM_cert_to_DER_cert(front.server_cert[0].read_text())


def test_a_bad_first_certificate_is_fatal():
    with Front(start=False) as f:
        f.send_tls(f.server_cert[0], f.client_cert[1])
        kind, _, body = h.recv_packet(f.control)
        assert kind == h.FATAL and b"private key" in body
        assert f.proc.wait(h.PATIENCE) == 1


@pytest.mark.parametrize("memlock, starts", [(65536, True), (65535, False)])
def test_a_key_that_cannot_be_locked_is_fatal(memlock, starts):
    with Front(start=starts, memlock=memlock) as f:
        if starts:
            assert f.client().call() == b"hello"
            return
        kind, _, body = h.recv_packet(f.control)
        assert kind == h.FATAL and b"TLS key" in body and b"ulimit -l" in body, body
        assert f.proc.wait(h.PATIENCE) == 1


def test_the_core_may_refuse_and_kill(front):
    c = front.client()
    assert c.call() == b"hello"
    ident, = front.core.new
    front.core.kill(ident)
    c.pump()
    assert c.ended
    until(lambda: front.core.closed == [ident], what="CONN_CLOSED")
    front.core.answer = 0
    ends_in(front.tls(), SOON)
    assert "refused by core" in front.logged()


def test_a_silent_core_costs_two_seconds(front):
    front.core.answer = None
    start = time.monotonic()
    ends_in(front.tls(), SOON)
    assert 1.8 < time.monotonic() - start < SOON
    assert "no answer from core in time" in front.logged()


def test_the_core_restarts(front):
    c = front.client()
    assert c.call() == b"hello"
    front.core.close()
    c.pump()
    assert c.ended
    waiting = front.tls()  # arrives while there is no core
    waiting.sendall(h.PREFACE + frame(h.SETTINGS))
    front.restart_core()
    front.attach_core()
    assert wait_for(waiting, h.SETTINGS)
    assert front.client().call() == b"hello"
    assert len(front.core.new) == 2


def test_the_control_channel_ends_the_front(front):
    front.control.close()
    assert front.proc.wait(h.PATIENCE) == 1


def test_unclean_ends_do_not_hurt_others(front):
    """An error queue left by one connection's failure must not end another one (OpenSSL keeps it for the thread)."""
    good = [served(front) for _ in range(4)]
    for i in range(40):
        bad = front.raw()
        bad.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", i % 2, 0))
        socket.socket.close(bad)  # RST, or FIN without close_notify
        junk = front.tcp()
        junk.sendall(b"\x16\x03\x01\x00\x05hello")
        assert all(c.call() == b"hello" for c in good)
        junk.close()
    assert all(c.call() == b"hello" for c in good)


def test_half_closed_clients_get_their_answer(front):
    s = front.tls()
    s.sendall(h.PREFACE + frame(h.SETTINGS))
    wait_for(s, h.SETTINGS)
    body = b"\0\0\0\0\x05hello"
    s.sendall(h.SETTINGS_ACK + frame(h.HEADERS, 4, 1, h.REQUEST) + frame(h.DATA, 1, 1, body))
    front.core.hold.clear()
    with pytest.raises((TimeoutError, ssl.SSLError)):
        s.settimeout(0.2)
        s.unwrap()
    front.core.hold.set()
    until(lambda: len(front.core.closed) == 1, what="CONN_CLOSED")


# ---- drain

def test_drain_waits_for_the_last_call_and_says_goaway_twice(front):
    front.core.hold.clear()
    c, idle = front.client(), front.client()
    idle.pump()
    sid = c.begin(b"slow")
    until(lambda: len(front.core.new) == 2, what="both connections")
    front.drain()
    c.pump_until(lambda: len(c.goaways) == 2)
    assert c.goaways == [(2**31 - 1, 0), (sid, 0)] and sid not in c.done
    idle.pump_until(lambda: idle.ended)
    assert idle.goaways == [(2**31 - 1, 0), (0, 0)]
    front.core.hold.set()
    assert c.finish(sid) == b"slow"
    c.pump_until(lambda: c.ended)
    assert front.proc.wait(h.PATIENCE) == 0


def test_calls_between_the_goaways_are_served_and_later_ones_dropped(front):
    front.core.hold.clear()
    c = front.client()
    first = c.begin(b"1")
    front.drain()
    c.pump_until(lambda: c.goaways)
    second = c.begin(b"2")
    c.pump_until(lambda: len(c.goaways) == 2)
    assert c.goaways[1] == (second, 0)
    late = c.begin(b"3")
    time.sleep(0.1)
    front.core.hold.set()
    assert c.finish(first) == b"1" and c.finish(second) == b"2"
    c.pump_until(lambda: c.ended)
    assert late not in c.done
    assert front.proc.wait(h.PATIENCE) == 0


def test_drain_ends_at_its_deadline():
    with Front(drain_timeout="600ms") as f:
        f.core.hold.clear()
        c = f.client()
        c.begin(b"never")
        until(lambda: len(f.core.new) == 1, what="the connection")
        start = time.monotonic()
        f.drain()
        assert f.proc.wait(h.PATIENCE) == 0
        assert 0.5 < time.monotonic() - start < SOON
        assert "calls were still open" in f.logged()


def test_old_connections_are_drained():
    with Front(max_connection_age="1s") as f:
        start = time.monotonic()
        c = f.client()
        while len(c.goaways) < 2:
            assert c.call() == b"hello" or len(c.goaways) == 2
        assert 0.8 < time.monotonic() - start < SOON
        c.pump_until(lambda: c.ended)
        assert f.client().call() == b"hello" and f.alive()


# ---- load, backpressure, statistics

def test_slow_reader_is_bounded_and_then_cut_off(front):
    """A core that pours, a client that does not read: the front holds little, the core is held up."""
    poured = []

    def pour(sock):
        sock.sendall(frame(h.SETTINGS))
        sock.settimeout(1)
        block = frame(h.DATA, 0, 1, b"x" * 16384)
        try:
            while len(poured) < 4000:
                sock.sendall(block)
                poured.append(1)
        except OSError:
            pass
    front.core.raw = pour
    s = front.raw()
    s.sendall(frame(h.HEADERS, 5, 1, h.REQUEST))
    time.sleep(1.5)
    assert 10 < len(poured) < 4000
    assert resident_kb(front) < 40_000


def test_cut_with_answers_unread_and_calls_open(front):
    """The good-bye finds no room and becomes a close: what was open is taken from its address once, not twice."""
    poured = []

    def pour(sock):
        sock.sendall(frame(h.SETTINGS))
        sock.settimeout(1)
        try:
            while len(poured) < 2000:
                sock.sendall(frame(h.DATA, 0, 1, b"x" * 16384))
                poured.append(1)
        except OSError:
            pass
    front.core.raw = pour
    s = front.raw(source="127.0.0.2")
    s.sendall(b"".join(frame(h.HEADERS, 4, i, h.REQUEST) for i in (1, 3, 5)) + frame(h.DATA, 0, 3, b"\0\0\0\x10\0" + b"x" * 100))
    last = [-1]

    def stuck():
        last.append(len(poured))
        time.sleep(0.05)
        return len(poured) > 5 and len(poured) == last[-1] == last[-2]
    until(stuck, what="a client that reads nothing")
    s.sendall(frame(h.PUSH, 4, 1, b"\0\0\0\x02"))
    until(lambda: len(front.core.closed) == 1, what="the cut")
    front.core.raw = None
    assert front.alive() and "PUSH_PROMISE from a client" in front.logged()
    assert front.client().call() == b"hello"


def resident_kb(front):
    text = pathlib.Path(f"/proc/{front.proc.pid}/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1])


@pytest.mark.skipif("asan" in str(h.FRONT) or "tsan" in str(h.FRONT), reason="shadow memory")
def test_idle_connections_are_small():
    with Front(max_connections_per_peer="200") as f:
        def served():
            c = f.client()  # used at once: SETTINGS have to be acknowledged within a second
            assert c.call() == b"hello"
            return c
        warm = [served() for _ in range(20)]
        before = resident_kb(f)
        held = [served() for _ in range(100)]
        until(lambda: (resident_kb(f) - before) / 100 < 40, what="buffers given back")
        assert all(c.call() == b"hello" for c in warm + held)  # and taken again


def test_statistics_are_sent(front):
    c = front.client()
    assert c.call() == b"hello"
    bad = front.tcp()
    bad.sendall(b"x" * 100)
    until(lambda: any(s[0] == 1 and s[1] == 2 and s[2] == 1 for s in front.core.stats), what="open 1, accepted 2, refused 1")


def test_splitting_does_not_matter(front):
    s = front.tls()
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    body = b"\0\0\0\0\x40" + b"y" * 64
    for b in h.PREFACE + frame(h.SETTINGS) + h.SETTINGS_ACK[:0]:
        s.send(bytes([b]))
    wait_for(s, h.SETTINGS)
    for b in h.SETTINGS_ACK + frame(h.HEADERS, 4, 1, h.REQUEST) + frame(h.DATA, 1, 1, body):
        s.send(bytes([b]))
    frames = Frames(s)
    while (f := frames.next()) is not None and f[0] != h.DATA:
        pass
    assert f is not None and f[3] == body
