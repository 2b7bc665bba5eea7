/* certificates list, tenants, show, verify: what the service has to show for what it destroyed; verify asks nobody. */
#include "vault/cmd/kmsctl/note.h"
#include "vault/cmd/kmsctl/whole.h"

#include "claviger/lifecycle/v1/certificates.pb-c.h"
#include "kms/name/name.h"

#include <string.h>

#define CERTIFICATES "/claviger.lifecycle.v1.Certificates/"
#define COLUMNS "NAME name|DESTROYED destroy_time|SIGNED signed"
enum { FACTS_MAX = 64 };

/* ---- list ---- */
static const ProtobufCMessageDescriptor *const list_d = &claviger__lifecycle__v1__list_certificates_response__descriptor;

static struct result certificates_list(struct ctl *c, struct claviger_error *e)
{
    Claviger__Lifecycle__V1__ListCertificatesRequest q = CLAVIGER__LIFECYCLE__V1__LIST_CERTIFICATES_REQUEST__INIT;
    TRY(name_full(c, name_default(c, c->args.npos > 0 ? c->args.pos[0] : NULL), 1u << NAME_LOCATION | 1u << NAME_KEYRING | 1u << NAME_CRYPTOKEY,
                  &q.parent, e));
    return ask_list(c, CERTIFICATES "ListCertificates", &q.base, list_d, "certificates", COLUMNS, e);
}

static struct result certificates_tenants(struct ctl *c, struct claviger_error *e)
{
    Claviger__Lifecycle__V1__ListTenantCertificatesRequest q = CLAVIGER__LIFECYCLE__V1__LIST_TENANT_CERTIFICATES_REQUEST__INIT;
    return ask_list(c, CERTIFICATES "ListTenantCertificates", &q.base, list_d, "certificates", COLUMNS, e);
}

/* ---- show ---- */
static struct result get(struct ctl *c, const Claviger__Lifecycle__V1__Certificate **ret, struct claviger_error *e)
{
    Claviger__Lifecycle__V1__GetCertificateRequest of_version = CLAVIGER__LIFECYCLE__V1__GET_CERTIFICATE_REQUEST__INIT;
    Claviger__Lifecycle__V1__GetTenantCertificateRequest of_tenant = CLAVIGER__LIFECYCLE__V1__GET_TENANT_CERTIFICATE_REQUEST__INIT;
    const ProtobufCMessageDescriptor *d = &claviger__lifecycle__v1__certificate__descriptor;
    ProtobufCBinaryData name;
    struct name n;
    struct err inner = {0};
    TRY(name_full(c, c->args.pos[0], 1u << NAME_TENANT | 1u << NAME_VERSION, &name, e));
    INVARIANT(!name_parse_short(pb_bytes_of(name), &n, &inner).failed);
    of_version.name = of_tenant.name = name;
    if (n.kind == NAME_VERSION)
        return ctl_read(c, CERTIFICATES "GetCertificate", &of_version.base, d, ret, e);
    c->role = ROLE_OPERATOR; /* the tenant's people are gone */
    return ctl_read(c, CERTIFICATES "GetTenantCertificate", &of_tenant.base, d, ret, e);
}

static struct result certificates_show(struct ctl *c, struct claviger_error *e)
{
    const Claviger__Lifecycle__V1__Certificate *p = NULL;
    TRY(get(c, &p, e));
    if (c->json)
        return show(c, &p->base, "", e);
    if (!p->signed_)
        return client_fail(e, CLAVIGER_FAILED_PRECONDITION, "CERTIFICATE_UNSIGNED", "destroyed, but the token has not signed the certificate yet: try again");
    return c->args.value[OPT_OUT] ? whole_write(c->args.value[OPT_OUT], false, 0600, pb_bytes_of(p->note), e) : write_all(pb_bytes_of(p->note), e);
}

/* ---- verify ---- */
static bool next_line(struct bytes *rest, struct bytes *ret)
{
    const uint8_t *end = rest->n > 0 ? memchr(rest->p, '\n', rest->n) : NULL;
    if (end == NULL)
        return false;
    *ret = BYTES(rest->p, (size_t)(end - rest->p));
    *rest = BYTES(end + 1, rest->n - ret->n - 1);
    return true;
}

