/*
 * Purpose: the only holder of key bytes: fixed slots in one guarded, locked, no-dump slab.
 * Owns:    the slab (one a process, made once by secret_slab_init) and every slot in it. Pages are their maker's.
 * Threads: secret_new/free from any thread (lock-free or short lock); a secret's bytes belong to whoever holds it;
 *          share it read-only after it is filled.
 * Errors:  secret_slab_init and secret_pages_new fail when locking cannot be proved: start-up must stop then. secret_new fails
 *          EXHAUSTED.
 * Limits:  SECRET_MAX_BYTES a secret; the number of slots is fixed at init.
 * Secrets: secret_free wipes; the slab is mlock'ed, MADV_DONTDUMP, MADV_WIPEONFORK, between PROT_NONE pages.
 *          No environment variable weakens it.
 */
#ifndef BASE_SECRET_H
#define BASE_SECRET_H

#include "base/bytes.h"

enum { SECRET_MAX_BYTES = 128, SECRET_KEY_BYTES = 32 };

struct secret; /* a slot: opaque */

RESULT secret_slab_init(size_t slots, struct err *e); /* before any thread; once */
void secret_slab_release(void);                       /* tests: all secrets must have been freed */
struct secret_stats {
    size_t slots, used, locked_bytes;
};
struct secret_stats secret_stats(void);

RESULT secret_new(size_t len /* 1..SECRET_MAX_BYTES */, struct secret **ret, struct err *e); /* zero-filled */
RESULT secret_from(const void *p, size_t len, struct secret **ret, struct err *e); /* copies; caller wipes its own copy */
RESULT secret_dup(const struct secret *s, struct secret **ret, struct err *e);
void secret_free(struct secret *s); /* wipes; NULL accepted */
void secret_freep(struct secret **s); /* for CLEANUP */
size_t secret_len(const struct secret *s);
const uint8_t *secret_borrow(const struct secret *s); /* valid until freed */
uint8_t *secret_borrow_mut(struct secret *s);
bool secret_equal(const struct secret *a, const struct secret *b); /* constant time; different lengths: false */
/* Reads a PIN or key file of at most SECRET_MAX_BYTES from fd straight into a secret; one trailing newline is dropped. */
RESULT secret_read_fd(int fd, struct secret **ret, struct err *e);

/* Pages of the same kind as the slab's (locked, no-dump, zeros for a fork, guarded) for what is longer than a slot: a buffer that
 * keys pass through. Zero-filled. The caller wipes what it no longer needs; free wipes all. n: the same for both. */
RESULT secret_pages_new(size_t n, uint8_t **ret, struct err *e);
void secret_pages_free(uint8_t *p, size_t n); /* NULL accepted */

/* Process-wide: RLIMIT_CORE 0, PR_SET_DUMPABLE 0. Call first in every main. */
RESULT secret_process_harden(struct err *e);

#endif
