#include "vault/front/policer.h"

#include <string.h>

void policer_init(struct policer *p, uint32_t max_streams, int64_t now_ms)
{
    INVARIANT(max_streams >= 1 && max_streams <= POLICER_STREAMS);
    *p = (struct policer){.max_streams = max_streams, .may_open = max_streams, .max_unfinished = UINT32_MAX, .data = -1};
    for (unsigned i = 0; i < POLICER_BUDGET_COUNT; i++)
        bucket_init(&p->budget[i], &policer_limits[i], now_ms);
}

void policer_set_room(struct policer *p, uint32_t streams, uint32_t unfinished_bytes)
{
    p->may_open = p->open + streams;
    p->max_unfinished = p->unfinished + unfinished_bytes;
}

bool policer_started(const struct policer *p)
{
    return p->settings_seen;
}

uint32_t policer_goaway(struct policer *p)
{
    if (!p->goaway)
        p->goaway_last = p->last_id;
    p->goaway = true;
    return p->goaway_last;
}

int64_t policer_deadline(const struct policer *p)
{
    return p->ack_due_ms;
}

static enum policer_verdict cut(struct policer *p, enum frame_error code, const char *why)
{
    p->cut = true;
    p->code = code;
    p->why = why;
    return POLICER_CUT;
}

/* A library left at its defaults does this, and its neighbours behind the same address did not. Doing it again costs a new
 * connection each time, and those are counted (peers.h). */
static enum policer_verdict cut_mistake(struct policer *p, enum frame_error code, const char *why)
{
    p->mistake = true;
    return cut(p, code, why);
}

enum policer_verdict policer_tick(struct policer *p, int64_t now_ms)
{
    if (p->cut)
        return POLICER_CUT;
    if (p->ack_due_ms != 0 && now_ms >= p->ack_due_ms)
        return cut_mistake(p, FRAME_SETTINGS_TIMEOUT, "settings not acknowledged in time");
    return POLICER_PASS;
}

/* One frame charges one budget, and charges it last: a frame that has to wait must leave no trace. */
static enum policer_verdict charge(struct policer *p, int64_t now_ms, enum policer_budget b, int64_t *wait_ms)
{
    static const char *const why[POLICER_BUDGET_COUNT] = {
        [POLICER_HEADERS] = "too many requests begun and not completed",
        [POLICER_RESET] = "too many streams reset",
        [POLICER_SETTINGS] = "too many SETTINGS",
        [POLICER_PING] = "too many PINGs",
        [POLICER_CONTROL] = "too many control frames",
    };
    struct bucket *k = &p->budget[b];
    if (bucket_take(k, &policer_limits[b], now_ms, wait_ms))
        return POLICER_PASS;
    if (now_ms - k->dry_ms >= POLICER_EXCESS_MS)
        return cut(p, FRAME_ENHANCE_YOUR_CALM, why[b]);
    return POLICER_WAIT;
}

/* The limit of streams was announced, and the front sees a stream end before the client does: only a client that ignores it
 * comes here, or one whose address holds too much. It waits for something to end, and is cut if that takes too long. */
static enum policer_verdict wait_for_room(struct policer *p, int64_t now_ms, struct bucket *b, const char *why,
                                          int64_t *wait_ms)
{
    if (b->dry_ms == 0)
        b->dry_ms = now_ms;
    if (now_ms - b->dry_ms >= POLICER_EXCESS_MS)
        return cut(p, FRAME_ENHANCE_YOUR_CALM, why);
    *wait_ms = b->dry_ms + POLICER_EXCESS_MS - now_ms;
    return POLICER_WAIT;
}

/* What ends a message may always pass: it gives back more than it takes. */
static bool has_room(const struct policer *p, const struct policer_stream *s, uint32_t length)
{
    uint32_t cost = length + POLICER_FRAME_COST;
    return p->unfinished <= p->max_unfinished - (cost < p->max_unfinished ? cost : p->max_unfinished) ||
           (s->prefix == 5 && length >= s->left);
}

