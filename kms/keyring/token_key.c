/* Versions of level HSM: two objects on the token each (hsm/hsm.h, hsm_key_...), found by the version's kvid. Making them is an effect
 * outside the store: that there may be objects is on record before they are made (DUE_HSM_UNFINISHED), and the transaction that makes the
 * version takes that row away. Whoever dies in between, or does not commit, leaves it: when its time has come it becomes
 * DUE_HSM_REMOVAL, from then on the creation cannot commit any more, and the objects are removed. */
#include "kms/keyring/internal.h"

#include "kms/crypto/kdf.h"
#include "kms/keyring/unsaved.h"

#include <stdlib.h>
#include <string.h>

/* Longer than any creation takes: 20 s more than hsm_timeout, and the commit. */
enum { CHECK_TRIES = 8, UNFINISHED_S = 300, KVID_HEX = 2 * FORMAT_KVID_BYTES };
_Static_assert((int)FORMAT_KVID_BYTES == (int)HSM_KVID_BYTES && (int)FORMAT_TOKEN_OVERHEAD == (int)HSM_SEALED_OVERHEAD &&
                   (int)FORMAT_TOKEN_ENCRYPTED == (int)HSM_SEALED_DATA && (int)FORMAT_TOKEN_WRAPPED_KEY == (int)HSM_SEALED_KEY &&
                   (int)FORMAT_TOKEN_CHECK == (int)HSM_SEALED_CHECK, "core and hsm mean one format");
static const uint8_t no_tenant[STORE_TENANT_BYTES];

/* ---- rows about objects ------------------------------------------------------------------------------------------- */
static struct bytes kvid_name(const uint8_t kvid[FORMAT_KVID_BYTES], char out[KVID_HEX + 1])
{
    hex_encode(kvid, FORMAT_KVID_BYTES, out);
    return BYTES(out, KVID_HEX);
}

bool keyring_token_kvid(const struct due *d, uint8_t ret[FORMAT_KVID_BYTES])
{
    return hex_decode(d->name, ret, FORMAT_KVID_BYTES);
}

void keyring_token_condemn(struct store_txn *txn, const struct due *d, int64_t now_ns)
{
    due_move(txn, d->what, d->name, d->at_ns, 0);
    due_move(txn, DUE_HSM_REMOVAL, d->name, 0, now_ns);
}

/* Its own transaction, before anything is made. */
static RESULT announce(struct keyring *k, struct bytes name, int64_t at_ns, struct err *e)
{
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(k->store);
    uint64_t seq;
    due_move(txn, DUE_HSM_UNFINISHED, name, 0, at_ns);
    return store_txn_commit(txn, &seq, e);
}

/* The row must still be there: else its time came, and the objects are condemned. */
static void finish(struct store_txn *txn, struct bytes name, int64_t at_ns)
{
    uint8_t id[DUE_ID_BYTES];
    due_id(&(struct due){.what = DUE_HSM_UNFINISHED, .at_ns = at_ns, .name = name}, id);
    store_txn_delete(txn, REC_DUE, no_tenant, BYTES(id, sizeof id), 1);
}

void token_key_gone(const struct tenant_ref *t, const struct keyring_version *m, int64_t now_ns, struct store_txn *txn)
{
    char hex[KVID_HEX + 1];
    due_move(txn, DUE_HSM_REMOVAL, kvid_name(m->kvid, hex), 0, now_ns);
    gcm_end(txn, t->t.id, m->kvid);
    unsaved_drop(txn, m->kvid);
}

/* ---- what the token says ------------------------------------------------------------------------------------------ */
static void aad_of(const struct keyring *k, const struct tenant_ref *t, const struct name *version, const struct keyring_version *m,
                   uint8_t out[HSM_AAD_HASH_BYTES])
{
    const struct name key = name_truncate(version, NAME_CRYPTOKEY);
    char text[NAME_MAX_BYTES];
    struct hierarchy_tenant h;
    hierarchy_of(k, t, 0, &h);
    struct hierarchy_ctx c = {.location = h.location, .key = BYTES(text, name_format(&key, text)), .version = m->n};
    memcpy(c.tenant, t->t.id, sizeof c.tenant);
    memcpy(c.kvid, m->kvid, sizeof c.kvid);
    hierarchy_token_aad(&h, &c, out);
}

