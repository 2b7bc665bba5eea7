/* Target functions: policer_client, policer_server, policer_goaway.
 * The input is a script of client bytes, server bytes, time and GOAWAY. It is played twice: once with the client's bytes in
 * whole pieces, once split as the input says. Verdict, reason, and every byte passed on must be the same, and no counter may
 * leave its range. With random bytes nearly all would end at the preface, so the script starts after it. */
#include "vault/front/policer.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_BYTES = 1 << 16, STREAMS = 100 };

struct side {
    struct policer p;
    uint8_t pending[2 * MAX_BYTES], out[2 * MAX_BYTES];
    size_t n, kept;
    enum policer_verdict verdict;
};

static void require(bool cond)
{
    if (!cond)
        abort();
}

static void offer(struct side *s, int64_t now_ms)
{
    struct policer_span span;
    s->verdict = policer_client(&s->p, now_ms, s->pending, s->n, &span);
    require(span.keep <= span.used && span.used <= s->n);
    require(s->verdict != POLICER_PASS || s->n - span.used < FRAME_HEADER_BYTES);
    require(s->verdict != POLICER_WAIT || span.wait_ms >= 1);
    memcpy(s->out + s->kept, s->pending, span.keep);
    s->kept += span.keep;
    s->n -= span.used;
    memmove(s->pending, s->pending + span.used, s->n);
    require(s->p.open <= STREAMS && s->p.left <= POLICER_MAX_FRAME_BYTES && s->p.pad <= s->p.left + 255);
    uint32_t open = 0, held = 0;
    for (unsigned i = 0; i < POLICER_STREAMS; i++) {
        open += s->p.streams[i].id != 0;
        held += s->p.streams[i].have;
    }
    require(open == s->p.open && held == s->p.unfinished);
}

/* split 0: all at once; else in pieces of 1..split bytes */
static void client(struct side *s, int64_t now_ms, const uint8_t *d, size_t n, size_t split)
{
    size_t step = split == 0 ? n : split;
    if (n == 0)
        offer(s, now_ms);
    for (size_t at = 0; at < n; at += step) {
        size_t k = n - at < step ? n - at : step;
        memcpy(s->pending + s->n, d + at, k);
        s->n += k;
        offer(s, now_ms);
    }
}

static void begin(struct side *s)
{
    s->n = s->kept = 0;
    policer_init(&s->p, STREAMS, 1000);
    client(s, 1000, (const uint8_t *)FRAME_PREFACE, FRAME_PREFACE_BYTES, 0);
    static const uint8_t settings[FRAME_HEADER_BYTES] = {0, 0, 0, FRAME_SETTINGS};
    client(s, 1000, settings, sizeof settings, 0);
    require(policer_started(&s->p));
}

static struct side whole, pieces;

/* Script: opcode, length, bytes. A frame header's upper length bytes and stream are tamed, so that scripts go deep. */
static size_t tame(uint8_t *d, const uint8_t *in, size_t n)
{
    memcpy(d, in, n);
    for (size_t at = 0; at + FRAME_HEADER_BYTES <= n;) {
        d[at] = 0;
        d[at + 1] &= 0x41;
        d[at + 3] %= 11;
        d[at + 5] = d[at + 6] = d[at + 7] = 0;
        at += FRAME_HEADER_BYTES + ((size_t)d[at + 1] << 8 | d[at + 2]);
    }
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t piece[512];
    int64_t now_ms = 1000;
    size_t total = 0;
    if (size > MAX_BYTES / 2)
        return 0;
    begin(&whole);
    begin(&pieces);
    while (size >= 3 && total < MAX_BYTES) {
        uint8_t op = data[0];
        size_t n = (size_t)data[1] < size - 2 ? data[1] : size - 2, split = 1 + op / 16;
        const uint8_t *d = data + 2;
        switch (op % 8) {
        case 0:
            now_ms += (int64_t)data[1] * 20;
            n = 0;
            break;
        case 1:
            policer_goaway(&whole.p);
            policer_goaway(&pieces.p);
            n = 0;
            break;
        case 2:
        case 3:
            if (op % 8 == 3)
                d = (tame(piece, d, n), piece);
            require(policer_server(&whole.p, now_ms, d, n, op & 0x80) == policer_server(&pieces.p, now_ms, d, n, op & 0x80));
            require(policer_at_boundary(&whole.p) == policer_at_boundary(&pieces.p));
            break;
        default:
            if (op % 8 >= 6)
                d = (tame(piece, d, n), piece);
            client(&whole, now_ms, d, n, 0);
            client(&pieces, now_ms, d, n, split);
            total += n;
        }
        data += 2 + n;
        size -= 2 + n;
        require(whole.verdict == pieces.verdict);
        require(whole.kept == pieces.kept && memcmp(whole.out, pieces.out, whole.kept) == 0);
        require(whole.p.code == pieces.p.code && (whole.verdict != POLICER_CUT || whole.p.why == pieces.p.why));
        require(whole.verdict == POLICER_CUT || (whole.n == pieces.n && whole.p.open == pieces.p.open));
    }
    return 0;
}
