#include "kms/store/internal.h"

#include <string.h>

enum { AAD_MAX = 1024 };

void seal_init(struct seal *s, const struct store_options *o)
{
    *s = (struct seal){.epoch = o->epoch, .store_key = o->store_key, .user = o->user};
    INVARIANT(pthread_mutex_init(&s->mu, NULL) == 0);
}

void seal_release(struct seal *s)
{
    for (size_t i = 0; i < s->n; i++) {
        aead_key_free(s->keys[i].record);
        aead_key_free(s->keys[i].outbox);
        aead_key_free(s->keys[i].note);
    }
    s->n = 0;
    pthread_mutex_destroy(&s->mu);
}

static RESULT derive_area(const struct secret *store_key, struct bytes area, struct aead_key **ret, struct err *e)
{
    struct bytes fields[2] = {area, {0}};
    return aead_key_derive(store_key, KDF_STORE, fields, 2, 1, ret, e);
}

static RESULT add_epoch(struct seal *s, uint32_t epoch, struct err *e)
{
    CLEANUP(secret_freep) struct secret *store_key = NULL;
    CLEANUP(aead_key_freep) struct aead_key *record = NULL;
    CLEANUP(aead_key_freep) struct aead_key *outbox = NULL;
    CLEANUP(aead_key_freep) struct aead_key *note = NULL;
    if (s->n == STORE_EPOCHS_MAX)
        FAIL(e, ERR_EXHAUSTED, "STORE_EPOCHS", "rows of more than %d seal epochs", (int)STORE_EPOCHS_MAX);
    TRY(s->store_key(s->user, epoch, &store_key, e));
    TRY(derive_area(store_key, BYTES_LIT("record"), &record, e));
    TRY(derive_area(store_key, BYTES_LIT("outbox"), &outbox, e));
    TRY(derive_area(store_key, BYTES_LIT("note"), &note, e));
    s->keys[s->n++] = (struct seal_keys){.epoch = epoch, .record = record, .outbox = outbox, .note = note};
    record = outbox = note = NULL;
    return ok();
}

static struct seal_keys *find_epoch(struct seal *s, uint32_t epoch)
{
    for (size_t i = 0; i < s->n; i++) {
        if (s->keys[i].epoch == epoch)
            return &s->keys[i];
    }
    return NULL;
}

