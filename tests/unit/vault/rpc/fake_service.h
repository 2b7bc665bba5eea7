/*
 * Purpose: vault/service as the transport sees it, in one file: rows that echo, count, fail, wait and stream; and authn's
 *          connection table reduced to names. Included by exactly one source of a test program, instead of the real library.
 * Owns:    calls and one lane thread. Threads: call.h's rules; slow rows answer on the lane thread, as the real one does.
 * Errors:  as the request text asks. Limits: none. Secrets: none.
 */
#ifndef TESTS_UNIT_VAULT_RPC_FAKE_SERVICE_H
#define TESTS_UNIT_VAULT_RPC_FAKE_SERVICE_H

#include "vault/service/call.h"
#include "vault/service/service.h"

#include <claviger/envelope/v1/envelope.pb-c.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct fake_job {
    struct fake_job *next;
    struct call *c;
    struct bytes message;
};
struct fake_last { /* what the newest call came with */
    char peer[256], request_id[CALL_META_MAX + 2];
    int64_t deadline_left_ms;
};
static struct fake {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    pthread_t lane;
    bool stop;
    struct fake_job *head, **tail;
    atomic_int live_calls, arrived, cancelled, half_closed, conns_open, conns_held; atomic_int certificate; /* 0: none, else whose */
    struct fake_last last;
} fake = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER, .tail = &fake.head};

#define FAKE_ROW(k, p, is_hot, ln)                                                                                     \
    {.kind = (k), .path = (p), .lane = (ln), .hot = (is_hot), .plane = PLANE_PUBLIC, .audit = AUDIT_NONE, .limit = LIMIT_PUBLIC}
static const struct rpc_row fake_rows[] = {
    FAKE_ROW(RPC_UNARY, "/test.Echo/Hot", true, LANE_FAST),
    FAKE_ROW(RPC_UNARY, "/test.Echo/Hot2", true, LANE_FAST),
    FAKE_ROW(RPC_UNARY, "/test.Echo/Slow", false, LANE_SLOW),
    FAKE_ROW(RPC_UNARY, "/test.Echo/Hang", false, LANE_SLOW),      /* answers when it is cancelled */
    FAKE_ROW(RPC_BIDI, "/test.Echo/Chat", false, LANE_SLOW),
    FAKE_ROW(RPC_SERVER_STREAM, "/test.Echo/Count", false, LANE_SLOW),
};
static const struct rpc_row *fake_row_list[sizeof(fake_rows) / sizeof(fake_rows[0])];

const struct rpc_row *const *table_rows(size_t *ret_n)
{
    *ret_n = sizeof(fake_rows) / sizeof(fake_rows[0]);
    for (size_t i = 0; i < *ret_n; i++)
        fake_row_list[i] = &fake_rows[i];
    return fake_row_list;
}

const struct rpc_row *table_find(const char *path)
{
    for (size_t i = 0; i < sizeof(fake_rows) / sizeof(fake_rows[0]); i++)
        if (strcmp(fake_rows[i].path, path) == 0)
            return &fake_rows[i];
    return NULL;
}

struct call *call_new(struct service *s, const struct call_start *start, struct call_sink sink)
{
    struct call *c = calloc(1, sizeof(*c));

    INVARIANT(c != NULL);
    c->svc = s;
    c->row = start->row;
    c->sink = sink;
    c->deadline_boot_ms = start->deadline_boot_ms;
    pthread_mutex_lock(&fake.lock);
    snprintf(fake.last.request_id, sizeof(fake.last.request_id), "%.*s", (int)start->request_id.n,
             start->request_id.n > 0 ? (const char *)start->request_id.p : "");
    fake.last.deadline_left_ms = start->deadline_boot_ms - clock_boot_ms(s->clock);
    pthread_mutex_unlock(&fake.lock);
    atomic_fetch_add(&fake.live_calls, 1);
    atomic_fetch_add(&fake.arrived, 1);
    return c;
}

