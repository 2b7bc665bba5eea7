/* google.cloud.kms.v1: crypto keys (purpose ENCRYPT_DECRYPT, protection levels SOFTWARE and HSM). */
#include "vault/service/kms_view.h"
#include "vault/service/rows.h"

#include "base/text.h"

#include <string.h>

typedef Google__Cloud__Kms__V1__CreateCryptoKeyRequest CreateRequest;
typedef Google__Cloud__Kms__V1__GetCryptoKeyRequest GetRequest;
typedef Google__Cloud__Kms__V1__ListCryptoKeysRequest ListRequest;
typedef Google__Cloud__Kms__V1__ListCryptoKeysResponse ListResponse;
typedef Google__Cloud__Kms__V1__UpdateCryptoKeyRequest UpdateRequest;
typedef Google__Cloud__Kms__V1__UpdateCryptoKeyPrimaryVersionRequest PrimaryRequest;

enum { DAY_S = 24 * 3600, ROTATION_MIN_S = DAY_S, DELAY_DEFAULT_S = 30 * DAY_S, DELAY_MIN_S = DAY_S, DELAY_MAX_S = 120 * DAY_S };
static const int64_t rotation_max_s = (int64_t)100 * 365 * DAY_S;

/* ---- fields that a client may set ------------------------------------------------------------------------------------ */
static bool label_text_ok(struct bytes s, bool is_key)
{
    if (s.n > KEYRING_LABEL_MAX || (is_key && (s.n == 0 || s.p[0] < 'a' || s.p[0] > 'z')))
        return false;
    for (size_t i = 0; i < s.n; i++)
        if (!text_in_set(s.p[i], "a-z0-9_-"))
            return false;
    return true;
}

static RESULT take_labels(struct call *c, const CryptoKey *q, struct keyring_key *m, struct err *e)
{
    if (q->n_labels > KEYRING_LABELS_MAX)
        return err_field(e, "crypto_key.labels", "at most 64 labels");
    m->nlabels = q->n_labels;
    m->labels = arena_alloc(&c->arena, (q->n_labels + 1) * sizeof *m->labels);
    INVARIANT(m->labels != NULL);
    for (size_t i = 0; i < q->n_labels; i++) {
        m->labels[i] = (struct label){pb_bytes(q->labels[i]->key), pb_bytes(q->labels[i]->value)};
        if (!label_text_ok(m->labels[i].key, true) || !label_text_ok(m->labels[i].value, false))
            return err_field(e, "crypto_key.labels", "keys and values: at most 63 of a-z, 0-9, _ and -; keys begin with a letter");
    }
    return ok();
}

static RESULT take_rotation_period(const CryptoKey *q, struct keyring_key *m, struct err *e)
{
    m->rotation_period_s = 0;
    if (q->rotation_schedule_case != GOOGLE__CLOUD__KMS__V1__CRYPTO_KEY__ROTATION_SCHEDULE_ROTATION_PERIOD)
        return ok();
    const Google__Protobuf__Duration *d = q->rotation_period;
    if (d->nanos != 0 || d->seconds < ROTATION_MIN_S || d->seconds > rotation_max_s)
        return err_field(e, "crypto_key.rotation_period", "whole seconds, from 1 day to 100 years");
    m->rotation_period_s = d->seconds;
    return ok();
}

static RESULT take_next_rotation(struct call *c, const CryptoKey *q, struct keyring_key *m, struct err *e)
{
    m->next_rotation_ns = 0;
    const Google__Protobuf__Timestamp *t = q->next_rotation_time;
    if (t == NULL)
        return ok();
    int64_t now = clock_unix_s(call_clock(c));
    if (t->nanos < 0 || t->nanos >= NS_PER_SECOND || t->seconds < now || t->seconds > now + rotation_max_s)
        return err_field(e, "crypto_key.next_rotation_time", "must lie in the future, at most 100 years");
    m->next_rotation_ns = t->seconds * NS_PER_SECOND + t->nanos;
    return ok();
}

/* A period without a time cannot start; a time without a period says nothing about what follows. */
static RESULT rotation_whole(const struct keyring_key *m, struct err *e)
{
    if (m->rotation_period_s > 0 && m->next_rotation_ns == 0)
        return err_field(e, "crypto_key.next_rotation_time", "must be set when rotation_period is");
    return ok();
}

