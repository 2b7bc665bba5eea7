#include "vault/service/review.h"

#include "base/text.h"
#include "vault/service/admin.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { FORMAT_OLD = 1, FORMAT = 2, FLAG_REVIEWED = 1, FLAG_CLOSED = 2 };
static const uint8_t no_tenant[STORE_TENANT_BYTES];

const char *review_id(enum review_what what)
{
    return what == REVIEW_ROLLBACK ? STORE_ROLLBACK_ID : "recovery";
}

void review_note_put(const struct review_note *n, struct buf *out)
{
    buf_put_u8(out, FORMAT);
    buf_put_u8(out, (uint8_t)((n->reviewed ? FLAG_REVIEWED : 0) | (n->closed ? FLAG_CLOSED : 0)));
    buf_put_u64(out, (uint64_t)n->made_unix_ns);
    buf_put_u64(out, (uint64_t)n->until_unix_ns);
    buf_put_v16(out, bytes_str(n->reason));
    buf_put_v16(out, bytes_str(n->principal));
}

static RESULT parse(struct bytes body, struct review_note *ret, struct err *e)
{
    struct reader in = reader_of(body);
    struct review_note n = {0};
    uint8_t format = reader_u8(&in), flags = reader_u8(&in);
    bool known = format == FORMAT ? (flags & ~(FLAG_REVIEWED | FLAG_CLOSED)) == 0 : format == FORMAT_OLD && flags <= 1;
    n.reviewed = flags & FLAG_REVIEWED;
    n.closed = flags & FLAG_CLOSED;
    n.made_unix_ns = (int64_t)reader_u64(&in);
    if (format == FORMAT)
        n.until_unix_ns = (int64_t)reader_u64(&in);
    known &= text_copy(reader_v16(&in), n.reason, sizeof n.reason);
    if (format == FORMAT)
        known &= text_copy(reader_v16(&in), n.principal, sizeof n.principal);
    if (!known || !reader_done(&in))
        FAIL(e, ERR_DATA_LOSS, "RECORD_MALFORMED", "a note that is to be reviewed is not ours");
    *ret = n;
    return ok();
}

RESULT review_note_get(struct store *s, enum review_what what, struct review_note *ret, uint64_t *ret_revision, struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    struct record r;
    arena_init(&a, 65536);
    TRY(store_get(s, REC_META, no_tenant, bytes_str(review_id(what)), &a, &r, e));
    *ret_revision = r.revision;
    return parse(r.body, ret, e);
}

static RESULT due(struct store *s, enum review_what what, struct review_note *ret, uint64_t *ret_revision, struct err *e)
{
    struct err why = {0};
    bool found = !review_note_get(s, what, ret, ret_revision, &why).failed;
    if (!found && why.code != ERR_NOT_FOUND) {
        *e = why;
        return (struct result){1};
    }
    if (found && !ret->reviewed)
        return ok();
    if (what == REVIEW_ROLLBACK)
        FAIL(e, ERR_NOT_FOUND, "NO_ROLLBACK", "there is no accepted rollback to be reviewed");
    FAIL(e, ERR_NOT_FOUND, "NO_RECOVERY", "there is no recovery administrator to be reviewed");
}

RESULT review_add(struct store *s, enum review_what what, struct store_txn *txn, struct review_note *ret, struct err *e)
{
    CLEANUP(buf_release) struct buf body;
    uint64_t revision;
    buf_init(&body, sizeof *ret + 64);
    TRY(due(s, what, ret, &revision, e));
    struct review_note done = *ret;
    done.reviewed = true;
    review_note_put(&done, &body);
    struct record r = {.kind = REC_META, .id = bytes_str(review_id(what)), .time_unix_ns = done.made_unix_ns, .body = buf_bytes(&body)};
    store_txn_put(txn, &r, revision);
    store_txn_urgent(txn); /* what was ended by it must not come back with an older copy of the store */
    return what == REVIEW_RECOVERY ? admin_principal_end(s, bytes_str(done.principal), txn, e) : ok();
}

/* ---- what is due now ---- */
struct reviews {
    pthread_mutex_t lock;
    bool due[REVIEW_KINDS];
    struct review_note note[REVIEW_KINDS];
    atomic_bool closed;
};

RESULT reviews_load(struct store *s, struct reviews **ret, struct err *e)
{
    struct reviews *r = calloc(1, sizeof *r);
    INVARIANT(r != NULL);
    pthread_mutex_init(&r->lock, NULL);
    for (int i = 0; i < REVIEW_KINDS; i++) {
        struct err why = {0};
        uint64_t revision;
        r->due[i] = !due(s, (enum review_what)(i + 1), &r->note[i], &revision, &why).failed;
        if (r->due[i] || why.code == ERR_NOT_FOUND)
            continue;
        reviews_free(r);
        *e = why;
        return (struct result){1};
    }
    atomic_store(&r->closed, r->due[REVIEW_ROLLBACK - 1] && r->note[REVIEW_ROLLBACK - 1].closed);
    *ret = r;
    return ok();
}

void reviews_free(struct reviews *r)
{
    if (r == NULL)
        return;
    pthread_mutex_destroy(&r->lock);
    free(r);
}

void reviews_done(struct reviews *r, enum review_what what)
{
    pthread_mutex_lock(&r->lock);
    r->due[what - 1] = false;
    pthread_mutex_unlock(&r->lock);
    if (what == REVIEW_ROLLBACK)
        atomic_store(&r->closed, false);
}

bool reviews_due(struct reviews *r, enum review_what what, struct review_note *ret)
{
    pthread_mutex_lock(&r->lock);
    bool is = r->due[what - 1];
    if (is)
        *ret = r->note[what - 1];
    pthread_mutex_unlock(&r->lock);
    return is;
}

bool reviews_closed(const struct reviews *r)
{
    return atomic_load_explicit(&r->closed, memory_order_acquire);
}
