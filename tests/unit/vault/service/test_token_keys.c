/* Keys of protection level HSM over years of a fake clock: made on the token and in the store together or not at all, used there, counted,
 * replaced before their random nonces run out, and gone when they are destroyed. The token is the stand-in. */
#include "tests/unit/vault/service/life.h"

#include "kms/crypto/kdf.h"
#include "vault/service/destruction.h"
#include "vault/service/rotation.h"
#include "vault/service/token_keys.h"

#define KEY LIFE_RING "/cryptoKeys/card"
enum { BLOCK = 1 << 16, UNFINISHED_S = 300 };
#define HALF (UINT64_C(1) << 31)
#define END ((UINT64_C(1) << 32) - (UINT64_C(1) << 20))
static const struct keeper_task tasks[] = {{DUE_ROTATION, rotation_due},
                                           {DUE_EXHAUSTION, token_key_exhausted},
                                           {DUE_HSM_UNFINISHED, token_key_unfinished},
                                           {DUE_HSM_REMOVAL, token_key_removal}};

static struct keeper *keeper_of(struct life *f)
{
    const struct keeper_options o = {.store = f->s.store, .clock = &f->clock.c, .pace = 20, .tasks = tasks, .ntasks = 4, .user = &f->s};
    return keeper_new(&o);
}

static void steps(struct life *f, unsigned n)
{
    struct keeper *k = keeper_of(f);
    for (unsigned i = 0; i < n; i++) {
        keeper_step(k);
        fake_clock_advance(&f->clock, SECOND / 2);
    }
    keeper_free(k);
}

static struct result create(struct life *f, const char *name, struct store_txn *txn, struct err *e)
{
    const struct keyring_key want = {.destroy_delay_s = 30 * DAY_S, .protection = PROTECTION_HSM};
    struct keyring_key m;
    struct keyring_version v;
    const struct name n = life_name(name, NAME_CRYPTOKEY);
    return keyring_key_create(f->s.keyring, &n, &want, true, txn, &f->a, &m, &v, e);
}

static void token_key(struct life *f, const char *name)
{
    struct store_txn *txn = store_txn_new(f->s.store);
    assert_ok(create(f, name, txn, &f->e));
    life_commit(f, txn);
}

static struct keyring_version version(struct life *f, const char *name)
{
    struct keyring_version v;
    const struct name n = life_name(name, NAME_VERSION);
    assert_ok(keyring_version_get(f->s.keyring, &n, &f->a, &v, &f->e));
    return v;
}

static enum err_code seal(struct life *f, const char *name, enum key_use use, const char *text, uint8_t *out, const char **reason)
{
    struct key_handle *h = NULL;
    struct key_view view;
    struct err e = {0};
    const struct name n = life_name(name, strstr(name, "Versions") != NULL ? NAME_VERSION : NAME_CRYPTOKEY);
    struct result r = keyring_use_encrypt(f->s.keyring, &n, use, true, &h, &view, &e);
    if (!r.failed)
        r = keyring_token_seal(f->s.keyring, h, use, BYTES_LIT("aad1x"), bytes_str(text), out, &e);
    key_handle_unref(h);
    *reason = r.failed && e.reason != NULL ? e.reason : "";
    return r.failed ? e.code : ERR_NONE;
}

static enum err_code open(struct life *f, const char *name, enum key_use use, const char *aad, struct bytes sealed, uint8_t *out)
{
    struct key_handle *h = NULL;
    struct key_view view;
    struct format_header head;
    struct err e = {0};
    const struct name n = life_name(name, NAME_CRYPTOKEY);
    assert_ok(format_header_parse(sealed, &head, &e));
    struct result r = keyring_use_decrypt(f->s.keyring, &n, use, head.kvid, true, &h, &view, &e);
    if (!r.failed)
        r = keyring_token_open(f->s.keyring, h, use, bytes_str(aad), sealed, out, &e);
    key_handle_unref(h);
    return r.failed ? e.code : ERR_NONE;
}