static RESULT take_template(const Google__Cloud__Kms__V1__CryptoKeyVersionTemplate *t, enum protection *ret, struct err *e)
{
    if (t == NULL)
        return ok();
    if (t->protection_level != GOOGLE__CLOUD__KMS__V1__PROTECTION_LEVEL__PROTECTION_LEVEL_UNSPECIFIED &&
        t->protection_level != GOOGLE__CLOUD__KMS__V1__PROTECTION_LEVEL__SOFTWARE &&
        t->protection_level != GOOGLE__CLOUD__KMS__V1__PROTECTION_LEVEL__HSM)
        FAIL(e, ERR_UNIMPLEMENTED, "PROTECTION_LEVEL", "protection level %d", (int)t->protection_level);
    *ret = (enum protection)t->protection_level; /* the same numbers, on purpose; UNSPECIFIED leaves it open */
    if (t->algorithm != 0 &&
        t->algorithm != GOOGLE__CLOUD__KMS__V1__CRYPTO_KEY_VERSION__CRYPTO_KEY_VERSION_ALGORITHM__GOOGLE_SYMMETRIC_ENCRYPTION)
        return err_field(e, "crypto_key.version_template.algorithm", "ENCRYPT_DECRYPT keys are GOOGLE_SYMMETRIC_ENCRYPTION");
    return ok();
}

static RESULT take_purpose(const CryptoKey *q, struct err *e)
{
    switch (q->purpose) {
    case GOOGLE__CLOUD__KMS__V1__CRYPTO_KEY__CRYPTO_KEY_PURPOSE__ENCRYPT_DECRYPT:
        return ok();
    case GOOGLE__CLOUD__KMS__V1__CRYPTO_KEY__CRYPTO_KEY_PURPOSE__ASYMMETRIC_SIGN:
    case GOOGLE__CLOUD__KMS__V1__CRYPTO_KEY__CRYPTO_KEY_PURPOSE__ASYMMETRIC_DECRYPT:
    case GOOGLE__CLOUD__KMS__V1__CRYPTO_KEY__CRYPTO_KEY_PURPOSE__RAW_ENCRYPT_DECRYPT:
    case GOOGLE__CLOUD__KMS__V1__CRYPTO_KEY__CRYPTO_KEY_PURPOSE__MAC:
    case GOOGLE__CLOUD__KMS__V1__CRYPTO_KEY__CRYPTO_KEY_PURPOSE__KEY_ENCAPSULATION:
    case GOOGLE__CLOUD__KMS__V1__CRYPTO_KEY__CRYPTO_KEY_PURPOSE__AES_WRAPPING:
        FAIL(e, ERR_UNIMPLEMENTED, "PURPOSE", "purpose %d", (int)q->purpose);
    default:
        return err_field(e, "crypto_key.purpose", "must be ENCRYPT_DECRYPT");
    }
}

static RESULT take_key(struct call *c, const CryptoKey *q, struct keyring_key *m, struct err *e)
{
    if (q == NULL)
        return err_field(e, "crypto_key", "is required");
    TRY(take_purpose(q, e));
    TRY(take_template(q->version_template, &m->protection, e));
    if (q->import_only || q->crypto_key_backend.len > 0 || q->key_access_justifications_policy != NULL)
        FAIL(e, ERR_UNIMPLEMENTED, "FIELD", "import_only, crypto_key_backend or key_access_justifications_policy");
    TRY(take_labels(c, q, m, e));
    TRY(take_rotation_period(q, m, e));
    TRY(take_next_rotation(c, q, m, e));
    TRY(rotation_whole(m, e));
    m->destroy_delay_s = DELAY_DEFAULT_S;
    if (q->destroy_scheduled_duration != NULL) {
        m->destroy_delay_s = q->destroy_scheduled_duration->seconds;
        if (q->destroy_scheduled_duration->nanos != 0 || m->destroy_delay_s < DELAY_MIN_S || m->destroy_delay_s > DELAY_MAX_S)
            return err_field(e, "crypto_key.destroy_scheduled_duration", "whole seconds, from 1 to 120 days");
    }
    return ok();
}

/* ---- create, get ------------------------------------------------------------------------------------------------------- */
static struct result create_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    const CreateRequest *q = (const CreateRequest *)req;
    return field_child(c, q->parent, NAME_KEYRING, "parent", q->crypto_key_id, "crypto_key_id", e);
}

static struct result create(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    const CreateRequest *q = (const CreateRequest *)req;
    const struct name *n = &c->resources[0].name;
    CryptoKey *r = call_response(c);
    struct name ring = name_truncate(n, NAME_KEYRING);
    struct keyring_ring parent;
    TRY(keyring_ring_get(c->svc->keyring, &ring, &c->arena, &parent, e)); /* existence comes before fields */
    struct keyring_key want = {0}, m;
    struct keyring_version v1;
    TRY(take_key(c, q->crypto_key, &want, e));
    if (q->trusted_wrapping_enabled)
        FAIL(e, ERR_UNIMPLEMENTED, "FIELD", "trusted_wrapping_enabled");
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(c->svc->store);
    TRY(keyring_key_create(c->svc->keyring, n, &want, !q->skip_initial_version_creation, txn, &c->arena, &m, &v1, e));
    if (m.primary != 0) {
        r->primary = call_new_message(c, &google__cloud__kms__v1__crypto_key_version__descriptor);
        INVARIANT(r->primary != NULL);
        view_version(c, &v1, r->primary);
    }
    TRY(view_key(c, n, &m, r, e));
    c->ev.after = view_key_json(&c->arena, &m);
    TRY(call_commit(c, txn, &r->base, e));
    *resp = &r->base;
    return ok();
}

