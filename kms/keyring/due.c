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

void due_move(struct store_txn *txn, enum due_what what, struct bytes name, int64_t from_ns, int64_t to_ns)
{
    static const uint8_t no_tenant[STORE_TENANT_BYTES];
    uint8_t id[DUE_ID_BYTES];
    if (from_ns == to_ns)
        return;
    if (from_ns > 0) {
        due_id(&(struct due){what, from_ns, name}, id);
        store_txn_delete(txn, REC_DUE, no_tenant, BYTES(id, sizeof id), STORE_ANY);
    }
    if (to_ns == 0)
        return;
    CLEANUP(buf_release) struct buf body;
    buf_init(&body, STORE_NAME_MAX + 16);
    buf_put_u8(&body, DUE_FORMAT);
    buf_put_u8(&body, (uint8_t)what);
    buf_put_v16(&body, name);
    due_id(&(struct due){what, to_ns, name}, id);
    struct record r = {.kind = REC_DUE, .id = BYTES(id, sizeof id), .time_unix_ns = to_ns, .body = buf_bytes(&body)};
    INVARIANT(!body.overflow);
    store_txn_put(txn, &r, STORE_ANY);
}

static RESULT parse(const struct record *r, struct due *ret, struct err *e)
{
    struct reader in = reader_of(r->body);
    const uint8_t format = reader_u8(&in);
    uint8_t id[DUE_ID_BYTES];
    *ret = (struct due){.what = (enum due_what)reader_u8(&in), .at_ns = r->time_unix_ns, .name = reader_v16(&in)};
    if (!reader_done(&in) || format != DUE_FORMAT || ret->at_ns <= 0)
        FAIL(e, ERR_DATA_LOSS, "RECORD_MALFORMED", "a row of what is due is not ours");
    due_id(ret, id);
    if (!bytes_equal(r->id, BYTES(id, sizeof id)))
        FAIL(e, ERR_DATA_LOSS, "RECORD_MALFORMED", "a row of what is due names something else than its id");
    return ok();
}

RESULT due_read(struct store *s, struct bytes after_id, int64_t until_ns, size_t limit, struct arena *a, struct due **ret,
                size_t *ret_n, struct err *e)
{
    const struct store_scan q = {.kind = REC_DUE, .after = after_id, .limit = limit};
    struct record *rows;
    size_t n;
    TRY(store_scan(s, &q, a, &rows, &n, e));
    *ret = arena_zalloc(a, (n + 1) * sizeof **ret);
    if (*ret == NULL)
        FAIL(e, ERR_EXHAUSTED, "CALL_MEMORY", "what is due does not fit the memory given");
    for (*ret_n = 0; *ret_n < n; (*ret_n)++) {
        TRY(parse(&rows[*ret_n], &(*ret)[*ret_n], e));
        if ((*ret)[*ret_n].at_ns > until_ns)
            break;
    }
    return ok();
}
