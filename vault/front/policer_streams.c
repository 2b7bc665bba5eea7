#include "vault/front/policer.h"

/* The stream table and the server's direction. */

const struct bucket_limit policer_limits[POLICER_BUDGET_COUNT] = {
#define X(name, burst_, rate, stream, data) [POLICER_##name] = {.burst = (burst_), .per_s = (rate)},
    POLICER_BUDGETS(X)
#undef X
};

static const struct {
    int64_t stream, data;
} refunds[POLICER_BUDGET_COUNT] = {
#define X(name, burst, rate, stream_, data_) [POLICER_##name] = {.stream = (stream_), .data = (data_)},
    POLICER_BUDGETS(X)
#undef X
};

void policer_refund(struct policer *p, bool stream)
{
    p->completed += stream;
    for (unsigned i = 0; i < POLICER_BUDGET_COUNT; i++)
        bucket_add(&p->budget[i], &policer_limits[i], stream ? refunds[i].stream : refunds[i].data);
}

/* Ids are odd and mostly consecutive, so the home slot nearly always hits; no early stop at a free slot, so that closing
 * needs no tombstones. */
struct policer_stream *policer_find(struct policer *p, uint32_t id)
{
    for (uint32_t i = 0; i < POLICER_STREAMS; i++) {
        struct policer_stream *s = &p->streams[((id >> 1) + i) % POLICER_STREAMS];
        if (s->id == id)
            return s;
    }
    return NULL;
}

struct policer_stream *policer_open_stream(struct policer *p, uint32_t id)
{
    INVARIANT(p->open < POLICER_STREAMS);
    uint32_t slot = (id >> 1) % POLICER_STREAMS;
    while (p->streams[slot].id != 0) /* ends: open counts the slots in use */
        slot = (slot + 1) % POLICER_STREAMS;
    p->streams[slot] = (struct policer_stream){.id = id};
    p->open++;
    p->opened++;
    p->last_id = id;
    p->full.dry_ms = 0; /* room may also have come from outside (policer_set_room) */
    return &p->streams[slot];
}

void policer_message_gone(struct policer *p, struct policer_stream *s)
{
    p->unfinished -= s->have;
    s->have = 0;
    s->prefix = 0;
}

void policer_close(struct policer *p, struct policer_stream *s)
{
    INVARIANT(p->open > 0);
    /* The payload of this very frame may still be under way (DATA with END_STREAM): from here on it is only counted. */
    if (p->data >= 0 && s == &p->streams[p->data])
        p->data = -1;
    policer_message_gone(p, s);
    *s = (struct policer_stream){0};
    p->open--;
    p->full.dry_ms = 0;
}

void policer_end(struct policer *p, struct policer_stream *s, uint8_t side)
{
    s->ended |= side;
    if (s->ended != (POLICER_CLIENT_ENDED | POLICER_SERVER_ENDED))
        return;
    policer_refund(p, true);
    policer_close(p, s);
}

static void server_stream_frame(struct policer *p, const struct frame *f)
{
    struct policer_stream *s = f->stream == 0 ? NULL : policer_find(p, f->stream);
    if (f->type == FRAME_DATA)
        policer_refund(p, false);
    if (s == NULL)
        return;
    if (f->type == FRAME_RST_STREAM) {
        /* gRPC answers early with trailers and then RST(NO_ERROR): that is a completed call, too. */
        if (s->ended & POLICER_SERVER_ENDED)
            policer_refund(p, true);
        else
            p->undone++;
        policer_close(p, s);
        return;
    }
    if (f->flags & FRAME_END_STREAM)
        policer_end(p, s, POLICER_SERVER_ENDED);
}

static void server_frame(struct policer *p, int64_t now_ms, const struct frame *f)
{
    p->server_left = f->length;
    p->server_seen = true;
    switch (f->type) {
    case FRAME_HEADERS:
        p->server_block = !(f->flags & FRAME_END_HEADERS);
        server_stream_frame(p, f);
        return;
    case FRAME_CONTINUATION:
        if (f->flags & FRAME_END_HEADERS)
            p->server_block = false;
        return;
    case FRAME_DATA:
    case FRAME_RST_STREAM:
        server_stream_frame(p, f);
        return;
    case FRAME_SETTINGS:
        if (f->flags & FRAME_ACK)
            return;
        if (p->acks_owed++ == 0)
            p->ack_due_ms = now_ms + POLICER_ACK_MS;
        return;
    case FRAME_PING:
        if (!(f->flags & FRAME_ACK))
            p->pings_owed++;
        return;
    default:
        return;
    }
}

bool policer_at_boundary(const struct policer *p)
{
    return p->server_seen && p->server_left == 0 && !p->server_block;
}

size_t policer_server(struct policer *p, int64_t now_ms, const uint8_t *data, size_t n, bool stop)
{
    size_t used = 0;
    for (;;) {
        size_t skip = n - used < p->server_left ? n - used : p->server_left;
        used += skip;
        p->server_left -= (uint32_t)skip;
        if (stop && policer_at_boundary(p))
            return used;
        if (p->server_left > 0 || n - used < FRAME_HEADER_BYTES)
            return used;
        struct frame f = frame_parse(data + used);
        used += FRAME_HEADER_BYTES;
        server_frame(p, now_ms, &f);
    }
}