static size_t queued(struct life *f, enum due_what what)
{
    struct due *all;
    size_t n, of = 0;
    assert_ok(due_read(f->s.store, (struct bytes){0}, INT64_MAX, 1000, &f->a, &all, &n, &f->e));
    for (size_t i = 0; i < n; i++)
        of += all[i].what == what;
    return of;
}

/* ---- use ------------------------------------------------------------------------------------------------------------- */
static void made_and_used_on_the_token(void **state)
{
    struct life *f = *state;
    uint8_t sealed[256], out[256], hash[32];
    const char *reason;
    token_key(f, KEY);
    const struct keyring_version v = version(f, KEY "/cryptoKeyVersions/1");
    assert_int_equal(v.protection, PROTECTION_HSM);
    assert_int_equal(v.wrapped.n, 0); /* no key of it is in the store */
    assert_int_equal(v.check.n, HSM_CHECK_BYTES);
    assert_int_equal(life_read(f, KEY).protection, PROTECTION_HSM);
    assert_int_equal(stand_in_keys(f->hsm), 1);
    assert_int_equal(queued(f, DUE_HSM_UNFINISHED), 0);

    assert_int_equal(seal(f, KEY, KEY_USE_ENCRYPT, "4111", sealed, &reason), ERR_NONE);
    const struct bytes all = BYTES(sealed, 4 + FORMAT_TOKEN_OVERHEAD);
    assert_int_equal(sealed[3], 'e');
    const struct bytes aad = BYTES_LIT("aad1x");
    sha256(&aad, 1, hash);
    assert_true(stand_in_open(stand_in_key(f->hsm, v.kvid), 'e', hash, all, out)); /* by the page alone */
    assert_int_equal(open(f, KEY, KEY_USE_ENCRYPT, "aad1x", all, out), ERR_NONE);
    assert_memory_equal(out, "4111", 4);
    assert_int_equal(open(f, KEY, KEY_USE_ENCRYPT, "aad1y", all, out), ERR_CIPHERTEXT);
    assert_int_equal(open(f, KEY, KEY_USE_WRAP, "aad1x", all, out), ERR_CIPHERTEXT);
    sealed[90] ^= 1;
    assert_int_equal(open(f, KEY, KEY_USE_ENCRYPT, "aad1x", all, out), ERR_CIPHERTEXT);

    /* Cached or not, it is for the slow lane. */
    struct key_handle *h = NULL;
    struct key_view view;
    const struct name n = life_name(KEY, NAME_CRYPTOKEY);
    assert_true(keyring_use_encrypt(f->s.keyring, &n, KEY_USE_ENCRYPT, false, &h, &view, &f->e).failed);
    assert_int_equal(f->e.code, ERR_WOULD_BLOCK);
    f->e = (struct err){0};
}

static void the_token_goes_and_comes(void **state)
{
    struct life *f = *state;
    uint8_t sealed[256], out[256];
    const char *reason;
    token_key(f, KEY);
    assert_int_equal(seal(f, KEY, KEY_USE_WRAP, "key", sealed, &reason), ERR_NONE);
    const struct bytes all = BYTES(sealed, 3 + FORMAT_TOKEN_OVERHEAD);
    const unsigned checked = f->hsm->keys_checked;
    stand_in_restart(f->hsm); /* a new hsm process, under a handle that is cached */
    assert_int_equal(open(f, KEY, KEY_USE_WRAP, "aad1x", all, out), ERR_NONE);
    assert_int_equal(f->hsm->keys_checked, checked + 1);
    f->hsm->away = true;
    assert_int_equal(open(f, KEY, KEY_USE_WRAP, "aad1x", all, out), ERR_UNAVAILABLE);
    assert_int_equal(seal(f, KEY, KEY_USE_WRAP, "key", sealed, &reason), ERR_UNAVAILABLE);
    f->hsm->away = false;
    assert_int_equal(open(f, KEY, KEY_USE_WRAP, "aad1x", all, out), ERR_NONE);
    /* Another key under this one's name: found before it is used. */
    struct stand_in_key *k = stand_in_key(f->hsm, version(f, KEY "/cryptoKeyVersions/1").kvid);
    k->mac[0] ^= 1;
    stand_in_restart(f->hsm);
    assert_int_equal(seal(f, KEY, KEY_USE_WRAP, "key", sealed, &reason), ERR_DATA_LOSS);
    assert_string_equal(reason, "HSM_KNOWN_ANSWER");
    k->there = false; /* not "not found" to a caller: the token is to be mended */
    assert_int_equal(seal(f, KEY, KEY_USE_WRAP, "key", sealed, &reason), ERR_UNAVAILABLE);
}

