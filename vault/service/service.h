/*
 * Purpose: everything that outlives a call, wired together: store, journal, relay, keyring, authn, policy, limits, lanes.
 * Owns:    all of it. Threads: read-only after service_start; parts synchronise themselves.
 * Errors:  start-up errors name what is wrong and what to do. Limits: as configured. Secrets: inside keyring only.
 */
#ifndef VAULT_SERVICE_SERVICE_H
#define VAULT_SERVICE_SERVICE_H

#include "base/clock.h"
#include "base/config.h"
#include "hsm/hsm.h"
#include "kms/audit/journal.h"
#include "kms/audit/signed_note.h"
#include "kms/authn/authn.h"
#include "kms/keyring/keyring.h"
#include "kms/limit/budget.h"
#include "kms/limit/limit.h"
#include "kms/policy/policy.h"
#include "kms/store/store.h"
#include "vault/service/condition.h"
#include "vault/service/floor.h"
#include "vault/service/instance.h"

struct reviews;
struct keeper;
struct mover;
struct lanes; /* the slow lane: bounded queue and its threads (lanes.h) */

struct service {
    const struct config *config;
    const struct clock *clock;
    struct hsm *hsm;
    struct store *store;
    struct journal *journal;
    struct relay *relay;
    struct keyring *keyring;
    struct authn *authn;
    struct limiter *limiter;
    struct budgets *budgets;
    struct refusals *refusals;
    struct lanes *lanes;
    struct admin *admin; /* admin.h: policy documents and principals: stored, loaded, applied */
    struct instance instance;
    struct aead_key *token_key; /* seals page tokens */
    struct tenant_ref *relay_tenant; /* relay thread only */
    struct signed_note_key audit_key; /* public: what verifies what the token signs */
    struct floor floor;              /* where the store's floor is kept */
    char anchor_weakness[FLOOR_TEXT_MAX];
    struct reviews *reviews;         /* review.h: what somebody must look into */
    uint64_t outbox_at_start;        /* a recovery administrator acts only when the journal has come this far: its own event */
    int64_t started_unix_ns;
    struct waiters *waiters; /* server streams with nothing to send */
    struct keeper *keeper; /* background: what falls due */
    struct mover *mover;   /* background: rotation and end of the masters and the seal secrets */
    struct metering *metering; /* counts what key versions are used for; NULL: nobody does */
    struct sweep *sweep; /* background: refusal counts, expired idempotency records, health */
    _Atomic uint32_t made[HSM_SEAL + 1]; /* by enum hsm_object: versions made on the token since sweep last asked it; 0: none */
    _Atomic uint64_t calls_in_flight;
    _Atomic bool draining;        /* open streams end at their next step */
    _Atomic bool trust_old;       /* the last reload of client CAs failed */
    _Atomic uint64_t keys_unsaved; /* of level HSM, that no backup of the token has (token_backup.h) */
    _Atomic uint64_t damaged;     /* calls that met stored data which failed its check */
    _Atomic uint64_t traffic[4];  /* the front's connections: open, accepted, refused, policed */
};
struct service_options {
    const struct config *config;
    const struct clock *clock;
    struct hsm *hsm; /* owned from here on */
    struct bytes ca_pem, crl_pem;
    uint8_t boot_id[BOOT_ID_BYTES]; /* zeros: unknown */
    const char *anchor_weakness; /* service_start: what floor_weakness said before confinement; NULL: nothing */
    bool vendor_clone; /* service_init: the operator's word that the vendor's tool clones the token */
};
RESULT service_start(const struct service_options *o, struct service **ret, struct err *e);
void service_stop(struct service *s); /* after the transport has drained; NULL accepted */

/* `kmsd init`: creates HSM objects, a verified backup of the token, store, policy version 1 and the administrator; refuses to
 * overwrite any of them. ERR_EXISTS "ALREADY_INITIALISED": all is there; ERR_STATE "INIT_UNFINISHED": an earlier run was
 * interrupted, and the detail says what there is; ERR_STATE "TOKEN_BACKUP": this token needs vendor_clone, or may not have it. */
struct init_document {
    struct bytes name, yaml;
};
RESULT service_init(const struct service_options *o, struct bytes admin_name, struct bytes admin_san,
                    const struct init_document *docs, size_t ndocs, struct buf *ret_text, struct err *e);

void service_health(struct service *s, struct health *ret);

#endif
