#include "vault/service/certificate.h"

#include "base/text.h"
#include "kms/crypto/kdf.h"
#include "kms/keyring/model.h"
#include "vault/service/act.h"

#include <string.h>

enum { BODY_FORMAT = 1, TENANT_ID_BYTES = 32 + 8, READ_BYTES = 1 << 20, SIGN_MAX = 16, DAY_MS = 86400000 };

/* ---- the text: docs/FORMATS.md, section 10 ---- */
/* What destroying covers, and what not (DESIGN section 5). */
#define COVERS "at once: nothing opens what clients encrypted or wrapped under it, in any copy or backup of theirs"
#define REMAINS_ON_TOKEN(what)                                                                                                           \
    "copies of the token that were made before still hold its " what ", for whoever has the PIN too: erasure is complete when the last of "  \
    "them is gone"

static void put_time(struct buf *out, const char *fact, int64_t ns)
{
    char text[TEXT_RFC3339_BYTES] = "-";
    if (ns != 0)
        text_format_rfc3339(ns, text);
    buf_putf(out, "%s: %s\n", fact, text);
}

static void put_id(struct buf *out, const char *fact, const uint8_t id[16])
{
    char hex[33];
    hex_encode(id, 16, hex);
    buf_putf(out, "%s: %s\n", fact, hex);
}

static unsigned long long days(uint64_t ms)
{
    return (ms + DAY_MS - 1) / DAY_MS;
}

/* Backups of the store have the record, sealed under the seal secret of its time: when that goes (moving_seal.c). */
static void put_remains(const struct service *s, bool on_token, struct buf *out)
{
    const uint64_t period = s->config->seal_period, retention = s->config->backup_retention;
    buf_put_str(out, "remains: backups of this service's own store still hold the destroyed record, sealed under the seal secret of this epoch, ");
    if (period > 0)
        buf_putf(out, "which is destroyed on the token at most %llu days after this, beside the time that its replacement takes: %llu days of "
                 "use, %llu days of retention", days(period + retention), days(period), days(retention));
    else
        buf_putf(out, "until that is replaced by hand, and destroyed on the token no sooner than %llu days later", days(retention));
    buf_putf(out, ". Whoever keeps a copy of the token from this epoch, and its PIN, can open them for longer%s\n", on_token ? "; " REMAINS_ON_TOKEN("keys") : "");
}

