#include "vault/cmd/kmsctl/kmsctl.h"

#include "base/text.h"
#include "google/cloud/kms/v1/service.pb-c.h"
#include "kms/name/name.h"

#include <string.h>
#include <time.h>

#define KMS "/google.cloud.kms.v1.KeyManagementService/"
#define RING_COLUMNS "NAME name|CREATED create_time"
#define KEY_COLUMNS                                                                                                       \
    "NAME name|PRIMARY primary.name|STATE primary.state|ROTATION rotation_period|NEXT_ROTATION next_rotation_time|"       \
    "LABELS labels|CREATED create_time"

static struct result keyrings_create(struct ctl *c, struct claviger_error *e)
{
    Google__Cloud__Kms__V1__KeyRing ring = GOOGLE__CLOUD__KMS__V1__KEY_RING__INIT;
    Google__Cloud__Kms__V1__CreateKeyRingRequest q = GOOGLE__CLOUD__KMS__V1__CREATE_KEY_RING_REQUEST__INIT;
    TRY(name_split(c, c->args.pos[0], NAME_KEYRING, &q.parent, &q.key_ring_id, e));
    q.key_ring = &ring;
    return ask_change(c, KMS "CreateKeyRing", &q.base, &google__cloud__kms__v1__key_ring__descriptor, RING_COLUMNS, e);
}

static struct result keyrings_get(struct ctl *c, struct claviger_error *e)
{
    Google__Cloud__Kms__V1__GetKeyRingRequest q = GOOGLE__CLOUD__KMS__V1__GET_KEY_RING_REQUEST__INIT;
    TRY(name_full(c, c->args.pos[0], 1u << NAME_KEYRING, &q.name, e));
    return ask_read(c, KMS "GetKeyRing", &q.base, &google__cloud__kms__v1__key_ring__descriptor, RING_COLUMNS, e);
}

static struct result keyrings_list(struct ctl *c, struct claviger_error *e)
{
    Google__Cloud__Kms__V1__ListKeyRingsRequest q = GOOGLE__CLOUD__KMS__V1__LIST_KEY_RINGS_REQUEST__INIT;
    TRY(name_full(c, name_default(c, c->args.pos[0]), 1u << NAME_LOCATION, &q.parent, e));
    q.filter = pb_of(bytes_str(c->args.value[OPT_FILTER]));
    q.order_by = pb_of(bytes_str(c->args.value[OPT_ORDER_BY]));
    return ask_list(c, KMS "ListKeyRings", &q.base, &google__cloud__kms__v1__list_key_rings_response__descriptor, "key_rings",
                    RING_COLUMNS, e);
}

/* ---- keys --------------------------------------------------------------------------------------------------------------- */

typedef Google__Cloud__Kms__V1__CryptoKey__LabelsEntry label_entry;

static struct result put_label(struct ctl *c, Google__Cloud__Kms__V1__CryptoKey *k, const char *name, struct bytes value)
{
    for (size_t i = 0; i < k->n_labels; i++) {
        if (bytes_equal(pb_bytes_of(k->labels[i]->key), bytes_str(name))) {
            k->labels[i]->value = pb_of(value);
            return ok();
        }
    }
    label_entry *l = arena_zalloc(&c->arena, sizeof *l);
    google__cloud__kms__v1__crypto_key__labels_entry__init(l);
    l->key = pb_of(bytes_str(name));
    l->value = pb_of(value);
    k->labels[k->n_labels++] = l;
    return ok();
}

static void drop_label(Google__Cloud__Kms__V1__CryptoKey *k, const char *name)
{
    size_t kept = 0;
    for (size_t i = 0; i < k->n_labels; i++) {
        if (!bytes_equal(pb_bytes_of(k->labels[i]->key), bytes_str(name)))
            k->labels[kept++] = k->labels[i];
    }
    k->n_labels = kept;
}

/* The labels that are there already (copied) and those of the command line, where "k=" removes. */
static struct result labels(struct ctl *c, Google__Cloud__Kms__V1__CryptoKey *k, const Google__Cloud__Kms__V1__CryptoKey *old,
                            struct claviger_error *e)
{
    size_t n = (old ? old->n_labels : 0) + c->args.nlabels;
    k->labels = arena_zalloc(&c->arena, (n + 1) * sizeof *k->labels);
    for (size_t i = 0; old && i < old->n_labels; i++)
        k->labels[k->n_labels++] = old->labels[i];
    for (size_t i = 0; i < c->args.nlabels; i++) {
        const char *name, *value;
        TRY(args_pair(c->args.labels[i], &c->arena, &name, &value, e));
        if (old && !*value)
            drop_label(k, name);
        else
            TRY(put_label(c, k, name, bytes_str(value)));
    }
    return ok();
}

