#include "kms/keyring/token_secret.h"

#include "base/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FORMAT = 3, FORMAT_WITHOUT_UNSURE = 2, FORMAT_WITHOUT_USED = 1, ORIGIN_TOKEN = 1, READ_BYTES = 1 << 20 };
static const uint8_t no_tenant[STORE_TENANT_BYTES];

#define TO(state) (1u << (state))
static const struct sm_state states[] = {
    [SECRET_BORN] = {"BORN", TO(SECRET_CURRENT)},
    [SECRET_CURRENT] = {"CURRENT", TO(SECRET_RETIRING)},
    [SECRET_RETIRING] = {"RETIRING", TO(SECRET_RETIRED)},
    [SECRET_RETIRED] = {"RETIRED", TO(SECRET_DESTROYING)},
    [SECRET_DESTROYING] = {"DESTROYING", TO(SECRET_RETIRED) | TO(SECRET_DESTROYED)},
    [SECRET_DESTROYED] = {"DESTROYED", TO(SECRET_DESTROYING)},
};
const struct sm_table token_secret_machine = {"a secret on the token", states, sizeof states / sizeof states[0]};

const char *token_secret_word(enum hsm_object kind)
{
    INVARIANT(kind == HSM_MASTER || kind == HSM_SEAL);
    return kind == HSM_MASTER ? "master" : "seal";
}

struct bytes token_secret_id(enum hsm_object kind, uint32_t version, char out[TOKEN_SECRET_ID_MAX])
{
    const int n = snprintf(out, TOKEN_SECRET_ID_MAX, "%s-%u", token_secret_word(kind), version);
    return BYTES(out, (size_t)n);
}

static RESULT malformed(enum hsm_object kind, struct err *e)
{
    FAIL(e, ERR_DATA_LOSS, "RECORD_MALFORMED", "a record of a %s secret is not ours", token_secret_word(kind));
}

static RESULT parse(enum hsm_object kind, const struct record *r, struct token_secret *ret, struct err *e)
{
    struct reader in = reader_of(r->body);
    struct token_secret m = {.kind = kind, .revision = r->revision};
    uint64_t version;
    const size_t prefix = strlen(token_secret_word(kind)) + 1;
    if (bytes_equal(r->body, BYTES_LIT("token")) && bytes_equal(r->id, BYTES_LIT("master-1"))) { /* of before masters were rotated */
        *ret = (struct token_secret){.kind = kind, .version = 1, .state = SECRET_CURRENT, .revision = r->revision};
        return ok();
    }
    const uint8_t format = reader_u8(&in);
    m.state = reader_u8(&in);
    const uint8_t origin = reader_u8(&in);
    m.made_ns = (int64_t)reader_u64(&in);
    m.used_ns = format == FORMAT_WITHOUT_USED ? m.made_ns : (int64_t)reader_u64(&in);
    m.saved_ns = (int64_t)reader_u64(&in);
    m.retired_ns = (int64_t)reader_u64(&in);
    m.destroyed_ns = (int64_t)reader_u64(&in);
    m.forfeit_ns = (int64_t)reader_u64(&in);
    const struct bytes who = reader_v16(&in);
    const uint8_t unsure = format == FORMAT ? reader_u8(&in) : 0;
    m.unsure = unsure == 1;
    if (!reader_done(&in) || format < FORMAT_WITHOUT_USED || format > FORMAT || unsure > 1 || origin != ORIGIN_TOKEN || m.state < SECRET_BORN ||
        m.state > SECRET_DESTROYED || !text_copy(who, m.forfeit_by, sizeof m.forfeit_by) ||
        !text_parse_u64(BYTES(r->id.p + prefix, r->id.n - prefix), UINT32_MAX, &version) || version == 0)
        return malformed(kind, e);
    m.version = (uint32_t)version;
    *ret = m;
    return ok();
}

static int by_version(const void *x, const void *y)
{
    const uint32_t a = ((const struct token_secret *)x)->version, b = ((const struct token_secret *)y)->version;
    return (a > b) - (a < b);
}

RESULT token_secrets_read(struct store *s, enum hsm_object kind, struct token_secrets *ret, struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    const struct store_scan q = {.kind = REC_META, .prefix = kind == HSM_MASTER ? BYTES_LIT("master-") : BYTES_LIT("seal-"), .limit = TOKEN_SECRETS_MAX + 1};
    struct record *rows;
    size_t n;
    arena_init(&a, READ_BYTES);
    TRY(store_scan(s, &q, &a, &rows, &n, e));
    if (n > TOKEN_SECRETS_MAX)
        FAIL(e, ERR_EXHAUSTED, "TOO_MANY_TOKEN_SECRETS", "more than %d %s secrets are on record", TOKEN_SECRETS_MAX, token_secret_word(kind));
    for (size_t i = 0; i < n; i++)
        TRY(parse(kind, &rows[i], &ret->all[i], e));
    ret->kind = kind;
    ret->n = n;
    qsort(ret->all, n, sizeof *ret->all, by_version);
    return ok();
}

struct token_secret *token_secrets_find(struct token_secrets *all, uint32_t version)
{
    for (size_t i = 0; i < all->n; i++)
        if (all->all[i].version == version)
            return &all->all[i];
    return NULL;
}

struct token_secret *token_secrets_in(struct token_secrets *all, enum token_secret_state state)
{
    for (size_t i = 0; i < all->n; i++)
        if (all->all[i].state == state)
            return &all->all[i];
    return NULL;
}

struct token_secret *token_secrets_current(struct token_secrets *all)
{
    struct token_secret *found = token_secrets_in(all, SECRET_CURRENT);
    for (size_t i = 0; i < all->n; i++)
        if (all->all[i].state == SECRET_CURRENT && &all->all[i] != found)
            return NULL;
    return found;
}

void token_secret_put(struct store_txn *txn, const struct token_secret *m)
{
    CLEANUP(buf_release) struct buf body;
    char id[TOKEN_SECRET_ID_MAX];
    buf_init(&body, TOKEN_SECRET_WHO_MAX + 64);
    buf_put_u8(&body, FORMAT);
    buf_put_u8(&body, (uint8_t)m->state);
    buf_put_u8(&body, ORIGIN_TOKEN);
    buf_put_u64(&body, (uint64_t)m->made_ns);
    buf_put_u64(&body, (uint64_t)m->used_ns);
    buf_put_u64(&body, (uint64_t)m->saved_ns);
    buf_put_u64(&body, (uint64_t)m->retired_ns);
    buf_put_u64(&body, (uint64_t)m->destroyed_ns);
    buf_put_u64(&body, (uint64_t)m->forfeit_ns);
    buf_put_v16(&body, bytes_str(m->forfeit_by));
    buf_put_u8(&body, m->unsure);
    INVARIANT(!body.overflow && m->version > 0);
    const struct record r = {.kind = REC_META, .id = token_secret_id(m->kind, m->version, id), .state = m->state, .time_unix_ns = m->made_ns,
                             .body = buf_bytes(&body)};
    store_txn_put(txn, &r, m->revision);
}

void token_secret_forget(struct store_txn *txn, const struct token_secret *m)
{
    char id[TOKEN_SECRET_ID_MAX];
    store_txn_delete(txn, REC_META, no_tenant, token_secret_id(m->kind, m->version, id), m->revision);
}

void token_secret_first(struct store_txn *txn, enum hsm_object kind, uint32_t version, int64_t now_ns)
{
    const struct token_secret m = {.kind = kind, .version = version, .state = SECRET_CURRENT, .made_ns = now_ns, .used_ns = now_ns, .saved_ns = now_ns};
    token_secret_put(txn, &m);
}
