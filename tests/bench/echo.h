/*
 * Purpose: what the echo servers and the load generator agree on: the method, and that the request's first four bytes (big
 *          endian) say how long the answer is, so that an echo moves as many bytes each way as the call it stands beside.
 * Owns: nothing. Threads: pure. Errors: none. Limits: ECHO_MAX_BYTES. Secrets: none.
 */
#ifndef TESTS_BENCH_ECHO_H
#define TESTS_BENCH_ECHO_H

#include "base/bytes.h"

enum { ECHO_MAX_BYTES = 65536 };
#define ECHO_PATH "/claviger.bench.Echo/Echo"

static inline size_t echo_reply_bytes(struct bytes m)
{
    size_t n = m.n >= 4 ? get_be32(m.p) : 0;

    return n <= ECHO_MAX_BYTES ? n : ECHO_MAX_BYTES;
}

#endif
