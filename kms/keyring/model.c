#include "kms/keyring/model.h"

#include "base/text.h"

#include <string.h>

enum { MODEL_FORMAT = 1 };

static RESULT malformed(const struct record *r, struct err *e)
{
    FAIL(e, ERR_DATA_LOSS, "RECORD_MALFORMED", "record of kind %d has a body that is not ours", (int)r->kind);
}

static struct reader open_body(const struct record *r)
{
    struct reader in = reader_of(r->body);
    if (reader_u8(&in) != MODEL_FORMAT)
        in.bad = true;
    return in;
}

static int64_t get_i64(struct reader *in)
{
    return (int64_t)reader_u64(in);
}

static void put_i64(struct buf *out, int64_t v)
{
    buf_put_u64(out, (uint64_t)v);
}

/* Copies text into a fixed, NUL-terminated field; too long, or with a NUL inside, is malformed. */
static void get_text(struct reader *in, char *out, size_t cap)
{
    struct bytes s = reader_v16(in);
    if ((s.n > 0 && memchr(s.p, 0, s.n) != NULL) || !text_copy(s, out, cap))
        in->bad = true;
}

void model_tenant_put(const struct model_tenant *m, struct buf *out)
{
    buf_put_u8(out, MODEL_FORMAT);
    buf_put(out, m->t.id, sizeof m->t.id);
    buf_put_v16(out, bytes_str(m->t.location));
    buf_put_v16(out, bytes_str(m->t.display_name));
    buf_put(out, m->salt, sizeof m->salt);
    buf_put(out, m->audit_key, sizeof m->audit_key);
    buf_put_u32(out, m->t.master_version);
    buf_put(out, m->kcv, sizeof m->kcv);
    put_i64(out, m->t.created_ns);
}

RESULT model_tenant_get(const struct record *r, struct model_tenant *ret, struct err *e)
{
    struct reader in = open_body(r);
    CLEANUP(model_tenant_wipe) struct model_tenant m = {0};
    if (!text_copy(r->id, m.t.name, sizeof m.t.name))
        return malformed(r, e);
    reader_copy(&in, m.t.id, sizeof m.t.id);
    get_text(&in, m.t.location, sizeof m.t.location);
    get_text(&in, m.t.display_name, sizeof m.t.display_name);
    reader_copy(&in, m.salt, sizeof m.salt);
    reader_copy(&in, m.audit_key, sizeof m.audit_key);
    m.t.master_version = reader_u32(&in);
    reader_copy(&in, m.kcv, sizeof m.kcv);
    m.t.created_ns = get_i64(&in);
    m.t.revision = r->revision;
    if (!reader_done(&in))
        return malformed(r, e);
    *ret = m;
    return ok();
}

void model_ring_put(const struct keyring_ring *m, struct buf *out)
{
    buf_put_u8(out, MODEL_FORMAT);
    put_i64(out, m->created_ns);
}

RESULT model_ring_get(const struct record *r, struct keyring_ring *ret, struct err *e)
{
    struct reader in = open_body(r);
    struct keyring_ring m = {.name = r->name, .revision = r->revision};
    m.created_ns = get_i64(&in);
    if (!reader_done(&in))
        return malformed(r, e);
    *ret = m;
    return ok();
}

void model_key_put(const struct keyring_key *m, struct buf *out)
{
    buf_put_u8(out, MODEL_FORMAT);
    put_i64(out, m->created_ns);
    buf_put_u32(out, m->primary);
    buf_put_u32(out, m->newest);
    put_i64(out, m->rotation_period_s);
    put_i64(out, m->next_rotation_ns);
    put_i64(out, m->destroy_delay_s);
    buf_put_u8(out, m->import_only);
    buf_put_u16(out, (uint16_t)m->nlabels);
    for (size_t i = 0; i < m->nlabels; i++) {
        buf_put_v16(out, m->labels[i].key);
        buf_put_v16(out, m->labels[i].value);
    }
}

