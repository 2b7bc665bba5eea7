/* After sealing and opening, this process's own memory is searched: key bytes stand in locked pages and nowhere else. */
#include "vectors.h"

#include "base/confine_build.h"
#include "kms/crypto/aead.h"
#include "kms/crypto/aead_at.h"
#include "kms/crypto/cipher.h"
#include "kms/crypto/hmac.h"
#include "kms/crypto/kdf.h"
#include "kms/crypto/xaes.h"

#include <pthread.h>
#include <semaphore.h>

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
    for (size_t i = 0; i < 32; i++)
        secret_borrow_mut(s)[i] = (uint8_t)(0x42 + 7 * i);
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

/* ---- stacks: each operation runs on a stack of ours, which is searched when it has returned --------------------------- */

enum { STACK_BYTES = 2 * 1024 * 1024, DEPTH_BYTES = 32 * 1024 };
static _Alignas(4096) uint8_t stack[STACK_BYTES];

/* What the operations use and make; all in slots. */
struct keys {
    struct secret *parent, *pad /* parent ^ 0x5c */, *encrypt, *states, *k1, *kx;
    struct aead_key *aead;
    uint8_t sealed[SEALED];
};

/* Given, so that the message key is known before it is made. */
static const uint8_t fixed_nonce[AEAD_NONCE_BYTES] = "nonce of this test only";

static void op_states(struct keys *k)
{
    hmac_states_init(BYTES(secret_borrow(k->parent), 32), secret_borrow_mut(k->states));
}

static void op_mac(struct keys *k)
{
    uint8_t out[32];
    hmac_sha256(k->parent, (struct bytes[]){BYTES_LIT("message")}, 1, out);
}

static void op_derive(struct keys *k)
{
    struct bytes fields[] = {BYTES_LIT("record"), BYTES_LIT("encrypt")};
    struct secret *s = NULL;
    struct err e;
    INVARIANT(!kdf_derive(k->parent, KDF_STORE, fields, 2, &s, &e).failed);
    secret_free(s);
}

static void op_counter(struct keys *k)
{
    kdf_counter(k->parent, BYTES_LIT("fixed data"), secret_borrow_mut(k->kx), 32);
}

static void op_aead_key(struct keys *k)
{
    struct bytes fields[] = {BYTES_LIT("record"), {0}};
    struct err e;
    aead_key_freep(&k->aead);
    INVARIANT(!aead_key_derive(k->parent, KDF_STORE, fields, 2, 1, &k->aead, &e).failed);
}

static void op_seal(struct keys *k)
{
    uint8_t plain[PLAIN] = {1};
    aead_seal_at(k->aead, fixed_nonce, BYTES_LIT("a header"), (struct bytes){0}, BYTES(plain, PLAIN), k->sealed);
}

static void op_open(struct keys *k)
{
    uint8_t plain[PLAIN];
    struct err e;
    INVARIANT(!aead_open(k->aead, HEADER, (struct bytes){0}, BYTES(k->sealed, SEALED), plain, &e).failed);
}

static void op_xaes(struct keys *k)
{
    uint8_t sealed[PLAIN + 16];
    static const uint8_t plain[PLAIN] = {1};
    xaes_seal(secret_borrow(k->encrypt), fixed_nonce, (struct bytes){0}, BYTES(plain, PLAIN), sealed);
}

static void op_careless(struct keys *k)
{
    uint8_t copy[32];
    memcpy(copy, secret_borrow(k->parent), 32);
    __asm__ volatile("" : : "r"(copy) : "memory");
}

struct op {
    void (*run)(struct keys *);
    struct keys *keys;
    sem_t done, searched;
};

/* Well below what the waiting afterwards writes to. */
__attribute__((noinline)) static void run_deep(struct op *op)
{
    uint8_t depth[DEPTH_BYTES];
    __asm__ volatile("" : : "r"(depth) : "memory");
    op->run(op->keys);
    __asm__ volatile("" : : "r"(depth) : "memory");
}

