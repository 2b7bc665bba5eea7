#include "vault/front/turns.h"

#include "base/rng.h"
#include "vault/front/address.h"

#include <stdlib.h>

enum { TURNS_BUCKETS = 1024 };

struct turns_list {
    struct turn *head, *tail;
};
struct turns_net {
    struct turns_net *next;         /* of its bucket */
    struct turns_net *ring, *ring_prev; /* of those with a line; NULL: no line */
    struct turns_list line;
    uint32_t members, in_line, shaking, strangers;
    struct address_key key;
};
struct turns {
    struct turns_net *buckets[TURNS_BUCKETS];
    struct turns_net *ring;    /* whose line is next */
    struct turns_list shaking; /* by since_ms */
    uint64_t salt;
    uint32_t members, in_line, n_shaking, strangers;
};

struct turns *turns_new(void)
{
    struct turns *ts = calloc(1, sizeof *ts);
    INVARIANT(ts != NULL);
    rng_fill(&rng_system, &ts->salt, sizeof ts->salt);
    return ts;
}

void turns_free(struct turns *ts)
{
    INVARIANT(ts == NULL || ts->members == 0);
    free(ts);
}

/* ---- lists -------------------------------------------------------------------------------------------------------- */

static void list_put(struct turns_list *l, struct turn *t)
{
    t->next = NULL;
    t->prev = l->tail;
    *(l->tail == NULL ? &l->head : &l->tail->next) = t;
    l->tail = t;
}

static void list_cut(struct turns_list *l, struct turn *t)
{
    *(t->prev == NULL ? &l->head : &t->prev->next) = t->next;
    *(t->next == NULL ? &l->tail : &t->next->prev) = t->prev;
    t->next = t->prev = NULL;
}

static void ring_put(struct turns *ts, struct turns_net *n)
{
    if (ts->ring == NULL) {
        n->ring = n->ring_prev = ts->ring = n;
        return;
    }
    n->ring = ts->ring; /* before the next one: last */
    n->ring_prev = ts->ring->ring_prev;
    n->ring_prev->ring = n->ring->ring_prev = n;
}

static void ring_cut(struct turns *ts, struct turns_net *n)
{
    if (ts->ring == n)
        ts->ring = n->ring == n ? NULL : n->ring;
    n->ring->ring_prev = n->ring_prev;
    n->ring_prev->ring = n->ring;
    n->ring = n->ring_prev = NULL;
}

/* ---- nets --------------------------------------------------------------------------------------------------------- */

static struct turns_net **bucket_of(struct turns *ts, const struct address_key *key)
{
    return &ts->buckets[address_key_hash(key, ts->salt) % TURNS_BUCKETS];
}

static struct turns_net *net_of(struct turns *ts, const struct sockaddr_storage *addr)
{
    const struct address_key key = address_key_of(addr, 3, 6);
    struct turns_net **at = bucket_of(ts, &key);
    for (struct turns_net *n = *at; n != NULL; n = n->next)
        if (address_key_equal(&n->key, &key))
            return n;
    struct turns_net *n = calloc(1, sizeof *n);
    INVARIANT(n != NULL);
    n->key = key;
    n->next = *at;
    *at = n;
    return n;
}

static void net_drop(struct turns *ts, struct turns_net *n)
{
    if (n->members > 0)
        return;
    struct turns_net **at = bucket_of(ts, &n->key);
    while (*at != n)
        at = &(*at)->next;
    *at = n->next;
    free(n);
}

static void to_line(struct turns *ts, struct turns_net *n, struct turn *t)
{
    if (n->in_line++ == 0)
        ring_put(ts, n);
    ts->in_line++;
    list_put(&n->line, t);
    t->place = TURN_IN_LINE;
}

static void from_line(struct turns *ts, struct turn *t)
{
    struct turns_net *n = t->net;
    list_cut(&n->line, t);
    ts->in_line--;
    if (--n->in_line == 0)
        ring_cut(ts, n);
}

static void from_slot(struct turns *ts, struct turn *t)
{
    list_cut(&ts->shaking, t);
    t->net->shaking--;
    ts->n_shaking--;
}

/* ---- in, on, and out ---------------------------------------------------------------------------------------------- */

/* A walk over at most TURNS_LINE nets, and only while the line is full. */
static struct turns_net *longest(const struct turns *ts)
{
    struct turns_net *best = ts->ring;
    for (struct turns_net *n = ts->ring->ring; n != ts->ring; n = n->ring)
        best = n->in_line > best->in_line ? n : best;
    return best;
}

bool turns_join(struct turns *ts, const struct sockaddr_storage *addr, struct turn *t, struct turn **ret_displaced)
{
    struct turns_net *n = net_of(ts, addr);
    struct turn *last = NULL;
    if (ts->in_line >= TURNS_LINE) {
        struct turns_net *crowd = longest(ts);
        if (crowd->in_line <= n->in_line + 1) {
            net_drop(ts, n);
            return false;
        }
        last = crowd->line.tail;
    }
    *t = (struct turn){.net = n};
    n->members++;
    ts->members++;
    to_line(ts, n, t);
    if (last != NULL)
        turns_leave(ts, last);
    *ret_displaced = last;
    return true;
}

struct turn *turns_next(struct turns *ts, int64_t now_ms)
{
    if (ts->ring == NULL || ts->n_shaking >= TURNS_SLOTS)
        return NULL;
    struct turns_net *n = ts->ring;
    while (n->shaking >= TURNS_NET_SLOTS) /* a net at its limit is passed over, and few can be: there are not that many slots */
        if ((n = n->ring) == ts->ring)
            return NULL;
    ts->ring = n->ring;
    struct turn *t = n->line.head;
    from_line(ts, t);
    list_put(&ts->shaking, t);
    n->shaking++;
    ts->n_shaking++;
    t->since_ms = now_ms;
    t->place = TURN_SHAKING;
    return t;
}

void turns_leave(struct turns *ts, struct turn *t)
{
    switch (t->place) {
    case TURN_NONE:
        return;
    case TURN_IN_LINE:
        from_line(ts, t);
        break;
    case TURN_SHAKING:
        from_slot(ts, t);
        break;
    case TURN_STRANGER:
        t->net->strangers--;
        ts->strangers--;
        break;
    }
    t->net->members--;
    ts->members--;
    net_drop(ts, t->net);
    *t = (struct turn){0};
}

bool turns_stranger(struct turns *ts, struct turn *t)
{
    INVARIANT(t->place == TURN_SHAKING);
    if (ts->strangers >= TURNS_STRANGERS || t->net->strangers >= TURNS_NET_STRANGERS) {
        turns_leave(ts, t);
        return false;
    }
    from_slot(ts, t);
    t->net->strangers++;
    ts->strangers++;
    t->place = TURN_STRANGER;
    return true;
}

bool turns_waiting(const struct turns *ts)
{
    return ts->in_line > 0;
}

struct turn *turns_slowest(const struct turns *ts, int64_t now_ms)
{
    for (struct turn *t = ts->shaking.head; t != NULL && now_ms - t->since_ms >= TURNS_STALL_MS; t = t->next)
        if ((ts->n_shaking >= TURNS_SLOTS && ts->in_line > 0) || (t->net->shaking >= TURNS_NET_SLOTS && t->net->in_line > 0))
            return t;
    return NULL;
}

void turns_spare(struct turns *ts, struct turn *t, int64_t now_ms)
{
    INVARIANT(t->place == TURN_SHAKING);
    list_cut(&ts->shaking, t);
    list_put(&ts->shaking, t);
    t->since_ms = now_ms;
}