/* ---- the counter of nonces -------------------------------------------------------------------------------------------- */
static struct record counter(struct life *f)
{
    const struct keyring_version v = version(f, KEY "/cryptoKeyVersions/1");
    struct tenant t;
    struct record r;
    assert_ok(keyring_tenant_get(f->s.keyring, BYTES_LIT("acme"), true, &t, &f->e));
    assert_ok(store_get(f->s.store, REC_GCM, t.id, BYTES(v.kvid, sizeof v.kvid), &f->a, &r, &f->e));
    return r;
}

static void set_counter(struct life *f, uint64_t to)
{
    uint8_t body[9] = {1};
    struct record r = counter(f);
    struct store_txn *txn = store_txn_new(f->s.store);
    put_be64(body + 1, to);
    r.count = to;
    r.body = BYTES(body, sizeof body);
    store_txn_put(txn, &r, r.revision);
    life_commit(f, txn);
    life_close(f); /* what is left of a block is lost */
    life_open(f);
}

/* Counted before they are used, a block at a time: after any death more is counted than was used, never less. */
static void counted_ahead(void **state)
{
    struct life *f = *state;
    uint8_t sealed[256];
    const char *reason;
    token_key(f, KEY);
    assert_int_equal(counter(f).count, BLOCK); /* the check message */
    for (unsigned life = 1; life <= 3; life++) {
        for (unsigned i = 0; i < 5; i++)
            assert_int_equal(seal(f, KEY, i % 2 == 0 ? KEY_USE_ENCRYPT : KEY_USE_WRAP, "x", sealed, &reason), ERR_NONE);
        assert_int_equal(counter(f).count, (1 + life) * BLOCK);
        life_close(f);
        life_open(f);
    }
    for (unsigned i = 0; i < BLOCK; i++)
        assert_int_equal(seal(f, KEY, KEY_USE_ENCRYPT, "x", sealed, &reason), ERR_NONE);
    assert_int_equal(counter(f).count, 5 * BLOCK);
    assert_int_equal(seal(f, KEY, KEY_USE_ENCRYPT, "x", sealed, &reason), ERR_NONE);
    assert_int_equal(counter(f).count, 6 * BLOCK);
    /* A counter that cannot be moved on, or is gone, seals nothing. */
    set_counter(f, 7 * BLOCK);
    struct record r = counter(f);
    struct store_txn *txn = store_txn_new(f->s.store);
    store_txn_delete(txn, REC_GCM, r.tenant, r.id, STORE_ANY);
    life_commit(f, txn);
    assert_int_equal(seal(f, KEY, KEY_USE_ENCRYPT, "x", sealed, &reason), ERR_DATA_LOSS);
    assert_string_equal(reason, "KEY_COUNTER_ABSENT");
}

