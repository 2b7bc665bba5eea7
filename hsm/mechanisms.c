#include "hsm/mechanisms.h"

#include <string.h>

static const struct {
    const char *name;
    CK_MECHANISM_TYPE type;
    CK_FLAGS use;
} mechanisms[MECH_N] = {
    [MECH_HMAC] = {"CKM_SHA256_HMAC", CKM_SHA256_HMAC, CKF_SIGN},
    [MECH_SECRET_GEN] = {"CKM_GENERIC_SECRET_KEY_GEN", CKM_GENERIC_SECRET_KEY_GEN, CKF_GENERATE},
    [MECH_EDDSA] = {"CKM_EDDSA", CKM_EDDSA, CKF_SIGN},
    [MECH_EDDSA_GEN] = {"CKM_EC_EDWARDS_KEY_PAIR_GEN", CKM_EC_EDWARDS_KEY_PAIR_GEN, CKF_GENERATE_KEY_PAIR},
    [MECH_ECDSA] = {"CKM_ECDSA", CKM_ECDSA, CKF_SIGN},
    [MECH_ECDSA_GEN] = {"CKM_EC_KEY_PAIR_GEN", CKM_EC_KEY_PAIR_GEN, CKF_GENERATE_KEY_PAIR},
    [MECH_GCM] = {"CKM_AES_GCM", CKM_AES_GCM, CKF_ENCRYPT | CKF_DECRYPT},
    [MECH_AES_GEN] = {"CKM_AES_KEY_GEN", CKM_AES_KEY_GEN, CKF_GENERATE},
};

#define IS(which) (1u << (which))
/* One way or the other, where there are two. */
static const struct {
    const char *name;
    unsigned way, other;
    const char *without;
} groups[GROUP_N] = {
    [GROUP_KDF] = {"kdf", IS(MECH_HMAC) | IS(MECH_SECRET_GEN), 0,
                   "masters and seals are made and used by it: use another token, or enable them"},
    [GROUP_SIGN] = {"sign", IS(MECH_EDDSA) | IS(MECH_EDDSA_GEN), IS(MECH_ECDSA) | IS(MECH_ECDSA_GEN),
                    "the audit key is on the token, Ed25519 or P-256: use another token, or enable one of the two"},
    [GROUP_GCM] = {"gcm", IS(MECH_GCM) | IS(MECH_AES_GEN) | IS(MECH_HMAC) | IS(MECH_SECRET_GEN), 0,
                   "keys of protection level HSM need another token; all else serves"},
};

/* A token that failed to answer does not lack the mechanism: the audit key would be made of another kind for it. */
static RESULT probe_one(struct module *m, CK_SLOT_ID slot, size_t i, bool *ret, struct err *e)
{
    CK_MECHANISM_INFO info = {0};
    CK_RV rv = CALL(m, C_GetMechanismInfo, slot, mechanisms[i].type, &info);
    *ret = rv == CKR_OK && (info.flags & mechanisms[i].use) == mechanisms[i].use;
    return rv == CKR_OK || ckr_class(rv) == CKR_CLASS_OTHER ? ok() : ckr_fail(rv, "C_GetMechanismInfo", e);
}

static bool has_all(const struct mechanisms *k, unsigned way)
{
    for (size_t i = 0; i < MECH_N; i++)
        if ((way >> i & 1u) != 0 && !k->has[i])
            return false;
    return way != 0;
}

static bool can(const struct mechanisms *k, enum mechanism_group g)
{
    return has_all(k, groups[g].way) || has_all(k, groups[g].other);
}

RESULT mechanisms_probe(struct module *m, CK_SLOT_ID slot, struct mechanisms *ret, struct err *e)
{
    struct mechanisms k = {0};
    for (size_t i = 0; i < MECH_N; i++)
        TRY(probe_one(m, slot, i, &k.has[i], e));
    k.eddsa = has_all(&k, groups[GROUP_SIGN].way);
    k.ecdsa = has_all(&k, groups[GROUP_SIGN].other);
    *ret = k;
    return ok();
}

static void put_lacking(const struct mechanisms *k, unsigned of, struct buf *out)
{
    const char *between = "";
    for (size_t i = 0; i < MECH_N; i++)
        if ((of >> i & 1u) != 0 && !k->has[i]) {
            buf_putf(out, "%s%s", between, mechanisms[i].name);
            between = " ";
        }
}

void mechanisms_missing(const struct mechanisms *k, struct buf *out)
{
    put_lacking(k, ~0u, out);
}

static void put_cannot(const struct mechanisms *k, enum mechanism_group g, struct buf *out)
{
    buf_putf(out, "%s (it lacks ", groups[g].name);
    put_lacking(k, groups[g].way | groups[g].other, out);
    buf_putf(out, ")");
}

void mechanisms_cannot(const struct mechanisms *k, struct buf *out)
{
    for (enum mechanism_group g = GROUP_KDF; g <= GROUP_SIGN; g++)
        if (!can(k, g)) {
            buf_putf(out, "%s", out->n > 0 ? ", " : "");
            put_cannot(k, g, out);
        }
}

RESULT mechanisms_need(const struct mechanisms *k, enum mechanism_group g, struct err *e)
{
    if (can(k, g))
        return ok();
    CLEANUP(buf_release) struct buf what = {0};
    buf_init(&what, 256);
    put_cannot(k, g, &what);
    struct result r = err_set(e, ERR_STATE, "HSM_MECHANISM", __FILE__, __LINE__, "the token cannot do %s", buf_cstr(&what));
    e->hint = groups[g].without;
    return r;
}

static void put_way(unsigned way, struct buf *out)
{
    const char *between = "";
    for (size_t i = 0; i < MECH_N; i++)
        if ((way >> i & 1u) != 0) {
            buf_putf(out, "%s%s", between, mechanisms[i].name);
            between = " + ";
        }
}

const char *mechanisms_group(enum mechanism_group g, struct buf *out)
{
    put_way(groups[g].way, out);
    buf_putf(out, "%s", groups[g].other != 0 ? " or " : "");
    put_way(groups[g].other, out);
    return groups[g].name;
}
