/* AES-256-GCM, on the code path that aead uses, against NIST CAVP and Wycheproof; what that path cannot express (other IV and tag
 * lengths) is run on EVP beside it so that no case goes uncounted, or refused. Then: the memory that OpenSSL keeps keys in. */
#include "vectors.h"

#include "kms/crypto/cipher.h"
#include "kms/crypto/lockmem.h"

#define ERR_STATE OPENSSL_ERR_STATE
#include <openssl/crypto.h>
#include <openssl/evp.h>
#undef ERR_STATE

#include <jansson.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

struct gcm_case {
    struct hexed key, iv, ct, aad, tag, pt;
};

static bool evp_open(const struct gcm_case *c, uint8_t *out)
{
    EVP_CIPHER_CTX *x = EVP_CIPHER_CTX_new();
    int n;
    uint8_t none[16];
    bool good = EVP_DecryptInit_ex(x, EVP_aes_256_gcm(), NULL, NULL, NULL) == 1 &&
                EVP_CIPHER_CTX_ctrl(x, EVP_CTRL_AEAD_SET_IVLEN, (int)c->iv.n, NULL) == 1 &&
                EVP_DecryptInit_ex(x, NULL, NULL, c->key.p, c->iv.p) == 1 &&
                (c->aad.n == 0 || EVP_DecryptUpdate(x, NULL, &n, c->aad.p, (int)c->aad.n) == 1) &&
                (c->ct.n == 0 || EVP_DecryptUpdate(x, out, &n, c->ct.p, (int)c->ct.n) == 1) &&
                EVP_CIPHER_CTX_ctrl(x, EVP_CTRL_AEAD_SET_TAG, (int)c->tag.n, (void *)(uintptr_t)c->tag.p) == 1 &&
                EVP_DecryptFinal_ex(x, none, &n) == 1;
    EVP_CIPHER_CTX_free(x);
    return good;
}

static bool our_open(const struct gcm_case *c, uint8_t *out)
{
    uint8_t sealed[2048];
    assert_true(c->ct.n + c->tag.n <= sizeof sealed);
    memcpy(sealed, c->ct.p, c->ct.n);
    memcpy(sealed + c->ct.n, c->tag.p, c->tag.n);
    memset(out, 0x5a, c->ct.n);
    bool good = cipher_gcm_open(c->key.p, c->iv.p, hexed_bytes(&c->aad), BYTES(sealed, c->ct.n + c->tag.n), out);
    for (size_t i = 0; !good && c->tag.n == 16 && i < c->ct.n; i++)
        assert_int_equal(out[i], 0); /* a refused plaintext is wiped */
    return good;
}

static void our_seal(const struct gcm_case *c)
{
    uint8_t sealed[2048];
    cipher_gcm_seal(c->key.p, c->iv.p, hexed_bytes(&c->aad), hexed_bytes(&c->pt), sealed);
    assert_memory_equal(sealed, c->ct.p, c->ct.n);
    assert_memory_equal(sealed + c->ct.n, c->tag.p, c->tag.n); /* shorter published tags are prefixes */
}

struct cavp_counts {
    size_t ran, failed, ours, sealed, short_refused;
};

static void cavp_case(const struct gcm_case *c, bool must_fail, struct cavp_counts *count)
{
    uint8_t out[2048];
    count->ran++;
    count->failed += must_fail;
    assert_int_equal(evp_open(c, out), !must_fail);
    if (!must_fail)
        assert_memory_equal(out, c->pt.p, c->pt.n);
    if (c->iv.n != 12)
        return;
    if (!must_fail) {
        our_seal(c);
        count->sealed++;
    }
    bool opened = our_open(c, out);
    if (c->tag.n < 16) {
        assert_false(opened); /* a truncated tag is never a tag */
        count->short_refused++;
        return;
    }
    count->ours++;
    assert_int_equal(opened, !must_fail);
    if (opened)
        assert_memory_equal(out, c->pt.p, c->pt.n);
}

