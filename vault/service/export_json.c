/* What is held about a tenant, as JSON text. */
#include "vault/service/export.h"

#include "base/text.h"
#include "kms/keyring/model.h"

#include <inttypes.h>

enum { BUDGET_DAY_S = 24 * 3600 };

/* ---- values ---- */
static void put_text(struct buf *out, struct bytes s)
{
    buf_put_u8(out, '"');
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] < 0x20)
            buf_putf(out, "\\u%04x", s.p[i]);
        else if (s.p[i] == '"' || s.p[i] == '\\')
            buf_putf(out, "\\%c", s.p[i]);
        else
            buf_put_u8(out, s.p[i]);
    }
    buf_put_u8(out, '"');
}

/* The name of a field, and the comma before it unless it is the first. */
static void field(struct buf *out, const char *name)
{
    buf_put_str(out, out->n > 0 && out->p[out->n - 1] != '{' ? "," : "");
    put_text(out, bytes_str(name));
    buf_put_u8(out, ':');
}

static void field_text(struct buf *out, const char *name, struct bytes s)
{
    field(out, name);
    put_text(out, s);
}

static void field_number(struct buf *out, const char *name, uint64_t n)
{
    field(out, name);
    buf_putf(out, "%" PRIu64, n);
}

/* A time that is not set has no field. */
static void field_time(struct buf *out, const char *name, int64_t ns)
{
    char text[TEXT_RFC3339_BYTES];
    if (ns == 0)
        return;
    text_format_rfc3339(ns, text);
    field_text(out, name, bytes_str(text));
}

static void field_hex(struct buf *out, const char *name, const uint8_t *p, size_t n)
{
    char hex[129];
    INVARIANT(n <= 64);
    hex_encode(p, n, hex);
    field_text(out, name, bytes_str(hex));
}

/* ---- things ---- */
void export_tenant(const struct tenant *t, struct buf *out)
{
    char full[NAME_MAX_BYTES];
    const struct name n = {.kind = NAME_TENANT, .tenant = bytes_str(t->name)};
    const size_t len = name_format(&n, full);
    buf_put_u8(out, '{');
    field_text(out, "name", BYTES(full, len));
    field_hex(out, "id", t->id, sizeof t->id);
    field_text(out, "location", bytes_str(t->location));
    field_text(out, "display_name", bytes_str(t->display_name));
    field_text(out, "state", bytes_str(sm_name(&tenant_machine, t->state)));
    field_time(out, "create_time", t->created_ns);
    field_time(out, "delete_time", t->deleted_ns);
    field_time(out, "purge_time", t->purge_ns);
    if (t->deleted_by[0] != 0)
        field_text(out, "deleted_by", bytes_str(t->deleted_by));
    field_number(out, "master_version", t->master_version);
    buf_put_u8(out, '}');
}

RESULT export_ring(const struct record *r, struct arena *a, struct buf *out, struct err *e)
{
    struct keyring_ring m;
    (void)a;
    TRY(model_ring_get(r, &m, e));
    buf_put_u8(out, '{');
    field_text(out, "name", m.name);
    field_time(out, "create_time", m.created_ns);
    buf_put_u8(out, '}');
    return ok();
}

static const char *level_name(enum protection p)
{
    return p == PROTECTION_HSM ? "HSM" : "SOFTWARE";
}

static void put_labels(const struct keyring_key *m, struct buf *out)
{
    field(out, "labels");
    buf_put_u8(out, '{');
    for (size_t i = 0; i < m->nlabels; i++) {
        buf_put_str(out, i > 0 ? "," : "");
        put_text(out, m->labels[i].key);
        buf_put_u8(out, ':');
        put_text(out, m->labels[i].value);
    }
    buf_put_u8(out, '}');
}

RESULT export_key(const struct record *r, struct arena *a, struct buf *out, struct err *e)
{
    struct keyring_key m;
    TRY(model_key_get(r, a, &m, e));
    buf_put_u8(out, '{');
    field_text(out, "name", m.name);
    field_time(out, "create_time", m.created_ns);
    field_number(out, "primary", m.primary);
    field_number(out, "newest", m.newest);
    field_number(out, "rotation_period_s", (uint64_t)m.rotation_period_s);
    field_time(out, "next_rotation_time", m.next_rotation_ns);
    field_number(out, "destroy_delay_s", (uint64_t)m.destroy_delay_s);
    field_text(out, "protection_level", bytes_str(level_name(m.protection)));
    put_labels(&m, out);
    buf_put_u8(out, '}');
    return ok();
}

