#include "vault/front/drain.h"

void drain_begin(struct conn *c, int64_t due_ms)
{
    if (c->drain_due == 0 || due_ms < c->drain_due)
        c->drain_due = due_ms;
    if (c->drain == DRAIN_NO)
        c->drain = DRAIN_WARN_DUE;
    /* In TLS 1.3 the client ends the handshake first, and may have sent a call already: a short while for that one. */
    if (c->state <= CONN_HANDSHAKE && c->state_due > c->loop->now_ms + DRAIN_HANDSHAKE_MS)
        c->state_due = c->loop->now_ms + DRAIN_HANDSHAKE_MS;
    if (c->state < CONN_LINGER)
        loop_requeue(c->loop, c);
}

bool drain_wants_frame(const struct conn *c)
{
    return c->drain == DRAIN_WARN_DUE || c->drain == DRAIN_LAST_DUE;
}

void drain_put_frame(struct conn *c)
{
    uint8_t f[FRAME_GOAWAY_BYTES];
    if (c->drain == DRAIN_WARN_DUE) {
        frame_goaway(FRAME_LAST_ID_ANY, FRAME_NO_ERROR, f);
        c->drain_at = c->loop->now_ms + DRAIN_WARN_MS;
        c->drain = DRAIN_WARNED;
    } else {
        frame_goaway(policer_goaway(&c->policer), FRAME_NO_ERROR, f);
        c->drain_at = 0;
        c->drain = DRAIN_LAST;
    }
    conn_put_out(c, f, sizeof f);
}

void drain_step(struct conn *c)
{
    if (c->state >= CONN_LINGER || c->drain == DRAIN_NO)
        return;
    if (c->loop->now_ms >= c->drain_due) {
        conn_finish(c, policer_open_streams(&c->policer) > 0 ? "calls were still open when the drain ended" : NULL);
        return;
    }
    if (c->state != CONN_OPEN)
        return;
    if (c->drain == DRAIN_WARNED && c->loop->now_ms >= c->drain_at)
        c->drain = DRAIN_LAST_DUE;
    if (drain_wants_frame(c) && policer_at_boundary(&c->policer))
        drain_put_frame(c);
    if (c->state == CONN_OPEN && c->drain == DRAIN_LAST && policer_open_streams(&c->policer) == 0 &&
        policer_at_boundary(&c->policer) && c->out.p == NULL && c->in.p == NULL)
        conn_finish(c, NULL);
}