static void put_counts(struct buf *out, const struct certificate_counts *n)
{
    const struct {
        const char *fact;
        uint64_t n;
    } all[] = {{"key-rings", n->key_rings}, {"keys", n->keys}, {"versions", n->versions}, {"principals", n->principals}, {"token-objects", n->token_objects}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        buf_putf(out, "%s: %llu\n", all[i].fact, (unsigned long long)all[i].n);
}

static void put_text(const struct service *s, const struct certificate *c, struct buf *out)
{
    const bool version = c->kind == CERTIFICATE_VERSION;
    buf_putf(out, "claviger.certificate/v1\n%s\nkind: %s\nname: ", s->instance.origin, version ? "version" : "tenant");
    buf_put_bytes(out, c->name);
    buf_put_str(out, "\n");
    put_id(out, "instance", s->instance.id);
    put_id(out, "tenant", c->tenant_id);
    if (version) {
        put_id(out, "kvid", c->kvid);
        buf_putf(out, "protection: %s\n", c->on_token ? "HSM" : "SOFTWARE");
    } else {
        put_counts(out, &c->counts);
    }
    put_time(out, "created", c->created_ns);
    put_time(out, "requested", c->requested_ns);
    buf_put_str(out, "requested-by: ");
    buf_put_bytes(out, c->requested_by.n > 0 ? c->requested_by : BYTES_LIT("-"));
    buf_put_str(out, "\n");
    put_time(out, "due", c->due_ns);
    put_time(out, "destroyed", c->destroyed_ns);
    buf_putf(out, "seal-epoch: %u\ncovers: %s\n", store_seal_epoch(s->store), COVERS);
    if (c->on_token)
        buf_put_str(out, "remains: " REMAINS_ON_TOKEN("key") "\n");
    else
        put_remains(s, c->counts.token_objects > 0, out); /* of a tenant: it had keys of both levels */
}

/* ---- the row ---- */
static void tenant_row_id(struct bytes name, int64_t destroyed_ns, uint8_t out[TENANT_ID_BYTES])
{
    sha256(&name, 1, out);
    put_be64(out + 32, (uint64_t)destroyed_ns);
}

static void body_put(struct buf *out, enum certificate_kind kind, bool on_token, const uint8_t kvid[16], struct bytes text)
{
    buf_put_u8(out, BODY_FORMAT);
    buf_put_u8(out, (uint8_t)kind);
    buf_put_u8(out, on_token);
    buf_put(out, kvid, 16);
    buf_put_v32(out, text);
    INVARIANT(!out->overflow);
}

void certificate_put(struct service *s, struct store_txn *txn, const struct certificate *c, uint8_t ret_sha256[32])
{
    CLEANUP(buf_release) struct buf text, body;
    uint8_t id[TENANT_ID_BYTES];
    struct model_id version_id;
    struct name n;
    struct err e = {0};
    struct record r = {.kind = REC_CERTIFICATE, .state = CERTIFICATE_UNSIGNED, .time_unix_ns = c->destroyed_ns};
    buf_init(&text, CERTIFICATE_TEXT_MAX);
    buf_init(&body, CERTIFICATE_NOTE_MAX + 64);
    put_text(s, c, &text);
    INVARIANT(!text.overflow);
    body_put(&body, c->kind, c->on_token, c->kvid, buf_bytes(&text));
    if (c->kind == CERTIFICATE_VERSION) {
        INVARIANT(!name_parse(c->name, NAME_VERSION, "name", &n, &e).failed);
        version_id = model_id_of(&n);
        r.id = model_id_bytes(&version_id);
        r.name = c->name;
        memcpy(r.tenant, c->tenant_id, sizeof r.tenant);
    } else {
        INVARIANT(!name_parse(c->name, NAME_TENANT, "name", &n, &e).failed);
        tenant_row_id(c->name, c->destroyed_ns, id);
        r.id = BYTES(id, sizeof id);
    }
    r.body = buf_bytes(&body);
    store_txn_put(txn, &r, STORE_ABSENT);
    due_move(txn, DUE_CERTIFICATE, c->name, 0, c->destroyed_ns);
    const struct bytes signed_text = buf_bytes(&text);
    sha256(&signed_text, 1, ret_sha256);
}

/* The value of a fact, in a text that is our own. */
static struct bytes fact(struct bytes text, const char *label)
{
    const uint8_t *at = memmem(text.p, text.n, label, strlen(label)), *end;
    if (at == NULL)
        return (struct bytes){0};
    at += strlen(label);
    end = memchr(at, '\n', (size_t)(text.p + text.n - at));
    return end != NULL ? BYTES(at, (size_t)(end - at)) : (struct bytes){0};
}

static RESULT row_of(const struct record *r, struct certificate_row *ret, struct err *e)
{
    struct reader in = reader_of(r->body);
    const uint8_t format = reader_u8(&in), kind = reader_u8(&in), on_token = reader_u8(&in);
    *ret = (struct certificate_row){.kind = (enum certificate_kind)kind, .is_signed = r->state == CERTIFICATE_SIGNED, .on_token = on_token != 0,
                                    .destroyed_ns = r->time_unix_ns, .id = r->id, .revision = r->revision};
    memcpy(ret->tenant, r->tenant, sizeof ret->tenant);
    reader_copy(&in, ret->kvid, sizeof ret->kvid);
    ret->note = reader_v32(&in);
    ret->name = fact(ret->note, "\nname: ");
    if (!reader_done(&in) || format != BODY_FORMAT || (kind != CERTIFICATE_VERSION && kind != CERTIFICATE_TENANT) || on_token > 1 ||
        (r->state != CERTIFICATE_UNSIGNED && r->state != CERTIFICATE_SIGNED) || ret->name.n == 0)
        FAIL(e, ERR_DATA_LOSS, "RECORD_MALFORMED", "a certificate's row is not ours");
    return ok();
}

/* ---- reading ---- */
static RESULT scan(struct service *s, const struct store_scan *q, struct arena *a, struct certificate_row **ret, size_t *ret_n, struct err *e)
{
    struct record *rows;
    TRY(store_scan(s->store, q, a, &rows, ret_n, e));
    *ret = arena_zalloc(a, (*ret_n + 1) * sizeof **ret);
    if (*ret == NULL)
        FAIL(e, ERR_EXHAUSTED, "CALL_MEMORY", "the certificates do not fit the memory given");
    for (size_t i = 0; i < *ret_n; i++)
        TRY(row_of(&rows[i], &(*ret)[i], e));
    return ok();
}

static RESULT of_version(struct service *s, const struct name *n, struct arena *a, struct certificate_row *ret, struct err *e)
{
    const struct model_id id = model_id_of(n);
    struct tenant t;
    struct record r;
    TRY(keyring_tenant_get(s->keyring, n->tenant, true, &t, e));
    TRY(store_get(s->store, REC_CERTIFICATE, t.id, model_id_bytes(&id), a, &r, e));
    return row_of(&r, ret, e);
}

/* Newest first. */
static RESULT of_tenant(struct service *s, const struct name *n, size_t limit, struct arena *a, struct certificate_row **ret, size_t *ret_n, struct err *e)
{
    char text[NAME_MAX_BYTES];
    uint8_t hash[32];
    const struct bytes name = BYTES(text, name_format(n, text));
    sha256(&name, 1, hash);
    const struct store_scan q = {.kind = REC_CERTIFICATE, .prefix = BYTES(hash, sizeof hash), .limit = limit, .descending = true};
    return scan(s, &q, a, ret, ret_n, e);
}

RESULT certificate_get(struct service *s, const struct name *n, struct arena *a, struct certificate_row *ret, struct err *e)
{
    struct certificate_row *rows;
    size_t count;
    if (n->kind == NAME_VERSION)
        return of_version(s, n, a, ret, e);
    TRY(of_tenant(s, n, 1, a, &rows, &count, e));
    if (count == 0)
        FAIL(e, ERR_NOT_FOUND, NULL, "no tenant of that name was purged");
    *ret = rows[0];
    return ok();
}

RESULT certificate_there(struct service *s, const struct name *version, bool *ret, struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    struct certificate_row row;
    struct err why = {0};
    arena_init(&a, READ_BYTES);
    *ret = !of_version(s, version, &a, &row, &why).failed;
    if (*ret || why.code == ERR_NOT_FOUND)
        return ok();
    *e = why;
    return (struct result){1};
}

RESULT certificate_list(struct service *s, const struct name *parent, struct bytes after_id, size_t limit, struct arena *a,
                        struct certificate_row **ret, size_t *ret_n, struct err *e)
{
    struct store_scan q = {.kind = REC_CERTIFICATE, .after = after_id, .limit = limit};
    struct model_id prefix;
    if (parent != NULL) {
        struct tenant t;
        TRY(keyring_tenant_get(s->keyring, parent->tenant, true, &t, e));
        memcpy(q.tenant, t.id, sizeof q.tenant);
        prefix = model_child_prefix(parent);
        q.prefix = model_id_bytes(&prefix);
    }
    return scan(s, &q, a, ret, ret_n, e);
}

/* ---- signing ---- */
RESULT certificate_key(struct service *s, struct err *e)
{
    uint8_t raw[HSM_PUBKEY_MAX];
    size_t n;
    bool ed25519;
    TRY(hsm_audit_pubkey(s->hsm, s->instance.audit_version, raw, &n, &ed25519, e));
    return signed_note_key_init(s->instance.origin, BYTES(raw, n), ed25519, &s->audit_key, e);
}

/* A version of level HSM: its key lies on the token, under its kvid. Gone already: token_keys.c was there, or somebody died between this and
 * the signature. */
static RESULT object_gone(struct service *s, const struct certificate_row *row, struct err *e)
{
    struct err why = {0};
    if (!row->on_token || !hsm_key_destroy(s->hsm, row->kvid, &why).failed || why.code == ERR_NOT_FOUND)
        return ok();
    *e = why;
    return (struct result){1};
}

static RESULT put_signed(struct service *s, const struct due *d, const struct certificate_row *row, struct bytes note, struct err *e)
{
    static const struct bytes before = BYTES_LIT("{\"signed\":false}"), after = BYTES_LIT("{\"signed\":true}"),
                              gone = BYTES_LIT("{\"signed\":true,\"token\":\"removed\"}");
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(s->store);
    CLEANUP(tenant_ref_dropp) struct tenant_ref *t = NULL;
    CLEANUP(buf_release) struct buf body;
    struct act act = {.principal = "system:destruction", .action = "kms.certificates.sign", .resource = row->name, .before = before,
                      .after = row->on_token ? gone : after};
    struct record r = {.kind = REC_CERTIFICATE, .id = row->id, .state = CERTIFICATE_SIGNED, .time_unix_ns = row->destroyed_ns};
    buf_init(&body, CERTIFICATE_NOTE_MAX + 64);
    body_put(&body, row->kind, row->on_token, row->kvid, note);
    r.body = buf_bytes(&body);
    memcpy(r.tenant, row->tenant, sizeof r.tenant);
    if (row->kind == CERTIFICATE_VERSION) {
        r.name = act.key_version = row->name;
        TRY(keyring_tenant_hold_by_id(s->keyring, row->tenant, &t, e));
    }
    store_txn_put(txn, &r, row->revision);
    due_move(txn, d->what, d->name, d->at_ns, 0);
    return act_commit(txn, s->clock, t, &act, e);
}

static RESULT sign(struct service *s, const struct due *d, const struct certificate_row *row, struct err *e)
{
    CLEANUP(buf_release) struct buf note;
    uint8_t signature[HSM_SIG_MAX];
    size_t n;
    buf_init(&note, CERTIFICATE_NOTE_MAX);
    TRY(store_await_erased(s->store, STORE_ERASE_WAIT_MS, e));
    TRY(object_gone(s, row, e));
    TRY(hsm_sign_certificate(s->hsm, s->instance.audit_version, row->note, signature, &n, e));
    signed_note_put(&s->audit_key, row->note, BYTES(signature, n), &note);
    INVARIANT(!note.overflow);
    return put_signed(s, d, row, buf_bytes(&note), e);
}

static RESULT rows_due(struct service *s, const struct name *n, struct arena *a, struct certificate_row **ret, size_t *ret_n, struct err *e)
{
    if (n->kind == NAME_TENANT)
        return of_tenant(s, n, SIGN_MAX, a, ret, ret_n, e);
    *ret = arena_zalloc(a, sizeof **ret);
    INVARIANT(*ret != NULL);
    *ret_n = 1;
    return of_version(s, n, a, *ret, e);
}

RESULT certificate_due(void *user, const struct due *d, struct err *e)
{
    struct service *s = user;
    CLEANUP(arena_release) struct arena a;
    struct certificate_row *rows;
    struct name n;
    struct err why = {0};
    size_t count = 0;
    arena_init(&a, READ_BYTES);
    TRY(name_parse_any(d->name, 1u << NAME_VERSION | 1u << NAME_TENANT, "name", &n, e));
    if (rows_due(s, &n, &a, &rows, &count, &why).failed && why.code != ERR_NOT_FOUND) {
        *e = why;
        return (struct result){1};
    }
    for (size_t i = 0; why.code == ERR_NONE && i < count; i++)
        if (!rows[i].is_signed)
            return sign(s, d, &rows[i], e); /* another one of that name has a row of its own */
    return due_drop(s->store, d, e); /* signed already, or gone with its tenant */
}
