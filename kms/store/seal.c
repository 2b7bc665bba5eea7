#include "kms/store/internal.h"

#include <string.h>

enum { AAD_MAX = 1024 };

void seal_init(struct seal *s, const struct store_options *o)
{
    pthread_rwlockattr_t writers_first;
    *s = (struct seal){.store_key = o->store_key, .user = o->user};
    atomic_store(&s->epoch, o->epoch);
    atomic_store(&s->newest, o->epoch);
    /* Keys are used all the time: who adds one must not wait until nobody does. Nobody holds it twice. */
    pthread_rwlockattr_init(&writers_first);
    pthread_rwlockattr_setkind_np(&writers_first, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    INVARIANT(pthread_mutex_init(&s->asking, NULL) == 0 && pthread_rwlock_init(&s->lock, &writers_first) == 0);
    pthread_rwlockattr_destroy(&writers_first);
}

static void free_keys(struct seal_keys *k)
{
    aead_key_free(k->record);
    aead_key_free(k->outbox);
    aead_key_free(k->note);
}

void seal_release(struct seal *s)
{
    for (size_t i = 0; i < s->n; i++)
        free_keys(&s->keys[i]);
    s->n = 0;
    pthread_mutex_destroy(&s->asking);
    pthread_rwlock_destroy(&s->lock);
}

static RESULT derive_area(const struct secret *store_key, struct bytes area, struct aead_key **ret, struct err *e)
{
    struct bytes fields[2] = {area, {0}};
    return aead_key_derive(store_key, KDF_STORE, fields, 2, 1, ret, e);
}

/* "Not found" is about a secret here; further up it would be taken for "no such row". */
static RESULT ask_token(struct seal *s, uint32_t epoch, struct secret **ret, struct err *e)
{
    struct err why = {0};
    if (!s->store_key(s->user, epoch, ret, &why).failed)
        return ok();
    if (why.code == ERR_NOT_FOUND)
        FAIL(e, ERR_DATA_LOSS, "SEAL_ABSENT", "the seal secret of epoch %u is not on the token: what is sealed under it cannot be opened",
             epoch);
    *e = why;
    return (struct result){1};
}

static RESULT derive_epoch(struct seal *s, uint32_t epoch, struct seal_keys *ret, struct err *e)
{
    CLEANUP(secret_freep) struct secret *store_key = NULL;
    CLEANUP(aead_key_freep) struct aead_key *record = NULL;
    CLEANUP(aead_key_freep) struct aead_key *outbox = NULL;
    CLEANUP(aead_key_freep) struct aead_key *note = NULL;
    TRY(ask_token(s, epoch, &store_key, e));
    TRY(derive_area(store_key, BYTES_LIT("record"), &record, e));
    TRY(derive_area(store_key, BYTES_LIT("outbox"), &outbox, e));
    TRY(derive_area(store_key, BYTES_LIT("note"), &note, e));
    *ret = (struct seal_keys){.epoch = epoch, .record = record, .outbox = outbox, .note = note};
    record = outbox = note = NULL;
    return ok();
}

static const struct seal_keys *find_epoch(const struct seal *s, uint32_t epoch)
{
    for (size_t i = 0; i < s->n; i++) {
        if (s->keys[i].epoch == epoch)
            return &s->keys[i];
    }
    return NULL;
}

/* Rows of many epochs are nobody's doing but an editor's of the file: the oldest makes room. What is sealed under now is never it. */
static struct seal_keys *room(struct seal *s)
{
    if (s->n < STORE_EPOCHS_MAX)
        return &s->keys[s->n++];
    struct seal_keys *oldest = &s->keys[0];
    for (size_t i = 1; i < s->n; i++)
        oldest = s->keys[i].epoch < oldest->epoch ? &s->keys[i] : oldest;
    free_keys(oldest);
    return oldest;
}

/* After store_seal_prove nothing of an earlier epoch is left: a row that says so was put back, or has been sealed anew since it was read. */
static RESULT outlived(uint32_t epoch, struct err *e)
{
    FAIL(e, ERR_DATA_LOSS, "STORE_STALE", "of seal epoch %u, of which nothing was left: put back from before", epoch);
}

RESULT seal_have(struct seal *s, uint32_t epoch, struct err *e)
{
    struct seal_keys made = {0};
    /* The token is asked without the lock of the table: a commit needs that, and must not wait for the HSM. */
    pthread_mutex_lock(&s->asking);
    pthread_rwlock_rdlock(&s->lock);
    bool there = find_epoch(s, epoch) != NULL;
    pthread_rwlock_unlock(&s->lock);
    struct result r = there ? ok() : epoch < s->oldest ? outlived(epoch, e) : derive_epoch(s, epoch, &made, e);
    if (!r.failed && !there) {
        pthread_rwlock_wrlock(&s->lock);
        *room(s) = made;
        pthread_rwlock_unlock(&s->lock);
    }
    pthread_mutex_unlock(&s->asking);
    return r;
}

void seal_forget(struct seal *s, uint32_t below)
{
    size_t kept = 0;
    /* First nothing is asked for any more, then it goes: nobody brings it back. */
    pthread_mutex_lock(&s->asking);
    if (below > s->oldest)
        atomic_store(&s->oldest, below);
    pthread_rwlock_wrlock(&s->lock);
    for (size_t i = 0; i < s->n; i++) {
        if (s->keys[i].epoch < below)
            free_keys(&s->keys[i]);
        else
            s->keys[kept++] = s->keys[i];
    }
    s->n = kept;
    pthread_rwlock_unlock(&s->lock);
    pthread_mutex_unlock(&s->asking);
}

bool seal_holds(struct seal *s, uint32_t epoch)
{
    pthread_rwlock_rdlock(&s->lock);
    bool there = find_epoch(s, epoch) != NULL;
    pthread_rwlock_unlock(&s->lock);
    return there;
}

/* Until pthread_rwlock_unlock: the key does not leave meanwhile. */
static RESULT hold(struct seal *s, uint32_t epoch, const struct seal_keys **ret, struct err *e)
{
    for (;;) {
        pthread_rwlock_rdlock(&s->lock);
        const struct seal_keys *k = find_epoch(s, epoch);
        if (k) {
            *ret = k;
            return ok();
        }
        pthread_rwlock_unlock(&s->lock);
        TRY(seal_have(s, epoch, e));
    }
}

/* Of a row or an event. The store has not come to a later epoch: such a number was written by somebody else, and must not reach the HSM. */
static RESULT check_epoch(const struct seal *s, uint32_t epoch, struct err *e)
{
    const uint32_t now = s->epoch;
    if (epoch == 0 || epoch > now)
        FAIL(e, ERR_DATA_LOSS, "RECORD_TAMPERED", "seal epoch %u, the store is at %u", epoch, now);
    return ok();
}

static void aad_head(const struct seal *s, uint32_t epoch, struct buf *aad)
{
    buf_put_u8(aad, SEAL_FORMAT);
    buf_put(aad, s->incarnation, sizeof s->incarnation);
    buf_put_u32(aad, epoch);
}

static void record_aad(const struct seal *s, uint32_t epoch, const struct record *r, struct buf *aad)
{
    aad_head(s, epoch, aad);
    buf_put_u16(aad, (uint16_t)r->kind);
    buf_put(aad, r->tenant, sizeof r->tenant);
    buf_put_v16(aad, r->id);
    buf_put_u64(aad, r->revision);
    buf_put_v16(aad, r->name);
    buf_put_u32(aad, r->state);
    buf_put_u64(aad, (uint64_t)r->time_unix_ns);
    buf_put_u64(aad, r->count);
    INVARIANT(!aad->overflow);
}

static void put_sealed(const struct aead_key *k, struct bytes aad, struct bytes plain, struct buf *out)
{
    const uint8_t format = SEAL_FORMAT;
    /* Room first, then the bytes in place: buf has no reserve call. */
    static const uint8_t zeros[4096];
    size_t need = SEAL_BYTES + plain.n;
    buf_reset(out);
    for (size_t left = need; left;) {
        size_t n = left < sizeof zeros ? left : sizeof zeros;
        buf_put(out, zeros, n);
        left -= n;
    }
    INVARIANT(!out->overflow);
    aead_seal(k, BYTES(&format, 1), aad, plain, out->p);
}

/* Whatever does not open was not written by us under these columns; the cause is for the log only. */
static RESULT open_into(const struct aead_key *k, struct bytes aad, struct bytes sealed, struct arena *a, struct bytes *ret,
                        const char *what, struct err *e)
{
    struct err why = {0};
    if (sealed.n < SEAL_BYTES || sealed.p[0] != SEAL_FORMAT)
        FAIL(e, ERR_DATA_LOSS, "RECORD_TAMPERED", "%s: %zu sealed bytes of unknown form", what, sealed.n);
    size_t n = sealed.n - SEAL_BYTES;
    uint8_t *plain = arena_alloc(a, n ? n : 1);
    if (!plain)
        FAIL(e, ERR_EXHAUSTED, NULL, "no room for %zu bytes", n);
    if (aead_open(k, SEAL_HEADER_BYTES, aad, sealed, plain, &why).failed)
        FAIL(e, ERR_DATA_LOSS, "RECORD_TAMPERED", "%s: does not open under its columns", what);
    *ret = BYTES(plain, n);
    return ok();
}

RESULT seal_record(struct seal *s, uint32_t epoch, const struct record *r, struct buf *out, struct err *e)
{
    const struct seal_keys *k = NULL;
    CLEANUP(buf_release) struct buf aad;
    buf_init(&aad, AAD_MAX);
    record_aad(s, epoch, r, &aad);
    TRY(hold(s, epoch, &k, e));
    put_sealed(k->record, buf_bytes(&aad), r->body, out);
    pthread_rwlock_unlock(&s->lock);
    return ok();
}

RESULT seal_open_record(struct seal *s, uint32_t epoch, struct record *r, struct bytes sealed, struct arena *a, struct err *e)
{
    const struct seal_keys *k = NULL;
    CLEANUP(buf_release) struct buf aad;
    buf_init(&aad, AAD_MAX);
    TRY(check_epoch(s, epoch, e));
    record_aad(s, epoch, r, &aad);
    TRY(hold(s, epoch, &k, e));
    struct result done = open_into(k->record, buf_bytes(&aad), sealed, a, &r->body, "record", e);
    pthread_rwlock_unlock(&s->lock);
    return done;
}

static void outbox_aad(const struct seal *s, uint32_t epoch, uint64_t seq, const uint8_t tenant[16], struct buf *aad)
{
    aad_head(s, epoch, aad);
    buf_put_u64(aad, seq);
    buf_put(aad, tenant, STORE_TENANT_BYTES);
    INVARIANT(!aad->overflow);
}

RESULT seal_outbox(struct seal *s, uint32_t epoch, uint64_t seq, const uint8_t tenant[16], struct bytes event, struct buf *out,
                   struct err *e)
{
    const struct seal_keys *k = NULL;
    CLEANUP(buf_release) struct buf aad;
    buf_init(&aad, AAD_MAX);
    outbox_aad(s, epoch, seq, tenant, &aad);
    TRY(hold(s, epoch, &k, e));
    put_sealed(k->outbox, buf_bytes(&aad), event, out);
    pthread_rwlock_unlock(&s->lock);
    return ok();
}

RESULT seal_open_outbox(struct seal *s, uint32_t epoch, struct outbox_event *ev, struct bytes sealed, struct arena *a,
                        struct err *e)
{
    const struct seal_keys *k = NULL;
    CLEANUP(buf_release) struct buf aad;
    buf_init(&aad, AAD_MAX);
    TRY(check_epoch(s, epoch, e));
    outbox_aad(s, epoch, ev->seq, ev->tenant, &aad);
    TRY(hold(s, epoch, &k, e));
    struct result done = open_into(k->outbox, buf_bytes(&aad), sealed, a, &ev->event, "outbox row", e);
    pthread_rwlock_unlock(&s->lock);
    return done;
}

/* A key for one use, not kept. */
static RESULT area_key(struct seal *s, uint32_t epoch, struct bytes area, struct aead_key **ret, struct err *e)
{
    CLEANUP(secret_freep) struct secret *store_key = NULL;
    TRY(ask_token(s, epoch, &store_key, e));
    return derive_area(store_key, area, ret, e);
}

static void note_aad(const struct seal *s, uint32_t epoch, enum seal_note what, struct buf *aad)
{
    buf_init(aad, AAD_MAX);
    buf_put_u8(aad, SEAL_FORMAT);
    buf_put_u8(aad, (uint8_t)what);
    buf_put_u32(aad, epoch);
    if (what == NOTE_ROOT)
        buf_put(aad, s->incarnation, sizeof s->incarnation);
}

RESULT seal_note(struct seal *s, uint32_t epoch, enum seal_note what, struct bytes plain, struct buf *out, struct err *e)
{
    const struct seal_keys *k = NULL;
    CLEANUP(buf_release) struct buf aad = {0};
    note_aad(s, epoch, what, &aad);
    TRY(hold(s, epoch, &k, e));
    put_sealed(k->note, buf_bytes(&aad), plain, out);
    pthread_rwlock_unlock(&s->lock);
    return ok();
}

/* Read at open, before it is known under which epoch the store is: the token's newest is the bound. A key for this use only: what is
 * written from then on is of the current epoch. */
RESULT seal_open_note(struct seal *s, uint32_t epoch, enum seal_note what, struct bytes sealed, struct arena *a,
                      struct bytes *ret, struct err *e)
{
    CLEANUP(aead_key_freep) struct aead_key *of_then = NULL;
    CLEANUP(buf_release) struct buf aad = {0};
    const struct seal_keys *k = NULL;
    const char *name = what == NOTE_ROOT ? "root" : "anchor";
    if (epoch == 0 || epoch > s->newest)
        FAIL(e, ERR_DATA_LOSS, "RECORD_TAMPERED", "%s of seal epoch %u, the token's newest is %u", name, epoch, s->newest);
    note_aad(s, epoch, what, &aad);
    if (epoch != s->epoch) {
        TRY(area_key(s, epoch, BYTES_LIT("note"), &of_then, e));
        return open_into(of_then, buf_bytes(&aad), sealed, a, ret, name, e);
    }
    TRY(hold(s, epoch, &k, e));
    struct result done = open_into(k->note, buf_bytes(&aad), sealed, a, ret, name, e);
    pthread_rwlock_unlock(&s->lock);
    return done;
}

static void identity_aad(const struct seal *s, uint32_t epoch, const uint8_t instance[16], struct buf *aad)
{
    buf_init(aad, AAD_MAX);
    aad_head(s, epoch, aad);
    buf_put(aad, instance, 16);
}

RESULT seal_identity(struct seal *s, uint32_t epoch, const uint8_t instance[16], struct buf *out, struct err *e)
{
    CLEANUP(aead_key_freep) struct aead_key *k = NULL;
    CLEANUP(buf_release) struct buf aad = {0};
    TRY(area_key(s, epoch, BYTES_LIT("identity"), &k, e));
    identity_aad(s, epoch, instance, &aad);
    put_sealed(k, buf_bytes(&aad), BYTES(NULL, 0), out);
    return ok();
}

RESULT seal_check_identity(struct seal *s, uint32_t epoch, const uint8_t instance[16], struct bytes sealed, struct err *e)
{
    CLEANUP(aead_key_freep) struct aead_key *k = NULL;
    CLEANUP(buf_release) struct buf aad = {0};
    struct err why = {0};
    if (epoch == 0 || epoch > s->newest) /* not asked for: the number is anybody's */
        FAIL(e, ERR_DATA_LOSS, "SEAL_ABSENT", "the store says to be of seal epoch %u, and the newest seal secret on the token is of %u: it is"
             " another token, or was put back from before", epoch, s->newest);
    TRY(area_key(s, epoch, BYTES_LIT("identity"), &k, e));
    identity_aad(s, epoch, instance, &aad);
    if (sealed.n != SEAL_BYTES || aead_open(k, SEAL_HEADER_BYTES, buf_bytes(&aad), sealed, NULL, &why).failed)
        FAIL(e, ERR_STATE, "STORE_FOREIGN", "the store was made under another seal secret");
    return ok();
}
