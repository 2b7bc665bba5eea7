/*
 * Purpose: a few locked, no-dump slots for what is as secret as a key and cannot be a struct secret: OpenSSL's contexts and the
 *          state of the nonce source.
 * Owns:    one arena a process, mapped at first use and kept until exit (slots are reused).
 * Threads: any; lock-free.
 * Errors:  lockmem_init: ERR_EXHAUSTED when the memory cannot be locked; without it, the first take makes that INVARIANT (fail
 *          closed: nothing may run on memory that could be swapped). lockmem_take: NULL when every slot is taken.
 * Limits:  LOCKMEM_SLOT_BYTES a slot, LOCKMEM_SLOTS slots.
 * Secrets: mlock, MADV_DONTDUMP; MADV_WIPEONFORK: a fork finds zeros; lockmem_give wipes. A guard page on each side.
 */
#ifndef KMS_CRYPTO_LOCKMEM_H
#define KMS_CRYPTO_LOCKMEM_H

#include "base/err.h"

enum { LOCKMEM_SLOT_BYTES = 1024, LOCKMEM_SLOTS = 512 };

RESULT lockmem_init(struct err *e); /* start-up's way to fail with words; may be called again */
void *lockmem_take(size_t n); /* zero-filled, 16-byte aligned; n <= LOCKMEM_SLOT_BYTES, else NULL */
void lockmem_give(void *p);   /* wipes; p from lockmem_take */
bool lockmem_owns(const void *p);
size_t lockmem_used(void); /* slots */

#endif