static struct result protection(struct ctl *c, Google__Cloud__Kms__V1__CryptoKey *k, struct claviger_error *e)
{
    const char *text = c->args.value[OPT_PROTECTION];
    if (!text)
        return ok();
    Google__Cloud__Kms__V1__CryptoKeyVersionTemplate *t = arena_zalloc(&c->arena, sizeof *t);
    google__cloud__kms__v1__crypto_key_version_template__init(t);
    if (strcmp(text, "hsm") == 0)
        t->protection_level = GOOGLE__CLOUD__KMS__V1__PROTECTION_LEVEL__HSM;
    else if (strcmp(text, "software") == 0)
        t->protection_level = GOOGLE__CLOUD__KMS__V1__PROTECTION_LEVEL__SOFTWARE;
    else
        return usage(e, "--protection-level is software or hsm");
    k->version_template = t;
    return ok();
}

/* Cloud KMS wants both: how often, and when first. */
static struct result rotation(struct ctl *c, Google__Cloud__Kms__V1__CryptoKey *k, struct claviger_error *e)
{
    const char *text = c->args.value[OPT_ROTATION];
    if (!text || strcmp(text, "none") == 0)
        return ok();
    uint64_t ms;
    if (!text_parse_duration_ms(bytes_str(text), &ms) || ms < 1000)
        return usage(e, "--rotation-period is a duration like 90d, or none");
    Google__Protobuf__Duration *d = arena_zalloc(&c->arena, sizeof *d);
    Google__Protobuf__Timestamp *t = arena_zalloc(&c->arena, sizeof *t);
    google__protobuf__duration__init(d);
    google__protobuf__timestamp__init(t);
    d->seconds = (int64_t)(ms / 1000);
    t->seconds = (int64_t)time(NULL) + d->seconds;
    k->rotation_schedule_case = GOOGLE__CLOUD__KMS__V1__CRYPTO_KEY__ROTATION_SCHEDULE_ROTATION_PERIOD;
    k->rotation_period = d;
    k->next_rotation_time = t;
    return ok();
}

static struct result keys_create(struct ctl *c, struct claviger_error *e)
{
    Google__Cloud__Kms__V1__CryptoKey k = GOOGLE__CLOUD__KMS__V1__CRYPTO_KEY__INIT;
    k.purpose = GOOGLE__CLOUD__KMS__V1__CRYPTO_KEY__CRYPTO_KEY_PURPOSE__ENCRYPT_DECRYPT;
    Google__Cloud__Kms__V1__CreateCryptoKeyRequest q = GOOGLE__CLOUD__KMS__V1__CREATE_CRYPTO_KEY_REQUEST__INIT;
    TRY(name_split(c, c->args.pos[0], NAME_CRYPTOKEY, &q.parent, &q.crypto_key_id, e));
    TRY(labels(c, &k, NULL, e));
    TRY(rotation(c, &k, e));
    TRY(protection(c, &k, e));
    q.crypto_key = &k;
    q.skip_initial_version_creation = c->args.value[OPT_NO_VERSION] != NULL;
    return ask_change(c, KMS "CreateCryptoKey", &q.base, &google__cloud__kms__v1__crypto_key__descriptor, KEY_COLUMNS, e);
}

static struct result get_key(struct ctl *c, const Google__Cloud__Kms__V1__CryptoKey **ret, struct claviger_error *e)
{
    Google__Cloud__Kms__V1__GetCryptoKeyRequest q = GOOGLE__CLOUD__KMS__V1__GET_CRYPTO_KEY_REQUEST__INIT;
    TRY(name_full(c, c->args.pos[0], 1u << NAME_CRYPTOKEY, &q.name, e));
    return ctl_read(c, KMS "GetCryptoKey", &q.base, &google__cloud__kms__v1__crypto_key__descriptor, ret, e);
}

static struct result keys_get(struct ctl *c, struct claviger_error *e)
{
    const Google__Cloud__Kms__V1__CryptoKey *p = NULL;
    TRY(get_key(c, &p, e));
    return show(c, &p->base, KEY_COLUMNS, e);
}

static struct result keys_list(struct ctl *c, struct claviger_error *e)
{
    Google__Cloud__Kms__V1__ListCryptoKeysRequest q = GOOGLE__CLOUD__KMS__V1__LIST_CRYPTO_KEYS_REQUEST__INIT;
    TRY(name_full(c, c->args.pos[0], 1u << NAME_KEYRING, &q.parent, e));
    q.filter = pb_of(bytes_str(c->args.value[OPT_FILTER]));
    q.order_by = pb_of(bytes_str(c->args.value[OPT_ORDER_BY]));
    return ask_list(c, KMS "ListCryptoKeys", &q.base, &google__cloud__kms__v1__list_crypto_keys_response__descriptor, "crypto_keys",
                    KEY_COLUMNS, e);
}