static void replaced_at_half(void **state)
{
    struct life *f = *state;
    struct audit_event ev = {0};
    uint8_t sealed[256], later[256], out[256];
    const char *reason;
    token_key(f, KEY);
    set_counter(f, HALF - 2 * BLOCK);
    assert_int_equal(seal(f, KEY, KEY_USE_ENCRYPT, "x", sealed, &reason), ERR_NONE);
    steps(f, 2);
    assert_int_equal(life_read(f, KEY).newest, 1); /* one block short of half: nothing yet */
    set_counter(f, HALF - BLOCK);
    assert_int_equal(seal(f, KEY, KEY_USE_ENCRYPT, "x", sealed, &reason), ERR_NONE);
    assert_int_equal(queued(f, DUE_EXHAUSTION), 1);
    life_close(f); /* killed in between */
    life_open(f);
    steps(f, 3);
    assert_int_equal(life_read(f, KEY).primary, 2);
    assert_int_equal(queued(f, DUE_EXHAUSTION), 0);
    assert_int_equal(life_events(f, "system:rotation", &ev), 1);
    assert_true(bytes_equal(ev.action, BYTES_LIT("kms.cryptoKeys.rotate")) && bytes_equal(ev.resource, BYTES_LIT(KEY)));
    assert_true(bytes_equal(ev.key_version, BYTES_LIT(KEY "/cryptoKeyVersions/2")));
    assert_int_equal(version(f, KEY "/cryptoKeyVersions/2").protection, PROTECTION_HSM);
    assert_int_equal(seal(f, KEY, KEY_USE_ENCRYPT, "x", later, &reason), ERR_NONE);
    assert_memory_not_equal(sealed + 8, later + 8, 16);
    assert_int_equal(open(f, KEY, KEY_USE_ENCRYPT, "aad1x", BYTES(sealed, 1 + FORMAT_TOKEN_OVERHEAD), out), ERR_NONE);
    /* Named, the old one goes on, and does not rotate the key again; made primary again, it does. */
    life_close(f);
    life_open(f);
    assert_int_equal(seal(f, KEY "/cryptoKeyVersions/1", KEY_USE_ENCRYPT, "x", later, &reason), ERR_NONE);
    steps(f, 3);
    assert_int_equal(life_read(f, KEY).newest, 2);
    struct keyring_key m = life_read(f, KEY);
    const struct name n = life_name(KEY, NAME_CRYPTOKEY);
    struct store_txn *txn = store_txn_new(f->s.store);
    m.primary = 1;
    assert_ok(keyring_key_put(f->s.keyring, &n, &m, txn, &f->e));
    life_commit(f, txn);
    life_close(f);
    life_open(f);
    assert_int_equal(seal(f, KEY, KEY_USE_ENCRYPT, "x", later, &reason), ERR_NONE);
    steps(f, 3);
    assert_int_equal(life_read(f, KEY).primary, 3);
}

static void refused_at_the_end(void **state)
{
    struct life *f = *state;
    uint8_t sealed[256], out[256];
    const char *reason;
    token_key(f, KEY);
    set_counter(f, END - BLOCK);
    assert_int_equal(seal(f, KEY, KEY_USE_ENCRYPT, "x", sealed, &reason), ERR_NONE); /* the last block */
    life_close(f);
    life_open(f);
    const unsigned before = f->hsm->keys_sealed;
    assert_int_equal(seal(f, KEY, KEY_USE_ENCRYPT, "x", out, &reason), ERR_STATE);
    assert_string_equal(reason, "KEY_VERSION_EXHAUSTED");
    assert_int_equal(seal(f, KEY, KEY_USE_WRAP, "x", out, &reason), ERR_STATE);
    assert_int_equal(f->hsm->keys_sealed, before);
    assert_int_equal(open(f, KEY, KEY_USE_ENCRYPT, "aad1x", BYTES(sealed, 1 + FORMAT_TOKEN_OVERHEAD), out), ERR_NONE);
    steps(f, 3);
    assert_int_equal(seal(f, KEY, KEY_USE_ENCRYPT, "x", out, &reason), ERR_NONE); /* with the version that replaced it */
}