RESULT model_key_get(const struct record *r, struct arena *a, struct keyring_key *ret, struct err *e)
{
    struct reader in = open_body(r);
    struct keyring_key m = {.name = r->name, .revision = r->revision};
    m.created_ns = get_i64(&in);
    m.primary = reader_u32(&in);
    m.newest = reader_u32(&in);
    m.rotation_period_s = get_i64(&in);
    m.next_rotation_ns = m.queued_rotation_ns = get_i64(&in);
    m.destroy_delay_s = get_i64(&in);
    uint8_t import_only = reader_u8(&in);
    m.import_only = import_only != 0;
    m.nlabels = reader_u16(&in);
    if (in.bad || import_only > 1 || m.nlabels > KEYRING_LABELS_MAX)
        return malformed(r, e);
    m.labels = arena_alloc(a, (m.nlabels + 1) * sizeof *m.labels);
    if (m.labels == NULL)
        FAIL(e, ERR_EXHAUSTED, "CALL_MEMORY", "labels do not fit the call's memory");
    for (size_t i = 0; i < m.nlabels; i++) {
        m.labels[i].key = reader_v16(&in);
        m.labels[i].value = reader_v16(&in);
    }
    if (!reader_done(&in))
        return malformed(r, e);
    *ret = m;
    return ok();
}

void model_version_put(const struct keyring_version *m, struct buf *out)
{
    buf_put_u8(out, MODEL_FORMAT);
    buf_put_u32(out, m->n);
    buf_put_u8(out, (uint8_t)m->state);
    put_i64(out, m->created_ns);
    put_i64(out, m->generated_ns);
    put_i64(out, m->destroy_ns);
    put_i64(out, m->destroyed_ns);
    buf_put(out, m->kvid, sizeof m->kvid);
    buf_put_u32(out, m->master_version);
    buf_put_v16(out, m->wrapped);
}

RESULT model_version_get(const struct record *r, struct keyring_version *ret, struct err *e)
{
    struct reader in = open_body(r);
    struct keyring_version m = {.name = r->name, .revision = r->revision};
    m.n = reader_u32(&in);
    m.state = (enum version_state)reader_u8(&in);
    m.created_ns = get_i64(&in);
    m.generated_ns = get_i64(&in);
    m.destroy_ns = get_i64(&in);
    m.destroyed_ns = get_i64(&in);
    reader_copy(&in, m.kvid, sizeof m.kvid);
    m.master_version = reader_u32(&in);
    m.wrapped = reader_v16(&in);
    m.queued_destroy_ns = m.state == VERSION_DESTROY_SCHEDULED ? m.destroy_ns : 0;
    /* The plain column finds rows; the sealed body decides. They are written together, so a difference is not ours. */
    if (!reader_done(&in) || m.state < VERSION_ENABLED || m.state > VERSION_DESTROY_SCHEDULED || r->state != m.state)
        return malformed(r, e);
    *ret = m;
    return ok();
}

static void id_put(struct model_id *id, const void *p, size_t n)
{
    INVARIANT(id->n + n <= sizeof id->b);
    memcpy(id->b + id->n, p, n);
    id->n += n;
}

struct model_id model_id_of(const struct name *n)
{
    struct model_id id = {.n = 0};
    INVARIANT(n->kind >= NAME_KEYRING);
    id_put(&id, n->location.p, n->location.n);
    id_put(&id, "", 1);
    id_put(&id, n->ring.p, n->ring.n);
    if (n->kind >= NAME_CRYPTOKEY) {
        id_put(&id, "", 1);
        id_put(&id, n->key.p, n->key.n);
    }
    if (n->kind >= NAME_VERSION) {
        uint8_t be[4];
        put_be32(be, n->version);
        id_put(&id, "", 1);
        id_put(&id, be, sizeof be);
    }
    return id;
}

struct model_id model_child_prefix(const struct name *n)
{
    struct model_id id = {.n = 0};
    if (n->kind == NAME_LOCATION)
        id_put(&id, n->location.p, n->location.n);
    else
        id = model_id_of(n);
    id_put(&id, "", 1);
    return id;
}
