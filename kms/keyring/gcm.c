/* How often a key on the token has sealed. AES-256-GCM with random 96-bit nonces is good for 2^32 messages under one key (SP 800-38D,
 * section 8.3). REC_GCM says how many a version may have sealed: blocks are handed out *before* they are used, so that whoever dies loses
 * the rest of one and never uses a nonce that was not counted. From half the limit on, each block puts the version into the queue
 * (DUE_EXHAUSTION): its key rotates. Short of the limit nothing is sealed with it any more.
 *
 * An older store that is accepted does not know how many were handed out since. No other witness is asked: each counter is put to where
 * a few blocks are left, so that what is in use is replaced at its first message, and nothing is ever counted twice.
 *
 * REC_GCM: tenant's id, id = kvid; body: u8 format 1, u64 handed out; the count column is the same. */
#include "kms/keyring/internal.h"

#include <stdlib.h>
#include <string.h>

enum { GCM_FORMAT = 1, GCM_BUCKETS = 1024, GCM_BLOCK = 1 << 16 };
#define GCM_ROTATE_AT (UINT64_C(1) << 31)
#define GCM_END ((UINT64_C(1) << 32) - (UINT64_C(1) << 20)) /* short of it: what is handed out after an older store was accepted, */
#define GCM_REST (UINT64_C(8) * GCM_BLOCK)                    /* so much each time: the clock has to settle before a key rotates */

struct lease {
    struct lease *next;
    uint8_t kvid[FORMAT_KVID_BYTES];
    uint64_t left;
};
/* One lock, held over a commit once in GCM_BLOCK messages: those are on the slow lane, and a call on the token takes longer. */
struct gcm {
    pthread_mutex_t lock;
    struct lease *buckets[GCM_BUCKETS];
};

struct gcm *gcm_new(void)
{
    struct gcm *g = calloc(1, sizeof *g);
    INVARIANT(g != NULL);
    pthread_mutex_init(&g->lock, NULL);
    return g;
}

void gcm_free(struct gcm *g)
{
    if (g == NULL)
        return;
    for (size_t i = 0; i < GCM_BUCKETS; i++)
        for (struct lease *l = g->buckets[i], *next; l != NULL; l = next) {
            next = l->next;
            free(l);
        }
    pthread_mutex_destroy(&g->lock);
    free(g);
}

static void encode(uint64_t handed_out, struct buf *body)
{
    buf_put_u8(body, GCM_FORMAT);
    buf_put_u64(body, handed_out);
}

static RESULT decode(const struct record *r, uint64_t *ret, struct err *e)
{
    struct reader in = reader_of(r->body);
    const uint8_t format = reader_u8(&in);
    const uint64_t handed_out = reader_u64(&in);
    if (!reader_done(&in) || format != GCM_FORMAT || r->count != handed_out)
        FAIL(e, ERR_DATA_LOSS, "RECORD_MALFORMED", "a counter of nonces is not ours");
    *ret = handed_out;
    return ok();
}

static void put(struct store_txn *txn, const uint8_t tenant[16], const uint8_t kvid[FORMAT_KVID_BYTES], uint64_t handed_out,
                uint64_t expected)
{
    CLEANUP(buf_release) struct buf body;
    buf_init(&body, 16);
    encode(handed_out, &body);
    struct record r = {.kind = REC_GCM, .id = BYTES(kvid, FORMAT_KVID_BYTES), .count = handed_out, .body = buf_bytes(&body)};
    memcpy(r.tenant, tenant, sizeof r.tenant);
    store_txn_put(txn, &r, expected);
}

void gcm_begin(struct store_txn *txn, const uint8_t tenant[16], const uint8_t kvid[FORMAT_KVID_BYTES])
{
    put(txn, tenant, kvid, GCM_BLOCK, STORE_ABSENT); /* the check message is the first that the key seals */
}

void gcm_end(struct store_txn *txn, const uint8_t tenant[16], const uint8_t kvid[FORMAT_KVID_BYTES])
{
    store_txn_delete(txn, REC_GCM, tenant, BYTES(kvid, FORMAT_KVID_BYTES), STORE_ANY);
}

RESULT gcm_read(struct keyring *k, const uint8_t tenant[16], const uint8_t kvid[FORMAT_KVID_BYTES], uint64_t *ret, uint64_t *ret_revision,
                struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    struct record r;
    struct err why = {0};
    arena_init(&a, 65536);
    if (store_get(k->store, REC_GCM, tenant, BYTES(kvid, FORMAT_KVID_BYTES), &a, &r, &why).failed) {
        if (why.code == ERR_NOT_FOUND) /* without it nobody knows how many nonces were used: none, then */
            FAIL(e, ERR_DATA_LOSS, "KEY_COUNTER_ABSENT", "a version on the token has no counter");
        *e = why;
        return (struct result){1};
    }
    TRY(decode(&r, ret, e));
    *ret_revision = r.revision;
    return ok();
}

RESULT keyring_counter_as_unknown(struct record *r, struct buf *body, bool *ret_changed, struct err *e)
{
    uint64_t handed_out;
    TRY(decode(r, &handed_out, e));
    *ret_changed = handed_out < GCM_END - GCM_REST;
    if (!*ret_changed)
        return ok();
    encode(GCM_END - GCM_REST, body);
    r->count = GCM_END - GCM_REST;
    r->body = buf_bytes(body);
    return ok();
}

/* Under the lock. */
static struct lease *lease_of(struct gcm *g, const uint8_t kvid[FORMAT_KVID_BYTES])
{
    struct lease **at = &g->buckets[get_be16(kvid) % GCM_BUCKETS]; /* a kvid is random */
    for (; *at != NULL; at = &(*at)->next)
        if (memcmp((*at)->kvid, kvid, FORMAT_KVID_BYTES) == 0)
            return *at;
    *at = calloc(1, sizeof **at);
    INVARIANT(*at != NULL);
    memcpy((*at)->kvid, kvid, FORMAT_KVID_BYTES);
    return *at;
}

static RESULT next_block(struct keyring *k, const struct key_handle *h, struct err *e)
{
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(k->store);
    uint64_t handed_out, revision, seq;
    TRY(gcm_read(k, h->token->tenant, h->token->kvid, &handed_out, &revision, e));
    if (handed_out + GCM_BLOCK > GCM_END) {
        struct result r = err_set(e, ERR_STATE, "KEY_VERSION_EXHAUSTED", __FILE__, __LINE__, "version %u has sealed as much as it may",
                                  h->version);
        e->hint = "as many messages as AES-GCM with random nonces allows were sealed with this version: use a newer one";
        return r;
    }
    put(txn, h->token->tenant, h->token->kvid, handed_out + GCM_BLOCK, revision);
    if (handed_out + GCM_BLOCK >= GCM_ROTATE_AT)
        due_move(txn, DUE_EXHAUSTION, BYTES(h->name, h->name_n), 0, clock_wall_ns(k->clock));
    return store_txn_commit(txn, &seq, e);
}

RESULT gcm_take(struct keyring *k, const struct key_handle *h, struct err *e)
{
    struct gcm *g = k->gcm;
    pthread_mutex_lock(&g->lock);
    struct lease *l = lease_of(g, h->token->kvid);
    struct result r = l->left > 0 ? ok() : next_block(k, h, e);
    if (!r.failed)
        l->left = (l->left > 0 ? l->left : GCM_BLOCK) - 1;
    pthread_mutex_unlock(&g->lock);
    return r;
}
