#include "vault/service/kms_view.h"

#include "base/text.h"

#include <string.h>

#define ALGORITHM GOOGLE__CLOUD__KMS__V1__CRYPTO_KEY_VERSION__CRYPTO_KEY_VERSION_ALGORITHM__GOOGLE_SYMMETRIC_ENCRYPTION

Google__Cloud__Kms__V1__ProtectionLevel view_protection(enum protection p)
{
    return p == PROTECTION_HSM ? GOOGLE__CLOUD__KMS__V1__PROTECTION_LEVEL__HSM : GOOGLE__CLOUD__KMS__V1__PROTECTION_LEVEL__SOFTWARE;
}

void view_version(struct call *c, const struct keyring_version *m, CryptoKeyVersion *r)
{
    r->name = pb_view(m->name);
    r->state = (Google__Cloud__Kms__V1__CryptoKeyVersion__CryptoKeyVersionState)m->state; /* the same numbers, on purpose */
    r->protection_level = view_protection(m->protection);
    r->algorithm = ALGORITHM;
    r->create_time = field_time(c, m->created_ns);
    r->generate_time = field_time(c, m->generated_ns);
    r->destroy_time = m->state == VERSION_DESTROY_SCHEDULED ? field_time(c, m->destroy_ns) : NULL;
    r->destroy_event_time = m->state == VERSION_DESTROYED ? field_time(c, m->destroyed_ns) : NULL;
}

/* A tenant says how many there are and how long: what does not fit is an answer, not a bug. */
static RESULT view_labels(struct call *c, const struct keyring_key *m, CryptoKey *r, struct err *e)
{
    r->labels = arena_alloc(&c->arena, (m->nlabels + 1) * sizeof *r->labels);
    for (r->n_labels = 0; r->labels != NULL && r->n_labels < m->nlabels; r->n_labels++) {
        Google__Cloud__Kms__V1__CryptoKey__LabelsEntry *l =
            call_new_message(c, &google__cloud__kms__v1__crypto_key__labels_entry__descriptor);
        if (l == NULL)
            break;
        l->key = pb_view(m->labels[r->n_labels].key);
        l->value = pb_view(m->labels[r->n_labels].value);
        r->labels[r->n_labels] = l;
    }
    if (r->labels == NULL || r->n_labels != m->nlabels)
        FAIL(e, ERR_EXHAUSTED, "CALL_MEMORY", "no room for the labels of a key");
    return ok();
}

RESULT view_key(struct call *c, const struct name *n, const struct keyring_key *m, CryptoKey *r, struct err *e)
{
    r->name = pb_view(m->name);
    r->purpose = GOOGLE__CLOUD__KMS__V1__CRYPTO_KEY__CRYPTO_KEY_PURPOSE__ENCRYPT_DECRYPT;
    r->create_time = field_time(c, m->created_ns);
    r->next_rotation_time = field_time(c, m->next_rotation_ns);
    if (m->rotation_period_s > 0) {
        r->rotation_schedule_case = GOOGLE__CLOUD__KMS__V1__CRYPTO_KEY__ROTATION_SCHEDULE_ROTATION_PERIOD;
        r->rotation_period = field_duration(c, m->rotation_period_s);
    }
    r->destroy_scheduled_duration = field_duration(c, m->destroy_delay_s);
    r->version_template = call_new_message(c, &google__cloud__kms__v1__crypto_key_version_template__descriptor);
    INVARIANT(r->version_template != NULL);
    r->version_template->protection_level = view_protection(m->protection);
    r->version_template->algorithm = ALGORITHM;
    TRY(view_labels(c, m, r, e));
    if (m->primary == 0 || r->primary != NULL)
        return ok();
    struct name v = *n;
    v.kind = NAME_VERSION;
    v.version = m->primary;
    struct keyring_version primary;
    TRY(keyring_version_get(c->svc->keyring, &v, &c->arena, &primary, e));
    r->primary = call_new_message(c, &google__cloud__kms__v1__crypto_key_version__descriptor);
    INVARIANT(r->primary != NULL);
    view_version(c, &primary, r->primary);
    return ok();
}

struct bytes view_last_segment(struct bytes name)
{
    size_t at = name.n;
    while (at > 0 && name.p[at - 1] != '/')
        at--;
    return BYTES(name.p + at, name.n - at);
}

RESULT view_total(struct call *c, const struct listing *l, enum name_kind child, int32_t *ret, struct err *e)
{
    uint64_t n = 0;
    if (l->nterms > 0)
        return ok();
    TRY(keyring_count(c->svc->keyring, &c->resources[0].name, child, &n, e));
    *ret = n > INT32_MAX ? INT32_MAX : (int32_t)n;
    return ok();
}

struct bytes view_version_json(struct arena *a, const struct keyring_version *m)
{
    char *s = arena_printf(a, "{\"state\":\"%s\"}", version_state_name(m->state));
    return bytes_str(s);
}

/* Labels are the tenant's own words: their number is enough here. */
struct bytes view_key_json(struct arena *a, const struct keyring_key *m)
{
    char next[TEXT_RFC3339_BYTES] = "";
    if (m->next_rotation_ns != 0)
        text_format_rfc3339(m->next_rotation_ns, next);
    char *s = arena_printf(a,
                           "{\"primary\":%u,\"rotation_period_s\":%lld,\"next_rotation_time\":\"%s\",\"destroy_delay_s\":%lld,\"labels\":%zu%s}",
                           m->primary, (long long)m->rotation_period_s, next, (long long)m->destroy_delay_s, m->nlabels,
                           m->protection == PROTECTION_HSM ? ",\"protection\":\"HSM\"" : "");
    return bytes_str(s);
}
