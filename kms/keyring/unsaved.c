#include "kms/keyring/unsaved.h"

#include <stdlib.h>
#include <string.h>

enum { UNSAVED_FORMAT = 1, PAGE = 512, PAGE_ARENA = 1 << 20 };
static const uint8_t no_tenant[STORE_TENANT_BYTES];

void unsaved_put(struct store_txn *txn, const uint8_t kvid[HSM_KVID_BYTES], int64_t made_ns)
{
    static const uint8_t body[] = {UNSAVED_FORMAT};
    const struct record r = {.kind = REC_UNSAVED, .id = BYTES(kvid, HSM_KVID_BYTES), .time_unix_ns = made_ns, .body = BYTES(body, sizeof body)};
    store_txn_put(txn, &r, STORE_ABSENT);
}

void unsaved_drop(struct store_txn *txn, const uint8_t kvid[HSM_KVID_BYTES])
{
    store_txn_delete(txn, REC_UNSAVED, no_tenant, BYTES(kvid, HSM_KVID_BYTES), STORE_ANY);
}

void unsaved_release(struct unsaved *u)
{
    free(u->kvid);
    *u = (struct unsaved){0};
}

static RESULT take(struct unsaved *u, const struct record *rows, size_t n, struct err *e)
{
    u->kvid = reallocarray(u->kvid, u->n + n, sizeof *u->kvid);
    INVARIANT(u->kvid != NULL || u->n + n == 0);
    for (size_t i = 0; i < n; i++) {
        const struct record *r = &rows[i];
        if (r->id.n != HSM_KVID_BYTES || r->body.n != 1 || r->body.p[0] != UNSAVED_FORMAT || u->n == HSM_KEYS_MAX)
            FAIL(e, ERR_DATA_LOSS, "RECORD_MALFORMED", "a row of what no backup has yet is not ours");
        memcpy(u->kvid[u->n++], r->id.p, HSM_KVID_BYTES);
    }
    return ok();
}

static RESULT read_all(struct store *s, struct unsaved *u, struct err *e)
{
    struct store_scan q = {.kind = REC_UNSAVED, .limit = PAGE};
    size_t n = PAGE;
    while (n == PAGE) {
        CLEANUP(arena_release) struct arena a;
        struct record *rows;
        arena_init(&a, PAGE_ARENA);
        if (u->n > 0)
            q.after = BYTES(u->kvid[u->n - 1], HSM_KVID_BYTES);
        TRY(store_scan(s, &q, &a, &rows, &n, e));
        if (n > 0)
            TRY(take(u, rows, n, e));
    }
    return ok();
}

RESULT unsaved_read(struct store *s, struct unsaved *ret, struct err *e)
{
    *ret = (struct unsaved){0};
    if (!read_all(s, ret, e).failed)
        return ok();
    unsaved_release(ret);
    return (struct result){1};
}

RESULT unsaved_count(struct store *s, uint64_t *ret, struct err *e)
{
    return store_count(s, REC_UNSAVED, no_tenant, (struct bytes){0}, ret, e);
}
