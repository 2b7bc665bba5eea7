/* After sealing and opening, this process's own memory is searched: key bytes stand in locked pages and nowhere else. */
#include "vectors.h"

#include "base/confine_build.h"
#include "kms/crypto/aead.h"
#include "kms/crypto/cipher.h"
#include "kms/crypto/hmac.h"
#include "kms/crypto/kdf.h"
#include "kms/crypto/xaes.h"

enum { MAPS_MAX = 512, HEADER = 8, PLAIN = 64, SEALED = HEADER + PLAIN + AEAD_OVERHEAD };

struct map {
    uintptr_t from, to;
    bool writable, locked;
};
struct hits {
    size_t locked, elsewhere;
};

static size_t maps_read(struct map maps[MAPS_MAX])
{
    FILE *f = fopen("/proc/self/smaps", "r");
    char line[512];
    size_t n = 0;
    assert_non_null(f);
    while (fgets(line, sizeof line, f) != NULL) {
        unsigned long from, to;
        char mode[8];
        if (sscanf(line, "%lx-%lx %7s", &from, &to, mode) == 3 && strchr(mode, 'p') != NULL) {
            assert_true(n < MAPS_MAX);
            maps[n++] = (struct map){from, to, mode[0] == 'r' && mode[1] == 'w', false};
        }
        if (strncmp(line, "VmFlags:", 8) == 0 && n > 0)
            maps[n - 1].locked = strstr(line, " lo") != NULL;
    }
    fclose(f);
    return n;
}

static struct hits search(const struct secret *key)
{
    static struct map maps[MAPS_MAX];
    struct hits h = {0};
    for (size_t n = maps_read(maps), i = 0; i < n; i++) {
        const uint8_t *at = (const uint8_t *)maps[i].from, *end = (const uint8_t *)maps[i].to;
        while (maps[i].writable && (at = memmem(at, (size_t)(end - at), secret_borrow(key), 32)) != NULL) {
            h.locked += maps[i].locked;
            h.elsewhere += !maps[i].locked;
            at++;
        }
    }
    return h;
}

static struct secret *parent_new(void)
{
    struct secret *s = NULL;
    struct err e;
    assert_false(secret_new(32, &s, &e).failed);
    memset(secret_borrow_mut(s), 0x42, 32);
    return s;
}

static void keys_stay_in_locked_memory(void **state)
{
    (void)state;
    if (confine_is_sanitizer_build())
        skip(); /* the shadow memory is terabytes of mapping */
    struct secret *parent = parent_new(), *encrypt = NULL, *message = NULL;
    struct bytes fields[] = {BYTES_LIT("record"), BYTES_LIT("encrypt")};
    struct err e;
    struct aead_key *k = NULL;
    uint8_t sealed[SEALED], back[PLAIN] = {1};
    assert_false(aead_key_derive(parent, KDF_STORE, fields, 2, 1, &k, &e).failed);
    aead_seal(k, BYTES_LIT("a header"), (struct bytes){0}, BYTES(back, PLAIN), sealed);
    assert_false(aead_open(k, HEADER, (struct bytes){0}, BYTES(sealed, SEALED), back, &e).failed);

    /* What to look for is itself made in slots. */
    fields[1] = BYTES_LIT("encrypt");
    assert_false(kdf_derive(parent, KDF_STORE, fields, 2, &encrypt, &e).failed);
    assert_false(secret_new(48, &message, &e).failed);
    uint8_t *m = secret_borrow_mut(message);
    xaes_k1(secret_borrow(encrypt), m + 32);
    xaes_kx(secret_borrow(encrypt), m + 32, sealed + HEADER + AEAD_COMMIT_BYTES, m);

    struct secret *commit = NULL, *states = NULL;
    fields[1] = BYTES_LIT("commit");
    assert_false(kdf_derive(parent, KDF_STORE, fields, 2, &commit, &e).failed);
    assert_false(secret_new(HMAC_STATES_BYTES, &states, &e).failed);
    hmac_states_init(BYTES(secret_borrow(commit), 32), secret_borrow_mut(states));

    struct hits of_key = search(encrypt), of_message = search(message), of_parent = search(parent);
    assert_int_equal(of_key.elsewhere, 0);
    assert_int_equal(of_message.elsewhere, 0);
    assert_int_equal(of_parent.elsewhere, 0);
    struct hits of_commit = search(commit), of_states = search(states);
    assert_int_equal(of_commit.elsewhere, 0);
    assert_int_equal(of_states.elsewhere, 0);
    assert_int_equal(of_states.locked, 2); /* the key's slot, and the one made here */
    assert_true(of_key.locked >= 3);     /* its slot, the one made here, and OpenSSL's expanded key */
    assert_true(of_message.locked >= 2); /* the one made here, and OpenSSL's expanded key */

    /* The test of the test: a copy on the heap is found. */
    uint8_t *copy = malloc(32);
    memcpy(copy, secret_borrow(encrypt), 32);
    assert_int_equal(search(encrypt).elsewhere, 1);
    wipe(copy, 32);
    free(copy);

    /* Freed keys leave what was made here, and OpenSSL's last expanded key. */
    size_t before = search(encrypt).locked;
    aead_key_free(k);
    assert_int_equal(search(encrypt).locked, before - 1);
    secret_free(parent);
    secret_free(encrypt);
    secret_free(message);
    secret_free(commit);
    secret_free(states);
}

static void the_search_knows_locked_memory(void **state)
{
    (void)state;
    static struct map maps[MAPS_MAX];
    struct secret *s = parent_new();
    static uint8_t plain_memory[32];
    size_t slab = 0, other = 0;
    for (size_t n = maps_read(maps), i = 0; i < n; i++) {
        uintptr_t key = (uintptr_t)secret_borrow(s), here = (uintptr_t)plain_memory;
        slab += maps[i].from <= key && key < maps[i].to && maps[i].writable && maps[i].locked;
        other += maps[i].from <= here && here < maps[i].to && maps[i].writable && !maps[i].locked;
    }
    assert_int_equal(slab, 1);
    assert_int_equal(other, 1);
    secret_free(s);
}

int main(void)
{
    struct err e;
    if (cipher_memory_init(8, &e).failed)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_search_knows_locked_memory),
        cmocka_unit_test(keys_stay_in_locked_memory),
    };
    return cmocka_run_group_tests(tests, slab_setup, slab_teardown);
}
