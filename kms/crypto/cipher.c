#include "kms/crypto/cipher.h"

#include "kms/crypto/lockmem.h"

/* OpenSSL's types.h declares a type ERR_STATE, which is the name of one of our codes. */
#define ERR_STATE OPENSSL_ERR_STATE
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#undef ERR_STATE
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* Fetched algorithms are constants to us: written once, before the first use. A fetch for each call costs more than AES. */
static EVP_CIPHER *aes_gcm, *aes_ecb;
static pthread_key_t thread_key;
static pthread_once_t setup_once = PTHREAD_ONCE_INIT;

/* `alive` is a byte in a lockmem slot. A fork finds it zero, as it finds its parent's contexts wiped, and makes its own. */
struct contexts {
    EVP_CIPHER_CTX *gcm, *ecb;
    uint8_t *alive;
};
static __thread struct contexts mine;

/* ---- OpenSSL's memory ------------------------------------------------------------------------------------------------ */

/* On only while a context is made: everything else that OpenSSL allocates stays where it was. */
static __thread bool into_locked;

static void *hook_malloc(size_t n, const char *file, int line)
{
    (void)file, (void)line;
    return into_locked ? lockmem_take(n) : malloc(n);
}

static void *hook_realloc(void *p, size_t n, const char *file, int line)
{
    (void)file, (void)line;
    if (!lockmem_owns(p))
        return realloc(p, n);
    return n <= LOCKMEM_SLOT_BYTES ? p : NULL;
}

static void hook_free(void *p, const char *file, int line)
{
    (void)file, (void)line;
    if (!lockmem_owns(p)) {
        free(p);
        return;
    }
    lockmem_give(p);
}

RESULT cipher_memory_init(size_t threads, struct err *e)
{
    /* A thread takes its own record, and a context with its algorithm's state for each of two ciphers; its nonces one more. */
    enum { SLOTS_A_THREAD = 6 };
    if (threads > LOCKMEM_SLOTS / SLOTS_A_THREAD)
        FAIL(e, ERR_OUT_OF_RANGE, NULL, "%zu threads need more locked slots than there are", threads);
    TRY(lockmem_init(e));
    if (CRYPTO_set_mem_functions(hook_malloc, hook_realloc, hook_free) != 1)
        FAIL(e, ERR_STATE, NULL, "OpenSSL was used before its memory could be locked");
    return ok();
}

/* ---- contexts of this thread --------------------------------------------------------------------------------------- */

static void contexts_release(void *p)
{
    struct contexts *c = p;
    EVP_CIPHER_CTX_free(c->gcm); /* cleanses the key schedule */
    EVP_CIPHER_CTX_free(c->ecb);
    lockmem_give(c->alive);
    *c = (struct contexts){0};
}

static void setup(void)
{
    aes_gcm = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
    aes_ecb = EVP_CIPHER_fetch(NULL, "AES-256-ECB", NULL);
    INVARIANT(aes_gcm != NULL && aes_ecb != NULL);
    INVARIANT(pthread_key_create(&thread_key, contexts_release) == 0);
}

static EVP_CIPHER_CTX *context_new(const EVP_CIPHER *cipher)
{
    into_locked = true;
    EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    INVARIANT(c != NULL && EVP_EncryptInit_ex(c, cipher, NULL, NULL, NULL) == 1);
    into_locked = false;
    return c;
}

static void contexts_make(void)
{
    pthread_once(&setup_once, setup);
    if (mine.alive == NULL)
        mine.alive = lockmem_take(1);
    INVARIANT(mine.alive != NULL);
    INVARIANT(pthread_setspecific(thread_key, &mine) == 0);
    mine.gcm = context_new(aes_gcm);
    mine.ecb = context_new(aes_ecb);
    INVARIANT(EVP_CIPHER_CTX_set_padding(mine.ecb, 0) == 1);
    *mine.alive = 1;
}

static const struct contexts *contexts_get(void)
{
    if (mine.alive == NULL || *mine.alive == 0)
        contexts_make();
    return &mine;
}

/* ---- operations ---------------------------------------------------------------------------------------------------- */

void cipher_aes256_blocks(const uint8_t key[32], const uint8_t in[32], uint8_t out[32])
{
    EVP_CIPHER_CTX *c = contexts_get()->ecb;
    int n = 0;
    INVARIANT(EVP_EncryptInit_ex(c, NULL, NULL, key, NULL) == 1);
    INVARIANT(EVP_EncryptUpdate(c, out, &n, in, 32) == 1 && n == 32);
}

/* EVP counts in int. out NULL: additional data. */
static void update(EVP_CIPHER_CTX *c, uint8_t *out, struct bytes in)
{
    int n = 0;
    INVARIANT(in.n <= CIPHER_GCM_MAX_BYTES);
    if (in.n > 0)
        INVARIANT(EVP_CipherUpdate(c, out, &n, in.p, (int)in.n) == 1 && (size_t)n == in.n);
}

void cipher_gcm_seal(const uint8_t key[32], const uint8_t nonce[12], struct bytes aad, struct bytes plain, uint8_t *out)
{
    EVP_CIPHER_CTX *c = contexts_get()->gcm;
    int n = 0;
    INVARIANT(EVP_CipherInit_ex(c, NULL, NULL, key, nonce, 1) == 1);
    update(c, NULL, aad);
    update(c, out, plain);
    INVARIANT(EVP_EncryptFinal_ex(c, out + plain.n, &n) == 1 && n == 0);
    INVARIANT(EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_GET_TAG, CIPHER_TAG_BYTES, out + plain.n) == 1);
}

bool cipher_gcm_open(const uint8_t key[32], const uint8_t nonce[12], struct bytes aad, struct bytes sealed, uint8_t *out)
{
    if (sealed.n < CIPHER_TAG_BYTES)
        return false;
    struct bytes ct = BYTES(sealed.p, sealed.n - CIPHER_TAG_BYTES);
    if (ct.n > CIPHER_GCM_MAX_BYTES)
        return false;
    uint8_t tag[CIPHER_TAG_BYTES], none[1];
    memcpy(tag, sealed.p + ct.n, sizeof tag);
    EVP_CIPHER_CTX *c = contexts_get()->gcm;
    int n = 0;
    INVARIANT(EVP_CipherInit_ex(c, NULL, NULL, key, nonce, 0) == 1);
    update(c, NULL, aad);
    update(c, out, ct);
    INVARIANT(EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_SET_TAG, CIPHER_TAG_BYTES, tag) == 1);
    if (EVP_DecryptFinal_ex(c, none, &n) == 1)
        return true;
    ERR_clear_error(); /* or the next reader of this thread's queue, perhaps a TLS connection, takes it for its own */
    if (ct.n > 0)
        wipe(out, ct.n);
    return false;
}