/* Nobody knows how many nonces were drawn since an older store was copied: a few blocks more, and the key is replaced. */
static void an_older_store_counts_nothing_twice(void **state)
{
    struct life *f = *state;
    CLEANUP(buf_release) struct buf body;
    uint8_t sealed[256];
    const char *reason;
    bool changed;
    buf_init(&body, 64);
    token_key(f, KEY);
    struct record r = counter(f);
    assert_int_equal(r.count, BLOCK);
    assert_ok(keyring_counter_as_unknown(&r, &body, &changed, &f->e));
    assert_true(changed);
    assert_int_equal(r.count, END - 8 * BLOCK);
    struct store_txn *txn = store_txn_new(f->s.store);
    store_txn_put(txn, &r, r.revision);
    life_commit(f, txn);
    life_close(f);
    life_open(f);
    r = counter(f); /* it is well formed */
    buf_reset(&body);
    assert_ok(keyring_counter_as_unknown(&r, &body, &changed, &f->e));
    assert_false(changed);
    assert_int_equal(seal(f, KEY, KEY_USE_ENCRYPT, "x", sealed, &reason), ERR_NONE);
    steps(f, 3);
    assert_int_equal(life_read(f, KEY).primary, 2);
    for (unsigned life = 1; life <= 8; life++) { /* the old one, named: its last blocks, then none */
        life_close(f);
        life_open(f);
        assert_int_equal(seal(f, KEY "/cryptoKeyVersions/1", KEY_USE_ENCRYPT, "x", sealed, &reason), life < 8 ? ERR_NONE : ERR_STATE);
    }
    /* One that is further on stays where it is; what is no counter is not taken for one. */
    set_counter(f, END);
    r = counter(f);
    assert_ok(keyring_counter_as_unknown(&r, &body, &changed, &f->e));
    assert_true(!changed && r.count == END);
    r.count--;
    struct err e = {0};
    assert_true(keyring_counter_as_unknown(&r, &body, &changed, &e).failed);
    assert_string_equal(e.reason, "RECORD_MALFORMED");
}

/* ---- made together or not at all --------------------------------------------------------------------------------------- */
static void left_behind(struct life *f, size_t keep)
{
    struct audit_event ev = {0};
    assert_int_equal(stand_in_keys(f->hsm), keep + 1);
    assert_int_equal(queued(f, DUE_HSM_UNFINISHED), 1);
    steps(f, 2);
    assert_int_equal(stand_in_keys(f->hsm), keep + 1); /* it might still be under way */
    fake_clock_advance(&f->clock, (UNFINISHED_S + 1) * SECOND);
    steps(f, 4);
    assert_int_equal(stand_in_keys(f->hsm), keep);
    assert_int_equal(queued(f, DUE_HSM_UNFINISHED) + queued(f, DUE_HSM_REMOVAL), 0);
    assert_int_equal(life_events(f, "system:token", &ev), 1);
    assert_true(bytes_equal(ev.action, BYTES_LIT("kms.tokenKeys.remove")) && ev.resource.n == 32);
}

static void the_answer_is_lost(void **state)
{
    struct life *f = *state;
    struct store_txn *txn = store_txn_new(f->s.store);
    struct err e = {0};
    f->hsm->dies_after_making = true;
    assert_true(create(f, KEY, txn, &e).failed);
    assert_int_equal(e.code, ERR_UNAVAILABLE);
    store_txn_free(txn);
    f->hsm->dies_after_making = false;
    left_behind(f, 0);
    token_key(f, KEY); /* nothing of it is in the way */
    steps(f, 3);
    assert_int_equal(stand_in_keys(f->hsm), 1);
}

static void killed_before_the_commit(void **state)
{
    struct life *f = *state;
    struct store_txn *txn = store_txn_new(f->s.store);
    assert_ok(create(f, KEY, txn, &f->e));
    store_txn_free(txn);
    life_close(f);
    life_open(f);
    left_behind(f, 0);
}

static void the_loser_of_a_race(void **state)
{
    struct life *f = *state;
    const struct name n = life_name(KEY, NAME_CRYPTOKEY);
    struct keyring_version one, two;
    struct err e = {0};
    uint64_t seq;
    token_key(f, KEY);
    struct store_txn *a = store_txn_new(f->s.store), *b = store_txn_new(f->s.store);
    assert_ok(keyring_version_create(f->s.keyring, &n, a, &f->a, &one, &f->e));
    assert_ok(keyring_version_create(f->s.keyring, &n, b, &f->a, &two, &f->e));
    life_commit(f, a);
    assert_true(store_txn_commit(b, &seq, &e).failed);
    assert_int_equal(e.code, ERR_CONFLICT);
    store_txn_free(b);
    left_behind(f, 2);
    assert_memory_equal(version(f, KEY "/cryptoKeyVersions/2").kvid, one.kvid, 16);
    assert_non_null(stand_in_key(f->hsm, one.kvid));
    assert_null(stand_in_key(f->hsm, two.kvid));
}

