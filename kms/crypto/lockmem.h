/*
 * Purpose: a few locked, no-dump slots for what is as secret as a key and cannot be a struct secret: OpenSSL's contexts and the
 *          state of the nonce source.
 * Owns:    one arena a process, mapped at first use and kept until exit (slots are reused).
 * Threads: any; lock-free.
 * Errors:  lockmem_take: NULL when every slot is taken; failing to map or lock is INVARIANT (fail closed: nothing may run on
 *          memory that could be swapped). Limits: LOCKMEM_SLOT_BYTES a slot, LOCKMEM_SLOTS slots.
 * Secrets: mlock, MADV_DONTDUMP; MADV_WIPEONFORK: a fork finds zeros; lockmem_give wipes. A guard page on each side.
 */
#ifndef KMS_CRYPTO_LOCKMEM_H
#define KMS_CRYPTO_LOCKMEM_H

#include <stdbool.h>
#include <stddef.h>

enum { LOCKMEM_SLOT_BYTES = 1024, LOCKMEM_SLOTS = 512 };

void *lockmem_take(size_t n); /* zero-filled, 16-byte aligned; n <= LOCKMEM_SLOT_BYTES, else NULL */
void lockmem_give(void *p);   /* wipes; p from lockmem_take */
bool lockmem_owns(const void *p);
size_t lockmem_used(void); /* slots */

#endif
