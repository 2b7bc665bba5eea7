/* Keys of protection level HSM over years of a fake clock: used on the token, counted, and replaced before their random nonces run out. The
 * token is the stand-in. */
#include "tests/unit/vault/service/token_fixture.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        LIFE(made_and_used_on_the_token),
        LIFE(the_token_goes_and_comes),
        LIFE(counted_ahead),
        LIFE(replaced_at_half),
        LIFE(refused_at_the_end),
        LIFE(an_older_store_counts_nothing_twice),
    };
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
