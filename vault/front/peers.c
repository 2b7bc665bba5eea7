#include "vault/front/peers.h"

#include "base/err.h"
#include "base/rng.h"
#include "vault/front/address.h"

#include <stdlib.h>

enum { PEERS_BUCKETS = 4096 };

struct peer {
    struct peer *next;
    struct peers *all;
    struct bucket fresh, undone; /* undone may be overdrawn */
    int64_t barred_until_ms, struck_ms;
    uint32_t conns, strikes, streams, unfinished;
    struct address_key key;
};
struct peers {
    struct peer *buckets[PEERS_BUCKETS];
    uint64_t salt;
    uint32_t n, max_per_peer, max_streams, streams, unfinished; /* of all */
};

static const struct bucket_limit fresh_limit = {.burst = PEERS_NEW_BURST, .per_s = PEERS_NEW_PER_S};
static const struct bucket_limit undone_limit = {.burst = PEERS_UNDONE_BURST, .per_s = PEERS_UNDONE_PER_S};

struct peers *peers_new(uint32_t max_per_peer, uint32_t max_streams)
{
    struct peers *ps = calloc(1, sizeof *ps);
    INVARIANT(ps != NULL);
    ps->max_per_peer = max_per_peer;
    ps->max_streams = max_streams;
    rng_fill(&rng_system, &ps->salt, sizeof ps->salt);
    return ps;
}

void peers_free(struct peers *ps)
{
    if (ps == NULL)
        return;
    for (size_t i = 0; i < PEERS_BUCKETS; i++) {
        for (struct peer *p = ps->buckets[i], *next; p != NULL; p = next) {
            next = p->next;
            free(p);
        }
    }
    free(ps);
}

static size_t slot_of(const struct peers *ps, const struct address_key *key)
{
    return address_key_hash(key, ps->salt) % PEERS_BUCKETS;
}

static bool forgettable(const struct peer *p, int64_t now_ms)
{
    return p->conns == 0 && (p->strikes == 0 || now_ms - p->struck_ms >= PEERS_FORGET_MS);
}

/* Drops what there is no more to remember about in one chain; the budgets may go with it, once refilled. */
static void sweep(struct peers *ps, size_t slot, int64_t now_ms)
{
    for (struct peer **at = &ps->buckets[slot]; *at != NULL;) {
        struct peer *p = *at;
        bucket_refill(&p->fresh, &fresh_limit, now_ms);
        bucket_refill(&p->undone, &undone_limit, now_ms);
        bool full = p->fresh.milli >= (int64_t)PEERS_NEW_BURST * 1000 && p->undone.milli >= (int64_t)PEERS_UNDONE_BURST * 1000;
        if (!forgettable(p, now_ms) || !full) {
            at = &p->next;
            continue;
        }
        *at = p->next;
        free(p);
        ps->n--;
    }
}

static struct peer *find_or_add(struct peers *ps, const struct address_key *key, int64_t now_ms)
{
    size_t slot = slot_of(ps, key);
    for (struct peer *p = ps->buckets[slot]; p != NULL; p = p->next)
        if (address_key_equal(&p->key, key))
            return p;
    sweep(ps, slot, now_ms);
    for (size_t i = 0; ps->n >= PEERS_MAX && i < PEERS_BUCKETS; i++)
        sweep(ps, i, now_ms);
    struct peer *p = ps->n >= PEERS_MAX ? NULL : calloc(1, sizeof *p);
    if (p == NULL)
        return NULL;
    bucket_init(&p->fresh, &fresh_limit, now_ms);
    bucket_init(&p->undone, &undone_limit, now_ms);
    p->key = *key;
    p->all = ps;
    p->next = ps->buckets[slot];
    ps->buckets[slot] = p;
    ps->n++;
    return p;
}

static bool overdrawn(struct peer *p, int64_t now_ms)
{
    bucket_refill(&p->undone, &undone_limit, now_ms);
    return p->undone.milli < 0;
}

