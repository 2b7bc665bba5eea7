#include "vault/service/certificate.h"

#include "base/text.h"
#include "kms/crypto/kdf.h"
#include "kms/keyring/model.h"

#include <string.h>

enum { BODY_FORMAT = 1, TENANT_ID_BYTES = 32 + 8 };

/* ---- the text: docs/FORMATS.md, section 9 ---- */
/* What destroying covers, and what not (DESIGN section 5). */
#define COVERS "at once: nothing opens what clients encrypted or wrapped under it, in any copy or backup of theirs"
#define REMAINS                                                                                                                          \
    "backups of this service's own store still hold the destroyed record, sealed, until the seal secret of this epoch is destroyed: erasure " \
    "is complete after the seal period (at most 30 days) and the retention of backups (35 days), once that has been done and if no copy of "  \
    "the token from that epoch survives"

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
    buf_putf(out, "seal-epoch: %u\ncovers: %s\nremains: %s\n", s->instance.seal_epoch, COVERS, REMAINS);
}

/* ---- the row ---- */
static void tenant_row_id(struct bytes name, int64_t destroyed_ns, uint8_t out[TENANT_ID_BYTES])
{
    sha256(&name, 1, out);
    put_be64(out + 32, (uint64_t)destroyed_ns);
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
    buf_put_u8(&body, BODY_FORMAT);
    buf_put_u8(&body, (uint8_t)c->kind);
    buf_put_u8(&body, c->on_token);
    buf_put(&body, c->kvid, sizeof c->kvid);
    buf_put_v32(&body, buf_bytes(&text));
    INVARIANT(!text.overflow && !body.overflow);
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