/* A creation that took so long that its object was condemned does not commit: a version without its key would be worse than none. */
static void too_late_to_commit(void **state)
{
    struct life *f = *state;
    struct store_txn *txn = store_txn_new(f->s.store);
    struct err e = {0};
    uint64_t seq;
    assert_ok(create(f, KEY, txn, &f->e));
    fake_clock_advance(&f->clock, (UNFINISHED_S + 1) * SECOND);
    f->hsm->away = true;
    steps(f, 1);
    assert_int_equal(stand_in_keys(f->hsm), 1); /* condemned, and not yet removed */
    assert_true(store_txn_commit(txn, &seq, &e).failed);
    assert_int_equal(e.code, ERR_CONFLICT);
    store_txn_free(txn);
    f->hsm->away = false;
    fake_clock_advance(&f->clock, (DUE_RETRY_MAX_S + 1) * SECOND);
    steps(f, 3);
    assert_int_equal(stand_in_keys(f->hsm), 0);
}

static void nothing_is_made_for_a_name_that_is_taken(void **state)
{
    struct life *f = *state;
    struct store_txn *txn = store_txn_new(f->s.store);
    struct err e = {0};
    token_key(f, KEY);
    assert_true(create(f, KEY, txn, &e).failed);
    assert_int_equal(e.code, ERR_EXISTS);
    assert_int_equal(f->hsm->keys_made, 1);
    f->hsm->away = true;
    e = (struct err){0};
    assert_true(create(f, LIFE_RING "/cryptoKeys/other", txn, &e).failed);
    assert_int_equal(e.code, ERR_UNAVAILABLE);
    f->hsm->away = false;
    store_txn_free(txn);
    fake_clock_advance(&f->clock, (UNFINISHED_S + 1) * SECOND);
    steps(f, 4); /* announced, never made: nothing to remove, and that is what is on record */
    struct audit_event ev = {0};
    assert_int_equal(queued(f, DUE_HSM_UNFINISHED) + queued(f, DUE_HSM_REMOVAL), 0);
    assert_int_equal(life_events(f, "system:token", &ev), 1);
    assert_true(bytes_equal(ev.after, BYTES_LIT("{\"token\":\"absent\"}")));
    assert_int_equal(f->hsm->keys_destroyed, 0);
}

/* ---- the end ------------------------------------------------------------------------------------------------------------ */
struct findings {
    char text[512];
    unsigned n;
};
static void finding(void *user, const char *text)
{
    struct findings *x = user;
    x->n++;
    (void)snprintf(x->text, sizeof x->text, "%s", text);
}

static unsigned examine(struct life *f, const char *want)
{
    struct findings x = {.n = 0};
    struct keyring_check c = {.report = finding, .user = &x};
    assert_ok(keyring_check(f->s.keyring, &c, &f->e));
    if (want != NULL)
        assert_non_null(strstr(x.text, want));
    return x.n;
}

static void move(struct life *f, const char *name, enum version_state to)
{
    struct keyring_version v = version(f, name);
    const struct name n = life_name(name, NAME_VERSION);
    const enum version_state from = v.state;
    struct store_txn *txn = store_txn_new(f->s.store);
    v.state = to;
    v.destroy_ns = T0 + 30 * DAY;
    v.destroyed_ns = to == VERSION_DESTROYED ? T0 + 30 * DAY : 0;
    assert_ok(keyring_version_put(f->s.keyring, &n, &v, from, txn, &f->e));
    life_commit(f, txn);
    keyring_changed(f->s.keyring, &n);
}

