#include "vault/service/moving.h"

#include "base/text.h"
#include "kms/keyring/token_secret.h"

#include <string.h>

enum { FORMAT = 1 };
static const uint8_t no_tenant[STORE_TENANT_BYTES];

#define TO(state) (1u << (state))
static const struct sm_state states[] = {
    [MOVING_IDLE] = {"IDLE", TO(MOVING_MAKING)},
    [MOVING_MAKING] = {"MAKING", TO(MOVING_SAVING)},
    [MOVING_SAVING] = {"SAVING", TO(MOVING_MOVING)},
    [MOVING_MOVING] = {"MOVING", TO(MOVING_PAUSED) | TO(MOVING_PROVING)},
    [MOVING_PAUSED] = {"PAUSED", TO(MOVING_MOVING)},
    [MOVING_PROVING] = {"PROVING", TO(MOVING_MOVING) | TO(MOVING_IDLE)},
};
const struct sm_table moving_machine = {"the rotation of a secret on the token", states, sizeof states / sizeof states[0]};

RESULT moving_to(struct moving *m, enum moving_state to, int64_t now_ns, struct err *e)
{
    TRY(sm_move(&moving_machine, &m->state, to, e));
    m->since_ns = now_ns;
    return ok();
}

void moving_restart(struct moving *m)
{
    m->inside = false;
    m->tenant[0] = '\0';
    m->after_n = 0;
    m->broken = 0;
    m->tenants = 0;
}

static void get_text(struct reader *in, char *out, size_t cap)
{
    in->bad |= !text_copy(reader_v16(in), out, cap);
}

static bool get_flag(struct reader *in)
{
    const uint8_t v = reader_u8(in);
    in->bad |= v > 1;
    return v == 1;
}

static struct bytes id_of(enum hsm_object kind)
{
    INVARIANT(kind == HSM_MASTER || kind == HSM_SEAL);
    return kind == HSM_MASTER ? BYTES_LIT("moving-master") : BYTES_LIT("moving-seal");
}

static RESULT parse(enum hsm_object kind, const struct record *r, struct moving *ret, struct err *e)
{
    struct reader in = reader_of(r->body);
    struct moving m = {.kind = kind, .revision = r->revision};
    const uint8_t format = reader_u8(&in);
    m.state = reader_u8(&in);
    m.to = reader_u32(&in);
    m.started_ns = (int64_t)reader_u64(&in);
    m.since_ns = (int64_t)reader_u64(&in);
    m.total = reader_u64(&in);
    m.done = reader_u64(&in);
    m.tenants = reader_u64(&in);
    m.broken = reader_u32(&in);
    m.cloned = get_flag(&in);
    m.inside = get_flag(&in);
    get_text(&in, m.tenant, sizeof m.tenant);
    const struct bytes after = reader_v16(&in);
    get_text(&in, m.by, sizeof m.by);
    if (!reader_done(&in) || format != FORMAT || m.state < MOVING_IDLE || m.state > MOVING_PROVING || after.n > (kind == HSM_MASTER ? STORE_ID_MAX : MOVING_CURSOR_MAX))
        FAIL(e, ERR_DATA_LOSS, "RECORD_MALFORMED", "the record of the rotation of the %s secret is not ours", token_secret_word(kind));
    if (after.n > 0)
        memcpy(m.after, after.p, after.n);
    m.after_n = after.n;
    *ret = m;
    return ok();
}

RESULT moving_read(struct store *s, enum hsm_object kind, struct moving *ret, struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    struct record r;
    struct err why = {0};
    arena_init(&a, STORE_BODY_MAX + 4096);
    if (!store_get(s, REC_META, no_tenant, id_of(kind), &a, &r, &why).failed)
        return parse(kind, &r, ret, e);
    if (why.code != ERR_NOT_FOUND) {
        *e = why;
        return (struct result){1};
    }
    *ret = (struct moving){.kind = kind, .state = MOVING_IDLE};
    return ok();
}

static void body_put(struct buf *out, const struct moving *m)
{
    buf_put_u8(out, FORMAT);
    buf_put_u8(out, (uint8_t)m->state);
    buf_put_u32(out, m->to);
    buf_put_u64(out, (uint64_t)m->started_ns);
    buf_put_u64(out, (uint64_t)m->since_ns);
    buf_put_u64(out, m->total);
    buf_put_u64(out, m->done);
    buf_put_u64(out, m->tenants);
    buf_put_u32(out, m->broken);
    buf_put_u8(out, m->cloned);
    buf_put_u8(out, m->inside);
    buf_put_v16(out, bytes_str(m->tenant));
    buf_put_v16(out, BYTES(m->after, m->after_n));
    buf_put_v16(out, bytes_str(m->by));
}

void moving_put(struct store_txn *txn, const struct moving *m)
{
    CLEANUP(buf_release) struct buf body;
    buf_init(&body, MOVING_CURSOR_MAX + MOVING_WHO_MAX + 256);
    body_put(&body, m);
    INVARIANT(!body.overflow);
    const struct record r = {.kind = REC_META, .id = id_of(m->kind), .state = m->state, .time_unix_ns = m->since_ns, .body = buf_bytes(&body)};
    store_txn_put(txn, &r, m->revision);
}

void moving_as_given_up(struct record *row, struct buf *body, bool *ret_changed)
{
    struct moving m;
    struct err none = {0};
    const bool master = bytes_equal(row->id, id_of(HSM_MASTER));
    *ret_changed = false;
    if (row->kind != REC_META || (!master && !bytes_equal(row->id, id_of(HSM_SEAL))) || parse(master ? HSM_MASTER : HSM_SEAL, row, &m, &none).failed ||
        m.state != MOVING_MAKING)
        return;
    m.state = MOVING_IDLE; /* no move of the table: not this rotation goes on, its store does */
    buf_reset(body);
    body_put(body, &m);
    row->state = m.state;
    row->body = buf_bytes(body);
    *ret_changed = !body->overflow;
}