static struct result get_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    return field_resource(c, ((const GetRequest *)req)->name, 1u << NAME_CRYPTOKEY, "name", e);
}

static struct result get(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    (void)req;
    CryptoKey *r = call_response(c);
    struct keyring_key m;
    TRY(keyring_key_get(c->svc->keyring, &c->resources[0].name, &c->arena, &m, e));
    TRY(view_key(c, &c->resources[0].name, &m, r, e));
    *resp = &r->base;
    return ok();
}

/* ---- list ---------------------------------------------------------------------------------------------------------------- */
static struct result list_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    return field_resource(c, ((const ListRequest *)req)->parent, 1u << NAME_KEYRING, "parent", e);
}

static RESULT list_one(struct call *c, const struct keyring_key *m, ListResponse *r, struct err *e)
{
    CryptoKey *k = call_new_message(c, &google__cloud__kms__v1__crypto_key__descriptor);
    if (k == NULL)
        FAIL(e, ERR_EXHAUSTED, "CALL_MEMORY", "the page does not fit the call's memory: ask for a smaller one");
    struct name n;
    TRY(name_parse(m->name, NAME_CRYPTOKEY, "name", &n, e));
    TRY(view_key(c, &n, m, k, e));
    r->crypto_keys[r->n_crypto_keys++] = k;
    return ok();
}

static RESULT fill(struct call *c, struct listing *l, ListResponse *r, struct err *e)
{
    struct bytes after = l->after;
    size_t looked = 0, got;
    r->crypto_keys = arena_alloc(&c->arena, l->page * sizeof *r->crypto_keys);
    INVARIANT(r->crypto_keys != NULL);
    do {
        struct keyring_key *rows;
        TRY(keyring_key_list(c->svc->keyring, &c->resources[0].name, after, l->descending, VIEW_CHUNK, &c->arena, &rows, &got, e));
        for (size_t i = 0; i < got; i++) {
            if (r->n_crypto_keys == l->page) {
                r->next_page_token = listing_token(c, l, after);
                return ok();
            }
            after = view_last_segment(rows[i].name);
            if (listing_match_name(l, rows[i].name) && listing_match_labels(l, rows[i].labels, rows[i].nlabels))
                TRY(list_one(c, &rows[i], r, e));
        }
        looked += got;
    } while (listing_goes_on(c, got, VIEW_CHUNK, looked));
    if (got == VIEW_CHUNK)
        r->next_page_token = listing_token(c, l, after);
    return ok();
}

static RESULT ring_exists(struct call *c, struct err *e)
{
    struct keyring_ring ring;
    return keyring_ring_get(c->svc->keyring, &c->resources[0].name, &c->arena, &ring, e);
}

static struct result list(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    const ListRequest *q = (const ListRequest *)req;
    ListResponse *r = call_response(c);
    struct listing l;
    TRY(ring_exists(c, e));
    TRY(listing_parse(c, q->page_size, q->page_token, q->filter, q->order_by, (struct bytes){0}, 1u << TERM_NAME | 1u << TERM_LABEL, &l, e));
    if (q->version_view > GOOGLE__CLOUD__KMS__V1__CRYPTO_KEY_VERSION__CRYPTO_KEY_VERSION_VIEW__FULL)
        return err_field(e, "version_view", "unknown value");
    TRY(fill(c, &l, r, e));
    TRY(view_total(c, &l, NAME_CRYPTOKEY, &r->total_size, e));
    *resp = &r->base;
    return ok();
}

/* ---- update, primary --------------------------------------------------------------------------------------------------------- */
static struct result update_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    const UpdateRequest *q = (const UpdateRequest *)req;
    if (q->crypto_key == NULL)
        return err_field(e, "crypto_key", "is required");
    return field_resource(c, q->crypto_key->name, 1u << NAME_CRYPTOKEY, "crypto_key.name", e);
}

/* One algorithm is served, and the level of a key is immutable, as in Cloud KMS: naming either again changes nothing. */
static RESULT same_level(const UpdateRequest *q, const struct keyring_key *m, struct err *e)
{
    enum protection named = (enum protection)0;
    TRY(take_template(q->crypto_key->version_template, &named, e));
    if ((field_mask_has(q->update_mask, "version_template") || field_mask_has(q->update_mask, "version_template.protection_level")) &&
        named != 0 && named != m->protection)
        return err_field(e, "crypto_key.version_template.protection_level", "the protection level of a key never changes: make a new key");
    return ok();
}