/* An object that a record names and the token does not show is a token to be mended: to a caller nothing is "not found". */
static RESULT from_token(struct keyring *k, struct result r, const struct err *why, struct err *e)
{
    atomic_fetch_add_explicit(&k->hsm_calls, 1, memory_order_relaxed);
    if (!r.failed)
        return ok();
    if (why->code == ERR_NOT_FOUND)
        FAIL(e, ERR_UNAVAILABLE, "HSM_UNAVAILABLE", "%.200s", why->detail);
    *e = *why;
    return r;
}

/* All tenants share the token, and each of its operations gets slower with what lies on it: nobody fills it for the others. Each version
 * that is there has its counter. Calls at once may pass the limit together, by no more than they are. */
RESULT token_share(struct keyring *k, const struct tenant_ref *t, enum protection level, struct err *e)
{
    uint64_t n = 0;
    if (level != PROTECTION_HSM)
        return ok();
    TRY(store_count(k->store, REC_GCM, t->t.id, (struct bytes){0}, &n, e));
    if (n < k->token_keys_max)
        return ok();
    struct result r = err_set(e, ERR_EXHAUSTED, "TENANT_TOKEN_KEYS", __FILE__, __LINE__, "tenant %s has %llu versions on the token", t->t.name,
                              (unsigned long long)n);
    e->hint = "the tenant has as many versions of level HSM as it may: destroy old ones, or have token_keys_per_tenant raised";
    return r;
}

RESULT token_key_make(struct keyring *k, const struct tenant_ref *t, const struct name *version, const struct keyring_version *m,
                      struct store_txn *txn, struct arena *a, struct bytes *ret_check, struct err *e)
{
    char hex[KVID_HEX + 1];
    uint8_t aad_hash[HSM_AAD_HASH_BYTES], *check = arena_alloc(a, HSM_CHECK_BYTES);
    const int64_t at_ns = clock_wall_ns(k->clock) + (int64_t)UNFINISHED_S * 1000000000;
    const struct bytes name = kvid_name(m->kvid, hex);
    struct err why = {0};
    if (check == NULL)
        FAIL(e, ERR_EXHAUSTED, "CALL_MEMORY", "a key does not fit the call's memory");
    aad_of(k, t, version, m, aad_hash);
    TRY(announce(k, name, at_ns, e));
    TRY(from_token(k, hsm_key_generate(k->hsm, m->kvid, aad_hash, check, &why), &why, e));
    finish(txn, name, at_ns);
    gcm_begin(txn, t->t.id, m->kvid);
    unsaved_put(txn, m->kvid, clock_wall_ns(k->clock));
    store_txn_check(txn, REC_TENANT, no_tenant, bytes_str(t->t.name), t->t.revision); /* it may be going at this moment */
    *ret_check = BYTES(check, HSM_CHECK_BYTES);
    return ok();
}

static RESULT take_record(const struct keyring *k, const struct tenant_ref *t, const struct name *version, const struct keyring_version *m,
                          struct token_key *ret, struct err *e)
{
    if (m->check.n != HSM_CHECK_BYTES)
        FAIL(e, ERR_DATA_LOSS, "RECORD_MALFORMED", "version %u has a check message of %zu bytes", m->n, m->check.n);
    memcpy(ret->kvid, m->kvid, sizeof ret->kvid);
    memcpy(ret->tenant, t->t.id, sizeof ret->tenant);
    memcpy(ret->check, m->check.p, sizeof ret->check);
    aad_of(k, t, version, m, ret->aad_hash);
    return ok();
}

