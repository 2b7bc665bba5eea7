/*
 * Purpose: hsm/hsm.h answered in this process, for tests of what is built upon it over years of a fake clock, or while it fails:
 *          secrets by version, derivation as the real one computes it, random bytes. It proves nothing about tokens: those are
 *          in tests/unit/hsm and tests/integration. Included once, by the one .c file of a test program, in place of libhsm's client.
 * Owns:    struct token_stand_in stand_in. Threads: one at a time. Errors: as the test orders. Limits: STAND_IN_VERSIONS.
 * Secrets: none worth keeping.
 */
#ifndef TESTS_UNIT_KMS_TOKEN_H
#define TESTS_UNIT_KMS_TOKEN_H

#include "base/clock.h"
#include "base/rng.h"
#include "hsm/hsm.h"
#include "hsm/note.h"
#include "kms/crypto/kdf.h"
#include "tests/unit/kms/testing.h"
#include "tests/unit/kms/token_message.h"

#include <sodium.h>
#include <stdlib.h>

enum { STAND_IN_KINDS = 4, STAND_IN_VERSIONS = 96 };
#define STAND_IN_KEYS 64
struct hsm {
    struct stand_in_key keys[STAND_IN_KEYS];
    unsigned keys_made, keys_checked, keys_sealed, keys_destroyed;
    bool dies_after_making; /* a key of level HSM is made, and the answer is lost */
    bool there[STAND_IN_KINDS][STAND_IN_VERSIONS];
    bool away;            /* everything fails ERR_UNAVAILABLE */
    unsigned dies_in;     /* the answer of the n-th derive, generate, destroy or backup from now is lost, its effect is not; 0: of none */
    bool no_files;        /* nothing that kmsd could back up */
    unsigned backups;
    uint32_t backup_lacks; /* a seal secret that no backup gets, though it is there; 0: none */
    unsigned derived, generated, destroyed, signed_count;
    uint8_t anchor[HSM_ANCHOR_MAX];
    size_t anchor_n;
};

static inline struct result stand_in_here(const struct hsm *h, enum hsm_object kind, uint32_t version, struct err *e)
{
    if (h->away)
        FAIL(e, ERR_UNAVAILABLE, "HSM_UNAVAILABLE", "ordered");
    INVARIANT((int)kind < STAND_IN_KINDS && version < STAND_IN_VERSIONS);
    if (!h->there[kind][version])
        FAIL(e, ERR_NOT_FOUND, "HSM_OBJECT_ABSENT", "no such object");
    return ok();
}

static inline struct result stand_in_answers(struct hsm *h, struct err *e)
{
    if (h->dies_in > 0 && --h->dies_in == 0)
        FAIL(e, ERR_UNAVAILABLE, "HSM_UNAVAILABLE", "ordered: the answer is lost");
    return ok();
}

RESULT hsm_client_new(int fd, uint64_t timeout_ms, struct hsm **ret, struct err *e)
{
    (void)fd, (void)timeout_ms, (void)e;
    *ret = calloc(1, sizeof **ret);
    INVARIANT(*ret != NULL);
    for (enum hsm_object kind = HSM_MASTER; kind <= HSM_AUDIT; kind++)
        (*ret)->there[kind][1] = true;
    return ok();
}

void hsm_client_set_channel(struct hsm *h, int fd)
{
    (void)h, (void)fd;
}

void hsm_free(struct hsm *h)
{
    free(h);
}

static inline uint32_t stand_in_newest(const struct hsm *h, enum hsm_object kind)
{
    uint32_t v = STAND_IN_VERSIONS - 1;
    while (v > 0 && !h->there[kind][v])
        v--;
    return v;
}

RESULT hsm_probe(struct hsm *h, struct hsm_status *ret, struct err *e)
{
    (void)e;
    *ret = (struct hsm_status){.logged_in = !h->away, .token_label = "stand-in", .copyable = !h->no_files, .backups = 1};
    ret->master_newest = stand_in_newest(h, HSM_MASTER);
    ret->seal_newest = stand_in_newest(h, HSM_SEAL);
    ret->audit_newest = stand_in_newest(h, HSM_AUDIT);
    return ok();
}

RESULT hsm_derive(struct hsm *h, enum hsm_object object, uint32_t version, struct bytes input, struct secret **ret, struct err *e)
{
    uint8_t name[5] = {(uint8_t)object}, out[32];
    CLEANUP(secret_freep) struct secret *key = NULL;
    TRY(stand_in_here(h, object, version, e));
    put_be32(name + 1, version);
    TRY(secret_from(name, sizeof name, &key, e));
    hmac_sha256(key, &input, 1, out);
    h->derived++;
    TRY(stand_in_answers(h, e));
    return secret_from(out, sizeof out, ret, e);
}

RESULT hsm_random(struct hsm *h, void *out, size_t n, struct err *e)
{
    if (h->away)
        FAIL(e, ERR_UNAVAILABLE, "HSM_UNAVAILABLE", "ordered");
    rng_fill(&rng_system, out, n);
    return ok();
}

