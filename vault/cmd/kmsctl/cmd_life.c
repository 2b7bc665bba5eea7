/* keys rotate, keys due: over one key, a ring, or all of a tenant. */
#include "vault/cmd/kmsctl/kmsctl.h"

#include "base/text.h"
#include "claviger/lifecycle/v1/lifecycle.pb-c.h"
#include "google/cloud/kms/v1/service.pb-c.h"
#include "kms/name/name.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define KMS "/google.cloud.kms.v1.KeyManagementService/"
#define LIFE "/claviger.lifecycle.v1.Lifecycle/"
#define ROTATE_COLUMNS "NAME name|REPLACED replaced|NOTE note"
#define DUE_COLUMNS "WHAT what|NAME name|TIME time|NOTE note"
enum { DUE_WITHIN_DEFAULT_S = 30 * 24 * 3600, NS_PER_S = 1000000000 };

typedef Google__Cloud__Kms__V1__CryptoKey crypto_key;
typedef Google__Cloud__Kms__V1__CryptoKeyVersion crypto_version;

/* ---- every key under a name ------------------------------------------------------------------------------------------ */
struct walk {
    struct result (*each)(struct ctl *c, const crypto_key *k, struct walk *w, struct claviger_error *e);
    json_t *rows;
    bool one; /* a single key was named */
    int64_t until_s, now_s;
    size_t failed;
    struct claviger_error why; /* the first failure */
};

static struct result walk_ring(struct ctl *c, ProtobufCBinaryData ring, struct walk *w, struct claviger_error *e)
{
    Google__Cloud__Kms__V1__ListCryptoKeysRequest q = GOOGLE__CLOUD__KMS__V1__LIST_CRYPTO_KEYS_REQUEST__INIT;
    q.parent = ring;
    do {
        const Google__Cloud__Kms__V1__ListCryptoKeysResponse *p = NULL;
        TRY(ctl_read(c, KMS "ListCryptoKeys", &q.base, &google__cloud__kms__v1__list_crypto_keys_response__descriptor, &p, e));
        for (size_t i = 0; i < p->n_crypto_keys; i++)
            TRY(w->each(c, p->crypto_keys[i], w, e));
        q.page_token = p->next_page_token;
    } while (q.page_token.len > 0);
    return ok();
}

static struct result walk_location(struct ctl *c, ProtobufCBinaryData location, struct walk *w, struct claviger_error *e)
{
    Google__Cloud__Kms__V1__ListKeyRingsRequest q = GOOGLE__CLOUD__KMS__V1__LIST_KEY_RINGS_REQUEST__INIT;
    q.parent = location;
    do {
        const Google__Cloud__Kms__V1__ListKeyRingsResponse *p = NULL;
        TRY(ctl_read(c, KMS "ListKeyRings", &q.base, &google__cloud__kms__v1__list_key_rings_response__descriptor, &p, e));
        for (size_t i = 0; i < p->n_key_rings; i++)
            TRY(walk_ring(c, p->key_rings[i]->name, w, e));
        q.page_token = p->next_page_token;
    } while (q.page_token.len > 0);
    return ok();
}

static struct result walk(struct ctl *c, const char *given, struct walk *w, struct claviger_error *e)
{
    ProtobufCBinaryData full;
    struct name n;
    struct err inner = {0};
    TRY(name_full(c, given, 1u << NAME_LOCATION | 1u << NAME_KEYRING | 1u << NAME_CRYPTOKEY, &full, e));
    INVARIANT(!name_parse_short(pb_bytes_of(full), &n, &inner).failed);
    if (n.kind == NAME_LOCATION)
        return walk_location(c, full, w, e);
    if (n.kind == NAME_KEYRING)
        return walk_ring(c, full, w, e);
    const crypto_key *k = NULL;
    Google__Cloud__Kms__V1__GetCryptoKeyRequest q = GOOGLE__CLOUD__KMS__V1__GET_CRYPTO_KEY_REQUEST__INIT;
    q.name = full;
    w->one = true;
    TRY(ctl_read(c, KMS "GetCryptoKey", &q.base, &google__cloud__kms__v1__crypto_key__descriptor, &k, e));
    return w->each(c, k, w, e);
}

/* ---- rotate ---------------------------------------------------------------------------------------------------------- */
static void rotate_row(struct walk *w, ProtobufCBinaryData name, ProtobufCBinaryData replaced, const char *note)
{
    json_array_append_new(w->rows, json_pack("{s:s%,s:s%,s:s}", "name", (const char *)name.data, name.len, "replaced",
                                             replaced.data != NULL ? (const char *)replaced.data : "", replaced.len, "note", note));
}

static struct result rotate_one(struct ctl *c, const crypto_key *k, struct walk *w, struct claviger_error *e)
{
    const ProtobufCBinaryData none = {0};
    const bool dry = c->args.value[OPT_DRY_RUN] != NULL;
    if (c->args.value[OPT_IDEMPOTENCY] != NULL && !w->one)
        return usage(e, "--idempotency-key covers one change: name one key");
    if (k->primary == NULL && !w->one) { /* somebody made it without a version, on purpose */
        rotate_row(w, k->name, none, "skipped: it has no primary version");
        return ok();
    }
    if (dry) {
        rotate_row(w, k->name, k->primary != NULL ? k->primary->name : none, "would be rotated");
        return ok();
    }
    Claviger__Lifecycle__V1__RotateKeyRequest q = CLAVIGER__LIFECYCLE__V1__ROTATE_KEY_REQUEST__INIT;
    const Claviger__Lifecycle__V1__RotateKeyResponse *p = NULL;
    struct claviger_error why = {0};
    q.name = k->name;
    if (ctl_change(c, LIFE "RotateKey", &q.base, &claviger__lifecycle__v1__rotate_key_response__descriptor, &p, &why).failed) {
        if (w->one) {
            *e = why;
            return (struct result){1};
        }
        rotate_row(w, k->name, none, arena_printf(&c->arena, "failed: %s", claviger_code_name(why.code)));
        if (w->failed++ == 0)
            w->why = why;
        return ok();
    }
    rotate_row(w, p->name, p->replaced, "");
    return ok();
}

