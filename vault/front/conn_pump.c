#include "vault/front/drain.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* Both directions read into the loop's scratch and pass on from there; a connection holds memory only for what the other
 * side did not take, or what the policer makes wait. */

void residue_release(struct residue *r)
{
    if (r->p != NULL)
        wipe(r->p, r->cap);
    free(r->p);
    *r = (struct residue){0};
}

static void residue_put(struct residue *r, const uint8_t *p, size_t n)
{
    if (n == 0)
        return;
    if (r->n + n > r->cap) {
        size_t live = r->n - r->off, cap = live + n + 64;
        uint8_t *bigger = malloc(cap);
        INVARIANT(bigger != NULL);
        if (live > 0)
            memcpy(bigger, r->p + r->off, live);
        struct residue grown = {.p = bigger, .ok = r->ok - r->off, .n = live, .cap = cap};
        residue_release(r);
        *r = grown;
    }
    memcpy(r->p + r->n, p, n);
    r->n += n;
}

/* ---- client to core ----------------------------------------------------------------------------------------------- */

/* How much core took. A broken core connection takes everything: its end shows on the reading side. */
static size_t core_send(struct conn *c, const uint8_t *p, size_t n)
{
    size_t put = 0;
    while (put < n && c->core_writable) {
        ssize_t k = send(c->core_fd, p + put, n - put, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            c->core_writable = false;
            break;
        }
        if (k < 0) {
            put = n;
            break;
        }
        put += (size_t)k;
    }
    if (put == n)
        c->in_stalled = 0;
    else if (put > 0 || c->in_stalled == 0)
        c->in_stalled = c->loop->now_ms;
    return put;
}

static void cut_off(struct conn *c)
{
    struct loop *l = c->loop;
    l->counts.policed++;
    if (!c->policer.mistake)
        peers_penalise(c->peer, l->now_ms);
    if (policer_at_boundary(&c->policer)) {
        uint8_t f[FRAME_GOAWAY_BYTES];
        frame_goaway(policer_goaway(&c->policer), c->policer.code, f);
        conn_put_out(c, f, sizeof f);
    }
    conn_finish(c, c->policer.why);
}

/* The policer's answer, once what it let through is on its way. False: the connection is over. */
static bool obey(struct conn *c, enum policer_verdict v, const struct policer_span *s)
{
    int64_t wait_ms = s->wait_ms;
    if (wait_ms > CONN_ROOM_MS)
        wait_ms = CONN_ROOM_MS; /* it may be its address that has no room, and other connections may give some back */
    c->resume_at = v == POLICER_WAIT ? c->loop->now_ms + wait_ms : 0;
    if (v == POLICER_CUT)
        cut_off(c);
    return v != POLICER_CUT;
}

/* Fresh bytes, in scratch. */
static void take_in(struct conn *c, uint8_t *data, size_t n)
{
    struct policer_span s;
    enum policer_verdict v = policer_client(&c->policer, c->loop->now_ms, data, n, &s);
    size_t sent = core_send(c, data, s.keep), rest = n - s.used;
    if (v == POLICER_PASS && sent == s.keep) {
        c->in_tail_n = (uint8_t)rest;
        memcpy(c->in_tail, data + s.used, rest);
        return;
    }
    residue_put(&c->in, data + sent, s.keep - sent);
    c->in.ok = c->in.n;
    residue_put(&c->in, data + s.used, rest);
    (void)obey(c, v, &s);
}

/* What waits goes first. True when nothing is left waiting. */
static bool resume_in(struct conn *c)
{
    struct residue *r = &c->in;
    while (r->p != NULL) {
        r->off += core_send(c, r->p + r->off, r->ok - r->off);
        if (r->off < r->ok)
            return false;
        size_t raw = r->n - r->ok;
        struct policer_span s;
        enum policer_verdict v = policer_client(&c->policer, c->loop->now_ms, r->p + r->ok, raw, &s);
        size_t rest = raw - s.used;
        memmove(r->p + r->ok + s.keep, r->p + r->ok + s.used, rest);
        r->ok += s.keep;
        r->n = r->ok + rest;
        if (!obey(c, v, &s) || (v == POLICER_WAIT && s.keep == 0))
            return false;
        if (v == POLICER_PASS && s.keep == 0) {
            c->in_tail_n = (uint8_t)rest;
            memcpy(c->in_tail, r->p + r->ok, rest);
            residue_release(r);
        }
    }
    return true;
}

static bool pump_in(struct conn *c)
{
    struct loop *l = c->loop;
    if (!resume_in(c) || c->state != CONN_OPEN || c->client_eof || c->core_eof)
        return false;
    if (!c->tls.readable && !tls_pending(&c->tls))
        return false; /* asking would only make OpenSSL take its buffers back */
    memcpy(l->scratch, c->in_tail, c->in_tail_n);
    size_t n = c->in_tail_n;
    unsigned records = 0;
    enum tls_io io = TLS_OK;
    while (io == TLS_OK && n < LOOP_TURN_BYTES && records++ < LOOP_TURN_RECORDS) {
        size_t got;
        io = tls_read(&c->tls, l->scratch + n, LOOP_TURN_BYTES - n, &got);
        n += got;
    }
    c->client_eof = io == TLS_EOF;
    c->idle_at = l->now_ms + CONN_IDLE_MS;
    if (n > c->in_tail_n)
        take_in(c, l->scratch, n);
    wipe(l->scratch, n);
    return io == TLS_OK && c->state == CONN_OPEN && c->in.p == NULL;
}