static struct result keys_update(struct ctl *c, struct claviger_error *e)
{
    bool change_labels = c->args.nlabels > 0, change_rotation = c->args.value[OPT_ROTATION] != NULL;
    if (!change_labels && !change_rotation)
        return usage(e, "nothing to change: give --label or --rotation-period");
    const Google__Cloud__Kms__V1__CryptoKey *old = NULL;
    TRY(get_key(c, &old, e));
    Google__Cloud__Kms__V1__CryptoKey k = GOOGLE__CLOUD__KMS__V1__CRYPTO_KEY__INIT;
    k.name = old->name;
    TRY(labels(c, &k, old, e));
    TRY(rotation(c, &k, e));
    ProtobufCBinaryData paths[3];
    Google__Protobuf__FieldMask mask = GOOGLE__PROTOBUF__FIELD_MASK__INIT;
    mask.paths = paths;
    if (change_labels)
        paths[mask.n_paths++] = pb_of(BYTES_LIT("labels"));
    if (change_rotation) {
        paths[mask.n_paths++] = pb_of(BYTES_LIT("rotation_period"));
        paths[mask.n_paths++] = pb_of(BYTES_LIT("next_rotation_time"));
    }
    Google__Cloud__Kms__V1__UpdateCryptoKeyRequest q = GOOGLE__CLOUD__KMS__V1__UPDATE_CRYPTO_KEY_REQUEST__INIT;
    q.crypto_key = &k;
    q.update_mask = &mask;
    return ask_change(c, KMS "UpdateCryptoKey", &q.base, &google__cloud__kms__v1__crypto_key__descriptor, KEY_COLUMNS, e);
}

static struct result keys_set_primary(struct ctl *c, struct claviger_error *e)
{
    Google__Cloud__Kms__V1__UpdateCryptoKeyPrimaryVersionRequest q =
        GOOGLE__CLOUD__KMS__V1__UPDATE_CRYPTO_KEY_PRIMARY_VERSION_REQUEST__INIT;
    TRY(name_split(c, c->args.pos[0], NAME_VERSION, &q.name, &q.crypto_key_version_id, e));
    return ask_change(c, KMS "UpdateCryptoKeyPrimaryVersion", &q.base, &google__cloud__kms__v1__crypto_key__descriptor, KEY_COLUMNS, e);
}

static const struct command rows[] = {
    {"keyrings", "create", "TENANT/LOCATION/RING", 1, 1, O(OPT_IDEMPOTENCY), ROLE_KEYADMIN, keyrings_create,
     "a new key ring: a folder for keys; rings are never deleted", "kmsctl keyrings create acme/eu/pii"},
    {"keyrings", "get", "RING", 1, 1, 0, ROLE_KEYADMIN, keyrings_get, "one key ring", "kmsctl keyrings get acme/eu/pii"},
    {"keyrings", "list", "[TENANT/LOCATION]", 0, 1, O(OPT_FILTER) | O(OPT_ORDER_BY), ROLE_KEYADMIN, keyrings_list,
     "key rings; default $KMS_TENANT/$KMS_LOCATION", "kmsctl keyrings list acme/eu"},
    {"keys", "create", "RING/KEY", 1, 1, O(OPT_LABEL) | O(OPT_ROTATION) | O(OPT_PROTECTION) | O(OPT_NO_VERSION) | O(OPT_IDEMPOTENCY), ROLE_KEYADMIN,
     keys_create, "a new key, with its first version", "kmsctl keys create acme/eu/pii/email --rotation-period 90d --label team=web\n"
     "kmsctl keys create acme/eu/pii/card --protection-level hsm"},
    {"keys", "get", "KEY", 1, 1, 0, ROLE_KEYADMIN, keys_get, "one key", "kmsctl keys get acme/eu/pii/email"},
    {"keys", "list", "RING", 1, 1, O(OPT_FILTER) | O(OPT_ORDER_BY), ROLE_KEYADMIN, keys_list, "the keys of a ring",
     "kmsctl keys list acme/eu/pii --filter labels.team=web --order-by \"name desc\""},
    {"keys", "update", "KEY", 1, 1, O(OPT_LABEL) | O(OPT_ROTATION) | O(OPT_IDEMPOTENCY), ROLE_KEYADMIN, keys_update,
     "change labels or the rotation period", "kmsctl keys update acme/eu/pii/email --label team= --rotation-period none"},
    {"keys", "set-primary", "KEY@VERSION", 1, 1, O(OPT_IDEMPOTENCY), ROLE_KEYADMIN, keys_set_primary,
     "encrypt with this version from now on", "kmsctl keys set-primary acme/eu/pii/email@2"},
};
const struct command_rows rows_keys = {rows, sizeof rows / sizeof *rows};
