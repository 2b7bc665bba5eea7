#include "vault/cmd/kmsctl/kmsctl.h"

#include "google/cloud/kms/v1/service.pb-c.h"
#include "kms/name/name.h"

#include <string.h>

#define KMS "/google.cloud.kms.v1.KeyManagementService/"
#define VERSION_COLUMNS "NAME name|STATE state|PROTECTION protection_level|CREATED create_time|DESTROY destroy_time"

typedef Google__Cloud__Kms__V1__CryptoKeyVersion version;
static const ProtobufCMessageDescriptor *const version_d = &google__cloud__kms__v1__crypto_key_version__descriptor;

static struct result make_primary(struct ctl *c, const version *v, struct claviger_error *e)
{
    char *name = arena_strdup(&c->arena, pb_bytes_of(v->name));
    Google__Cloud__Kms__V1__UpdateCryptoKeyPrimaryVersionRequest q =
        GOOGLE__CLOUD__KMS__V1__UPDATE_CRYPTO_KEY_PRIMARY_VERSION_REQUEST__INIT;
    TRY(name_split(c, name, NAME_VERSION, &q.name, &q.crypto_key_version_id, e));
    const ProtobufCMessage *p = NULL;
    return ctl_change(c, KMS "UpdateCryptoKeyPrimaryVersion", &q.base, &google__cloud__kms__v1__crypto_key__descriptor, &p, e);
}

static struct result versions_create(struct ctl *c, struct claviger_error *e)
{
    if (c->args.value[OPT_PRIMARY] && c->args.value[OPT_IDEMPOTENCY])
        return usage(e, "--idempotency-key covers one change: use kmsctl keys set-primary for the second");
    version v = GOOGLE__CLOUD__KMS__V1__CRYPTO_KEY_VERSION__INIT;
    Google__Cloud__Kms__V1__CreateCryptoKeyVersionRequest q = GOOGLE__CLOUD__KMS__V1__CREATE_CRYPTO_KEY_VERSION_REQUEST__INIT;
    TRY(name_full(c, c->args.pos[0], 1u << NAME_CRYPTOKEY, &q.parent, e));
    q.crypto_key_version = &v;
    const version *p = NULL;
    TRY(ctl_change(c, KMS "CreateCryptoKeyVersion", &q.base, version_d, &p, e));
    if (c->args.value[OPT_PRIMARY])
        TRY(make_primary(c, p, e));
    return show(c, &p->base, VERSION_COLUMNS, e);
}

static struct result versions_get(struct ctl *c, struct claviger_error *e)
{
    Google__Cloud__Kms__V1__GetCryptoKeyVersionRequest q = GOOGLE__CLOUD__KMS__V1__GET_CRYPTO_KEY_VERSION_REQUEST__INIT;
    TRY(name_full(c, c->args.pos[0], 1u << NAME_VERSION, &q.name, e));
    return ask_read(c, KMS "GetCryptoKeyVersion", &q.base, version_d, VERSION_COLUMNS, e);
}

static struct result versions_list(struct ctl *c, struct claviger_error *e)
{
    Google__Cloud__Kms__V1__ListCryptoKeyVersionsRequest q = GOOGLE__CLOUD__KMS__V1__LIST_CRYPTO_KEY_VERSIONS_REQUEST__INIT;
    TRY(name_full(c, c->args.pos[0], 1u << NAME_CRYPTOKEY, &q.parent, e));
    q.filter = pb_of(bytes_str(c->args.value[OPT_FILTER]));
    q.order_by = pb_of(bytes_str(c->args.value[OPT_ORDER_BY]));
    return ask_list(c, KMS "ListCryptoKeyVersions", &q.base, &google__cloud__kms__v1__list_crypto_key_versions_response__descriptor,
                    "crypto_key_versions", VERSION_COLUMNS, e);
}

static struct result set_state(struct ctl *c, Google__Cloud__Kms__V1__CryptoKeyVersion__CryptoKeyVersionState state,
                               struct claviger_error *e)
{
    version v = GOOGLE__CLOUD__KMS__V1__CRYPTO_KEY_VERSION__INIT;
    TRY(name_full(c, c->args.pos[0], 1u << NAME_VERSION, &v.name, e));
    v.state = state;
    ProtobufCBinaryData path = pb_of(BYTES_LIT("state"));
    Google__Protobuf__FieldMask mask = GOOGLE__PROTOBUF__FIELD_MASK__INIT;
    mask.paths = &path;
    mask.n_paths = 1;
    Google__Cloud__Kms__V1__UpdateCryptoKeyVersionRequest q = GOOGLE__CLOUD__KMS__V1__UPDATE_CRYPTO_KEY_VERSION_REQUEST__INIT;
    q.crypto_key_version = &v;
    q.update_mask = &mask;
    return ask_change(c, KMS "UpdateCryptoKeyVersion", &q.base, version_d, VERSION_COLUMNS, e);
}

