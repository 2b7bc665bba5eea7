/*
 * Purpose: certificates of destruction: what was destroyed, when, at whose request. A signed note whose text docs/FORMATS.md has to the
 *          byte: written, unsigned, in the transaction that destroys; signed by the audit key on the token as soon as it answers
 *          (DUE_CERTIFICATE). So there is never a destruction without its certificate, and never two.
 * Owns:    nothing: texts live in the arena given. Threads: any that may block.
 * Errors:  the store's and the token's; ERR_DATA_LOSS "RECORD_MALFORMED"; certificate_put cannot fail before its commit.
 * Limits:  CERTIFICATE_TEXT_MAX. Secrets: none.
 *
 * REC_CERTIFICATE of a version: tenant column = the tenant's id, id = the version row's, name = the version's.
 *                 of a tenant: tenant column zero, id = SHA-256("projects/{tenant}"), u64 destroyed Unix ns; no name: it outlives the
 *                 tenant, whose name may be given again.
 * Plain state: 1 not signed yet, 2 signed. Body: u8 format 1, u8 kind, u8 on token, kvid[16], v32 text or signed note.
 */
#ifndef VAULT_SERVICE_CERTIFICATE_H
#define VAULT_SERVICE_CERTIFICATE_H

#include "kms/keyring/due.h"
#include "vault/service/service.h"

enum { CERTIFICATE_TEXT_MAX = 3072, CERTIFICATE_NOTE_MAX = 4096 };
enum certificate_kind { CERTIFICATE_VERSION = 1, CERTIFICATE_TENANT = 2 };

struct certificate {
    enum certificate_kind kind;
    struct bytes name;            /* canonical: of the version, or projects/{tenant} */
    uint8_t tenant_id[16];
    uint8_t kvid[16];             /* a version's */
    bool on_token;                /* a version of level HSM: its object must be gone from the token before this is signed */
    int64_t created_ns, requested_ns, due_ns, destroyed_ns; /* requested_ns 0: not known */
    struct bytes requested_by;    /* principal; empty: not known (the record came from an accepted rollback) */
    struct certificate_counts {   /* a tenant's: what went with it, over all of its life's end */
        uint64_t key_rings, keys, versions, principals, token_objects;
    } counts;
};
/* Adds to txn the certificate and the row that has it signed; refused by the commit (ERR_EXISTS) where there is one already. What the
 * event of the same transaction says of it goes into its `after`: ret_sha256, over the text that will be signed. */
void certificate_put(struct service *s, struct store_txn *txn, const struct certificate *c, uint8_t ret_sha256[32]);
RESULT certificate_there(struct service *s, const struct name *version, bool *ret, struct err *e);

/* At start, while the token is there: the public audit key, into s->audit_key. */
RESULT certificate_key(struct service *s, struct err *e);
/* A keeper_task: signs what is not signed yet of that name, once the store's log no longer has what was destroyed, and the token
 * no longer the object. user is the struct service. */
RESULT certificate_due(void *user, const struct due *d, struct err *e);

struct certificate_row {
    enum certificate_kind kind;
    bool is_signed, on_token;
    uint8_t kvid[16];
    int64_t destroyed_ns;
    struct bytes name;  /* of what was destroyed */
    struct bytes note;  /* signed; until then the text alone */
    struct bytes id;    /* for the next page */
    uint8_t tenant[STORE_TENANT_BYTES];
    uint64_t revision;
};
/* Of a version, or the newest of a tenant of that name. Views into the arena. ERR_NOT_FOUND. */
RESULT certificate_get(struct service *s, const struct name *n, struct arena *a, struct certificate_row *ret, struct err *e);
/* Those of the versions below a location, ring or key, by name; of tenants (parent NULL), in no order of meaning. At most `limit`. */
RESULT certificate_list(struct service *s, const struct name *parent, struct bytes after_id, size_t limit, struct arena *a,
                        struct certificate_row **ret, size_t *ret_n, struct err *e);

#endif
