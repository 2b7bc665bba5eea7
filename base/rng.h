/*
 * Purpose: injected randomness. rng_system is getrandom; kms/crypto/nonce.h builds the batched, clone-safe nonce source on it.
 * Owns:    nothing. Threads: rng_system is safe from any thread; a test rng is not.
 * Errors:  getrandom failing is INVARIANT: there is no safe way on.
 * Limits:  none. Secrets: output is as secret as its use; callers put key bytes into struct secret.
 */
#ifndef BASE_RNG_H
#define BASE_RNG_H

#include <stddef.h>
#include <stdint.h>

struct rng {
    void (*fill)(const struct rng *r, void *out, size_t n);
};
extern const struct rng rng_system;
static inline void rng_fill(const struct rng *r, void *out, size_t n) { r->fill(r, out, n); }

/* Deterministic (test vectors only): SplitMix64 from a seed. Never linked into a decision about keys outside tests. */
struct fake_rng {
    struct rng r;
    _Atomic uint64_t state;
};
void fake_rng_init(struct fake_rng *f, uint64_t seed);

#endif
