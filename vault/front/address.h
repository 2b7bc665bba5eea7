/*
 * Purpose: the part of a client's address that stands for whoever holds it, as the key of a table, and the key's place there.
 * Owns:    nothing. Threads: pure.
 * Errors:  a family that is not IP is a key of its own.
 * Limits:  8 bytes of prefix: more of an IPv6 address is one customer's own to choose.
 * Secrets: none; the salt keeps anybody from choosing addresses that share a chain.
 */
#ifndef FRONT_ADDRESS_H
#define FRONT_ADDRESS_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

struct address_key {
    uint8_t b[9]; /* version, prefix, zeros */
};

/* v4 (at most 4), v6 (at most 8): how many bytes of each count. An IPv4 address written as IPv6 is that IPv4 address. */
static inline struct address_key address_key_of(const struct sockaddr_storage *addr, size_t v4, size_t v6)
{
    struct address_key k = {0};
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)addr;
    if (addr->ss_family == AF_INET) {
        k.b[0] = 4;
        memcpy(k.b + 1, &((const struct sockaddr_in *)addr)->sin_addr, v4);
    } else if (addr->ss_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr)) {
        k.b[0] = 4;
        memcpy(k.b + 1, in6->sin6_addr.s6_addr + 12, v4);
    } else if (addr->ss_family == AF_INET6) {
        k.b[0] = 6;
        memcpy(k.b + 1, in6->sin6_addr.s6_addr, v6);
    }
    return k;
}

static inline bool address_key_equal(const struct address_key *a, const struct address_key *b)
{
    return memcmp(a->b, b->b, sizeof a->b) == 0;
}

static inline uint64_t address_key_hash(const struct address_key *k, uint64_t salt)
{
    uint64_t h = salt;
    for (size_t i = 0; i < sizeof k->b; i++)
        h = (h ^ k->b[i]) * 0x9e3779b97f4a7c15u, h ^= h >> 29;
    return h;
}

#endif