static void nist_cavp_decrypt_256(void **state)
{
    (void)state;
    struct vector_file f =
        vector_open("aes-gcm-cavp/gcmDecrypt256.rsp", "ciphers/AES/GCM/gcmDecrypt256.rsp", "gcmDecrypt256.rsp");
    static struct gcm_case c;
    struct cavp_counts count = {0};
    char *rest = f.text, *line;
    while ((line = next_line(&rest)) != NULL) {
        struct hexed *to = value_of(line, "Key")   ? &c.key
                           : value_of(line, "IV")  ? &c.iv
                           : value_of(line, "CT")  ? &c.ct
                           : value_of(line, "AAD") ? &c.aad
                           : value_of(line, "Tag") ? &c.tag
                           : value_of(line, "PT")  ? &c.pt
                                                   : NULL;
        if (to != NULL)
            unhex(strchr(line, '=') + 1 + (strchr(line, '=')[1] == ' '), to);
        bool must_fail = strcmp(line, "FAIL") == 0;
        if (to == &c.pt || must_fail)
            cavp_case(&c, must_fail, &count);
    }
    assert_int_equal(count.ran, f.full ? 7875 : 48);
    assert_int_equal(count.failed, f.full ? 3919 : 24);
    assert_int_equal(count.ours, f.full ? 375 : 12);
    assert_int_equal(count.short_refused, f.full ? 2250 : 12);
    assert_int_equal(count.sealed, f.full ? 1308 : 12);
    free(f.text);
}

static void wycheproof_aes_gcm(void **state)
{
    (void)state;
    struct vector_file f = vector_open("wycheproof/aes_gcm_test.json", NULL, "aes_gcm_test.json");
    json_t *root = json_loads(f.text, 0, NULL), *g, *t;
    static struct gcm_case c;
    size_t i, j, valid = 0, invalid = 0, inexpressible = 0;
    uint8_t out[2048];
    assert_non_null(root);
    json_array_foreach(json_object_get(root, "testGroups"), i, g) {
        json_array_foreach(json_object_get(g, "tests"), j, t) {
            unhex(json_string_value(json_object_get(t, "key")), &c.key);
            unhex(json_string_value(json_object_get(t, "iv")), &c.iv);
            unhex(json_string_value(json_object_get(t, "aad")), &c.aad);
            unhex(json_string_value(json_object_get(t, "msg")), &c.pt);
            unhex(json_string_value(json_object_get(t, "ct")), &c.ct);
            unhex(json_string_value(json_object_get(t, "tag")), &c.tag);
            if (c.key.n != 32 || c.iv.n != 12) { /* the prototype has no way to say it: a refusal by type */
                inexpressible++;
                continue;
            }
            bool good = strcmp(json_string_value(json_object_get(t, "result")), "valid") == 0;
            assert_int_equal(our_open(&c, out), good);
            if (good)
                our_seal(&c);
            valid += good;
            invalid += !good;
        }
    }
    assert_int_equal(valid, f.full ? 39 : 3);
    assert_int_equal(invalid, f.full ? 27 : 3);
    assert_int_equal(inexpressible, f.full ? 250 : 10);
    json_decref(root);
    free(f.text);
}

static void *use_then_end(void *arg)
{
    uint8_t key[32] = {7}, nonce[12] = {0}, out[32];
    cipher_gcm_seal(key, nonce, (struct bytes){0}, BYTES_LIT("sixteen bytes..."), out);
    *(size_t *)arg = lockmem_used();
    return NULL;
}

static void contexts_live_in_locked_slots(void **state)
{
    (void)state;
    size_t before = lockmem_used(), during = 0;
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, use_then_end, &during), 0);
    assert_int_equal(pthread_join(t, NULL), 0);
    assert_int_equal(during - before, 5); /* its record, and a context with its algorithm's state for each of two ciphers */
    assert_int_equal(lockmem_used(), before);
}

