#include "kms/authn/san.h"

#include <string.h>

static const char SPIFFE[] = "spiffe://";
static const char DNS[] = "dns:";

static bool is_lower_alnum(uint8_t c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

bool san_valid_trust_domain(struct bytes domain)
{
    if (domain.n < 1 || domain.n > 200 || !is_lower_alnum(domain.p[0]) || !is_lower_alnum(domain.p[domain.n - 1]))
        return false;
    for (size_t i = 0; i < domain.n; i++)
        if (!is_lower_alnum(domain.p[i]) && domain.p[i] != '.' && domain.p[i] != '-' && domain.p[i] != '_')
            return false;
    return true;
}

static bool is_segment(struct bytes s)
{
    if (s.n == 0 || bytes_equal(s, BYTES_LIT(".")) || bytes_equal(s, BYTES_LIT("..")))
        return false;
    for (size_t i = 0; i < s.n; i++) {
        uint8_t c = s.p[i];
        if (!is_lower_alnum(c) && !(c >= 'A' && c <= 'Z') && c != '.' && c != '_' && c != '-')
            return false;
    }
    return true;
}

static bool is_spiffe_path(struct bytes path)
{
    size_t start = 1;
    if (path.n < 2 || path.p[0] != '/')
        return false;
    for (size_t i = 1; i <= path.n; i++)
        if (i == path.n || path.p[i] == '/') {
            if (!is_segment(BYTES(path.p + start, i - start)))
                return false;
            start = i + 1;
        }
    return true;
}

static bool is_host(struct bytes host)
{
    size_t label = 0;
    if (host.n < 1 || host.n > 240)
        return false;
    for (size_t i = 0; i <= host.n; i++) {
        if (i < host.n && host.p[i] != '.') {
            if (!is_lower_alnum(host.p[i]) && host.p[i] != '-')
                return false;
            continue;
        }
        if (i == label || i - label > 63 || host.p[label] == '-' || host.p[i - 1] == '-')
            return false;
        label = i + 1;
    }
    return true;
}

static bool take_prefix(struct bytes *text, struct bytes prefix)
{
    if (text->n < prefix.n || memcmp(text->p, prefix.p, prefix.n) != 0)
        return false;
    *text = BYTES(text->p + prefix.n, text->n - prefix.n);
    return true;
}

static bool is_san(struct bytes text, const char *trust_domain)
{
    if (text.n == 0 || text.n >= SAN_MAX_BYTES)
        return false;
    if (take_prefix(&text, bytes_str(DNS)))
        return is_host(text);
    return take_prefix(&text, bytes_str(SPIFFE)) && take_prefix(&text, bytes_str(trust_domain)) && is_spiffe_path(text);
}

RESULT san_check(struct bytes untrusted, const char *trust_domain, struct err *e)
{
    if (is_san(untrusted, trust_domain))
        return ok();
    return err_field(e, "san", "must be spiffe://{this trust domain}/{path} or dns:{lower-case host}");
}

/* The only name of this type; more than one, or one that is no clean text, leaves *count at 2 or more. */
static struct bytes only_name(const GENERAL_NAMES *names, int type, unsigned *count)
{
    struct bytes found = {0};
    *count = 0;
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        if (name->type != type)
            continue;
        const ASN1_IA5STRING *text = type == GEN_URI ? name->d.uniformResourceIdentifier : name->d.dNSName;
        found = BYTES(ASN1_STRING_get0_data(text), (size_t)ASN1_STRING_length(text));
        (*count)++;
    }
    return found;
}

RESULT san_from_names(const GENERAL_NAMES *names, const char *trust_domain, char ret[SAN_MAX_BYTES], struct err *e)
{
    unsigned uris, hosts;
    struct bytes uri = only_name(names, GEN_URI, &uris), host = only_name(names, GEN_DNS, &hosts);
    if (uris > 1 || (uris == 0 && hosts != 1))
        FAIL(e, ERR_UNAUTHENTICATED, NULL, "certificate has %u URI and %u DNS names; one URI, or no URI and one DNS, names a caller",
             uris, hosts);
    const char *prefix = uris ? "" : DNS;
    struct bytes text = uris ? uri : host;
    size_t at = strlen(prefix);
    if (at + text.n >= SAN_MAX_BYTES)
        FAIL(e, ERR_UNAUTHENTICATED, NULL, "certificate name of %zu bytes is too long", text.n);
    char san[SAN_MAX_BYTES] = {0};
    memcpy(san, prefix, at);
    if (text.n)
        memcpy(san + at, text.p, text.n);
    struct bytes whole = BYTES(san, at + text.n); /* with any embedded NUL, which no alphabet here has */
    /* A URI may not spell the DNS form, or a CA's two name spaces would meet. */
    if (!is_san(whole, trust_domain) || (uris && !take_prefix(&text, bytes_str(SPIFFE))))
        FAIL(e, ERR_UNAUTHENTICATED, NULL, "certificate name is neither spiffe://%s/{path} nor a lower-case DNS name", trust_domain);
    memcpy(ret, san, SAN_MAX_BYTES);
    return ok();
}

RESULT san_from_certificate(const X509 *leaf, const char *trust_domain, char ret[SAN_MAX_BYTES], struct err *e)
{
    int critical = 0;
    GENERAL_NAMES *names = X509_get_ext_d2i(leaf, NID_subject_alt_name, &critical, NULL);
    if (!names)
        FAIL(e, ERR_UNAUTHENTICATED, NULL, "certificate has %s",
             critical == -2 ? "two subject alternative name extensions" : "no readable subject alternative name");
    struct result r = san_from_names(names, trust_domain, ret, e);
    GENERAL_NAMES_free(names);
    return r;
}