static void begin_block(struct policer *p, const struct frame *f)
{
    p->block_bytes = f->length;
    p->block_continuations = 0;
    p->block_dropped = p->dropping;
    p->block_stream = f->flags & FRAME_END_HEADERS ? 0 : f->stream;
}

static enum policer_verdict on_headers(struct policer *p, int64_t now_ms, const struct frame *f, int64_t *wait_ms)
{
    if (f->stream % 2 == 0)
        return cut(p, FRAME_PROTOCOL_ERROR, "HEADERS on a stream that is not a client's");
    bool fresh = f->stream > p->last_id, drop = p->goaway && f->stream > p->goaway_last;
    struct policer_stream *s = fresh ? NULL : policer_find(p, f->stream);
    /* Header compression is one state for the connection: after a dropped block none can be passed on. */
    if (!drop && p->dropped)
        return cut(p, FRAME_PROTOCOL_ERROR, "HEADERS on an old stream after GOAWAY");
    if (s != NULL && ((s->ended & POLICER_CLIENT_ENDED) || !(f->flags & FRAME_END_STREAM)))
        return cut(p, FRAME_STREAM_CLOSED, "HEADERS in the middle or after the end of a stream");
    if (fresh && !drop && !p->acked && p->opened >= POLICER_STREAMS_BEFORE_ACK)
        return cut(p, FRAME_ENHANCE_YOUR_CALM, "streams opened without acknowledging SETTINGS");
    if (fresh && !drop && (p->open >= p->max_streams || p->open >= p->may_open))
        return wait_for_room(p, now_ms, &p->full, "too many open streams", wait_ms);
    enum policer_verdict v = charge(p, now_ms, POLICER_HEADERS, wait_ms);
    if (v != POLICER_PASS)
        return v;
    p->dropping = drop;
    p->dropped |= drop;
    begin_block(p, f);
    if (drop)
        return POLICER_PASS;
    if (fresh)
        s = policer_open_stream(p, f->stream);
    if (s != NULL && (f->flags & FRAME_END_STREAM))
        policer_end(p, s, POLICER_CLIENT_ENDED);
    return POLICER_PASS;
}

static enum policer_verdict on_continuation(struct policer *p, int64_t now_ms, const struct frame *f, int64_t *wait_ms)
{
    if (p->block_stream == 0 || f->stream != p->block_stream)
        return cut(p, FRAME_PROTOCOL_ERROR, "CONTINUATION outside its header block");
    if (p->block_continuations >= POLICER_MAX_CONTINUATIONS)
        return cut(p, FRAME_ENHANCE_YOUR_CALM, "too many CONTINUATIONs in a header block");
    if (f->length > POLICER_MAX_BLOCK_BYTES - p->block_bytes)
        return cut(p, FRAME_ENHANCE_YOUR_CALM, "header block too large");
    enum policer_verdict v = charge(p, now_ms, POLICER_CONTROL, wait_ms);
    if (v != POLICER_PASS)
        return v;
    p->block_continuations++;
    p->block_bytes += f->length;
    p->dropping = p->block_dropped;
    if (f->flags & FRAME_END_HEADERS)
        p->block_stream = 0;
    return POLICER_PASS;
}

/* Idle streams are a breach, but for those that GOAWAY told the client to forget: these are dropped. */
static enum policer_verdict known_or_dropped(struct policer *p, const struct frame *f, bool *drop)
{
    *drop = p->goaway && f->stream > p->goaway_last;
    if (!*drop && f->stream > p->last_id)
        return cut(p, FRAME_PROTOCOL_ERROR, "a frame on a stream that was never opened");
    return POLICER_PASS;
}

