/*
 * Purpose: the closed list of operations on the HSM. One header, two bodies: hsm/client.c asks the hsm process over its
 *          channel (core, kmsd init), hsm/ops.c answers inside it with PKCS#11. Nothing outside hsm/ knows PKCS#11 exists.
 * Owns:    struct hsm owns its end of the channel.
 * Threads: every call may come from any thread and blocks up to hsm_timeout (hsm_generate, hsm_key_generate and hsm_backup longer):
 *          slow lane only, never a gRPC worker. hsm answers one at a time.
 * Errors:  ERR_UNAVAILABLE "HSM_UNAVAILABLE" (gone, hung, restarting: retry), ERR_NOT_FOUND "HSM_OBJECT_ABSENT",
 *          ERR_EXISTS "HSM_OBJECT_EXISTS" (will not overwrite), ERR_DENIED "HSM_REFUSED" (input is not our KDF encoding),
 *          ERR_DATA_LOSS (a key, an anchor or a copy is not what it was), ERR_STATE (what a person has to mend on the token),
 *          ERR_INTERNAL. Where the module failed, detail carries the CK_RV by name.
 * Limits:  inputs up to KDFENC_MAX_BYTES, messages to sign up to HSM_MESSAGE_MAX.
 * Secrets: derived keys arrive straight in struct secret; masters and the keys of hsm_key_... never leave the token; the PIN never
 *          leaves hsm. Plaintext passes through the channel; both sides wipe the packets.
 */
#ifndef HSM_HSM_H
#define HSM_HSM_H

#include "base/kdfenc.h"
#include "base/secret.h"

enum { HSM_MESSAGE_MAX = 4096, HSM_SIG_MAX = 128, HSM_PUBKEY_MAX = 128, HSM_ANCHOR_MAX = 1024, HSM_RANDOM_MAX = 1024 };

enum hsm_object {     /* version is 1.. ; labels on the token "claviger-master-1" ... */
    HSM_MASTER = 1,   /* L0: CKO_SECRET_KEY generic secret, 256 bit, SIGN only (HMAC-SHA-256) */
    HSM_SEAL,         /* the same kind; its version is the seal epoch */
    HSM_AUDIT,        /* Ed25519 key pair (EC P-256 where the token has no EdDSA): signs checkpoints and certificates */
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
    char cannot[320];    /* what a new daemon needs and this token cannot do: "sign (it lacks CKM_...)", "" when nothing */
    char weaknesses[640]; /* named weaknesses accepted (e.g. ALLOWED_MECHANISMS not supported), "; " between */
    uint64_t calls, failures; /* of PKCS#11 functions, since this hsm process started */
    bool copyable;       /* the token is files: hsm_backup can copy it */
    uint32_t backups;    /* verified ones of this token that still lie where hsm_backup put them */
};
static inline uint32_t hsm_newest(const struct hsm_status *st, enum hsm_object kind) /* 0: none */
{
    return kind == HSM_MASTER ? st->master_newest : kind == HSM_SEAL ? st->seal_newest : st->audit_newest;
}
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
/* The same over the text of a certificate of destruction (docs/FORMATS.md); a checkpoint is none, and a certificate no checkpoint. */
RESULT hsm_sign_certificate(struct hsm *h, uint32_t version, struct bytes text, uint8_t sig[HSM_SIG_MAX], size_t *ret_n, struct err *e);
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
    uint32_t keys;                    /* of protection level HSM, each whole */
};
RESULT hsm_backup(struct hsm *h, struct hsm_backup *ret, struct err *e);
/* One small data object on the token: the floor for epoch and journal id. get: ERR_NOT_FOUND when never written. */
RESULT hsm_anchor_get(struct hsm *h, uint8_t out[HSM_ANCHOR_MAX], size_t *ret_n, struct err *e);
RESULT hsm_anchor_put(struct hsm *h, struct bytes value, struct err *e);
/* Does the token keep such objects at all? One of another name is made and removed. ERR_UNIMPLEMENTED "HSM_MECHANISM": it does not. */
RESULT hsm_anchor_try(struct hsm *h, struct err *e);