static RESULT apply_mask(struct call *c, const UpdateRequest *q, struct keyring_key *m, struct err *e)
{
    static const char *const known[] = {"labels", "rotation_period", "next_rotation_time", "version_template",
                                        "version_template.algorithm", "version_template.protection_level", NULL};
    TRY(field_mask_check(q->update_mask, known, e));
    if (field_mask_has(q->update_mask, "labels"))
        TRY(take_labels(c, q->crypto_key, m, e));
    if (field_mask_has(q->update_mask, "rotation_period"))
        TRY(take_rotation_period(q->crypto_key, m, e));
    if (field_mask_has(q->update_mask, "next_rotation_time"))
        TRY(take_next_rotation(c, q->crypto_key, m, e));
    TRY(same_level(q, m, e));
    return rotation_whole(m, e);
}

static RESULT put_key(struct call *c, struct keyring_key *m, struct store_txn *txn, CryptoKey *r, struct err *e)
{
    const struct name *n = &c->resources[0].name;
    TRY(keyring_key_put(c->svc->keyring, n, m, txn, e));
    TRY(view_key(c, n, m, r, e));
    c->ev.after = view_key_json(&c->arena, m);
    TRY(call_commit(c, txn, &r->base, e));
    keyring_changed(c->svc->keyring, n);
    return ok();
}

static struct result update(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    CryptoKey *r = call_response(c);
    struct keyring_key m;
    TRY(keyring_key_get(c->svc->keyring, &c->resources[0].name, &c->arena, &m, e));
    c->ev.before = view_key_json(&c->arena, &m);
    TRY(apply_mask(c, (const UpdateRequest *)req, &m, e));
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(c->svc->store);
    TRY(put_key(c, &m, txn, r, e));
    *resp = &r->base;
    return ok();
}

static struct result primary_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    return field_resource(c, ((const PrimaryRequest *)req)->name, 1u << NAME_CRYPTOKEY, "name", e);
}

static struct result set_primary(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    const PrimaryRequest *q = (const PrimaryRequest *)req;
    CryptoKey *r = call_response(c);
    struct keyring_key m;
    TRY(keyring_key_get(c->svc->keyring, &c->resources[0].name, &c->arena, &m, e));
    uint64_t number;
    if (!text_parse_u64(pb_bytes(q->crypto_key_version_id), INT32_MAX, &number) || number == 0)
        return err_field(e, "crypto_key_version_id", "the number of a version, such as 2");
    struct name n = c->resources[0].name;
    n.kind = NAME_VERSION;
    n.version = (uint32_t)number;
    struct keyring_version v;
    TRY(keyring_version_get(c->svc->keyring, &n, &c->arena, &v, e));
    if (v.state != VERSION_ENABLED)
        FAIL(e, ERR_STATE, "KEY_VERSION_NOT_ENABLED", "version %u is %s", v.n, version_state_name(v.state));
    c->ev.before = view_key_json(&c->arena, &m);
    m.primary = v.n;
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(c->svc->store);
    TRY(keyring_version_check(c->svc->keyring, &n, v.revision, txn, e));
    TRY(put_key(c, &m, txn, r, e));
    *resp = &r->base;
    return ok();
}

static const struct rpc_row rows[] = {
    {KMS_CHANGE, .path = KMS_SERVICE "CreateCryptoKey", KMS_MESSAGES(create_crypto_key_request, crypto_key),
     .action = "kms.cryptoKeys.create", .resources = create_resources, .handle = create},
    {KMS_READ, .path = KMS_SERVICE "GetCryptoKey", KMS_MESSAGES(get_crypto_key_request, crypto_key), .action = "kms.cryptoKeys.get",
     .resources = get_resources, .handle = get},
    {KMS_READ, .path = KMS_SERVICE "ListCryptoKeys", KMS_MESSAGES(list_crypto_keys_request, list_crypto_keys_response),
     .action = "kms.cryptoKeys.list", .resources = list_resources, .handle = list},
    {KMS_CHANGE, .path = KMS_SERVICE "UpdateCryptoKey", KMS_MESSAGES(update_crypto_key_request, crypto_key),
     .action = "kms.cryptoKeys.update", .resources = update_resources, .handle = update},
    {KMS_CHANGE, .path = KMS_SERVICE "UpdateCryptoKeyPrimaryVersion", KMS_MESSAGES(update_crypto_key_primary_version_request, crypto_key),
     .action = "kms.cryptoKeys.setPrimary", .resources = primary_resources, .handle = set_primary},
};
const struct row_list rows_kms_keys = {rows, sizeof rows / sizeof rows[0]};
