/* Streams: for each inbound message steps 3 to 9; every outbound message re-checks who is asking and whether they still may.
 * At most one message in and one answer out at a time: the transport asks for the next only when this one was sent. */
#include "vault/service/pipeline.h"

#include "vault/service/admin.h"

#include <pthread.h>
#include <stdlib.h>

struct waiters {
    pthread_mutex_t lock;
    struct call *head;
};

struct waiters *waiters_new(void)
{
    struct waiters *w = calloc(1, sizeof *w);
    INVARIANT(w != NULL);
    pthread_mutex_init(&w->lock, NULL);
    return w;
}

void waiters_free(struct waiters *w)
{
    if (w == NULL)
        return;
    INVARIANT(w->head == NULL);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

static void fail_stream(struct call *c, const struct err *e)
{
    c->err = *e;
    pipeline_conclude(c);
}

/* Everything of the last message goes, its plaintext wiped; what the stream keeps is its own. */
static void next_message(struct call *c)
{
    c->request = NULL;
    c->resources = NULL;
    c->nresources = 0;
    c->outbox_seq = 0;
    c->ev = (struct audit_event){0};
    c->uses = NULL; /* they lay in the arena */
    c->nuses = c->uses_room = 0;
    c->may_block = false;
    c->token_away = false;
    c->priv->encoded = (struct bytes){0};
    c->priv->response = NULL;
    c->priv->has_receipt = false;
    c->priv->limited = false;
    c->start_boot_ns = clock_boot_ns(c->svc->clock);
    arena_reset(&c->arena);
}

void stream_message(struct call *c)
{
    if (c->row->kind == RPC_BIDI)
        next_message(c);
    if (!c->priv->opened) {
        struct err e = {0};
        c->priv->opened = true;
        if (c->row->stream->open != NULL && c->row->stream->open(c, &e).failed) {
            fail_stream(c, &e);
            return;
        }
    }
    pipeline_run(c);
}

void stream_half_close(struct call *c)
{
    if (c->row->kind != RPC_BIDI || c->priv->finished)
        return;
    c->priv->encoded = (struct bytes){0};
    c->priv->finished = true;
    pipeline_deliver(c); /* its trailer has the last message's receipt: those before it stand in the log beside it */
}

/* ---- server streams: ready, again and again ------------------------------------------------------------------------ */
static void wait_for_more(struct call *c)
{
    struct waiters *w = c->svc->waiters;
    pthread_mutex_lock(&w->lock);
    c->priv->next_waiting = w->head;
    w->head = c;
    pthread_mutex_unlock(&w->lock);
}

static RESULT still_allowed(struct call *c, struct err *e)
{
    if (call_is_cancelled(c))
        FAIL(e, ERR_CANCELLED, NULL, "the client went away or its deadline passed");
    if (atomic_load(&c->svc->draining))
        FAIL(e, ERR_UNAVAILABLE, "SHUTTING_DOWN", "the daemon is stopping: open streams end");
    if (c->row->plane == PLANE_PUBLIC)
        return ok();
    c->priv->limited = true; /* the stream was counted when it began */
    return pipeline_authorized(c, e);
}

static RESULT produce(struct call *c, bool *ret_more, struct err *e)
{
    TRY(still_allowed(c, e));
    c->priv->response = NULL;
    TRY(c->row->stream->ready(c, &c->priv->response, ret_more, e));
    return c->priv->response != NULL ? pipeline_encode(c, c->priv->response, e) : ok();
}

/* Each outbound message has fresh memory; the request, decoded once, is kept apart. */
static void turn_arena(struct call *c)
{
    if (c->priv->request_kept) {
        arena_reset(&c->arena);
        return;
    }
    c->priv->request_kept = true;
    c->priv->request_arena = c->arena;
    arena_init(&c->arena, CALL_ARENA_MAX);
}

static void run_ready(struct lane_job *job)
{
    struct call *c = ((struct call_private *)((char *)job - offsetof(struct call_private, job)))->call;
    struct err e = {0};
    bool more = false;
    c->may_block = true;
    c->priv->encoded = (struct bytes){0};
    c->priv->has_receipt = false;
    turn_arena(c);
    if (produce(c, &more, &e).failed) {
        c->err = e;
        pipeline_deliver(c);
    } else if (c->priv->encoded.p != NULL || !more) {
        c->priv->finished = !more && c->priv->encoded.p == NULL;
        pipeline_deliver(c);
    } else {
        wait_for_more(c);
    }
}

static void submit_ready(struct call *c)
{
    c->priv->job.run = run_ready;
    if (!lanes_submit(c->svc->lanes, pipeline_owner(c), &c->priv->job))
        wait_for_more(c); /* the lane is full: the next wake tries again */
}

void stream_sent(struct call *c)
{
    if (c->row->kind == RPC_SERVER_STREAM && !c->priv->finished)
        submit_ready(c);
}

void waiters_wake(struct service *s, bool end)
{
    struct waiters *w = s->waiters;
    pthread_mutex_lock(&w->lock);
    struct call *list = w->head;
    w->head = NULL;
    pthread_mutex_unlock(&w->lock);
    while (list != NULL) {
        struct call *c = list;
        list = c->priv->next_waiting;
        if (end)
            call_cancel(c);
        submit_ready(c);
    }
}