RESULT token_key_load(struct keyring *k, const struct tenant_ref *t, const struct name *version, const struct keyring_version *m,
                      struct token_key *ret, struct err *e)
{
    struct err why = {0};
    TRY(take_record(k, t, version, m, ret, e));
    return from_token(k, hsm_key_check(k->hsm, ret->kvid, ret->aad_hash, ret->check, &why), &why, e);
}

RESULT token_key_examine(struct keyring *k, const struct tenant_ref *t, const struct name *version, const struct keyring_version *m,
                         struct err *e)
{
    struct token_key key;
    struct err why = {0};
    uint64_t handed_out, revision;
    TRY(take_record(k, t, version, m, &key, e));
    TRY(gcm_read(k, key.tenant, key.kvid, &handed_out, &revision, e));
    if (!hsm_key_check(k->hsm, key.kvid, key.aad_hash, key.check, &why).failed)
        return ok();
    if (why.code == ERR_NOT_FOUND)
        FAIL(e, ERR_DATA_LOSS, "KEY_OBJECT_ABSENT", "its key is not on the token: %.160s", why.detail);
    *e = why;
    return (struct result){1};
}

/* ---- use ---------------------------------------------------------------------------------------------------------- */
static bool unchecked(const struct err *e)
{
    return e->code == ERR_STATE && e->reason != NULL && strcmp(e->reason, "HSM_KEY_UNCHECKED") == 0;
}

static enum hsm_sealed type_of(enum key_use use)
{
    return use == KEY_USE_WRAP ? HSM_SEALED_KEY : HSM_SEALED_DATA;
}

struct job {
    enum hsm_sealed type;
    bool opens;
    uint8_t aad_hash[HSM_AAD_HASH_BYTES];
    struct bytes in;
    uint8_t *out;
};

static RESULT once(struct keyring *k, const struct token_key *t, const struct job *j, struct err *e)
{
    atomic_fetch_add_explicit(&k->hsm_calls, 1, memory_order_relaxed);
    return j->opens ? hsm_key_open(k->hsm, t->kvid, j->type, j->aad_hash, j->in, j->out, e)
                    : hsm_key_seal(k->hsm, t->kvid, j->type, j->aad_hash, j->in, j->out, e);
}

/* A new hsm process, or one whose token was away, wants to see the check message before it uses a key; and so does one that looked its
 * objects up anew, as it does a few times while it makes a master and backs the token up. */
static RESULT perform(struct keyring *k, const struct token_key *t, const struct job *j, struct err *e)
{
    for (unsigned tries = 0; tries < CHECK_TRIES; tries++) {
        struct err why = {0};
        if (!once(k, t, j, &why).failed)
            return ok();
        if (!unchecked(&why))
            return from_token(k, (struct result){1}, &why, e);
        why = (struct err){0};
        TRY(from_token(k, hsm_key_check(k->hsm, t->kvid, t->aad_hash, t->check, &why), &why, e));
    }
    FAIL(e, ERR_UNAVAILABLE, "HSM_UNAVAILABLE", "the token went away between two questions, again and again");
}

RESULT keyring_token_seal(struct keyring *k, const struct key_handle *h, enum key_use use, struct bytes aad, struct bytes plain,
                          uint8_t *out, struct err *e)
{
    struct job j = {.type = type_of(use), .in = plain, .out = out};
    INVARIANT(h->token != NULL && plain.n <= KEYRING_TOKEN_MAX);
    sha256(&aad, 1, j.aad_hash);
    TRY(gcm_take(k, h, e)); /* before the token draws a nonce: what then fails has cost one */
    return perform(k, h->token, &j, e);
}

RESULT keyring_token_open(struct keyring *k, const struct key_handle *h, enum key_use use, struct bytes aad, struct bytes sealed,
                          uint8_t *out, struct err *e)
{
    struct job j = {.type = type_of(use), .opens = true, .in = sealed, .out = out};
    INVARIANT(h->token != NULL);
    sha256(&aad, 1, j.aad_hash);
    return perform(k, h->token, &j, e);
}