static enum policer_verdict on_data(struct policer *p, int64_t now_ms, const struct frame *f, int64_t *wait_ms)
{
    bool drop;
    if (f->stream == 0)
        return cut(p, FRAME_PROTOCOL_ERROR, "DATA without a stream");
    if (known_or_dropped(p, f, &drop) != POLICER_PASS)
        return POLICER_CUT;
    struct policer_stream *s = drop ? NULL : policer_find(p, f->stream);
    if (s != NULL && (s->ended & POLICER_CLIENT_ENDED))
        return cut(p, FRAME_STREAM_CLOSED, "DATA after the end of a stream");
    if ((f->flags & FRAME_PADDED) && f->length == 0)
        return cut(p, FRAME_SIZE_ERROR, "padding without its length");
    bool ends = f->flags & FRAME_END_STREAM;
    if (s != NULL && !has_room(p, s, f->length))
        return wait_for_room(p, now_ms, &p->stuffed, "too much of messages not finished", wait_ms);
    p->stuffed.dry_ms = 0;
    /* The end of a stream is paid for by its HEADERS; DATA after the server closed the stream is a race, and bounded. gRPC
     * never pads: whoever does, sends frames that may be empty. */
    if (s == NULL || (f->flags & FRAME_PADDED) || (f->length < POLICER_TINY_BYTES && !ends)) {
        enum policer_verdict v = charge(p, now_ms, POLICER_CONTROL, wait_ms);
        if (v != POLICER_PASS)
            return v;
    }
    p->dropping = drop;
    p->pad_next = f->flags & FRAME_PADDED;
    p->data = s == NULL ? -1 : (int16_t)(s - p->streams);
    if (s != NULL) { /* gRPC keeps a slice for each: small frames cost it more than they weigh */
        s->have += POLICER_FRAME_COST;
        p->unfinished += POLICER_FRAME_COST;
    }
    if (s != NULL && ends)
        s->ended |= POLICER_CLIENT_ENDED; /* closed, where the server has ended too, once its payload was judged */
    return POLICER_PASS;
}

static enum policer_verdict on_rst(struct policer *p, int64_t now_ms, const struct frame *f, int64_t *wait_ms)
{
    bool drop;
    if (f->stream == 0 || f->length != 4)
        return cut(p, f->stream == 0 ? FRAME_PROTOCOL_ERROR : FRAME_SIZE_ERROR, "malformed RST_STREAM");
    if (f->stream % 2 == 0)
        return cut(p, FRAME_PROTOCOL_ERROR, "a frame on a stream that was never opened");
    /* gRPC's own clients do reset a stream whose HEADERS never left, when the call's deadline was shorter than the way out:
     * control traffic that the core need not hear of, from a client that deserves no penalty. */
    drop = f->stream > p->last_id || (p->goaway && f->stream > p->goaway_last);
    struct policer_stream *s = drop ? NULL : policer_find(p, f->stream);
    enum policer_verdict v = charge(p, now_ms, s == NULL ? POLICER_CONTROL : POLICER_RESET, wait_ms);
    if (v != POLICER_PASS)
        return v;
    p->dropping = drop;
    if (s != NULL) {
        p->undone++;
        policer_close(p, s);
    }
    return POLICER_PASS;
}

static enum policer_verdict on_settings(struct policer *p, int64_t now_ms, const struct frame *f, int64_t *wait_ms)
{
    bool ack = f->flags & FRAME_ACK;
    if (f->stream != 0 || f->length % 6 != 0 || (ack && f->length != 0) || (!p->settings_seen && ack))
        return cut(p, f->stream != 0 ? FRAME_PROTOCOL_ERROR : FRAME_SIZE_ERROR, "malformed SETTINGS");
    if (f->length > POLICER_MAX_SETTINGS_BYTES)
        return cut(p, FRAME_ENHANCE_YOUR_CALM, "SETTINGS frame too large");
    if (ack && p->acks_owed > 0) {
        p->acked = true;
        p->ack_due_ms = --p->acks_owed > 0 ? now_ms + POLICER_ACK_MS : 0;
        return POLICER_PASS;
    }
    enum policer_verdict v = charge(p, now_ms, POLICER_SETTINGS, wait_ms);
    if (v == POLICER_PASS)
        p->settings_seen = true;
    return v;
}

