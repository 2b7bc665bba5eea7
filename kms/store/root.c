#include "kms/crypto/hmac.h"
#include "kms/crypto/nonce.h"
#include "kms/store/internal.h"

#include <stdlib.h>
#include <string.h>

enum { ROOT_FORMAT = 1 };

void fresh_init(struct fresh *f)
{
    *f = (struct fresh){.tree = tree_new(), .overlay = overlay_new()};
    INVARIANT(pthread_mutex_init(&f->commit, NULL) == 0);
}

void fresh_release(struct fresh *f)
{
    tree_free(f->tree);
    overlay_free(f->overlay);
    secret_free(f->key);
    secret_free(f->hash_states);
    pthread_mutex_destroy(&f->commit);
}

static RESULT take_key(struct fresh *f, struct bytes key, struct err *e)
{
    secret_free(f->key);
    secret_free(f->hash_states);
    f->key = f->hash_states = NULL;
    TRY(secret_from(key.p, key.n, &f->key, e));
    TRY(secret_new(HMAC_STATES_BYTES, &f->hash_states, e));
    hmac_states_init(key, secret_borrow_mut(f->hash_states));
    return ok();
}

RESULT fresh_new_key(struct fresh *f, struct err *e)
{
    uint8_t key[FRESH_KEY_BYTES];
    nonce_fill(key, sizeof key);
    struct result r = take_key(f, BYTES(key, sizeof key), e);
    wipe(key, sizeof key);
    return r;
}

RESULT fresh_write_root(struct store *s, struct db *d, const struct root *r, struct bytes entries, struct err *e)
{
    CLEANUP(buf_release) struct buf body;
    buf_init(&body, 256);
    buf_put_u8(&body, ROOT_FORMAT);
    buf_put_u64(&body, r->epoch);
    buf_put_u64(&body, r->outbox_last);
    buf_put(&body, r->tree, sizeof r->tree);
    buf_put_u8(&body, r->anchor_place);
    buf_put(&body, secret_borrow(s->fresh.key), FRESH_KEY_BYTES);
    TRY(seal_note(&s->seal, r->seal, NOTE_ROOT, buf_bytes(&body), &s->scratch, e));
    sqlite3_bind_int64(d->root_put, 1, (sqlite3_int64)r->epoch);
    sqlite3_bind_int64(d->root_put, 2, r->seal);
    db_bind_bytes(d->root_put, 3, buf_bytes(&s->scratch));
    db_bind_bytes(d->root_put, 4, entries);
    return db_run(d, d->root_put, e);
}

static RESULT parse_root(struct store *s, struct bytes body, struct root *ret, struct err *e)
{
    struct reader in = reader_of(body);
    struct root r = {0};
    uint8_t format = reader_u8(&in);
    r.epoch = reader_u64(&in);
    r.outbox_last = reader_u64(&in);
    reader_copy(&in, r.tree, sizeof r.tree);
    r.anchor_place = reader_u8(&in);
    struct bytes key = reader_take(&in, FRESH_KEY_BYTES);
    if (format != ROOT_FORMAT || !reader_done(&in))
        FAIL(e, ERR_DATA_LOSS, "STORE_STALE", "the root record is not of this program's form");
    TRY(take_key(&s->fresh, key, e));
    *ret = r;
    return ok();
}

static RESULT open_root(struct store *s, sqlite3_stmt *st, struct root *ret, struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    struct bytes body = {0};
    struct err why = {0};
    arena_init(&a, 65536);
    int64_t epoch = sqlite3_column_int64(st, 0);
    uint32_t known = epoch < 0 || epoch > UINT32_MAX ? 0 : (uint32_t)epoch;
    if (seal_open_note(&s->seal, known, NOTE_ROOT, db_column_bytes(st, 1), &a, &body, &why).failed) {
        if (why.code != ERR_DATA_LOSS) {
            *e = why; /* the HSM is away: nothing is known about the store */
            return (struct result){1};
        }
        FAIL(e, ERR_DATA_LOSS, "STORE_STALE", "the root record does not open: it was edited, or is of another store (%s)", why.detail);
    }
    TRY(parse_root(s, body, ret, e));
    ret->seal = known;
    return ok();
}

RESULT fresh_read_root(struct store *s, struct db *d, struct root *ret, struct err *e)
{
    sqlite3_stmt *st = NULL;
    TRY(db_prepare(d, "SELECT seal, body FROM root ORDER BY epoch DESC LIMIT 1", &st, e));
    int rc = sqlite3_step(st);
    struct result r = rc == SQLITE_ROW ? open_root(s, st, ret, e) : rc == SQLITE_DONE
        ? err_set(e, ERR_DATA_LOSS, "STORE_STALE", __FILE__, __LINE__, "the root record is gone")
        : db_fail(d, rc, "read root", e);
    sqlite3_finalize(st);
    return r;
}

RESULT fresh_load_leaves(struct store *s, struct db *d, struct err *e)
{
    sqlite3_stmt *st = NULL;
    int rc;
    struct result r = ok();
    TRY(db_prepare(d, "SELECT n, digest FROM bucket", &st, e));
    while (!r.failed && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        int64_t n = sqlite3_column_int64(st, 0);
        struct bytes digest = db_column_bytes(st, 1);
        if (n < 0 || n >= TREE_LEAVES || digest.n != TREE_DIGEST_BYTES)
            r = err_set(e, ERR_DATA_LOSS, "STORE_STALE", __FILE__, __LINE__, "bucket %lld is not of ours", (long long)n);
        else
            tree_load(s->fresh.tree, (uint32_t)n, digest.p);
    }
    if (!r.failed && rc != SQLITE_DONE)
        r = db_fail(d, rc, "read buckets", e);
    sqlite3_finalize(st);
    return r;
}

RESULT fresh_check_seal(const struct store *s, struct err *e)
{
    if (s->fresh.root.seal != s->seal.epoch)
        FAIL(e, ERR_DATA_LOSS, "STORE_STALE", "the store's identity is of seal epoch %u, its root of %u: one of them was put back",
             s->seal.epoch, s->fresh.root.seal);
    return ok();
}

RESULT fresh_load(struct store *s, struct db *d, struct err *e)
{
    uint8_t tree[TREE_DIGEST_BYTES];
    TRY(fresh_read_root(s, d, &s->fresh.root, e));
    TRY(fresh_check_seal(s, e));
    TRY(fresh_load_leaves(s, d, e));
    TRY(overlay_replay(s, d, e));
    tree_rebuild(s->fresh.tree);
    tree_root(s->fresh.tree, tree);
    if (!bytes_ct_equal(tree, s->fresh.root.tree, sizeof tree))
        FAIL(e, ERR_DATA_LOSS, "STORE_STALE",
             "the buckets are not those of epoch %llu, which the root names: a part of the store was edited or put back; see kmsd fsck",
             (unsigned long long)s->fresh.root.epoch);
    atomic_store(&s->fresh.seal, s->fresh.root.seal);
    atomic_store(&s->fresh.epoch, s->fresh.root.epoch);
    return ok();
}
