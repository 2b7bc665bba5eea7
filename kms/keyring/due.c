#include "kms/keyring/due.h"

#include "kms/crypto/kdf.h"

#include <string.h>

enum { DUE_FORMAT = 1 };

void due_id(const struct due *d, uint8_t out[DUE_ID_BYTES])
{
    uint8_t hash[32];
    INVARIANT(d->at_ns > 0);
    sha256(&d->name, 1, hash);
    put_be64(out, (uint64_t)d->at_ns);
    out[8] = (uint8_t)d->what;
    memcpy(out + 9, hash, DUE_ID_BYTES - 9);
}

static const uint8_t no_tenant[STORE_TENANT_BYTES];

static void take_out(struct store_txn *txn, const struct due *d)
{
    uint8_t id[DUE_ID_BYTES];
    due_id(d, id);
    store_txn_delete(txn, REC_DUE, no_tenant, BYTES(id, sizeof id), STORE_ANY);
}

static void put_in(struct store_txn *txn, const struct due *d)
{
    uint8_t id[DUE_ID_BYTES];
    CLEANUP(buf_release) struct buf body;
    buf_init(&body, STORE_NAME_MAX + 16);
    buf_put_u8(&body, DUE_FORMAT);
    buf_put_u8(&body, (uint8_t)d->what);
    buf_put_u8(&body, d->tries);
    buf_put_v16(&body, d->name);
    INVARIANT(!body.overflow);
    due_id(d, id);
    const struct record r = {.kind = REC_DUE, .id = BYTES(id, sizeof id), .time_unix_ns = d->at_ns, .body = buf_bytes(&body)};
    store_txn_put(txn, &r, STORE_ANY);
}

void due_move(struct store_txn *txn, enum due_what what, struct bytes name, int64_t from_ns, int64_t to_ns)
{
    if (from_ns == to_ns)
        return;
    if (from_ns > 0)
        take_out(txn, &(struct due){.what = what, .at_ns = from_ns, .name = name});
    if (to_ns > 0)
        put_in(txn, &(struct due){.what = what, .at_ns = to_ns, .name = name});
}

void due_put_off(struct store_txn *txn, const struct due *d, int64_t now_ns)
{
    int64_t wait_s = 2;
    for (uint8_t i = 0; i < d->tries && wait_s < DUE_RETRY_MAX_S; i++)
        wait_s *= 2;
    if (wait_s > DUE_RETRY_MAX_S)
        wait_s = DUE_RETRY_MAX_S;
    take_out(txn, d);
    put_in(txn, &(struct due){.what = d->what, .at_ns = now_ns + wait_s * 1000000000, .name = d->name,
                             .tries = d->tries < UINT8_MAX ? (uint8_t)(d->tries + 1) : UINT8_MAX});
}

RESULT due_drop(struct store *s, const struct due *d, struct err *e)
{
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(s);
    uint64_t seq;
    take_out(txn, d);
    return store_txn_commit(txn, &seq, e);
}

RESULT due_drop_gone(struct store *s, const struct due *d, const struct err *why, struct err *e)
{
    if (why->code == ERR_NOT_FOUND)
        return due_drop(s, d, e);
    *e = *why;
    return (struct result){1};
}

static RESULT parse(const struct record *r, struct due *ret, struct err *e)
{
    struct reader in = reader_of(r->body);
    const uint8_t format = reader_u8(&in);
    uint8_t id[DUE_ID_BYTES];
    *ret = (struct due){.what = (enum due_what)reader_u8(&in), .at_ns = r->time_unix_ns, .id = r->id};
    ret->tries = reader_u8(&in);
    ret->name = reader_v16(&in);
    if (!reader_done(&in) || format != DUE_FORMAT || ret->at_ns <= 0)
        FAIL(e, ERR_DATA_LOSS, "RECORD_MALFORMED", "a row of what is due is not ours");
    due_id(ret, id);
    if (!bytes_equal(r->id, BYTES(id, sizeof id)))
        FAIL(e, ERR_DATA_LOSS, "RECORD_MALFORMED", "a row of what is due names something else than its id");
    return ok();
}

static void parse_or_mark(const struct record *r, struct due *ret)
{
    struct err why = {0};
    if (r->body.p == NULL || parse(r, ret, &why).failed)
        *ret = (struct due){.broken = true, .id = r->id};
}

static RESULT read(struct store *s, const struct store_scan *q, int64_t until_ns, struct arena *a, struct due **ret, size_t *ret_n,
                   struct err *e)
{
    struct record *rows;
    size_t n;
    TRY(store_scan(s, q, a, &rows, &n, e));
    *ret = arena_zalloc(a, (n + 1) * sizeof **ret);
    if (*ret == NULL)
        FAIL(e, ERR_EXHAUSTED, "CALL_MEMORY", "what is due does not fit the memory given");
    for (*ret_n = 0; *ret_n < n; (*ret_n)++) {
        struct due *d = &(*ret)[*ret_n];
        if (q->with_broken)
            parse_or_mark(&rows[*ret_n], d);
        else
            TRY(parse(&rows[*ret_n], d, e));
        if (d->at_ns > until_ns)
            break;
    }
    return ok();
}

RESULT due_read(struct store *s, struct bytes after_id, int64_t until_ns, size_t limit, struct arena *a, struct due **ret,
                size_t *ret_n, struct err *e)
{
    return read(s, &(struct store_scan){.kind = REC_DUE, .after = after_id, .limit = limit}, until_ns, a, ret, ret_n, e);
}

RESULT due_look(struct store *s, struct bytes after_id, int64_t until_ns, size_t limit, struct arena *a, struct due **ret,
                size_t *ret_n, struct err *e)
{
    return read(s, &(struct store_scan){.kind = REC_DUE, .after = after_id, .limit = limit, .with_broken = true}, until_ns, a, ret, ret_n, e);
}