/* The text is signed, so it is believed: that it is a certificate and of this log is what remains to be seen. */
static struct result facts_of(struct bytes text, const struct note_key *k, json_t *facts, struct claviger_error *e)
{
    struct bytes line, origin;
    bool certificate = next_line(&text, &line) && bytes_equal(line, BYTES_LIT("claviger.certificate/v1")) && next_line(&text, &origin) &&
                       bytes_equal(origin, k->name) && text.n > 0;
    while (certificate && next_line(&text, &line)) {
        const uint8_t *colon = memmem(line.p, line.n, ": ", 2);
        certificate = colon != NULL && json_object_size(facts) < FACTS_MAX;
        if (!certificate)
            break;
        const size_t n = (size_t)(colon - line.p);
        json_object_setn_new(facts, (const char *)line.p, n, json_stringn((const char *)colon + 2, line.n - n - 2));
    }
    if (!certificate || text.n > 0)
        return client_fail(e, CLAVIGER_INVALID_ARGUMENT, "NOT_A_CERTIFICATE", "the signature is good, but this is no certificate of destruction");
    return ok();
}

static void print_facts(const struct note_key *k, json_t *facts, bool json)
{
    const char *fact;
    json_t *value;
    if (json) {
        json_t *all = json_pack("{s:b,s:s%,s:O}", "verified", 1, "by", (const char *)k->name.p, k->name.n, "facts", facts);
        print_json(all);
        json_decref(all);
        return;
    }
    printf("verified       by %.*s\n", (int)k->name.n, (const char *)k->name.p);
    json_object_foreach (facts, fact, value)
        printf("%-14s %s\n", fact, json_string_value(value));
}

static struct result verify_by(struct ctl *c, const struct note_key *k, struct claviger_error *e)
{
    CLEANUP(buf_release) struct buf note;
    struct bytes text;
    buf_init(&note, NOTE_MAX + 1);
    TRY(read_all(strcmp(c->args.pos[0], "-") == 0 ? NULL : c->args.pos[0], NOTE_MAX, &note, e));
    TRY(note_verify(buf_bytes(&note), k, &text, e));
    json_t *facts = json_object();
    struct result r = facts_of(text, k, facts, e);
    if (!r.failed)
        print_facts(k, facts, c->json);
    json_decref(facts);
    return r;
}

static struct result certificates_verify(struct ctl *c, struct claviger_error *e)
{
    CLEANUP(note_key_release) struct note_key k = {0};
    if (c->args.value[OPT_AUDIT_KEY] == NULL)
        return usage(e, "--audit-key is missing: the public key, as kmsctl audit status shows it; get it from somebody you trust, once");
    TRY(note_key_parse(c->args.value[OPT_AUDIT_KEY], &k, e));
    return verify_by(c, &k, e);
}

static const struct command rows[] = {
    {"certificates", "list", "[KEY|RING|TENANT/LOCATION]", 0, 1, 0, ROLE_KEYADMIN, certificates_list, "of versions that were destroyed",
     "kmsctl certificates list acme/eu"},
    {"certificates", "tenants", "", 0, 0, 0, ROLE_OPERATOR, certificates_tenants, "of tenants that were purged", "kmsctl certificates tenants"},
    {"certificates", "show", "VERSION|TENANT", 1, 1, O(OPT_OUT), ROLE_KEYADMIN, certificates_show, "one of them, as it was signed",
     "kmsctl certificates show acme/eu/pii/email@1 --out email-1.txt"},
    {"certificates", "verify", "FILE", 1, 1, O(OPT_AUDIT_KEY), ROLE_KEYADMIN, certificates_verify, "is it genuine? asks no server; - reads stdin",
     "kmsctl certificates verify email-1.txt --audit-key claviger/node1+0123abcd+AVh..."},
};
const struct command_rows rows_certificates = {rows, sizeof rows / sizeof *rows};