static enum policer_verdict on_ping(struct policer *p, int64_t now_ms, const struct frame *f, int64_t *wait_ms)
{
    if (f->stream != 0 || f->length != 8)
        return cut(p, f->stream != 0 ? FRAME_PROTOCOL_ERROR : FRAME_SIZE_ERROR, "malformed PING");
    if ((f->flags & FRAME_ACK) && p->pings_owed > 0) {
        p->pings_owed--;
        return POLICER_PASS;
    }
    return charge(p, now_ms, POLICER_PING, wait_ms);
}

static enum policer_verdict on_other(struct policer *p, int64_t now_ms, const struct frame *f, int64_t *wait_ms)
{
    bool drop = false;
    switch (f->type) {
    case FRAME_PUSH_PROMISE:
        return cut(p, FRAME_PROTOCOL_ERROR, "PUSH_PROMISE from a client");
    case FRAME_PRIORITY:
        if (f->stream == 0 || f->length != 5)
            return cut(p, f->stream == 0 ? FRAME_PROTOCOL_ERROR : FRAME_SIZE_ERROR, "malformed PRIORITY");
        break;
    case FRAME_GOAWAY:
        if (f->stream != 0 || f->length < 8)
            return cut(p, f->stream != 0 ? FRAME_PROTOCOL_ERROR : FRAME_SIZE_ERROR, "malformed GOAWAY");
        break;
    case FRAME_WINDOW_UPDATE:
        if (f->length != 4)
            return cut(p, FRAME_SIZE_ERROR, "malformed WINDOW_UPDATE");
        if (known_or_dropped(p, f, &drop) != POLICER_PASS)
            return POLICER_CUT;
        break;
    default:
        break;
    }
    enum policer_verdict v = charge(p, now_ms, POLICER_CONTROL, wait_ms);
    if (v == POLICER_PASS)
        p->dropping = drop;
    return v;
}

static enum policer_verdict on_frame(struct policer *p, int64_t now_ms, const struct frame *f, int64_t *wait_ms)
{
    p->dropping = false;
    p->data = -1;
    p->pad = 0;
    p->pad_next = false;
    if (f->length > POLICER_MAX_FRAME_BYTES)
        return cut(p, FRAME_SIZE_ERROR, "frame too large");
    if (!p->settings_seen && f->type != FRAME_SETTINGS)
        return cut(p, FRAME_PROTOCOL_ERROR, "the first frame is not SETTINGS");
    if (p->block_stream != 0 && f->type != FRAME_CONTINUATION)
        return cut(p, FRAME_PROTOCOL_ERROR, "a frame inside a header block");
    switch (f->type) {
    case FRAME_HEADERS:
        return on_headers(p, now_ms, f, wait_ms);
    case FRAME_CONTINUATION:
        return on_continuation(p, now_ms, f, wait_ms);
    case FRAME_DATA:
        return on_data(p, now_ms, f, wait_ms);
    case FRAME_RST_STREAM:
        return on_rst(p, now_ms, f, wait_ms);
    case FRAME_SETTINGS:
        return on_settings(p, now_ms, f, wait_ms);
    case FRAME_PING:
        return on_ping(p, now_ms, f, wait_ms);
    default:
        return on_other(p, now_ms, f, wait_ms);
    }
}

/* One byte of a gRPC message prefix: compressed flag, then the length. Waits before the last byte, if at all. */
static enum policer_verdict prefix_byte(struct policer *p, int64_t now_ms, struct policer_stream *s, uint8_t b,
                                        int64_t *wait_ms)
{
    if (s->prefix == 0 && b != 0)
        return cut_mistake(p, FRAME_PROTOCOL_ERROR, "a compressed message");
    uint32_t length = s->left << 8 | b;
    if (s->prefix < 4) {
        s->left = length;
        s->prefix++;
        return POLICER_PASS;
    }
    if (length > POLICER_MAX_MESSAGE_BYTES)
        return cut_mistake(p, FRAME_ENHANCE_YOUR_CALM, "message too large");
    if (length < POLICER_TINY_BYTES) {
        enum policer_verdict v = charge(p, now_ms, POLICER_CONTROL, wait_ms);
        if (v != POLICER_PASS)
            return v;
    }
    s->left = length;
    s->prefix = length == 0 ? 0 : 5;
    return POLICER_PASS;
}