/* What failed does not keep the others from being rotated; the exit code is that of the first failure. */
static struct result keys_rotate(struct ctl *c, struct claviger_error *e)
{
    struct walk w = {.each = rotate_one, .rows = json_array()};
    struct result r = walk(c, c->args.pos[0], &w, e);
    const bool any = json_array_size(w.rows) > 0;
    if (!r.failed || any) {
        struct claviger_error ignored = {0};
        struct result shown = show_list(c, w.rows, "rotated", ROTATE_COLUMNS, r.failed ? &ignored : e);
        r = r.failed ? r : shown;
    } else {
        json_decref(w.rows);
    }
    if (!r.failed && w.failed > 0) {
        *e = w.why;
        return (struct result){1};
    }
    return r;
}

/* ---- due ------------------------------------------------------------------------------------------------------------- */
static void due_row(struct ctl *c, struct walk *w, const char *what, ProtobufCBinaryData name, const Google__Protobuf__Timestamp *t)
{
    char when[TEXT_RFC3339_BYTES];
    const int64_t late = w->now_s - t->seconds;
    const char *note = late > 0 ? arena_printf(&c->arena, "overdue by %lld s", (long long)late) : "";
    if (t->seconds > w->until_s)
        return;
    text_format_rfc3339(t->seconds * NS_PER_S, when);
    json_array_append_new(w->rows, json_pack("{s:s,s:s%,s:s,s:s}", "what", what, "name", (const char *)name.data, name.len, "time", when,
                                             "note", note));
}

static struct result due_one(struct ctl *c, const crypto_key *k, struct walk *w, struct claviger_error *e)
{
    if (k->next_rotation_time != NULL)
        due_row(c, w, "rotation", k->name, k->next_rotation_time);
    Google__Cloud__Kms__V1__ListCryptoKeyVersionsRequest q = GOOGLE__CLOUD__KMS__V1__LIST_CRYPTO_KEY_VERSIONS_REQUEST__INIT;
    q.parent = k->name;
    q.filter = pb_of(BYTES_LIT("state=DESTROY_SCHEDULED"));
    do {
        const Google__Cloud__Kms__V1__ListCryptoKeyVersionsResponse *p = NULL;
        TRY(ctl_read(c, KMS "ListCryptoKeyVersions", &q.base, &google__cloud__kms__v1__list_crypto_key_versions_response__descriptor, &p, e));
        for (size_t i = 0; i < p->n_crypto_key_versions; i++)
            if (p->crypto_key_versions[i]->destroy_time != NULL)
                due_row(c, w, "destruction", p->crypto_key_versions[i]->name, p->crypto_key_versions[i]->destroy_time);
        q.page_token = p->next_page_token;
    } while (q.page_token.len > 0);
    return ok();
}

static int by_time(const void *a, const void *b)
{
    const json_t *const *x = a, *const *y = b;
    return strcmp(json_string_value(json_object_get(*x, "time")), json_string_value(json_object_get(*y, "time")));
}

/* Times are RFC 3339 in UTC and whole seconds: text order is time order. */
static json_t *sorted(struct ctl *c, json_t *rows)
{
    const size_t n = json_array_size(rows);
    json_t **all = arena_alloc(&c->arena, (n + 1) * sizeof *all), *out = json_array();
    for (size_t i = 0; i < n; i++)
        all[i] = json_array_get(rows, i);
    qsort(all, n, sizeof *all, by_time);
    for (size_t i = 0; i < n; i++)
        json_array_append(out, all[i]);
    json_decref(rows);
    return out;
}

static struct result keys_due(struct ctl *c, struct claviger_error *e)
{
    uint64_t within_ms = (uint64_t)DUE_WITHIN_DEFAULT_S * 1000;
    const char *text = c->args.value[OPT_WITHIN];
    if (text != NULL && !text_parse_duration_ms(bytes_str(text), &within_ms))
        return usage(e, "--within is a duration like 7d");
    struct walk w = {.each = due_one, .rows = json_array(), .now_s = (int64_t)time(NULL)};
    w.until_s = w.now_s + (int64_t)(within_ms / 1000);
    struct result r = walk(c, name_default(c, c->args.npos > 0 ? c->args.pos[0] : NULL), &w, e);
    if (!r.failed)
        return show_list(c, sorted(c, w.rows), "due", DUE_COLUMNS, e);
    json_decref(w.rows);
    return r;
}

static const struct command rows[] = {
    {"keys", "rotate", "KEY|RING|TENANT/LOCATION", 1, 1, O(OPT_DRY_RUN) | O(OPT_IDEMPOTENCY), ROLE_KEYADMIN, keys_rotate,
     "a new primary version: of one key, or of each key there is", "kmsctl keys rotate acme/eu/pii/email\nkmsctl keys rotate acme/eu/pii --dry-run"},
    {"keys", "due", "[KEY|RING|TENANT/LOCATION]", 0, 1, O(OPT_WITHIN), ROLE_KEYADMIN, keys_due,
     "what will rotate or be destroyed by itself, and what is late", "kmsctl keys due acme/eu --within 7d"},
};
const struct command_rows rows_life = {rows, sizeof rows / sizeof *rows};
