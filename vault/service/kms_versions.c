/* google.cloud.kms.v1: crypto key versions and their states. */
#include "vault/service/guard.h"
#include "vault/service/kms_view.h"
#include "vault/service/rows.h"

typedef Google__Cloud__Kms__V1__CreateCryptoKeyVersionRequest CreateRequest;
typedef Google__Cloud__Kms__V1__GetCryptoKeyVersionRequest GetRequest;
typedef Google__Cloud__Kms__V1__ListCryptoKeyVersionsRequest ListRequest;
typedef Google__Cloud__Kms__V1__ListCryptoKeyVersionsResponse ListResponse;
typedef Google__Cloud__Kms__V1__UpdateCryptoKeyVersionRequest UpdateRequest;
typedef Google__Cloud__Kms__V1__DestroyCryptoKeyVersionRequest DestroyRequest;
typedef Google__Cloud__Kms__V1__RestoreCryptoKeyVersionRequest RestoreRequest;
#define STATE(s) GOOGLE__CLOUD__KMS__V1__CRYPTO_KEY_VERSION__CRYPTO_KEY_VERSION_STATE__##s

/* ---- create, get, list -------------------------------------------------------------------------------------------------- */
static struct result create_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    return field_resource(c, ((const CreateRequest *)req)->parent, 1u << NAME_CRYPTOKEY, "parent", e);
}

static struct result create(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    const CreateRequest *q = (const CreateRequest *)req;
    const struct name *key = &c->resources[0].name;
    CryptoKeyVersion *r = call_response(c);
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(c->svc->store);
    struct keyring_version m;
    struct keyring_key exists;
    TRY(keyring_key_get(c->svc->keyring, key, &c->arena, &exists, e)); /* existence comes before fields, and those before a key is made */
    if (q->crypto_key_version != NULL && (q->crypto_key_version->external_protection_level_options != NULL || q->crypto_key_version->trusted_wrapping_enabled))
        FAIL(e, ERR_UNIMPLEMENTED, "FIELD", "external_protection_level_options or trusted_wrapping_enabled");
    if (q->crypto_key_version != NULL && q->crypto_key_version->state != STATE(CRYPTO_KEY_VERSION_STATE_UNSPECIFIED) &&
        q->crypto_key_version->state != STATE(ENABLED))
        return err_field(e, "crypto_key_version.state", "a new version is ENABLED");
    TRY(keyring_version_create(c->svc->keyring, key, txn, &c->arena, &m, e));
    view_version(c, &m, r);
    c->ev.key_version = m.name;
    c->ev.after = view_version_json(&c->arena, &m);
    TRY(call_commit(c, txn, &r->base, e));
    keyring_changed(c->svc->keyring, key);
    *resp = &r->base;
    return ok();
}

static struct result get_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    return field_resource(c, ((const GetRequest *)req)->name, 1u << NAME_VERSION, "name", e);
}

static struct result get(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    (void)req;
    CryptoKeyVersion *r = call_response(c);
    struct keyring_version m;
    TRY(keyring_version_get(c->svc->keyring, &c->resources[0].name, &c->arena, &m, e));
    view_version(c, &m, r);
    *resp = &r->base;
    return ok();
}

static struct result list_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    return field_resource(c, ((const ListRequest *)req)->parent, 1u << NAME_CRYPTOKEY, "parent", e);
}

static ProtobufCBinaryData version_token(struct call *c, const struct listing *l, uint32_t last)
{
    uint8_t be[4];
    put_be32(be, last);
    return listing_token(c, l, BYTES(be, sizeof be));
}