/* Ed25519 under a seed that everybody knows: what it signs verifies under hsm_audit_pubkey. */
static inline void stand_in_audit_key(uint32_t version, uint8_t pk[crypto_sign_PUBLICKEYBYTES], uint8_t sk[crypto_sign_SECRETKEYBYTES])
{
    uint8_t seed[crypto_sign_SEEDBYTES] = "stand-in audit key";
    put_be32(seed + sizeof seed - 4, version);
    INVARIANT(crypto_sign_seed_keypair(pk, sk, seed) == 0);
}

static inline struct result stand_in_sign(struct hsm *h, uint32_t version, struct bytes message, uint8_t sig[HSM_SIG_MAX], size_t *ret_n, struct err *e)
{
    uint8_t pk[crypto_sign_PUBLICKEYBYTES], sk[crypto_sign_SECRETKEYBYTES];
    TRY(stand_in_here(h, HSM_AUDIT, version, e));
    stand_in_audit_key(version, pk, sk);
    INVARIANT(crypto_sign_detached(sig, NULL, message.p, message.n, sk) == 0);
    *ret_n = crypto_sign_BYTES;
    h->signed_count++;
    return ok();
}

RESULT hsm_sign_checkpoint(struct hsm *h, uint32_t version, struct bytes message, uint8_t sig[HSM_SIG_MAX], size_t *ret_n, struct err *e)
{
    return stand_in_sign(h, version, message, sig, ret_n, e);
}

/* The shape is checked as the real one checks it: a text that hsm would refuse must not pass a test. */
RESULT hsm_sign_certificate(struct hsm *h, uint32_t version, struct bytes text, uint8_t sig[HSM_SIG_MAX], size_t *ret_n, struct err *e)
{
    TRY(note_check_certificate(text, NULL, e));
    return stand_in_sign(h, version, text, sig, ret_n, e);
}

RESULT hsm_audit_pubkey(struct hsm *h, uint32_t version, uint8_t out[HSM_PUBKEY_MAX], size_t *ret_n, bool *ret_ed25519, struct err *e)
{
    uint8_t pk[crypto_sign_PUBLICKEYBYTES], sk[crypto_sign_SECRETKEYBYTES];
    TRY(stand_in_here(h, HSM_AUDIT, version, e));
    stand_in_audit_key(version, pk, sk);
    memcpy(out, pk, sizeof pk);
    *ret_n = sizeof pk;
    *ret_ed25519 = true;
    return ok();
}

RESULT hsm_generate(struct hsm *h, enum hsm_object object, uint32_t version, struct err *e)
{
    if (h->away)
        FAIL(e, ERR_UNAVAILABLE, "HSM_UNAVAILABLE", "ordered");
    INVARIANT(version < STAND_IN_VERSIONS);
    if (h->there[object][version])
        FAIL(e, ERR_EXISTS, "HSM_OBJECT_EXISTS", "it is there");
    h->there[object][version] = true;
    h->generated++;
    return stand_in_answers(h, e);
}

RESULT hsm_destroy(struct hsm *h, enum hsm_object object, uint32_t version, struct err *e)
{
    TRY(stand_in_here(h, object, version, e));
    h->there[object][version] = false;
    h->destroyed++;
    return stand_in_answers(h, e);
}

static inline size_t stand_in_keys(const struct hsm *h);

RESULT hsm_backup(struct hsm *h, struct hsm_backup *ret, struct err *e)
{
    static const char *const names[] = {[HSM_MASTER] = "master", [HSM_SEAL] = "seal", [HSM_AUDIT] = "audit"};
    TRY(stand_in_here(h, HSM_AUDIT, 1, e));
    if (h->no_files)
        FAIL(e, ERR_UNIMPLEMENTED, "HSM_BACKUP", "ordered");
    *ret = (struct hsm_backup){.path = "/nowhere", .serial = "0", .made_unix_s = 1};
    for (enum hsm_object kind = HSM_MASTER; kind <= HSM_AUDIT; kind++)
        for (uint32_t v = 1; v < STAND_IN_VERSIONS; v++)
            if (h->there[kind][v] && (kind != HSM_SEAL || v != h->backup_lacks))
                (void)snprintf(ret->holds + strlen(ret->holds), sizeof ret->holds - strlen(ret->holds), "%s%s-%u", ret->holds[0] != 0 ? " " : "", names[kind], v);
    ret->keys = (uint32_t)stand_in_keys(h);
    h->backups++;
    return stand_in_answers(h, e);
}

RESULT hsm_anchor_get(struct hsm *h, uint8_t out[HSM_ANCHOR_MAX], size_t *ret_n, struct err *e)
{
    if (h->anchor_n == 0)
        FAIL(e, ERR_NOT_FOUND, "HSM_OBJECT_ABSENT", "no anchor was written yet");
    memcpy(out, h->anchor, h->anchor_n);
    *ret_n = h->anchor_n;
    return ok();
}

RESULT hsm_anchor_put(struct hsm *h, struct bytes value, struct err *e)
{
    (void)e;
    memcpy(h->anchor, value.p, value.n);
    h->anchor_n = value.n;
    return ok();
}

RESULT hsm_anchor_try(struct hsm *h, struct err *e)
{
    (void)h;
    (void)e;
    return ok();
}

#include "tests/unit/kms/token_keys.h"

#endif
