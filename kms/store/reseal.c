/* Rows of an older seal epoch, a page at a time. They are opened and sealed anew here, on the caller's thread; the writer only puts in
 * place what is still wanted (writer.c, reseal). */
#include "kms/store/internal.h"

#include <string.h>

enum { RESEAL_LOOK = 4096 /* rows looked at before the connection is another's turn */, RESEAL_PAGE_BYTES = 8 << 20,
       RESEAL_ARENA_BYTES = 1 << 20 };

struct page {
    struct store *s;
    struct store_reseal *at;
    struct store_txn *txn; /* NULL: they are only counted */
    uint32_t epoch;        /* the store's */
    uint64_t older;
    struct arena a;
    struct buf sealed;
};

static bool is_full(const struct page *p)
{
    return p->txn && (p->at->rows + p->at->broken >= p->at->limit || p->txn->data.n >= RESEAL_PAGE_BYTES);
}

static RESULT reseal_row(struct page *p, sqlite3_stmt *st, uint32_t epoch, struct err *e)
{
    struct record r;
    struct err why = {0};
    uint8_t tag[ENTRY_TAG_BYTES];
    arena_reset(&p->a);
    if (read_row(p->s, st, &p->a, &r, &why).failed) {
        p->at->broken += why.code == ERR_DATA_LOSS;
        if (why.code != ERR_DATA_LOSS)
            *e = why;
        return (struct result){why.code != ERR_DATA_LOSS};
    }
    tag_of(db_column_bytes(st, 9), tag);
    TRY(seal_record(&p->s->seal, p->epoch, &r, &p->sealed, e));
    txn_reseal(p->txn, &r, epoch, tag, p->epoch, buf_bytes(&p->sealed));
    p->at->rows++;
    return ok();
}

bool reseal_cursor(struct store_reseal *at, sqlite3_stmt *st)
{
    int64_t kind = sqlite3_column_int64(st, 0);
    struct bytes tenant = db_column_bytes(st, 1), id = db_column_bytes(st, 2);
    if (kind < 0 || kind > UINT16_MAX || tenant.n != sizeof at->tenant || id.n > sizeof at->id)
        return false;
    at->kind = (uint16_t)kind;
    memcpy(at->tenant, tenant.p, sizeof at->tenant);
    if (id.n)
        memcpy(at->id, id.p, id.n);
    at->id_n = id.n;
    return true;
}

static RESULT look(struct page *p, struct db *d, sqlite3_stmt *st, struct err *e)
{
    int rc = SQLITE_ROW;
    bool stands = true;
    for (unsigned n = 0; !stands || (n < RESEAL_LOOK && !is_full(p)); n++) {
        if ((rc = sqlite3_step(st)) != SQLITE_ROW)
            break;
        int64_t epoch = sqlite3_column_int64(st, 8);
        p->older += epoch < p->epoch;
        if (p->txn && epoch < p->epoch)
            TRY(reseal_row(p, st, (uint32_t)epoch, e));
        stands = reseal_cursor(p->at, st);
    }
    p->at->end = rc == SQLITE_DONE;
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? ok() : db_fail(d, rc, "read rows", e);
}

sqlite3_stmt *rows_behind(struct db *d, const struct store_reseal *at)
{
    const bool from_first = at->kind == 0 && at->id_n == 0;
    sqlite3_bind_int64(d->rows, 1, from_first ? INT64_MIN : at->kind);
    db_bind_bytes(d->rows, 2, BYTES(at->tenant, sizeof at->tenant));
    db_bind_bytes(d->rows, 3, BYTES(at->id, at->id_n));
    return d->rows;
}

/* Through as many rows as it takes, but no connection is kept for longer than RESEAL_LOOK of them. */
static RESULT look_on(struct page *p, struct err *e)
{
    struct result r = ok();
    arena_init(&p->a, RESEAL_ARENA_BYTES);
    buf_init(&p->sealed, STORE_BODY_MAX + SEAL_BYTES);
    p->epoch = store_seal_epoch(p->s);
    while (!r.failed && !p->at->end && !is_full(p)) {
        struct db *d = conn_take(p->s);
        struct store_reseal from = *p->at; /* what is bound stays as it is while the cursor moves */
        r = look(p, d, rows_behind(d, &from), e);
        sqlite3_reset(d->rows);
        conn_return(p->s, d);
    }
    arena_release(&p->a);
    buf_release(&p->sealed);
    return r;
}

RESULT store_reseal(struct store *s, struct store_reseal *at, struct store_txn *txn, struct err *e)
{
    struct page p = {.s = s, .at = at, .txn = txn};
    INVARIANT(txn && at->limit >= 1 && at->limit <= STORE_TXN_MAX / 2 && at->id_n <= sizeof at->id);
    at->rows = at->broken = 0;
    at->end = false;
    return look_on(&p, e);
}

RESULT store_reseal_count(struct store *s, uint64_t *ret, struct err *e)
{
    struct store_reseal from = {0};
    struct page p = {.s = s, .at = &from};
    TRY(look_on(&p, e));
    *ret = p.older;
    return ok();
}