/* Walks DATA payload up to n bytes; *used says how far. */
static enum policer_verdict walk_data(struct policer *p, int64_t now_ms, const uint8_t *d, size_t n, size_t *used,
                                      int64_t *wait_ms)
{
    size_t i = 0;
    enum policer_verdict v = POLICER_PASS;
    if (p->pad_next && n > 0) {
        p->pad_next = false;
        p->pad = d[i++];
        p->left--;
        if (p->pad > p->left)
            v = cut(p, FRAME_PROTOCOL_ERROR, "more padding than payload");
    }
    while (v == POLICER_PASS && i < n) {
        struct policer_stream *s = p->data < 0 ? NULL : &p->streams[p->data];
        size_t run = n - i;
        if (s != NULL && p->left > p->pad) {
            if (run > p->left - p->pad)
                run = p->left - p->pad;
            if (s->prefix < 5) {
                v = prefix_byte(p, now_ms, s, d[i], wait_ms);
                run = v == POLICER_PASS ? 1 : 0;
            } else {
                run = run < s->left ? run : s->left;
                s->left -= (uint32_t)run;
                s->have += (uint32_t)run;
                p->unfinished += (uint32_t)run;
                if (s->left == 0)
                    policer_message_gone(p, s);
            }
        }
        i += run;
        p->left -= (uint32_t)run;
    }
    *used = i;
    return v;
}

/* A stream both sides have ended is closed only here, when the payload that ended it has been judged. */
static void frame_done(struct policer *p)
{
    if (p->data < 0)
        return;
    struct policer_stream *s = &p->streams[p->data];
    p->data = -1;
    policer_end(p, s, 0);
}

static enum policer_verdict preface(struct policer *p, const uint8_t *d, size_t n, size_t *used)
{
    while (*used < n && p->preface < FRAME_PREFACE_BYTES) {
        if (d[*used] != (uint8_t)FRAME_PREFACE[p->preface])
            return cut(p, FRAME_PROTOCOL_ERROR, "not HTTP/2");
        p->preface++;
        (*used)++;
    }
    return POLICER_PASS;
}

static void pass(uint8_t *data, size_t from, size_t n, struct policer_span *ret)
{
    if (ret->keep != from)
        memmove(data + ret->keep, data + from, n);
    ret->keep += n;
}

enum policer_verdict policer_client(struct policer *p, int64_t now_ms, uint8_t *data, size_t n, struct policer_span *ret)
{
    *ret = (struct policer_span){0};
    if (p->cut)
        return POLICER_CUT;
    enum policer_verdict v = preface(p, data, n, &ret->used);
    ret->keep = ret->used;
    while (v == POLICER_PASS) {
        size_t have = n - ret->used < p->left ? n - ret->used : p->left, walked = 0;
        if (have > 0) {
            v = walk_data(p, now_ms, data + ret->used, have, &walked, &ret->wait_ms);
            if (!p->dropping)
                pass(data, ret->used, walked, ret);
            ret->used += walked;
            continue;
        }
        if (p->left == 0)
            frame_done(p);
        if (p->left > 0 || n - ret->used < FRAME_HEADER_BYTES)
            break;
        struct frame f = frame_parse(data + ret->used);
        v = on_frame(p, now_ms, &f, &ret->wait_ms);
        if (v != POLICER_PASS)
            break;
        p->left = f.length;
        if (!p->dropping)
            pass(data, ret->used, FRAME_HEADER_BYTES, ret);
        ret->used += FRAME_HEADER_BYTES;
    }
    return v;
}