/* The child's copy of the contexts was wiped: it makes its own, and computes the same. */
static void a_fork_makes_its_own_contexts(void **state)
{
    (void)state;
    uint8_t key[32] = {7}, nonce[12] = {0}, here[32], there[32];
    cipher_gcm_seal(key, nonce, (struct bytes){0}, BYTES_LIT("sixteen bytes..."), here);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        cipher_gcm_seal(key, nonce, (struct bytes){0}, BYTES_LIT("sixteen bytes..."), there);
        _exit(memcmp(here, there, sizeof here) == 0 ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* Sizes past EVP's int are no message: refused before a byte is looked at. */
static void more_than_evp_counts_is_refused(void **state)
{
    (void)state;
    uint8_t key[32] = {7}, nonce[12] = {0}, in[32] = {0}, out[32];
    assert_false(cipher_gcm_open(key, nonce, (struct bytes){0}, BYTES(in, (size_t)CIPHER_GCM_MAX_BYTES + CIPHER_TAG_BYTES + 1), out));
}

/* OpenSSL's allocator: what it grows stays where it is, as long as a slot holds it; nothing of it moves to the heap. */
static void what_openssl_grows_stays_locked(void **state)
{
    (void)state;
    size_t used = lockmem_used();
    uint8_t *slot = lockmem_take(16), *heap = OPENSSL_malloc(16);
    assert_non_null(slot);
    assert_ptr_equal(OPENSSL_realloc(slot, LOCKMEM_SLOT_BYTES), slot);
    assert_null(OPENSSL_realloc(slot, LOCKMEM_SLOT_BYTES + 1));
    heap = OPENSSL_realloc(heap, 4 * (size_t)LOCKMEM_SLOT_BYTES);
    assert_non_null(heap);
    assert_false(lockmem_owns(heap));
    OPENSSL_free(heap);
    OPENSSL_free(slot);
    assert_int_equal(lockmem_used(), used);
}

/* ---- memory that cannot be had ------------------------------------------------------------------------------------------- */
void *__real_mmap(void *p, size_t n, int prot, int flags, int fd, off_t at);
void *__wrap_mmap(void *p, size_t n, int prot, int flags, int fd, off_t at);
static unsigned refuse_mmap, refused_mmap;
void *__wrap_mmap(void *p, size_t n, int prot, int flags, int fd, off_t at)
{
    if (refuse_mmap) {
        refused_mmap++;
        return MAP_FAILED;
    }
    return __real_mmap(p, n, prot, flags, fd, at);
}

/* In a child, before this process has its memory: it is asked for once. */
static int without_memory(void)
{
    pid_t child = fork();
    if (child == 0) {
        struct err e = {0};
        refuse_mmap = 1;
        bool failed = cipher_memory_init(8, &e).failed && cipher_memory_init(8, &e).failed;
        _exit(failed && refused_mmap == 1 && e.code == ERR_EXHAUSTED && strcmp(e.reason, "SECRET_MEMORY") == 0 ? 0 : 1);
    }
    int status = -1;
    return child > 0 && waitpid(child, &status, 0) == child ? status : -1;
}

static int outcome_without_memory;
static void without_locked_memory_is_an_error(void **state)
{
    (void)state;
    assert_int_equal(outcome_without_memory, 0);
}

int main(void)
{
    struct err e;
    outcome_without_memory = without_memory();
    if (cipher_memory_init(8, &e).failed)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nist_cavp_decrypt_256),
        cmocka_unit_test(wycheproof_aes_gcm),
        cmocka_unit_test(contexts_live_in_locked_slots),
        cmocka_unit_test(a_fork_makes_its_own_contexts),
        cmocka_unit_test(more_than_evp_counts_is_refused),
        cmocka_unit_test(what_openssl_grows_stays_locked),
        cmocka_unit_test(without_locked_memory_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
