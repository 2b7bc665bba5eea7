/*
 * Purpose: the construction behind nonce_fill, with its sources given, so that forks and snapshots are tested without any.
 *
 *          refill:  K  = HMAC-SHA-256(K_before or zeros, "clv-nonce-1" || fresh[32] || boot id[16] || u64 pid || u64 wall ns ||
 *                        u64 boot ns || u64 counter)             fresh: getrandom; an HKDF-Extract (RFC 5869) of all of it
 *          block i: HMAC-SHA-256(K, u64 counter || u64 wall ns || u32 i)     counter: one up for each request, never reset
 *
 *          A request takes ceil(n / 32) blocks. K is replaced after NONCE_BATCH blocks, after NONCE_AGE_NS by the wall clock in
 *          either direction, and before and after any request longer than a nonce (those may become keys, and no key may be
 *          computable from a state that is read later).
 *          Fork: the state's memory is wiped, so the child refills. Clone of a running machine: the clock of each request
 *          enters each block, and after a batch fresh kernel randomness does. Two clones that ask at the same nanosecond with
 *          the same rest of a batch, and whose clock did not move on resume, would agree: nothing in memory could tell them
 *          apart. A batch lasts a second at most; Linux reseeds by VMGENID before that.
 * Owns:    nothing. Threads: a state belongs to one thread. Errors: none. Limits: none.
 * Secrets: the whole state; the caller keeps it in locked memory that a fork wipes.
 */
#ifndef KMS_CRYPTO_NONCE_STATE_H
#define KMS_CRYPTO_NONCE_STATE_H

#include "base/clock.h"
#include "base/rng.h"
#include "kms/crypto/hmac.h"

enum { NONCE_BATCH = 64, NONCE_AGE_NS = 1000000000, NONCE_SHORT = 24 };

struct nonce_sources {
    const struct rng *rng;
    const struct clock *clock;
    uint8_t boot_id[BOOT_ID_BYTES];
};
struct nonce_state { /* all zero: not filled */
    uint8_t states[HMAC_STATES_BYTES];
    uint64_t counter;
    int64_t filled_wall_ns;
    uint32_t left; /* blocks until K is replaced */
};
void nonce_state_fill(struct nonce_state *s, const struct nonce_sources *src, void *out, size_t n);

#endif