static RESULT fill(struct call *c, struct listing *l, ListResponse *r, struct err *e)
{
    uint32_t after = l->after.n == 4 ? get_be32(l->after.p) : 0;
    size_t looked = 0, got;
    r->crypto_key_versions = arena_alloc(&c->arena, l->page * sizeof *r->crypto_key_versions);
    INVARIANT(r->crypto_key_versions != NULL);
    do {
        struct keyring_version *rows;
        TRY(keyring_version_list(c->svc->keyring, &c->resources[0].name, after, l->descending, VIEW_CHUNK, &c->arena, &rows, &got, e));
        for (size_t i = 0; i < got; i++) {
            if (r->n_crypto_key_versions == l->page) {
                r->next_page_token = version_token(c, l, after);
                return ok();
            }
            after = rows[i].n;
            if (!listing_match_name(l, rows[i].name) || !listing_match_state(l, version_state_name(rows[i].state)))
                continue;
            CryptoKeyVersion *v = call_new_message(c, &google__cloud__kms__v1__crypto_key_version__descriptor);
            INVARIANT(v != NULL);
            view_version(c, &rows[i], v);
            r->crypto_key_versions[r->n_crypto_key_versions++] = v;
        }
        looked += got;
    } while (listing_goes_on(c, got, VIEW_CHUNK, looked));
    if (got == VIEW_CHUNK)
        r->next_page_token = version_token(c, l, after);
    return ok();
}

static struct result list(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    const ListRequest *q = (const ListRequest *)req;
    ListResponse *r = call_response(c);
    struct keyring_key key;
    struct listing l;
    TRY(keyring_key_get(c->svc->keyring, &c->resources[0].name, &c->arena, &key, e));
    TRY(listing_parse(c, q->page_size, q->page_token, q->filter, q->order_by, (struct bytes){0}, 1u << TERM_NAME | 1u << TERM_STATE, &l, e));
    if (q->view > GOOGLE__CLOUD__KMS__V1__CRYPTO_KEY_VERSION__CRYPTO_KEY_VERSION_VIEW__FULL)
        return err_field(e, "view", "unknown value");
    TRY(fill(c, &l, r, e));
    TRY(view_total(c, &l, NAME_VERSION, &r->total_size, e));
    *resp = &r->base;
    return ok();
}

/* ---- state changes ------------------------------------------------------------------------------------------------------- */
/* Reads the version, lets `to` happen, commits, and forgets cached material before the answer leaves. */
static RESULT change_state(struct call *c, struct keyring_version *m, enum version_state to, ProtobufCMessage **resp, struct err *e)
{
    const struct name *n = &c->resources[0].name;
    CryptoKeyVersion *r = call_response(c);
    enum version_state from = m->state;
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(c->svc->store);
    c->ev.key_version = m->name;
    if (c->ev.before.n == 0)
        c->ev.before = view_version_json(&c->arena, m);
    m->state = to;
    TRY(keyring_version_put(c->svc->keyring, n, m, from, txn, e));
    view_version(c, m, r);
    c->ev.after = view_version_json(&c->arena, m);
    TRY(call_commit(c, txn, &r->base, e));
    keyring_changed(c->svc->keyring, n);
    *resp = &r->base;
    return ok();
}

static struct result update_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    const UpdateRequest *q = (const UpdateRequest *)req;
    if (q->crypto_key_version == NULL)
        return err_field(e, "crypto_key_version", "is required");
    return field_resource(c, q->crypto_key_version->name, 1u << NAME_VERSION, "crypto_key_version.name", e);
}

static struct result update(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    static const char *const known[] = {"state", NULL};
    const UpdateRequest *q = (const UpdateRequest *)req;
    struct keyring_version m;
    TRY(keyring_version_get(c->svc->keyring, &c->resources[0].name, &c->arena, &m, e));
    TRY(field_mask_check(q->update_mask, known, e));
    enum version_state to = q->crypto_key_version->state == STATE(ENABLED) ? VERSION_ENABLED : VERSION_DISABLED;
    if (q->crypto_key_version->state != STATE(ENABLED) && q->crypto_key_version->state != STATE(DISABLED))
        return err_field(e, "crypto_key_version.state", "can be set to ENABLED or DISABLED; destroy and restore have their own calls");
    if (m.state != VERSION_ENABLED && m.state != VERSION_DISABLED)
        FAIL(e, ERR_STATE, "KEY_VERSION_STATE", "version %u is %s", m.n, version_state_name(m.state));
    if (m.state == to) { /* setting what is set: no change, and no new revision */
        CryptoKeyVersion *r = call_response(c);
        view_version(c, &m, r);
        *resp = &r->base;
        return ok();
    }
    return change_state(c, &m, to, resp, e);
}

