/*
 * Purpose: the closed list of operations on the HSM. One header, two bodies: hsm/client.c asks the hsm process over its
 *          channel (core, kmsd init), hsm/ops.c answers inside it with PKCS#11. Nothing outside hsm/ knows PKCS#11 exists.
 * Owns:    struct hsm owns its end of the channel.
 * Threads: every call may come from any thread and blocks up to hsm_timeout (hsm_generate and hsm_backup longer, as they say):
 *          slow lane only, never a gRPC worker. hsm answers one at a time.
 * Errors:  ERR_UNAVAILABLE "HSM_UNAVAILABLE" (gone, hung, restarting: retry), ERR_NOT_FOUND "HSM_OBJECT_ABSENT",
 *          ERR_EXISTS "HSM_OBJECT_EXISTS" (will not overwrite), ERR_DENIED "HSM_REFUSED" (input is not our KDF encoding),
 *          ERR_DATA_LOSS (a key, an anchor or a copy is not what it was), ERR_STATE (what a person has to mend on the token),
 *          ERR_INTERNAL. Where the module failed, detail carries the CK_RV by name.
 * Limits:  inputs up to KDFENC_MAX_BYTES, messages to sign up to HSM_MESSAGE_MAX.
 * Secrets: derived keys arrive straight in struct secret; masters never leave the token; the PIN never leaves hsm.
 */
#ifndef HSM_HSM_H
#define HSM_HSM_H

#include "base/kdfenc.h"
#include "base/secret.h"

enum { HSM_MESSAGE_MAX = 4096, HSM_SIG_MAX = 128, HSM_PUBKEY_MAX = 128, HSM_ANCHOR_MAX = 1024, HSM_RANDOM_MAX = 1024 };

enum hsm_object {     /* version is 1.. ; labels on the token "claviger-master-1" ... */
    HSM_MASTER = 1,   /* L0: CKO_SECRET_KEY generic secret, 256 bit, SIGN only (HMAC-SHA-256) */
    HSM_SEAL,         /* the same kind; its version is the seal epoch */
    HSM_AUDIT,        /* Ed25519 key pair (EC P-256 where the token has no EdDSA): signs checkpoints */
};

struct hsm;
struct clock;

/* Client side. fd is the channel's end and is owned (-1: none yet); timeout_ms is the longest wait for one operation, its time
 * in the queue included. */
RESULT hsm_client_new(int fd, uint64_t timeout_ms, struct hsm **ret, struct err *e);
void hsm_client_set_channel(struct hsm *h, int fd); /* after the hsm process was restarted; safe while calls are under way */
void hsm_free(struct hsm *h);                       /* NULL accepted */

struct hsm_status {
    bool logged_in;      /* false: the token is away, and what follows is as it was last seen */
    char token_label[33], manufacturer[33], model[17], serial[17];
    uint32_t master_newest, seal_newest, audit_newest; /* 0: none */
    char missing[256];   /* mechanisms the token lacks, by name, "" when none */
    char weaknesses[320]; /* named weaknesses accepted (e.g. ALLOWED_MECHANISMS not supported), "; " between */
    uint64_t calls, failures; /* of PKCS#11 functions, since this hsm process started */
    bool copyable;       /* the token is files: hsm_backup can copy it */
    uint32_t backups;    /* verified ones of this token that still lie where hsm_backup put them */
};
#define HSM_WEAK_BACKUP_DEVICE "token backup lies on the same device as the token"
/* Asks the hsm process, which does not ask the token for it: cheap, and answered while the token is away. */
RESULT hsm_probe(struct hsm *h, struct hsm_status *ret, struct err *e);

/* C_Sign(CKM_SHA256_HMAC) over a KDF encoding with an in-HSM label; 32 bytes. Object is HSM_MASTER or HSM_SEAL. */
RESULT hsm_derive(struct hsm *h, enum hsm_object object, uint32_t version, struct bytes kdf_input, struct secret **ret,
                  struct err *e);
/* From the token's generator, mixed with the kernel's. */
RESULT hsm_random(struct hsm *h, void *out, size_t n /* 1..HSM_RANDOM_MAX */, struct err *e);
/* Signs a checkpoint body (must begin with the audit origin line "cluster_name/node_name"; hsm checks the shape of a signed
 * note body). Ed25519 (RFC 8032): 64 bytes. P-256: ECDSA with SHA-256, ASN.1 DER. */
RESULT hsm_sign_checkpoint(struct hsm *h, uint32_t version, struct bytes message, uint8_t sig[HSM_SIG_MAX], size_t *ret_n,
                           struct err *e);
/* Ed25519: 32 bytes. P-256: 65 bytes, uncompressed point. */
RESULT hsm_audit_pubkey(struct hsm *h, uint32_t version, uint8_t out[HSM_PUBKEY_MAX], size_t *ret_n, bool *ret_ed25519,
                        struct err *e);
/* Creates the object with the ritual of DESIGN section 5 (attributes verified, syncfs, known answer in a fresh process);
 * refuses (ERR_EXISTS) to overwrite. Takes up to 20 s more than the timeout. Any failure leaves no object behind, except the
 * death of the hsm process itself. */
RESULT hsm_generate(struct hsm *h, enum hsm_object object, uint32_t version, struct err *e);
/* Gone for good, with its stored known answer; what only it could decrypt is lost. No question is asked here. */
RESULT hsm_destroy(struct hsm *h, enum hsm_object object, uint32_t version, struct err *e);
/* A copy of a token that is files, verified in a fresh process (hsm/backup.h says what that means). Takes up to
 * HSM_BACKUP_MS. ERR_UNIMPLEMENTED: the token is no files, its vendor's tool must clone it; ERR_DATA_LOSS: the copy is not
 * the token. */
enum { HSM_BACKUP_HOLDS_MAX = 4096, HSM_BACKUP_PATH_MAX = 2048, HSM_BACKUP_MS = 120000 };
struct hsm_backup {
    char path[HSM_BACKUP_PATH_MAX];   /* the backup's folder */
    char serial[17];                  /* of the token, and of the copy */
    char holds[HSM_BACKUP_HOLDS_MAX]; /* "master-1 seal-1 audit-1" */
    int64_t made_unix_s;
};
RESULT hsm_backup(struct hsm *h, struct hsm_backup *ret, struct err *e);
/* One small data object on the token: the floor for epoch and journal id. get: ERR_NOT_FOUND when never written. */
RESULT hsm_anchor_get(struct hsm *h, uint8_t out[HSM_ANCHOR_MAX], size_t *ret_n, struct err *e);
RESULT hsm_anchor_put(struct hsm *h, struct bytes value, struct err *e);

#endif