static struct result versions_enable(struct ctl *c, struct claviger_error *e)
{
    return set_state(c, GOOGLE__CLOUD__KMS__V1__CRYPTO_KEY_VERSION__CRYPTO_KEY_VERSION_STATE__ENABLED, e);
}

static struct result versions_disable(struct ctl *c, struct claviger_error *e)
{
    return set_state(c, GOOGLE__CLOUD__KMS__V1__CRYPTO_KEY_VERSION__CRYPTO_KEY_VERSION_STATE__DISABLED, e);
}

/* The name must be typed twice, in either form: a slip of the hand must not cost data. */
static struct result confirmed(struct ctl *c, ProtobufCBinaryData name, struct claviger_error *e)
{
    const char *typed = c->args.value[OPT_CONFIRM];
    if (!typed)
        usage_tell(c, name);
    if (!typed)
        return usage(e, "after the destroy delay, what this version encrypted is lost for good; repeat the name: --confirm %s",
                     c->args.pos[0]);
    ProtobufCBinaryData again;
    TRY(name_full(c, typed, 1u << NAME_VERSION, &again, e));
    if (!bytes_equal(pb_bytes_of(name), pb_bytes_of(again)))
        return usage(e, "--confirm names another version than %s", c->args.pos[0]);
    return ok();
}

static struct result versions_destroy(struct ctl *c, struct claviger_error *e)
{
    Google__Cloud__Kms__V1__DestroyCryptoKeyVersionRequest q = GOOGLE__CLOUD__KMS__V1__DESTROY_CRYPTO_KEY_VERSION_REQUEST__INIT;
    TRY(name_full(c, c->args.pos[0], 1u << NAME_VERSION, &q.name, e));
    TRY(confirmed(c, q.name, e));
    return ask_change(c, KMS "DestroyCryptoKeyVersion", &q.base, version_d, VERSION_COLUMNS, e);
}

static struct result versions_restore(struct ctl *c, struct claviger_error *e)
{
    Google__Cloud__Kms__V1__RestoreCryptoKeyVersionRequest q = GOOGLE__CLOUD__KMS__V1__RESTORE_CRYPTO_KEY_VERSION_REQUEST__INIT;
    TRY(name_full(c, c->args.pos[0], 1u << NAME_VERSION, &q.name, e));
    return ask_change(c, KMS "RestoreCryptoKeyVersion", &q.base, version_d, VERSION_COLUMNS, e);
}

static const struct command rows[] = {
    {"versions", "create", "KEY", 1, 1, O(OPT_PRIMARY) | O(OPT_IDEMPOTENCY), ROLE_KEYADMIN, versions_create,
     "a new version; with --primary the key is rotated to it", "kmsctl versions create acme/eu/pii/email --primary"},
    {"versions", "get", "KEY@VERSION", 1, 1, 0, ROLE_KEYADMIN, versions_get, "one version", "kmsctl versions get acme/eu/pii/email@1"},
    {"versions", "list", "KEY", 1, 1, O(OPT_FILTER) | O(OPT_ORDER_BY), ROLE_KEYADMIN, versions_list, "the versions of a key",
     "kmsctl versions list acme/eu/pii/email --filter state=ENABLED"},
    {"versions", "enable", "KEY@VERSION", 1, 1, O(OPT_IDEMPOTENCY), ROLE_KEYADMIN, versions_enable, "let it be used again",
     "kmsctl versions enable acme/eu/pii/email@1"},
    {"versions", "disable", "KEY@VERSION", 1, 1, O(OPT_IDEMPOTENCY), ROLE_KEYADMIN, versions_disable,
     "refuse every use from the next request on", "kmsctl versions disable acme/eu/pii/email@1"},
    {"versions", "destroy", "KEY@VERSION", 1, 1, O(OPT_CONFIRM) | O(OPT_IDEMPOTENCY), ROLE_KEYADMIN, versions_destroy,
     "schedule destruction; restore undoes it until then",
     "kmsctl versions destroy acme/eu/pii/email@1 --confirm acme/eu/pii/email@1"},
    {"versions", "restore", "KEY@VERSION", 1, 1, O(OPT_IDEMPOTENCY), ROLE_KEYADMIN, versions_restore,
     "take a scheduled destruction back; the version is then disabled", "kmsctl versions restore acme/eu/pii/email@1"},
};
const struct command_rows rows_versions = {rows, sizeof rows / sizeof *rows};