static void fake_say(struct call *c, bool final, struct bytes message, bool has_message)
{
    struct call_out out = {.has_message = has_message, .final = final, .message = message, .has_receipt = final};

    out.receipt.index = 42;
    memset(out.receipt.leaf_hash, 0xab, sizeof(out.receipt.leaf_hash));
    c->sink.answer(c, &out, c->sink.user);
}

/* "!<code number>" fails with that code. */
static void fake_reply(struct call *c, struct bytes m)
{
    struct call_out out = {.final = true, .err = &c->err, .retry_after_ms = 1500};

    if (m.n < 2 || m.p[0] != '!') {
        fake_say(c, c->row->kind == RPC_UNARY, m, true);
        return;
    }
    (void)err_field(&c->err, "some.field", "is wrong");
    c->err.code = (enum err_code)((m.p[1] - '0') * 10 + (m.p[2] - '0'));
    c->err.reason = "A_REASON";
    snprintf(c->err.detail, sizeof(c->err.detail), "private");
    c->sink.answer(c, &out, c->sink.user);
}

static void fake_submit(struct call *c, struct bytes m)
{
    struct fake_job *j = calloc(1, sizeof(*j));

    INVARIANT(j != NULL);
    *j = (struct fake_job){NULL, c, m};
    pthread_mutex_lock(&fake.lock);
    *fake.tail = j;
    fake.tail = &j->next;
    pthread_cond_broadcast(&fake.cond);
    pthread_mutex_unlock(&fake.lock);
}

static void fake_hang(struct call *c)
{
    struct call_out out = {.final = true, .err = &c->err};

    pthread_mutex_lock(&fake.lock);
    while (!atomic_load(&c->cancelled))
        pthread_cond_wait(&fake.cond, &fake.lock);
    pthread_mutex_unlock(&fake.lock);
    (void)err_set(&c->err, ERR_CANCELLED, NULL, __FILE__, __LINE__, "cancelled");
    c->sink.answer(c, &out, c->sink.user);
}

/* Each Count answer says how many are left; cancelled ones end as a real stream does. */
static void fake_count(struct call *c, struct bytes m)
{
    intptr_t left = (intptr_t)c->stream;
    char text[16];
    struct call_out out = {.final = true, .err = &c->err};

    if (m.n > 0) {
        snprintf(text, sizeof(text), "%.*s", (int)m.n, (const char *)m.p);
        left = atoi(text);
    }
    c->stream = (void *)(left - 1);
    if (atomic_load(&c->cancelled)) {
        (void)err_set(&c->err, ERR_CANCELLED, NULL, __FILE__, __LINE__, "cancelled");
        c->sink.answer(c, &out, c->sink.user);
    } else if (left == 0) {
        fake_say(c, true, BYTES("", 0), false);
    } else {
        snprintf(text, sizeof(text), "%d", (int)left);
        fake_say(c, false, bytes_str(text), true);
    }
}

static void *fake_lane(void *unused)
{
    (void)unused;
    for (;;) {
        struct fake_job *j;
        pthread_mutex_lock(&fake.lock);
        while (fake.head == NULL && !fake.stop)
            pthread_cond_wait(&fake.cond, &fake.lock);
        j = fake.head;
        if (j != NULL && (fake.head = j->next) == NULL)
            fake.tail = &fake.head;
        pthread_mutex_unlock(&fake.lock);
        if (j == NULL)
            return NULL;
        if (strcmp(j->c->row->path, "/test.Echo/Hang") == 0)
            fake_hang(j->c);
        else if (j->c->row->kind == RPC_SERVER_STREAM)
            fake_count(j->c, j->message);
        else
            fake_reply(j->c, j->message);
        free(j);
    }
}

void call_message(struct call *c, struct bytes m)
{
    if (c->row->lane == LANE_FAST)
        fake_reply(c, m);
    else
        fake_submit(c, m);
}