enum peers_verdict peers_join(struct peers *ps, const struct sockaddr_storage *addr, int64_t now_ms, struct peer **ret)
{
    const struct address_key key = address_key_of(addr, 4, 8);
    struct peer *p = find_or_add(ps, &key, now_ms);
    int64_t wait_ms;
    if (p == NULL)
        return PEERS_TABLE_FULL;
    if (now_ms < p->barred_until_ms)
        return PEERS_PENALISED;
    if (p->conns >= ps->max_per_peer)
        return PEERS_TOO_MANY;
    if (overdrawn(p, now_ms))
        return PEERS_UNDONE;
    if (!bucket_take(&p->fresh, &fresh_limit, now_ms, &wait_ms))
        return PEERS_TOO_FAST;
    p->conns++;
    *ret = p;
    return PEERS_OK;
}

void peers_leave(struct peers *ps, struct peer *p, int64_t now_ms)
{
    INVARIANT(p->conns > 0 && (p->conns > 1 || (p->streams == 0 && p->unfinished == 0)));
    p->conns--;
    if (p->conns == 0)
        sweep(ps, slot_of(ps, &p->key), now_ms);
}

void peers_penalise(struct peer *p, int64_t now_ms)
{
    if (p->strikes > 0 && now_ms - p->struck_ms >= PEERS_FORGET_MS)
        p->strikes = 0;
    int64_t ms = PEERS_PENALTY_FIRST_MS;
    for (uint32_t i = 0; i < p->strikes && ms < PEERS_PENALTY_MAX_MS; i++)
        ms *= 2;
    p->strikes++;
    p->struck_ms = now_ms;
    p->barred_until_ms = now_ms + (ms < PEERS_PENALTY_MAX_MS ? ms : PEERS_PENALTY_MAX_MS);
}

void peers_count(struct peer *p, int64_t now_ms, const struct peer_change *ch)
{
    int64_t floor = (int64_t)PEERS_UNDONE_BURST * -1000; /* 5 s of waiting, for whatever it did */
    int64_t streams = (int64_t)p->streams + ch->streams, unfinished = (int64_t)p->unfinished + ch->unfinished_bytes;
    INVARIANT(streams >= 0 && unfinished >= 0);
    p->streams = (uint32_t)streams;
    p->unfinished = (uint32_t)unfinished;
    p->all->streams += (uint32_t)ch->streams; /* modulo 2^32: a sum of what each has */
    p->all->unfinished += (uint32_t)ch->unfinished_bytes;
    bucket_refill(&p->undone, &undone_limit, now_ms);
    bucket_add(&p->undone, &undone_limit, (int64_t)ch->completed * 500 - (int64_t)ch->undone * 1000);
    if (p->undone.milli < floor)
        p->undone.milli = floor;
}

static uint32_t left(uint32_t of, uint32_t used)
{
    return used < of ? of - used : 0;
}

/* Its own limit and that of all, but for the least that each may have. */
static uint32_t room(uint32_t own, uint32_t all, uint32_t least)
{
    uint32_t shared = all > least ? all : least;
    return own < shared ? own : shared;
}

uint32_t peers_stream_room(struct peer *p, int64_t now_ms)
{
    if (overdrawn(p, now_ms))
        return 0;
    return room(left(PEERS_STREAMS, p->streams), left(p->all->max_streams, p->all->streams), left(PEERS_LEAST_STREAMS, p->streams));
}

uint32_t peers_unfinished_room(const struct peer *p)
{
    return room(left(PEERS_UNFINISHED_BYTES, p->unfinished), left(PEERS_ALL_UNFINISHED_BYTES, p->all->unfinished),
                left(PEERS_LEAST_UNFINISHED_BYTES, p->unfinished));
}

const char *peers_verdict_text(enum peers_verdict v)
{
    switch (v) {
    case PEERS_OK:
        return "ok";
    case PEERS_TOO_MANY:
        return "too many connections of this address";
    case PEERS_TOO_FAST:
        return "too many new connections of this address";
    case PEERS_PENALISED:
        return "this address was cut off a moment ago";
    case PEERS_UNDONE:
        return "too many calls of this address left undone";
    case PEERS_TABLE_FULL:
        return "too many addresses";
    }
    return "?";
}