static void destroyed_on_the_token_too(void **state)
{
    struct life *f = *state;
    token_key(f, KEY);
    token_key(f, LIFE_RING "/cryptoKeys/stays");
    const struct record r = counter(f);
    struct record none;
    struct err e = {0};
    assert_int_equal(examine(f, NULL), 0);
    move(f, KEY "/cryptoKeyVersions/1", VERSION_DESTROY_SCHEDULED);
    assert_int_equal(stand_in_keys(f->hsm), 2);
    f->hsm->away = true; /* on the day */
    move(f, KEY "/cryptoKeyVersions/1", VERSION_DESTROYED);
    steps(f, 2);
    assert_int_equal(stand_in_keys(f->hsm), 2);
    f->hsm->away = false;
    fake_clock_advance(&f->clock, (DUE_RETRY_MAX_S + 1) * SECOND);
    steps(f, 2);
    assert_int_equal(stand_in_keys(f->hsm), 1);
    assert_int_equal(version(f, KEY "/cryptoKeyVersions/1").check.n, 0);
    assert_true(store_get(f->s.store, REC_GCM, r.tenant, r.id, &f->a, &none, &e).failed);
    assert_int_equal(e.code, ERR_NOT_FOUND);
    assert_int_equal(examine(f, NULL), 0);
}

/* Removed, and dead before it was on record: whoever comes after finds nothing, and says so. No effect is without its event. */
static void removed_by_one_who_died(void **state)
{
    struct life *f = *state;
    struct audit_event ev = {0};
    token_key(f, KEY);
    const struct keyring_version v = version(f, KEY "/cryptoKeyVersions/1");
    move(f, KEY "/cryptoKeyVersions/1", VERSION_DESTROY_SCHEDULED);
    move(f, KEY "/cryptoKeyVersions/1", VERSION_DESTROYED);
    assert_ok(hsm_key_destroy(f->hsm, v.kvid, &f->e));
    life_close(f);
    life_open(f);
    steps(f, 4);
    assert_int_equal(queued(f, DUE_HSM_REMOVAL), 0);
    assert_int_equal(life_events(f, "system:token", &ev), 1);
    assert_true(bytes_equal(ev.after, BYTES_LIT("{\"token\":\"absent\"}")));
}

/* An accepted rollback destroys what the journal knows as destroyed; but the removal that was queued went with the given-up store. */
static void destroyed_again_on_the_token_too(void **state)
{
    static const struct keeper_task more[] = {{DUE_DESTRUCTION, destruction_due}, {DUE_HSM_REMOVAL, token_key_removal}};
    struct life *f = *state;
    CLEANUP(buf_release) struct buf body;
    const struct store_scan q = {.kind = REC_VERSION, .limit = 10, .all_tenants = true};
    struct record *rows, none;
    struct err e = {0};
    struct audit_event ev = {0};
    size_t n;
    bool changed;
    buf_init(&body, STORE_BODY_MAX);
    token_key(f, KEY);
    const struct record r = counter(f);
    assert_ok(store_scan(f->s.store, &q, &f->a, &rows, &n, &f->e));
    assert_int_equal(n, 1);
    assert_ok(keyring_version_as_revoked(&rows[0], VERSION_DESTROYED, T0, &body, &changed, &f->e));
    assert_true(changed);
    struct store_txn *txn = store_txn_new(f->s.store);
    store_txn_put(txn, &rows[0], rows[0].revision);
    life_commit(f, txn);
    assert_ok(keyring_requeue(f->s.keyring, &f->e)); /* as the first start in a new incarnation does */
    assert_int_equal(stand_in_keys(f->hsm), 1);
    assert_int_equal(examine(f, "belongs to no version"), 1);
    const struct keeper_options o = {.store = f->s.store, .clock = &f->clock.c, .pace = 20, .tasks = more, .ntasks = 2, .user = &f->s};
    struct keeper *k = keeper_new(&o);
    for (unsigned i = 0; i < 4; i++) {
        fake_clock_advance(&f->clock, SECOND);
        keeper_step(k);
    }
    keeper_free(k);
    assert_int_equal(stand_in_keys(f->hsm), 0);
    assert_true(store_get(f->s.store, REC_GCM, r.tenant, r.id, &f->a, &none, &e).failed);
    assert_int_equal(e.code, ERR_NOT_FOUND);
    assert_int_equal(examine(f, NULL), 0);
    assert_int_equal(life_events(f, "system:token", &ev), 1);
}