void call_half_close(struct call *c)
{
    atomic_fetch_add(&fake.half_closed, 1);
    fake_say(c, true, BYTES("", 0), false);
}

void call_sent(struct call *c)
{
    if (c->row->kind == RPC_SERVER_STREAM)
        fake_submit(c, BYTES("", 0));
}

void call_cancel(struct call *c)
{
    pthread_mutex_lock(&fake.lock);
    if (!atomic_exchange(&c->cancelled, true))
        atomic_fetch_add(&fake.cancelled, 1);
    pthread_cond_broadcast(&fake.cond);
    pthread_mutex_unlock(&fake.lock);
}

void call_free(struct call *c)
{
    free(c);
    atomic_fetch_sub(&fake.live_calls, 1);
}

/* ---- authn ---- */
struct authn_conn *authn_conn_by_peer(struct authn *a, const char *peer)
{
    (void)a;
    pthread_mutex_lock(&fake.lock);
    snprintf(fake.last.peer, sizeof(fake.last.peer), "%s", peer);
    pthread_mutex_unlock(&fake.lock);
    atomic_fetch_add(&fake.conns_held, 1);
    return (struct authn_conn *)&fake;
}

void authn_conn_unref(struct authn_conn *c)
{
    if (c != NULL)
        atomic_fetch_sub(&fake.conns_held, 1);
}

RESULT authn_call(struct authn *a, struct authn_conn *c, struct identity *ret, struct err *e)
{
    (void)a, (void)c, (void)ret, (void)e;
    return ok();
}

void authn_identity_release(struct identity *id)
{
    (void)id;
}

struct bytes authn_conn_certificate(const struct authn_conn *c)
{
    static const uint8_t hash[2][32] = {{1}, {2}};
    int who = atomic_load(&fake.certificate);

    (void)c;
    return who == 0 ? BYTES(NULL, 0) : BYTES(hash[who - 1], sizeof(hash[0]));
}

/* A body whose listener begins with "no" is refused. */
RESULT authn_conn_add(struct authn *a, struct bytes body, uint8_t ret_id[IPC_CONN_ID_BYTES], struct err *e)
{
    (void)a;
    if (body.n < IPC_CONN_ID_BYTES + 4 || body.p[IPC_CONN_ID_BYTES + 2] == 'n')
        FAIL(e, ERR_INVALID, "BAD_PACKET", "refused");
    memcpy(ret_id, body.p, IPC_CONN_ID_BYTES);
    atomic_fetch_add(&fake.conns_open, 1);
    return ok();
}

void authn_conn_closed(struct authn *a, const uint8_t id[IPC_CONN_ID_BYTES])
{
    (void)a, (void)id;
    atomic_fetch_sub(&fake.conns_open, 1);
}

static inline struct fake_last fake_last(void)
{
    struct fake_last copy;

    pthread_mutex_lock(&fake.lock);
    copy = fake.last;
    pthread_mutex_unlock(&fake.lock);
    return copy;
}

static void fake_start(void)
{
    fake.stop = false;
    INVARIANT(pthread_create(&fake.lane, NULL, fake_lane, NULL) == 0);
}

static void fake_stop(void)
{
    pthread_mutex_lock(&fake.lock);
    fake.stop = true;
    pthread_cond_broadcast(&fake.cond);
    pthread_mutex_unlock(&fake.lock);
    pthread_join(fake.lane, NULL);
}

/* gRPC is not built for the thread sanitizer: what happens inside it looks like races. Ours are still seen: hand-overs of calls
 * are marked (vault/rpc/internal.h). Called by the sanitizer's runtime only; weak, because
 * the sanitizer trees link their own (tests/quality/runtime.c). */
__attribute__((weak)) const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
    return "called_from_lib:libgrpc.so.29\ncalled_from_lib:libgpr.so.29\n";
}
__attribute__((weak)) const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
    return "ignore_noninstrumented_modules=1";
}

#endif
