#include "hsm/object.h"

#include <string.h>

struct rule {
    CK_ATTRIBUTE_TYPE type;
    const char *name;
    bool want;
    bool required; /* false: where the token does not know it, a named weakness */
};

/* A key that can also wrap or decrypt is how keys are walked out of tokens (Clulow 2003): every usage is spelt out. */
static const struct rule secret_rules[] = {
    {CKA_TOKEN, "TOKEN", true, true},          {CKA_PRIVATE, "PRIVATE", true, true},
    {CKA_SENSITIVE, "SENSITIVE", true, true},  {CKA_EXTRACTABLE, "EXTRACTABLE", false, true},
    {CKA_SIGN, "SIGN", true, true},            {CKA_VERIFY, "VERIFY", false, true},
    {CKA_ENCRYPT, "ENCRYPT", false, true},     {CKA_DECRYPT, "DECRYPT", false, true},
    {CKA_WRAP, "WRAP", false, true},           {CKA_UNWRAP, "UNWRAP", false, true},
    {CKA_DERIVE, "DERIVE", false, true},       {CKA_MODIFIABLE, "MODIFIABLE", false, false},
    {CKA_COPYABLE, "COPYABLE", false, false},  {0},
};
static const struct rule private_rules[] = {
    {CKA_TOKEN, "TOKEN", true, true},          {CKA_PRIVATE, "PRIVATE", true, true},
    {CKA_SENSITIVE, "SENSITIVE", true, true},  {CKA_EXTRACTABLE, "EXTRACTABLE", false, true},
    {CKA_SIGN, "SIGN", true, true},            {CKA_DECRYPT, "DECRYPT", false, true},
    {CKA_UNWRAP, "UNWRAP", false, true},       {CKA_DERIVE, "DERIVE", false, true},
    {CKA_SIGN_RECOVER, "SIGN_RECOVER", false, false},
    {CKA_MODIFIABLE, "MODIFIABLE", false, false},
    {CKA_COPYABLE, "COPYABLE", false, false},  {0},
};
static const struct rule public_rules[] = {
    {CKA_TOKEN, "TOKEN", true, true},          {CKA_VERIFY, "VERIFY", true, true},
    {CKA_ENCRYPT, "ENCRYPT", false, true},     {CKA_WRAP, "WRAP", false, true},
    {CKA_DERIVE, "DERIVE", false, true},       {CKA_MODIFIABLE, "MODIFIABLE", false, false},
    {0},
};

struct audit {
    struct module *m;
    CK_SESSION_HANDLE s;
    const struct object *o;
    const char *label;
    struct buf *weak;
};

static void weakness(const struct audit *a, const char *what)
{
    buf_putf(a->weak, "%s%s: %s", a->weak->n > 0 ? "; " : "", a->label + strlen("claviger-"), what);
}

static RESULT weak_object(const struct audit *a, const char *why, const char *what, struct err *e)
{
    struct result r = err_set(e, ERR_STATE, "HSM_OBJECT_WEAK", __FILE__, __LINE__, "%s on the token: %s %s", a->label, what, why);
    e->hint = "do not use this key: its value may be known outside the token; make a new version";
    return r;
}

static RESULT check_bool(const struct audit *a, const struct rule *rule, struct err *e)
{
    CK_BBOOL value = CK_FALSE;
    size_t n;
    bool known;
    TRY(object_read(a->m, a->s, a->o->handle, rule->type, &value, sizeof value, &n, &known, e));
    if (!known || n != sizeof value) {
        if (rule->required)
            return weak_object(a, "cannot be read", rule->name, e);
        weakness(a, rule->name);
        return ok();
    }
    if ((value != CK_FALSE) != rule->want)
        return weak_object(a, rule->want ? "must be true and is false" : "must be false and is true", rule->name, e);
    return ok();
}

