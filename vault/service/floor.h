/*
 * Purpose: where the store's floor is kept (kms/store/store.h, struct store_anchor): an object on the token, or the file that
 *          anchor_file names; and whether that place is one that the same disk snapshot would take back too.
 * Owns:    nothing: hsm and configuration are borrowed. Threads: as the store calls it; floor_weakness before confinement.
 * Errors:  those of hsm_anchor_get and _put; ERR_NOT_FOUND, ERR_UNAVAILABLE "ANCHOR_FILE" for the file.
 * Limits:  STORE_ANCHOR_MAX bytes. Secrets: none: the value is sealed by the store.
 */
#ifndef VAULT_SERVICE_FLOOR_H
#define VAULT_SERVICE_FLOOR_H

#include "base/config.h"
#include "hsm/hsm.h"
#include "kms/store/store.h"

enum { FLOOR_TEXT_MAX = 256 };

struct floor {
    struct store_anchor io;
    struct hsm *hsm;
    const char *path; /* "" : none is configured */
};
void floor_init(struct floor *f, const struct config *c, struct hsm *h);
/* In words, "" when the place stands on another device than the store (or is no file of this machine). */
void floor_weakness(const struct config *c, char out[FLOOR_TEXT_MAX]);
/* The folder of anchor_file, for confinement; "" when there is none. */
void floor_folder(const struct config *c, char out[4096]);

#endif