/* ---- core to client ----------------------------------------------------------------------------------------------- */

static size_t client_send(struct conn *c, const uint8_t *p, size_t n)
{
    size_t put = 0, k;
    while (put < n && tls_write(&c->tls, p + put, n - put, &k) == TLS_OK)
        put += k;
    c->idle_at = c->loop->now_ms + CONN_IDLE_MS;
    if (put == n)
        c->out_stalled = 0;
    else if (put > 0 || c->out_stalled == 0)
        c->out_stalled = c->loop->now_ms;
    return put;
}

void conn_flush_out(struct conn *c)
{
    struct residue *r = &c->out;
    if (r->p == NULL || c->tls.broken)
        return;
    r->off += client_send(c, r->p + r->off, r->n - r->off);
    if (r->off == r->n)
        residue_release(r);
}

void conn_put_out(struct conn *c, const uint8_t *p, size_t n)
{
    size_t put = c->out.p == NULL ? client_send(c, p, n) : 0;
    residue_put(&c->out, p + put, n - put);
}

static size_t core_read(struct conn *c, uint8_t *out, size_t n)
{
    for (;;) {
        ssize_t k = recv(c->core_fd, out, n, MSG_DONTWAIT);
        if (k > 0) {
            c->core_readable = (size_t)k == n || c->core_hup; /* edge-triggered: a short read has emptied it */
            return (size_t)k;
        }
        if (k < 0 && errno == EINTR)
            continue;
        c->core_readable = false;
        c->core_eof = k == 0 || (errno != EAGAIN && errno != EWOULDBLOCK);
        return 0;
    }
}

/* data goes out, with a GOAWAY of ours put in at the first place where it may stand. Returns what was used. */
static size_t give_out(struct conn *c, const uint8_t *data, size_t n)
{
    size_t used = 0;
    if (drain_wants_frame(c)) {
        used = policer_server(&c->policer, c->loop->now_ms, data, n, true);
        conn_put_out(c, data, used);
        if (!policer_at_boundary(&c->policer))
            return used;
        drain_put_frame(c);
    }
    size_t more = policer_server(&c->policer, c->loop->now_ms, data + used, n - used, false);
    conn_put_out(c, data + used, more);
    return used + more;
}

static bool pump_out(struct conn *c)
{
    struct loop *l = c->loop;
    conn_flush_out(c);
    if (c->out.p != NULL || c->core_eof || !c->core_readable)
        return false;
    memcpy(l->scratch, c->out_tail, c->out_tail_n);
    size_t n = c->out_tail_n + core_read(c, l->scratch + c->out_tail_n, LOOP_TURN_BYTES);
    if (n > c->out_tail_n) {
        size_t used = give_out(c, l->scratch, n);
        c->out_tail_n = (uint8_t)(n - used);
        memcpy(c->out_tail, l->scratch + used, n - used);
    }
    wipe(l->scratch, n);
    return c->core_readable && c->out.p == NULL;
}

/* ---- both --------------------------------------------------------------------------------------------------------- */

/* The ends of the two sides: each one's last bytes reach the other before the other's connection is closed. */
static void see_ends(struct conn *c)
{
    if (c->tls.broken) {
        conn_close(c, c->client_eof || c->tls.hup ? NULL : c->tls.why); /* many clients just leave */
        return;
    }
    if (c->core_eof && c->out.p == NULL) {
        conn_finish(c, c->client_eof || c->drain != DRAIN_NO ? NULL : "core closed the connection");
        return;
    }
    if (c->client_eof && !c->core_shut && c->in.p == NULL) {
        c->core_shut = true;
        (void)shutdown(c->core_fd, SHUT_WR);
        c->state_due = c->loop->now_ms + CONN_HALF_CLOSED_MS;
    }
}

/* Streams and messages are bounded for an address, too, or a few hundred connections of one client would hold all that core has. */
void conn_count_streams(struct conn *c)
{
    const struct policer *p = &c->policer;
    struct peer_change ch = {(int32_t)(p->open - c->streams), (int32_t)(p->unfinished - c->unfinished),
                             p->completed - c->completed, p->undone - c->undone};
    peers_count(c->peer, c->loop->now_ms, &ch);
    c->streams = p->open;
    c->completed = p->completed;
    c->undone = p->undone;
    c->unfinished = p->unfinished;
}

bool conn_pump(struct conn *c)
{
    bool more = pump_out(c);
    conn_count_streams(c);
    policer_set_room(&c->policer, peers_stream_room(c->peer, c->loop->now_ms), peers_unfinished_room(c->peer));
    /* Answers first: the streams they end make room for what the client sends next. */
    more = pump_in(c) || more;
    if (c->state == CONN_OPEN)
        conn_count_streams(c);
    if (c->state == CONN_OPEN && policer_tick(&c->policer, c->loop->now_ms) == POLICER_CUT)
        cut_off(c);
    if (c->state == CONN_OPEN)
        see_ends(c);
    return more && c->state == CONN_OPEN;
}