static struct result destroy_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    return field_resource(c, ((const DestroyRequest *)req)->name, 1u << NAME_VERSION, "name", e);
}

static struct result destroy(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    (void)req;
    struct name key_name = name_truncate(&c->resources[0].name, NAME_CRYPTOKEY);
    struct keyring_version m;
    struct keyring_key key;
    TRY(keyring_version_get(c->svc->keyring, &c->resources[0].name, &c->arena, &m, e));
    TRY(keyring_key_get(c->svc->keyring, &key_name, &c->arena, &key, e));
    if (version_state_can(m.state, VERSION_DESTROY_SCHEDULED))
        TRY(guard_check(c, &c->resources[0].name, &m, e));
    m.asked_ns = clock_wall_ns(call_clock(c)); /* on the certificate, some day */
    m.asked_by = bytes_str(c->id.principal->name);
    m.destroy_ns = m.asked_ns + key.destroy_delay_s * NS_PER_SECOND;
    return change_state(c, &m, VERSION_DESTROY_SCHEDULED, resp, e);
}

static struct result restore_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    return field_resource(c, ((const RestoreRequest *)req)->name, 1u << NAME_VERSION, "name", e);
}

static struct result restore(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    (void)req;
    struct keyring_version m;
    TRY(keyring_version_get(c->svc->keyring, &c->resources[0].name, &c->arena, &m, e));
    if (m.state != VERSION_DESTROY_SCHEDULED)
        FAIL(e, ERR_STATE, "KEY_VERSION_STATE", "version %u is %s", m.n, version_state_name(m.state));
    m.destroy_ns = m.asked_ns = 0;
    m.asked_by = (struct bytes){0};
    return change_state(c, &m, VERSION_DISABLED, resp, e);
}

static const struct rpc_row rows[] = {
    {KMS_CHANGE, .path = KMS_SERVICE "CreateCryptoKeyVersion", KMS_MESSAGES(create_crypto_key_version_request, crypto_key_version),
     .action = "kms.cryptoKeyVersions.create", .resources = create_resources, .handle = create},
    {KMS_READ, .path = KMS_SERVICE "GetCryptoKeyVersion", KMS_MESSAGES(get_crypto_key_version_request, crypto_key_version),
     .action = "kms.cryptoKeyVersions.get", .resources = get_resources, .handle = get},
    {KMS_READ, .path = KMS_SERVICE "ListCryptoKeyVersions", KMS_MESSAGES(list_crypto_key_versions_request, list_crypto_key_versions_response),
     .action = "kms.cryptoKeyVersions.list", .resources = list_resources, .handle = list},
    {KMS_CHANGE, .path = KMS_SERVICE "UpdateCryptoKeyVersion", KMS_MESSAGES(update_crypto_key_version_request, crypto_key_version),
     .action = "kms.cryptoKeyVersions.update", .resources = update_resources, .handle = update},
    {KMS_CHANGE, .path = KMS_SERVICE "DestroyCryptoKeyVersion", KMS_MESSAGES(destroy_crypto_key_version_request, crypto_key_version),
     .action = "kms.cryptoKeyVersions.destroy", .destructive = true, .resources = destroy_resources, .handle = destroy},
    {KMS_CHANGE, .path = KMS_SERVICE "RestoreCryptoKeyVersion", KMS_MESSAGES(restore_crypto_key_version_request, crypto_key_version),
     .action = "kms.cryptoKeyVersions.restore", .resources = restore_resources, .handle = restore},
};
const struct row_list rows_kms_versions = {rows, sizeof rows / sizeof rows[0]};