RESULT export_version(const struct record *r, struct arena *a, struct buf *out, struct err *e)
{
    struct keyring_version m;
    (void)a;
    TRY(model_version_get(r, &m, e));
    buf_put_u8(out, '{');
    field_text(out, "name", m.name);
    field_number(out, "number", m.n);
    field_text(out, "state", bytes_str(version_state_name(m.state)));
    field_text(out, "protection_level", bytes_str(level_name(m.protection)));
    field_hex(out, "kvid", m.kvid, sizeof m.kvid);
    field_time(out, "create_time", m.created_ns);
    field_time(out, "generate_time", m.generated_ns);
    field_time(out, "destroy_time", m.state == VERSION_DESTROY_SCHEDULED ? m.destroy_ns : 0);
    field_time(out, "destroy_event_time", m.destroyed_ns);
    field_time(out, "destroy_requested_time", m.asked_ns);
    if (m.asked_by.n > 0)
        field_text(out, "destroy_requested_by", m.asked_by);
    field_number(out, "master_version", m.master_version);
    buf_put_u8(out, '}');
    return ok();
}

void export_usage(struct bytes kvid, const struct usage *u, struct buf *out)
{
    static const char *const names[] = {[EVENT_USE_ENCRYPT] = "encrypted", [EVENT_USE_DECRYPT] = "decrypted", [EVENT_USE_WRAP] = "wrapped",
                                        [EVENT_USE_UNWRAP] = "unwrapped"};
    buf_put_u8(out, '{');
    field_hex(out, "kvid", kvid.p, kvid.n);
    for (unsigned what = EVENT_USE_ENCRYPT; what <= EVENT_USE_UNWRAP; what++)
        field_number(out, names[what], u->items[what]);
    field_time(out, "last_time", u->last_ns);
    field(out, "callers");
    buf_put_u8(out, '[');
    for (size_t i = 0; i < u->ncallers; i++) {
        buf_put_str(out, i > 0 ? "," : "");
        put_text(out, u->callers[i].name);
    }
    buf_put_u8(out, ']');
    field(out, "more_callers");
    buf_put_str(out, u->more ? "true}" : "false}");
}

void export_certificate(const struct certificate_row *c, struct buf *out)
{
    buf_put_u8(out, '{');
    field_text(out, "name", c->name);
    field_time(out, "destroyed_time", c->destroyed_ns);
    field(out, "signed");
    buf_put_str(out, c->is_signed ? "true" : "false");
    field_text(out, "note", c->note);
    buf_put_u8(out, '}');
}

void export_principal(const struct admin_principal *p, struct buf *out)
{
    buf_put_u8(out, '{');
    field_text(out, "name", bytes_str(p->p.name));
    field_text(out, "san", bytes_str(p->p.san));
    field_text(out, "state", bytes_str(p->p.state == PRINCIPAL_ACTIVE ? "ACTIVE" : "DISABLED"));
    field_time(out, "create_time", p->created_ns);
    buf_put_u8(out, '}');
}

void export_binding(const struct policy_binding *b, struct buf *out)
{
    buf_put_u8(out, '{');
    field_text(out, "role", bytes_str(b->role));
    field_text(out, "tenant", bytes_str(b->tenant));
    field(out, "principals");
    buf_put_u8(out, '[');
    for (size_t i = 0; i < b->nprincipals; i++) {
        buf_put_str(out, i > 0 ? "," : "");
        put_text(out, bytes_str(b->principals[i]));
    }
    buf_put_str(out, "]}");
}

RESULT export_budget(const struct record *r, struct buf *out, struct err *e)
{
    struct reader in = reader_of(r->body);
    char day[TEXT_RFC3339_BYTES];
    const int64_t d = (int64_t)reader_u64(&in);
    const uint64_t day_used = reader_u64(&in);
    const int64_t month = (int64_t)reader_u64(&in);
    const uint64_t month_used = reader_u64(&in);
    if (!reader_done(&in))
        FAIL(e, ERR_DATA_LOSS, "RECORD_MALFORMED", "a budget record is not ours");
    text_format_rfc3339(d * BUDGET_DAY_S * 1000000000, day);
    buf_put_u8(out, '{');
    field_text(out, "day", BYTES(day, 10));
    field_number(out, "day_items", day_used);
    field(out, "month");
    buf_putf(out, "\"%04lld-%02lld\"", (long long)(1970 + month / 12), (long long)(month % 12 + 1));
    field_number(out, "month_items", month_used);
    buf_put_u8(out, '}');
    return ok();
}

void export_audit(const char *origin, uint64_t events, uint64_t first_index, uint64_t last_index, int64_t first_ns, int64_t last_ns,
                  struct buf *out)
{
    buf_put_u8(out, '{');
    field_text(out, "origin", bytes_str(origin));
    field_number(out, "events", events);
    if (events > 0) {
        field_number(out, "first_index", first_index);
        field_number(out, "last_index", last_index);
        field_time(out, "first_time", first_ns);
        field_time(out, "last_time", last_ns);
    }
    buf_put_u8(out, '}');
}
