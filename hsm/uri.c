#include "hsm/uri.h"

#include <stdlib.h>
#include <string.h>

struct hsm_uri {
    P11KitUri *p11;
};

enum name_class { NAME_OK, NAME_TOKEN, NAME_PIN, NAME_MODULE, NAME_LIBRARY, NAME_OBJECT };

/* Every attribute of RFC 7512 sections 2.3 and 2.4, so that each refusal says why. */
static const struct known {
    const char *name;
    bool query;
    enum name_class class;
} known_names[] = {
    {"token", false, NAME_TOKEN},
    {"serial", false, NAME_TOKEN},
    {"model", false, NAME_OK},
    {"manufacturer", false, NAME_OK},
    {"slot-id", false, NAME_OK},
    {"slot-description", false, NAME_OK},
    {"slot-manufacturer", false, NAME_OK},
    {"library-description", false, NAME_LIBRARY},
    {"library-manufacturer", false, NAME_LIBRARY},
    {"library-version", false, NAME_LIBRARY},
    {"object", false, NAME_OBJECT},
    {"type", false, NAME_OBJECT},
    {"object-type", false, NAME_OBJECT},
    {"id", false, NAME_OBJECT},
    {"pin-value", true, NAME_PIN},
    {"pin-source", true, NAME_PIN},
    {"pinfile", true, NAME_PIN},
    {"pinfile", false, NAME_PIN},
    {"module-name", true, NAME_MODULE},
    {"module-path", true, NAME_MODULE},
};
enum { KNOWN = sizeof known_names / sizeof known_names[0] };

static RESULT refuse_class(const struct known *k, struct err *e)
{
    switch (k->class) {
    case NAME_OK:
    case NAME_TOKEN:
        return ok();
    case NAME_PIN:
        FAIL(e, ERR_INVALID, "HSM_URI_PIN",
             "the token URI may not carry a PIN or its source (%s): name the file in hsm_pin_file", k->name);
    case NAME_MODULE:
        FAIL(e, ERR_INVALID, "HSM_URI_MODULE", "the token URI may not choose a module (%s): set hsm_module", k->name);
    case NAME_LIBRARY:
        FAIL(e, ERR_INVALID, "HSM_URI_LIBRARY", "the token URI may not name a library (%s): set hsm_module", k->name);
    case NAME_OBJECT:
        FAIL(e, ERR_INVALID, "HSM_URI_OBJECT", "the token URI names a token, not an object in it (%s)", k->name);
    }
    FAIL(e, ERR_INTERNAL, NULL, "attribute class %d", (int)k->class);
}

struct lexer {
    uint32_t seen; /* bit i: known_names[i] came already */
    bool names_token;
};

static RESULT check_attribute(struct lexer *lx, bool query, const char *p, size_t n, struct err *e)
{
    const char *eq = memchr(p, '=', n);
    if (eq == NULL || eq == p)
        FAIL(e, ERR_INVALID, "HSM_URI_SYNTAX", "the token URI has an attribute without name or value");
    size_t len = (size_t)(eq - p);
    for (unsigned i = 0; i < KNOWN; i++) {
        const struct known *k = &known_names[i];
        if (k->query != query || strlen(k->name) != len || memcmp(k->name, p, len) != 0)
            continue;
        TRY(refuse_class(k, e));
        if (lx->seen & (1u << i))
            FAIL(e, ERR_INVALID, "HSM_URI_REPEATED", "the token URI repeats %s", k->name);
        lx->seen |= 1u << i;
        lx->names_token |= k->class == NAME_TOKEN && len + 1 < n;
        return ok();
    }
    FAIL(e, ERR_INVALID, "HSM_URI_UNKNOWN", "the token URI has an unknown attribute: %.*s", (int)(len > 40 ? 40 : len), p);
}

static RESULT check_attributes(struct lexer *lx, bool query, const char *p, size_t n, struct err *e)
{
    const char separator = query ? '&' : ';';
    while (n > 0) {
        const char *end = memchr(p, separator, n);
        size_t len = end != NULL ? (size_t)(end - p) : n;
        TRY(check_attribute(lx, query, p, len, e));
        if (end == NULL)
            return ok();
        p += len + 1;
        n -= len + 1;
        if (n == 0)
            FAIL(e, ERR_INVALID, "HSM_URI_SYNTAX", "the token URI ends with a separator");
    }
    return ok();
}

static RESULT check_text(const char *text, struct err *e)
{
    size_t n = strnlen(text, HSM_URI_MAX + 1);
    if (n > HSM_URI_MAX)
        FAIL(e, ERR_INVALID, "HSM_URI_TOO_LONG", "the token URI is longer than %d bytes", HSM_URI_MAX);
    for (size_t i = 0; i < n; i++)
        if (text[i] <= 0x20 || text[i] >= 0x7f)
            FAIL(e, ERR_INVALID, "HSM_URI_SYNTAX", "the token URI has white space, a control or a non-ASCII byte at %zu", i);
    if (strncmp(text, "pkcs11:", 7) != 0)
        FAIL(e, ERR_INVALID, "HSM_URI_SYNTAX", "the token URI does not begin with pkcs11:");
    if (strstr(text, "%00") != NULL)
        FAIL(e, ERR_INVALID, "HSM_URI_SYNTAX", "the token URI holds an encoded NUL");
    struct lexer lx = {0};
    const char *path = text + 7, *q = strchr(path, '?');
    TRY(check_attributes(&lx, false, path, q != NULL ? (size_t)(q - path) : strlen(path), e));
    if (q != NULL)
        TRY(check_attributes(&lx, true, q + 1, strlen(q + 1), e));
    if (!lx.names_token)
        FAIL(e, ERR_INVALID, "HSM_URI_NO_TOKEN", "the token URI names neither token= nor serial=");
    return ok();
}

RESULT hsm_uri_parse(const char *untrusted_text, struct hsm_uri **ret, struct err *e)
{
    TRY(check_text(untrusted_text, e));
    struct hsm_uri *u = calloc(1, sizeof *u);
    INVARIANT(u != NULL);
    u->p11 = p11_kit_uri_new();
    INVARIANT(u->p11 != NULL);
    int rc = p11_kit_uri_parse(untrusted_text, P11_KIT_URI_FOR_SLOT | P11_KIT_URI_FOR_TOKEN, u->p11);
    /* A value too long for its field is no parse error to p11-kit: it marks the URI as one that matches nothing. */
    bool strange = rc == P11_KIT_URI_OK && p11_kit_uri_any_unrecognized(u->p11);
    if (rc != P11_KIT_URI_OK || strange) {
        hsm_uri_free(u);
        if (strange)
            FAIL(e, ERR_INVALID, "HSM_URI_TOO_LONG", "a value of the token URI is longer than its PKCS#11 field");
        FAIL(e, ERR_INVALID, "HSM_URI_SYNTAX", "the token URI cannot be read: %s", p11_kit_uri_message(rc));
    }
    *ret = u;
    return ok();
}

void hsm_uri_free(struct hsm_uri *u)
{
    if (u == NULL)
        return;
    p11_kit_uri_free(u->p11);
    free(u);
}

bool hsm_uri_matches(const struct hsm_uri *u, CK_SLOT_ID slot, const CK_SLOT_INFO *si, const CK_TOKEN_INFO *ti)
{
    CK_SLOT_ID wanted = p11_kit_uri_get_slot_id(u->p11);
    if (wanted != (CK_SLOT_ID)-1 && wanted != slot)
        return false;
    return p11_kit_uri_match_slot_info(u->p11, si) && p11_kit_uri_match_token_info(u->p11, ti);
}