/* ---- keys of protection level HSM: made on the token and used on it, found by the kvid of their version (docs/FORMATS.md
 * section 9). Two objects each: an AES-256 key for GCM, an HMAC secret for the commitment. hsm makes and reads the whole message:
 * core gives only the kvid, the type, the SHA-256 of the canonical additional data, and the plaintext. ---- */
enum { HSM_KVID_BYTES = 16, HSM_AAD_HASH_BYTES = 32, HSM_PLAIN_MAX = 8192, HSM_HEADER_BYTES = 40, HSM_COMMIT_BYTES = 32,
       HSM_NONCE_BYTES = 12, HSM_TAG_BYTES = 16,
       HSM_SEALED_OVERHEAD = HSM_HEADER_BYTES + HSM_COMMIT_BYTES + HSM_NONCE_BYTES + HSM_TAG_BYTES /* 100 */,
       HSM_CHECK_BYTES = HSM_SEALED_OVERHEAD + HSM_KVID_BYTES /* 116 */, HSM_KEYS_MAX = 16384, HSM_KEY_PAGE = 256 };
enum hsm_sealed { HSM_SEALED_DATA = 'e', HSM_SEALED_KEY = 'w', HSM_SEALED_CHECK = 'k' };

/* Makes the key, audits it, confirms it in a fresh process; takes up to 20 s more than the timeout. check: a message sealed by it at
 * birth (type k, additional data as given), for hsm_key_check. ERR_EXISTS; ERR_STATE "HSM_MECHANISM": the token has no AES-GCM;
 * ERR_EXHAUSTED "HSM_KEYS_MAX". */
RESULT hsm_key_generate(struct hsm *h, const uint8_t kvid[HSM_KVID_BYTES], const uint8_t aad_hash[HSM_AAD_HASH_BYTES],
                        uint8_t check[HSM_CHECK_BYTES], struct err *e);
/* Does the key still open what it sealed at birth? Needed before any use: each hsm process asks for it once for each key, and once
 * again when the token was away. ERR_NOT_FOUND: not on the token; ERR_DATA_LOSS "HSM_KNOWN_ANSWER"; ERR_STATE "HSM_OBJECT_WEAK". */
RESULT hsm_key_check(struct hsm *h, const uint8_t kvid[HSM_KVID_BYTES], const uint8_t aad_hash[HSM_AAD_HASH_BYTES],
                     const uint8_t check[HSM_CHECK_BYTES], struct err *e);
/* type: data or key. out: plain.n + HSM_SEALED_OVERHEAD bytes. ERR_STATE "HSM_KEY_UNCHECKED": hsm_key_check first. */
RESULT hsm_key_seal(struct hsm *h, const uint8_t kvid[HSM_KVID_BYTES], enum hsm_sealed type,
                    const uint8_t aad_hash[HSM_AAD_HASH_BYTES], struct bytes plain, uint8_t *out, struct err *e);
/* out: sealed.n - HSM_SEALED_OVERHEAD bytes, wiped on failure. ERR_CIPHERTEXT for whatever is wrong with the message. */
RESULT hsm_key_open(struct hsm *h, const uint8_t kvid[HSM_KVID_BYTES], enum hsm_sealed type,
                    const uint8_t aad_hash[HSM_AAD_HASH_BYTES], struct bytes untrusted_sealed, uint8_t *out, struct err *e);
/* Gone for good, both objects; ERR_NOT_FOUND "HSM_OBJECT_ABSENT" when there is neither. No question is asked here. */
RESULT hsm_key_destroy(struct hsm *h, const uint8_t kvid[HSM_KVID_BYTES], struct err *e);
/* Those on the token after that kvid (NULL: from the start), in order; fewer than HSM_KEY_PAGE: the last. */
RESULT hsm_key_list(struct hsm *h, const uint8_t *after, uint8_t out[HSM_KEY_PAGE][HSM_KVID_BYTES], size_t *ret_n, struct err *e);

#endif