static void *op_main(void *arg)
{
    struct op *op = arg;
    run_deep(op);
    sem_post(&op->done);
    while (sem_wait(&op->searched) != 0)
        continue;
    return NULL;
}

/* Any 16 bytes of s, at the places where a block or a register would hold them. */
static size_t found_on_stack(const struct secret *s)
{
    size_t n = 0;
    for (size_t at = 0; at + 16 <= secret_len(s); at += 16)
        n += memmem(stack, sizeof stack, secret_borrow(s) + at, 16) != NULL;
    return n;
}

static size_t residue_of(void (*run)(struct keys *), struct keys *k)
{
    pthread_attr_t attr;
    pthread_t t;
    struct op op = {.run = run, .keys = k};
    memset(stack, 0, sizeof stack);
    assert_int_equal(sem_init(&op.done, 0, 0) | sem_init(&op.searched, 0, 0) | pthread_attr_init(&attr), 0);
    assert_int_equal(pthread_attr_setstack(&attr, stack, sizeof stack), 0);
    assert_int_equal(pthread_create(&t, &attr, op_main, &op), 0);
    while (sem_wait(&op.done) != 0)
        continue;
    size_t found = found_on_stack(k->parent) + found_on_stack(k->pad) + found_on_stack(k->encrypt) + found_on_stack(k->states) +
                   found_on_stack(k->k1) + found_on_stack(k->kx);
    sem_post(&op.searched);
    assert_int_equal(pthread_join(t, NULL), 0);
    pthread_attr_destroy(&attr);
    return found;
}

static void stacks_are_wiped(void **state)
{
    (void)state;
    if (confine_is_sanitizer_build())
        skip(); /* their memcpy leaves copies of its own */
    struct keys k = {.parent = parent_new()};
    struct bytes fields[] = {BYTES_LIT("record"), BYTES_LIT("encrypt")};
    struct err e;
    assert_false(kdf_derive(k.parent, KDF_STORE, fields, 2, &k.encrypt, &e).failed);
    assert_false(secret_new(HMAC_STATES_BYTES, &k.states, &e).failed);
    assert_false(secret_new(XAES_K1_BYTES, &k.k1, &e).failed);
    assert_false(secret_new(XAES_KEY_BYTES, &k.kx, &e).failed);
    assert_false(secret_dup(k.parent, &k.pad, &e).failed);
    for (size_t i = 0; i < 32; i++)
        secret_borrow_mut(k.pad)[i] ^= 0x5c;
    xaes_k1(secret_borrow(k.encrypt), secret_borrow_mut(k.k1));
    xaes_kx(secret_borrow(k.encrypt), secret_borrow(k.k1), fixed_nonce, secret_borrow_mut(k.kx));
    op_states(&k);
    op_aead_key(&k);

    assert_int_equal(residue_of(op_careless, &k), 2); /* the search finds what is left behind */
    assert_int_equal(residue_of(op_states, &k), 0);
    assert_int_equal(residue_of(op_mac, &k), 0);
    assert_int_equal(residue_of(op_derive, &k), 0);
    assert_int_equal(residue_of(op_counter, &k), 0);
    xaes_kx(secret_borrow(k.encrypt), secret_borrow(k.k1), fixed_nonce, secret_borrow_mut(k.kx));
    assert_int_equal(residue_of(op_aead_key, &k), 0);
    assert_int_equal(residue_of(op_seal, &k), 0);
    assert_int_equal(residue_of(op_open, &k), 0);
    assert_int_equal(residue_of(op_xaes, &k), 0);

    aead_key_free(k.aead);
    secret_free(k.parent);
    secret_free(k.pad);
    secret_free(k.encrypt);
    secret_free(k.states);
    secret_free(k.k1);
    secret_free(k.kx);
}

int main(void)
{
    struct err e;
    if (cipher_memory_init(8, &e).failed)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_search_knows_locked_memory),
        cmocka_unit_test(keys_stay_in_locked_memory),
        cmocka_unit_test(stacks_are_wiped),
    };
    return cmocka_run_group_tests(tests, slab_setup, slab_teardown);
}
