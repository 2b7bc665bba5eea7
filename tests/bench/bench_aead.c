/* What one thread of the crypto path costs: nanoseconds for each operation, the median of several rounds. `bench_aead [rounds]` */
#include "kms/crypto/aead.h"
#include "kms/crypto/cipher.h"
#include "kms/crypto/hmac.h"
#include "kms/crypto/kdf.h"
#include "kms/crypto/nonce.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { HEADER = 40, PLAIN_MAX = 65536, ROUNDS_MAX = 101 };

struct bench {
    struct aead_key *key;
    size_t plain_n;
    uint8_t header[HEADER], nonce[AEAD_NONCE_BYTES], kx[32];
    uint8_t plain[PLAIN_MAX], sealed[PLAIN_MAX + HEADER + AEAD_OVERHEAD], back[PLAIN_MAX];
};

static void run_seal(struct bench *b)
{
    aead_seal(b->key, BYTES(b->header, HEADER), BYTES(b->header, 8), BYTES(b->plain, b->plain_n), b->sealed);
}

static void run_open(struct bench *b)
{
    struct err e;
    struct bytes sealed = BYTES(b->sealed, HEADER + b->plain_n + AEAD_OVERHEAD);
    INVARIANT(!aead_open(b->key, HEADER, BYTES(b->header, 8), sealed, b->back, &e).failed);
}

static void run_xaes(struct bench *b)
{
    b->nonce[0]++;
    xaes_seal(b->kx, b->nonce, (struct bytes){0}, BYTES(b->plain, b->plain_n), b->sealed);
}

static void run_gcm(struct bench *b)
{
    b->nonce[0]++;
    cipher_gcm_seal(b->kx, b->nonce, BYTES(b->plain, 108), BYTES(b->plain, b->plain_n), b->sealed);
}

static void run_blocks(struct bench *b)
{
    cipher_aes256_blocks(b->kx, b->plain, b->back);
}

static void run_nonce(struct bench *b)
{
    nonce_fill(b->nonce, sizeof b->nonce);
}

static void run_hmac(struct bench *b)
{
    hmac_states_mac(b->plain, (struct bytes[]){BYTES(b->plain, 100)}, 1, b->back);
}

static void run_sha(struct bench *b)
{
    sha256((struct bytes[]){BYTES(b->plain, 20)}, 1, b->back);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void measure(struct bench *b, const char *what, void (*run)(struct bench *), size_t plain_n, size_t rounds)
{
    double each[ROUNDS_MAX];
    size_t calls = plain_n > 4096 ? 2000 : 20000;
    b->plain_n = plain_n;
    for (size_t r = 0; r < rounds; r++) {
        double from = now_ns();
        for (size_t i = 0; i < calls; i++)
            run(b);
        each[r] = (now_ns() - from) / (double)calls;
    }
    qsort(each, rounds, sizeof each[0], compare);
    printf("%-28s %6zu B  median %7.0f ns  best %7.0f ns\n", what, plain_n, each[rounds / 2], each[0]);
}

int main(int argc, char **argv)
{
    static struct bench b;
    struct err e;
    size_t rounds = argc > 1 ? (size_t)atoi(argv[1]) : 11;
    INVARIANT(rounds > 0 && rounds <= ROUNDS_MAX);
    INVARIANT(!cipher_memory_init(4, &e).failed && !secret_slab_init(8, &e).failed);
    struct secret *parent = NULL;
    struct bytes use = {0};
    INVARIANT(!secret_new(32, &parent, &e).failed);
    INVARIANT(!aead_key_derive(parent, KDF_KEK_WRAP, &use, 1, 0, &b.key, &e).failed);
    static const size_t lengths[] = {64, 1024, 16384, PLAIN_MAX};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        measure(&b, "aead_seal", run_seal, lengths[i], rounds);
        measure(&b, "aead_open", run_open, lengths[i], rounds);
        measure(&b, "bare XAES-256-GCM seal", run_xaes, lengths[i], rounds);
    }
    measure(&b, "AES-256-GCM, 108 B of AAD", run_gcm, 64, rounds);
    measure(&b, "AES-256, two blocks", run_blocks, 32, rounds);
    measure(&b, "nonce_fill", run_nonce, 24, rounds);
    measure(&b, "HMAC from saved states", run_hmac, 100, rounds);
    measure(&b, "SHA-256", run_sha, 20, rounds);
    secret_free(parent);
    aead_key_free(b.key);
    return 0;
}