static void fsck_names_what_is_missing(void **state)
{
    struct life *f = *state;
    token_key(f, KEY);
    struct stand_in_key *k = stand_in_key(f->hsm, version(f, KEY "/cryptoKeyVersions/1").kvid);
    k->aes[3] ^= 4;
    assert_int_equal(examine(f, "HSM_KNOWN_ANSWER"), 1);
    k->aes[3] ^= 4;
    assert_int_equal(examine(f, NULL), 0);
    k->there = false;
    assert_int_equal(examine(f, "KEY_OBJECT_ABSENT"), 1);
    k->there = true;
    struct stand_in_key *stray = &f->hsm->keys[STAND_IN_KEYS - 1];
    *stray = (struct stand_in_key){.there = true, .kvid = "of nobody"};
    assert_int_equal(examine(f, "belongs to no version"), 1);
    stray->there = false;
    f->hsm->away = true; /* that is no finding */
    struct findings x = {.n = 0};
    struct keyring_check c = {.report = finding, .user = &x};
    life_close(f);
    f->hsm->away = false;
    life_open(f);
    f->hsm->away = true;
    struct err e = {0};
    assert_true(keyring_check(f->s.keyring, &c, &e).failed);
    assert_int_equal(e.code, ERR_UNAVAILABLE);
    assert_int_equal(x.n, 0);
    f->hsm->away = false;
}

/* A schedule rotates it as any key, on the token. */
static void rotates_by_schedule(void **state)
{
    struct life *f = *state;
    token_key(f, KEY);
    struct keyring_key m = life_read(f, KEY);
    const struct name n = life_name(KEY, NAME_CRYPTOKEY);
    struct store_txn *txn = store_txn_new(f->s.store);
    m.rotation_period_s = 7 * DAY_S;
    m.next_rotation_ns = T0 + 7 * DAY;
    assert_ok(keyring_key_put(f->s.keyring, &n, &m, txn, &f->e));
    life_commit(f, txn);
    for (unsigned week = 1; week <= 20; week++) {
        fake_clock_advance(&f->clock, 7 * DAY);
        steps(f, 1);
        assert_int_equal(life_read(f, KEY).primary, week + 1);
    }
    assert_int_equal(stand_in_keys(f->hsm), 21);
    assert_int_equal(version(f, KEY "/cryptoKeyVersions/21").protection, PROTECTION_HSM);
    assert_int_equal(examine(f, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(made_and_used_on_the_token, life_start, life_stop),
        cmocka_unit_test_setup_teardown(the_token_goes_and_comes, life_start, life_stop),
        cmocka_unit_test_setup_teardown(counted_ahead, life_start, life_stop),
        cmocka_unit_test_setup_teardown(replaced_at_half, life_start, life_stop),
        cmocka_unit_test_setup_teardown(refused_at_the_end, life_start, life_stop),
        cmocka_unit_test_setup_teardown(an_older_store_counts_nothing_twice, life_start, life_stop),
        cmocka_unit_test_setup_teardown(the_answer_is_lost, life_start, life_stop),
        cmocka_unit_test_setup_teardown(killed_before_the_commit, life_start, life_stop),
        cmocka_unit_test_setup_teardown(the_loser_of_a_race, life_start, life_stop),
        cmocka_unit_test_setup_teardown(too_late_to_commit, life_start, life_stop),
        cmocka_unit_test_setup_teardown(nothing_is_made_for_a_name_that_is_taken, life_start, life_stop),
        cmocka_unit_test_setup_teardown(destroyed_on_the_token_too, life_start, life_stop),
        cmocka_unit_test_setup_teardown(removed_by_one_who_died, life_start, life_stop),
        cmocka_unit_test_setup_teardown(destroyed_again_on_the_token_too, life_start, life_stop),
        cmocka_unit_test_setup_teardown(fsck_names_what_is_missing, life_start, life_stop),
        cmocka_unit_test_setup_teardown(rotates_by_schedule, life_start, life_stop),
    };
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
