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

static void put_protection(enum protection p, struct buf *out)
{
    buf_put_u8(out, p == PROTECTION_HSM ? PROTECTION_HSM : PROTECTION_SOFTWARE);
}

static enum protection get_protection(struct reader *in)
{
    const uint8_t p = reader_u8(in);
    in->bad |= p != PROTECTION_SOFTWARE && p != PROTECTION_HSM;
    return (enum protection)p;
}

/* Copies text into a fixed, NUL-terminated field; too long, or with a NUL inside, is malformed. */
static void get_text(struct reader *in, char *out, size_t cap)
{
    struct bytes s = reader_v16(in);
    if ((s.n > 0 && memchr(s.p, 0, s.n) != NULL) || !text_copy(s, out, cap))
        in->bad = true;
}

/* The tenant's masters besides its own: only while it moves from them. */
static void put_keks(const struct model_tenant *m, struct buf *out)
{
    INVARIANT(m->nkeks >= 1 && m->nkeks <= MODEL_KEKS_MAX && m->keks[0].master == m->t.master_version);
    buf_put_u8(out, (uint8_t)(m->nkeks - 1));
    for (size_t i = 1; i < m->nkeks; i++) {
        buf_put_u32(out, m->keks[i].master);
        buf_put(out, m->keks[i].kcv, sizeof m->keks[i].kcv);
    }
}

static void get_keks(struct reader *in, struct model_tenant *m)
{
    const size_t others = reader_u8(in);
    if (others >= MODEL_KEKS_MAX) {
        in->bad = true;
        return;
    }
    for (size_t i = 1; i <= others; i++) {
        m->keks[i].master = reader_u32(in);
        reader_copy(in, m->keks[i].kcv, sizeof m->keks[i].kcv);
        for (size_t j = 0; j < i; j++)
            in->bad |= m->keks[i].master == m->keks[j].master;
    }
    m->nkeks = (uint8_t)(others + 1);
}

static void put_tenant_life(const struct model_tenant *m, struct buf *out)
{
    const struct keyring_toll *l = &m->toll;
    const uint64_t lost[] = {l->rings, l->keys, l->versions, l->token_objects, l->principals, l->others};
    buf_put_u8(out, (uint8_t)m->t.state);
    buf_put_u8(out, (uint8_t)m->t.was);
    put_i64(out, m->t.deleted_ns);
    put_i64(out, m->t.purge_ns);
    buf_put_v16(out, bytes_str(m->t.deleted_by));
    for (size_t i = 0; m->t.state == TENANT_PURGING && i < sizeof lost / sizeof lost[0]; i++)
        buf_put_u64(out, lost[i]);
}

static void get_tenant_life(struct reader *in, struct model_tenant *m)
{
    struct keyring_toll *l = &m->toll;
    uint64_t *const lost[] = {&l->rings, &l->keys, &l->versions, &l->token_objects, &l->principals, &l->others};
    m->t.state = reader_u8(in);
    m->t.was = reader_u8(in);
    m->t.deleted_ns = get_i64(in);
    m->t.purge_ns = get_i64(in);
    get_text(in, m->t.deleted_by, sizeof m->t.deleted_by);
    for (size_t i = 0; m->t.state == TENANT_PURGING && i < sizeof lost / sizeof lost[0]; i++)
        *lost[i] = reader_u64(in);
    const bool deleted = m->t.state == TENANT_DELETED || m->t.state == TENANT_PURGING;
    if (m->t.state < TENANT_ACTIVE || m->t.state > TENANT_PURGING || deleted != (m->t.was != 0) || deleted != (m->t.purge_ns > 0) ||
        (deleted && m->t.was != TENANT_ACTIVE && m->t.was != TENANT_SUSPENDED))
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
    buf_put(out, m->keks[0].kcv, sizeof m->keks[0].kcv);
    put_i64(out, m->t.created_ns);
    put_keks(m, out);
    put_tenant_life(m, out);
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
    m.t.master_version = m.keks[0].master = reader_u32(&in);
    reader_copy(&in, m.keks[0].kcv, sizeof m.keks[0].kcv);
    m.t.created_ns = get_i64(&in);
    get_keks(&in, &m);
    get_tenant_life(&in, &m);
    m.t.revision = r->revision;
    if (!reader_done(&in) || r->state != m.t.state)
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
    put_protection(m->protection, out);
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
    m.protection = get_protection(&in);
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
    put_i64(out, m->asked_ns);
    buf_put_v16(out, m->asked_by);
    buf_put(out, m->kvid, sizeof m->kvid);
    buf_put_u32(out, m->master_version);
    buf_put_v16(out, m->wrapped);
    put_protection(m->protection, out);
    if (m->protection == PROTECTION_HSM)
        buf_put_v16(out, m->check);
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
    m.asked_ns = get_i64(&in);
    m.asked_by = reader_v16(&in);
    reader_copy(&in, m.kvid, sizeof m.kvid);
    m.master_version = reader_u32(&in);
    m.wrapped = reader_v16(&in);
    m.protection = get_protection(&in);
    if (m.protection == PROTECTION_HSM) {
        m.check = reader_v16(&in);
        in.bad |= m.wrapped.n != 0 || m.master_version != 0;
    }
    m.queued_destroy_ns = m.state == VERSION_DESTROY_SCHEDULED ? m.destroy_ns : 0;
    /* The plain column finds rows; the sealed body decides. They are written together, so a difference is not ours. */
    if (!reader_done(&in) || m.state < VERSION_ENABLED || m.state > VERSION_DESTROY_SCHEDULED || r->state != m.state ||
        m.asked_by.n > NAME_PRINCIPAL_MAX || (m.state == VERSION_DESTROYED && m.wrapped.n > 0))
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
