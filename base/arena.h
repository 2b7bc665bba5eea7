/*
 * Purpose: per-call memory: everything a call decodes or builds, released and wiped at once when the call ends.
 * Owns:    its blocks. Threads: one thread at a time, as the call itself.
 * Errors:  arena_alloc returns NULL when the limit would be passed or there is no memory: the caller answers ERR_EXHAUSTED. Where
 *          a library stands between, `refused` says that this was why (until the arena is reset).
 * Limits:  `max` bytes given at init; alignment 16.
 * Secrets: all memory is wiped on release and reset; plaintext lives here, keys in struct secret.
 */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include "base/bytes.h"

struct arena_block;
struct arena {
    struct arena_block *head;
    size_t used, max;
    bool refused;
};
void arena_init(struct arena *a, size_t max);
void arena_reset(struct arena *a);   /* wipes, keeps the first block for re-use */
void arena_release(struct arena *a); /* wipes and frees */
void *arena_alloc(struct arena *a, size_t n);  /* uninitialised */
void *arena_zalloc(struct arena *a, size_t n); /* zeroed */
void *arena_dup(struct arena *a, const void *p, size_t n);
char *arena_strdup(struct arena *a, struct bytes s);   /* NUL-terminated copy */
char *arena_printf(struct arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