static RESULT check_ulong(const struct audit *a, CK_ATTRIBUTE_TYPE type, const char *name, CK_ULONG want, CK_ULONG or_want,
                          struct err *e)
{
    CK_ULONG value = 0;
    size_t n;
    bool known;
    TRY(object_read(a->m, a->s, a->o->handle, type, &value, sizeof value, &n, &known, e));
    if (!known || n != sizeof value || (value != want && value != or_want))
        return weak_object(a, "is not what this key needs", name, e);
    return ok();
}

/* Only these may be asked of the key, whatever a later version of the token learns to do with it. */
static RESULT check_mechanisms(const struct audit *a, CK_MECHANISM_TYPE want, CK_MECHANISM_TYPE or_want, struct err *e)
{
    CK_MECHANISM_TYPE list[4];
    size_t n;
    bool known;
    TRY(object_read(a->m, a->s, a->o->handle, CKA_ALLOWED_MECHANISMS, list, sizeof list, &n, &known, e));
    if (!known || n == 0) {
        weakness(a, "ALLOWED_MECHANISMS");
        return ok();
    }
    if (n != sizeof list[0] || (list[0] != want && list[0] != or_want))
        return weak_object(a, "allow more than the one that this key is for", "ALLOWED_MECHANISMS", e);
    return ok();
}

/* A key that came in by import was once outside: a choice (the ceremony), so it is named and not refused. */
static RESULT check_birth(const struct audit *a, bool born_here, struct err *e)
{
    static const struct rule birth[] = {{CKA_ALWAYS_SENSITIVE, "ALWAYS_SENSITIVE", true, true},
                                        {CKA_NEVER_EXTRACTABLE, "NEVER_EXTRACTABLE", true, true}};
    for (size_t i = 0; i < 2; i++) {
        struct err why = {0};
        if (!check_bool(a, &birth[i], &why).failed)
            continue;
        if (born_here || why.code != ERR_STATE) {
            *e = why;
            return (struct result){1};
        }
        weakness(a, "imported");
        return ok();
    }
    return ok();
}

static RESULT check_rules(const struct audit *a, const struct rule *rules, struct err *e)
{
    for (; rules->name != NULL; rules++)
        TRY(check_bool(a, rules, e));
    return ok();
}

RESULT object_audit(struct module *m, CK_SESSION_HANDLE s, const struct object *o, bool born_here, struct buf *weaknesses,
                    struct err *e)
{
    char label[OBJECT_LABEL_MAX];
    object_label(o->kind, o->version, label);
    const struct audit a = {m, s, o, label, weaknesses};
    switch (o->class) {
    case CKO_SECRET_KEY:
        TRY(check_ulong(&a, CKA_KEY_TYPE, "KEY_TYPE", CKK_GENERIC_SECRET, CKK_GENERIC_SECRET, e));
        TRY(check_ulong(&a, CKA_VALUE_LEN, "VALUE_LEN", SECRET_KEY_BYTES, SECRET_KEY_BYTES, e));
        TRY(check_rules(&a, secret_rules, e));
        TRY(check_mechanisms(&a, CKM_SHA256_HMAC, CKM_SHA256_HMAC, e));
        return check_birth(&a, born_here, e);
    case CKO_PRIVATE_KEY:
        TRY(check_ulong(&a, CKA_KEY_TYPE, "KEY_TYPE", CKK_EC_EDWARDS, CKK_EC, e));
        TRY(check_rules(&a, private_rules, e));
        TRY(check_mechanisms(&a, CKM_EDDSA, CKM_ECDSA, e));
        return check_birth(&a, born_here, e);
    case CKO_PUBLIC_KEY:
        TRY(check_ulong(&a, CKA_KEY_TYPE, "KEY_TYPE", CKK_EC_EDWARDS, CKK_EC, e));
        return check_rules(&a, public_rules, e);
    default:
        FAIL(e, ERR_INTERNAL, NULL, "object class %lu", o->class);
    }
}