RESULT seal_keys(struct seal *s, uint32_t epoch, const struct seal_keys **ret, struct err *e)
{
    /* No row can be of an epoch that has not begun: such a number was written by somebody else. It must not reach the HSM. */
    if (epoch == 0 || epoch > s->epoch)
        FAIL(e, ERR_DATA_LOSS, "RECORD_TAMPERED", "seal epoch %u, current is %u", epoch, s->epoch);
    pthread_mutex_lock(&s->mu);
    struct seal_keys *k = find_epoch(s, epoch);
    struct result r = k ? ok() : add_epoch(s, epoch, e);
    if (!r.failed)
        *ret = k ? k : find_epoch(s, epoch);
    pthread_mutex_unlock(&s->mu);
    return r;
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

RESULT seal_record(struct seal *s, const struct record *r, struct buf *out, struct err *e)
{
    const struct seal_keys *k = NULL;
    CLEANUP(buf_release) struct buf aad;
    buf_init(&aad, AAD_MAX);
    TRY(seal_keys(s, s->epoch, &k, e));
    record_aad(s, s->epoch, r, &aad);
    put_sealed(k->record, buf_bytes(&aad), r->body, out);
    return ok();
}

RESULT seal_open_record(struct seal *s, uint32_t epoch, struct record *r, struct bytes sealed, struct arena *a, struct err *e)
{
    const struct seal_keys *k = NULL;
    CLEANUP(buf_release) struct buf aad;
    buf_init(&aad, AAD_MAX);
    TRY(seal_keys(s, epoch, &k, e));
    record_aad(s, epoch, r, &aad);
    return open_into(k->record, buf_bytes(&aad), sealed, a, &r->body, "record", e);
}

static void outbox_aad(const struct seal *s, uint32_t epoch, uint64_t seq, const uint8_t tenant[16], struct buf *aad)
{
    aad_head(s, epoch, aad);
    buf_put_u64(aad, seq);
    buf_put(aad, tenant, STORE_TENANT_BYTES);
    INVARIANT(!aad->overflow);
}

RESULT seal_outbox(struct seal *s, uint64_t seq, const uint8_t tenant[16], struct bytes event, struct buf *out, struct err *e)
{
    const struct seal_keys *k = NULL;
    CLEANUP(buf_release) struct buf aad;
    buf_init(&aad, AAD_MAX);
    TRY(seal_keys(s, s->epoch, &k, e));
    outbox_aad(s, s->epoch, seq, tenant, &aad);
    put_sealed(k->outbox, buf_bytes(&aad), event, out);
    return ok();
}

RESULT seal_open_outbox(struct seal *s, uint32_t epoch, struct outbox_event *ev, struct bytes sealed, struct arena *a,
                        struct err *e)
{
    const struct seal_keys *k = NULL;
    CLEANUP(buf_release) struct buf aad;
    buf_init(&aad, AAD_MAX);
    TRY(seal_keys(s, epoch, &k, e));
    outbox_aad(s, epoch, ev->seq, ev->tenant, &aad);
    return open_into(k->outbox, buf_bytes(&aad), sealed, a, &ev->event, "outbox row", e);
}

/* A key for one use, not kept. */
static RESULT area_key(struct seal *s, uint32_t epoch, struct bytes area, struct aead_key **ret, struct err *e)
{
    CLEANUP(secret_freep) struct secret *store_key = NULL;
    TRY(s->store_key(s->user, epoch, &store_key, e));
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

RESULT seal_note(struct seal *s, enum seal_note what, struct bytes plain, struct buf *out, struct err *e)
{
    const struct seal_keys *k = NULL;
    CLEANUP(buf_release) struct buf aad = {0};
    TRY(seal_keys(s, s->epoch, &k, e));
    note_aad(s, s->epoch, what, &aad);
    put_sealed(k->note, buf_bytes(&aad), plain, out);
    return ok();
}

RESULT seal_open_note(struct seal *s, uint32_t epoch, enum seal_note what, struct bytes sealed, struct arena *a,
                      struct bytes *ret, struct err *e)
{
    CLEANUP(aead_key_freep) struct aead_key *of_then = NULL;
    CLEANUP(buf_release) struct buf aad = {0};
    const struct seal_keys *k = NULL;
    if (epoch == s->epoch) {
        TRY(seal_keys(s, epoch, &k, e));
    } else { /* read once, at open: the next root and anchor are of the current epoch */
        if (epoch == 0 || epoch > s->epoch)
            FAIL(e, ERR_DATA_LOSS, "RECORD_TAMPERED", "a note of seal epoch %u, current is %u", epoch, s->epoch);
        TRY(area_key(s, epoch, BYTES_LIT("note"), &of_then, e));
    }
    note_aad(s, epoch, what, &aad);
    return open_into(k ? k->note : of_then, buf_bytes(&aad), sealed, a, ret, what == NOTE_ROOT ? "root" : "anchor", e);
}

static void identity_aad(const struct seal *s, uint32_t epoch, const uint8_t instance[16], struct buf *aad)
{
    buf_init(aad, AAD_MAX);
    aad_head(s, epoch, aad);
    buf_put(aad, instance, 16);
}

RESULT seal_identity(struct seal *s, const uint8_t instance[16], struct buf *out, struct err *e)
{
    CLEANUP(aead_key_freep) struct aead_key *k = NULL;
    CLEANUP(buf_release) struct buf aad = {0};
    TRY(area_key(s, s->epoch, BYTES_LIT("identity"), &k, e));
    identity_aad(s, s->epoch, instance, &aad);
    put_sealed(k, buf_bytes(&aad), BYTES(NULL, 0), out);
    return ok();
}

RESULT seal_check_identity(struct seal *s, uint32_t epoch, const uint8_t instance[16], struct bytes sealed, struct err *e)
{
    CLEANUP(aead_key_freep) struct aead_key *k = NULL;
    CLEANUP(buf_release) struct buf aad = {0};
    struct err why = {0};
    if (epoch == 0 || epoch > s->epoch)
        FAIL(e, ERR_STATE, "STORE_FOREIGN", "made in seal epoch %u, the token's newest is %u", epoch, s->epoch);
    TRY(area_key(s, epoch, BYTES_LIT("identity"), &k, e));
    identity_aad(s, epoch, instance, &aad);
    if (sealed.n != SEAL_BYTES || aead_open(k, SEAL_HEADER_BYTES, buf_bytes(&aad), sealed, NULL, &why).failed)
        FAIL(e, ERR_STATE, "STORE_FOREIGN", "the store was made under another seal secret");
    return ok();
}
