#include "kms/keyring/master.h"

#include "base/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FORMAT = 1, ORIGIN_TOKEN = 1, READ_BYTES = 1 << 20 };
#define PREFIX "master-"
static const uint8_t no_tenant[STORE_TENANT_BYTES];

#define TO(state) (1u << (state))
static const struct sm_state states[] = {
    [MASTER_BORN] = {"BORN", TO(MASTER_CURRENT)},
    [MASTER_CURRENT] = {"CURRENT", TO(MASTER_RETIRING)},
    [MASTER_RETIRING] = {"RETIRING", TO(MASTER_RETIRED)},
    [MASTER_RETIRED] = {"RETIRED", TO(MASTER_DESTROYING)},
    [MASTER_DESTROYING] = {"DESTROYING", TO(MASTER_RETIRED) | TO(MASTER_DESTROYED)},
    [MASTER_DESTROYED] = {"DESTROYED", 0},
};
const struct sm_table master_machine = {"master", states, sizeof states / sizeof states[0]};

struct bytes master_id(uint32_t version, char out[MASTER_ID_MAX])
{
    const int n = snprintf(out, MASTER_ID_MAX, PREFIX "%u", version);
    return BYTES(out, (size_t)n);
}

static RESULT malformed(struct err *e)
{
    FAIL(e, ERR_DATA_LOSS, "RECORD_MALFORMED", "a record of a master secret is not ours");
}

static RESULT parse(const struct record *r, struct master *ret, struct err *e)
{
    struct reader in = reader_of(r->body);
    struct master m = {.revision = r->revision};
    uint64_t version;
    const size_t prefix = sizeof PREFIX - 1;
    if (bytes_equal(r->body, BYTES_LIT("token")) && bytes_equal(r->id, BYTES_LIT(PREFIX "1"))) { /* of before masters were rotated */
        *ret = (struct master){.version = 1, .state = MASTER_CURRENT, .revision = r->revision};
        return ok();
    }
    const uint8_t format = reader_u8(&in);
    m.state = reader_u8(&in);
    const uint8_t origin = reader_u8(&in);
    m.made_ns = (int64_t)reader_u64(&in);
    m.saved_ns = (int64_t)reader_u64(&in);
    m.retired_ns = (int64_t)reader_u64(&in);
    m.destroyed_ns = (int64_t)reader_u64(&in);
    m.forfeit_ns = (int64_t)reader_u64(&in);
    const struct bytes who = reader_v16(&in);
    if (!reader_done(&in) || format != FORMAT || origin != ORIGIN_TOKEN || m.state < MASTER_BORN || m.state > MASTER_DESTROYED ||
        !text_copy(who, m.forfeit_by, sizeof m.forfeit_by) ||
        !text_parse_u64(BYTES(r->id.p + prefix, r->id.n - prefix), UINT32_MAX, &version) || version == 0)
        return malformed(e);
    m.version = (uint32_t)version;
    *ret = m;
    return ok();
}

static int by_version(const void *x, const void *y)
{
    const uint32_t a = ((const struct master *)x)->version, b = ((const struct master *)y)->version;
    return (a > b) - (a < b);
}

RESULT masters_read(struct store *s, struct masters *ret, struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    const struct store_scan q = {.kind = REC_META, .prefix = BYTES_LIT(PREFIX), .limit = MASTERS_MAX + 1};
    struct record *rows;
    size_t n;
    arena_init(&a, READ_BYTES);
    TRY(store_scan(s, &q, &a, &rows, &n, e));
    if (n > MASTERS_MAX)
        FAIL(e, ERR_EXHAUSTED, "TOO_MANY_MASTERS", "more than %d master secrets are on record", MASTERS_MAX);
    for (size_t i = 0; i < n; i++)
        TRY(parse(&rows[i], &ret->all[i], e));
    ret->n = n;
    qsort(ret->all, n, sizeof *ret->all, by_version);
    return ok();
}

struct master *masters_find(struct masters *m, uint32_t version)
{
    for (size_t i = 0; i < m->n; i++)
        if (m->all[i].version == version)
            return &m->all[i];
    return NULL;
}

struct master *masters_current(struct masters *m)
{
    struct master *found = NULL;
    for (size_t i = 0; i < m->n; i++) {
        if (m->all[i].state != MASTER_CURRENT)
            continue;
        if (found != NULL)
            return NULL;
        found = &m->all[i];
    }
    return found;
}

void master_put(struct store_txn *txn, const struct master *m)
{
    CLEANUP(buf_release) struct buf body;
    char id[MASTER_ID_MAX];
    buf_init(&body, MASTER_WHO_MAX + 64);
    buf_put_u8(&body, FORMAT);
    buf_put_u8(&body, (uint8_t)m->state);
    buf_put_u8(&body, ORIGIN_TOKEN);
    buf_put_u64(&body, (uint64_t)m->made_ns);
    buf_put_u64(&body, (uint64_t)m->saved_ns);
    buf_put_u64(&body, (uint64_t)m->retired_ns);
    buf_put_u64(&body, (uint64_t)m->destroyed_ns);
    buf_put_u64(&body, (uint64_t)m->forfeit_ns);
    buf_put_v16(&body, bytes_str(m->forfeit_by));
    INVARIANT(!body.overflow && m->version > 0);
    const struct record r = {.kind = REC_META, .id = master_id(m->version, id), .state = m->state, .time_unix_ns = m->made_ns, .body = buf_bytes(&body)};
    store_txn_put(txn, &r, m->revision);
}

void master_forget(struct store_txn *txn, const struct master *m)
{
    char id[MASTER_ID_MAX];
    store_txn_delete(txn, REC_META, no_tenant, master_id(m->version, id), m->revision);
}

void master_first(struct store_txn *txn, int64_t now_ns)
{
    const struct master m = {.version = 1, .state = MASTER_CURRENT, .made_ns = now_ns, .saved_ns = now_ns};
    master_put(txn, &m);
}
