/*
 * Purpose: each certificate's share of the connections: somebody with many addresses and one certificate must not have them
 *          all. The core does the same for calls (RPC_CALLER_SHARE).
 * Owns:    its table of certificates, known by the SHA-256 of the leaf for as long as one of its connections lives.
 * Threads: the loop's.
 * Errors:  none; who is over the share is said, and what to do about it is its caller's.
 * Limits:  share; CERTS_LOOK.
 * Secrets: none.
 */
#ifndef FRONT_CERTS_H
#define FRONT_CERTS_H

#include "base/err.h"

#include <stdint.h>

enum {
    CERTS_DIGEST_BYTES = 32,
    CERTS_LOOK = 64, /* of the oldest: looked at for an idle one that can make room */
};

struct cert;
struct holding { /* one connection's; zero: none */
    struct holding *next, *prev; /* of the same certificate, oldest first */
    struct cert *cert;
};

struct certs;
struct certs *certs_new(uint32_t share);
void certs_free(struct certs *cs); /* when everybody has left; NULL accepted */
void certs_join(struct certs *cs, const uint8_t digest[CERTS_DIGEST_BYTES], struct holding *h); /* as the newest */
void certs_leave(struct certs *cs, struct holding *h);                                          /* {0} accepted */
bool certs_over(const struct certs *cs, const struct holding *h);
struct holding *certs_oldest(const struct holding *h); /* of its certificate */

#endif
