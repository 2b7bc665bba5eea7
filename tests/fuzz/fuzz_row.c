/* Target functions: read_row, read_event, seal_open_record, seal_open_outbox: rows as an edited database may give them, of any
 * value and any SQLite type in each column. Only what was sealed under these very columns opens, and what comes out is what
 * was put in, field by field; everything else is ERR_DATA_LOSS, and no made-up seal epoch ever reaches the HSM.
 *
 * Input: u8 which (bit 0: an event), the genuine row's fields, then edits: u8 column, u8 how, u8 length, bytes. */
#include "kms/store/internal.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { COLUMNS = 10, EVENT_COLUMNS = 4, EPOCH = 3, ARENA_BYTES = 1 << 18 };

static struct store store;
static sqlite3_stmt *statement;

static struct result store_key(void *user, uint32_t epoch, struct secret **ret, struct err *e)
{
    static const uint8_t key[32] = "a key that protects nothing ....";
    (void)user;
    INVARIANT(epoch >= 1 && epoch <= EPOCH);
    return secret_from(key, sizeof key, ret, e);
}

static void prepare(void)
{
    static struct store_options o = {.epoch = EPOCH, .store_key = store_key};
    sqlite3 *h;
    struct err e = {0};
    if (statement != NULL)
        return;
    INVARIANT(!secret_slab_init(64, &e).failed);
    seal_init(&store.seal, &o);
    INVARIANT(sqlite3_open(":memory:", &h) == SQLITE_OK);
    INVARIANT(sqlite3_prepare_v2(h, "SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10", -1, &statement, NULL) == SQLITE_OK);
}

static void bind_bytes(int at, struct bytes b)
{
    INVARIANT(sqlite3_bind_blob64(statement, at, b.n > 0 ? (const void *)b.p : "", b.n, SQLITE_TRANSIENT) == SQLITE_OK);
}

static int64_t number(struct bytes in)
{
    uint8_t v[8] = {0};
    memcpy(v + (8 - (in.n < 8 ? in.n : 8)), in.p, in.n < 8 ? in.n : 8);
    return (int64_t)get_be64(v);
}

/* One column becomes something else: a number, a real, a text, a blob, nothing, or a genuine value changed a little. */
static void edit(int column, uint8_t how, struct bytes in, struct bytes sealed)
{
    struct buf b;
    switch (how % 7) {
    case 0:
        INVARIANT(sqlite3_bind_int64(statement, column, number(in)) == SQLITE_OK);
        break;
    case 1:
        INVARIANT(sqlite3_bind_double(statement, column, (double)number(in) / 2) == SQLITE_OK);
        break;
    case 2:
        INVARIANT(sqlite3_bind_text64(statement, column, (const char *)in.p, in.n, SQLITE_TRANSIENT, SQLITE_UTF8) == SQLITE_OK);
        break;
    case 3:
        INVARIANT(sqlite3_bind_null(statement, column) == SQLITE_OK);
        break;
    case 4:
        bind_bytes(column, in);
        break;
    case 5: /* as number, with more than 32 bits */
        INVARIANT(sqlite3_bind_int64(statement, column, number(in) | (int64_t)(how >> 3) << 32) == SQLITE_OK);
        break;
    default: /* the sealed body, bent */
        buf_init(&b, 1 << 20);
        buf_put_bytes(&b, sealed);
        for (size_t i = 0; i + 1 < in.n; i += 2)
            b.p[in.p[i] % b.n] ^= in.p[i + 1];
        bind_bytes(column, buf_bytes(&b));
        buf_release(&b);
    }
}

static void edits(struct reader *r, int columns, struct bytes sealed)
{
    for (unsigned i = 0; i < 4 && r->n > 0; i++) {
        uint8_t column = reader_u8(r), how = reader_u8(r), n = reader_u8(r);
        struct bytes in = reader_take(r, n < r->n ? n : r->n);
        if (!r->bad)
            edit(1 + column % columns, how, in, sealed);
    }
}

static struct bytes short_of(struct reader *r, size_t max)
{
    size_t n = reader_u8(r) % (max + 1);
    return reader_take(r, n < r->n ? n : r->n);
}

static void check_row(struct reader *r)
{
    CLEANUP(buf_release) struct buf sealed = {0};
    CLEANUP(arena_release) struct arena a = {0};
    struct err e = {0};
    struct record out = {0}, in = {.kind = (enum rec_kind)(1 + reader_u8(r) % 12), .revision = reader_u8(r) + 1u, .state = reader_u8(r),
                                   .time_unix_ns = reader_u16(r), .count = reader_u8(r)};
    memset(in.tenant, reader_u8(r), sizeof in.tenant);
    in.id = short_of(r, 40);
    in.name = short_of(r, 40);
    in.body = short_of(r, 200);
    buf_init(&sealed, 1 << 20);
    arena_init(&a, ARENA_BYTES);
    INVARIANT(!seal_record(&store.seal, EPOCH, &in, &sealed, &e).failed);
    const int64_t numbers[COLUMNS] = {(int64_t)in.kind, 0, 0, (int64_t)in.revision, 0, in.state, in.time_unix_ns, (int64_t)in.count, EPOCH};
    for (int i = 0; i < COLUMNS; i++)
        INVARIANT(sqlite3_bind_int64(statement, i + 1, numbers[i]) == SQLITE_OK);
    bind_bytes(2, BYTES(in.tenant, sizeof in.tenant));
    bind_bytes(3, in.id);
    bind_bytes(5, in.name);
    bind_bytes(10, buf_bytes(&sealed));
    bool untouched = r->n == 0;
    edits(r, COLUMNS, buf_bytes(&sealed));
    INVARIANT(sqlite3_step(statement) == SQLITE_ROW);
    if (read_row(&store, statement, &a, &out, &e).failed) {
        INVARIANT(e.code == ERR_DATA_LOSS && strcmp(e.reason, "RECORD_TAMPERED") == 0 && !untouched);
        return;
    }
    INVARIANT(sqlite3_column_int64(statement, 0) == (int64_t)in.kind); /* all of the column, not what fits into an int */
    INVARIANT(out.kind == in.kind && out.revision == in.revision && out.state == in.state && out.time_unix_ns == in.time_unix_ns);
    INVARIANT(out.count == in.count && memcmp(out.tenant, in.tenant, sizeof in.tenant) == 0 && bytes_equal(out.id, in.id));
    INVARIANT(bytes_equal(out.name, in.name) && bytes_equal(out.body, in.body));
}

static void check_event(struct reader *r)
{
    CLEANUP(buf_release) struct buf sealed = {0};
    CLEANUP(arena_release) struct arena a = {0};
    struct outbox_event out = {0}, in = {.seq = reader_u16(r)};
    struct err e = {0};
    memset(in.tenant, reader_u8(r), sizeof in.tenant);
    in.event = short_of(r, 200);
    buf_init(&sealed, 1 << 20);
    arena_init(&a, ARENA_BYTES);
    INVARIANT(!seal_outbox(&store.seal, EPOCH, in.seq, in.tenant, in.event, &sealed, &e).failed);
    INVARIANT(sqlite3_bind_int64(statement, 1, (int64_t)in.seq) == SQLITE_OK && sqlite3_bind_int64(statement, 3, EPOCH) == SQLITE_OK);
    bind_bytes(2, BYTES(in.tenant, sizeof in.tenant));
    bind_bytes(4, buf_bytes(&sealed));
    bool untouched = r->n == 0;
    edits(r, EVENT_COLUMNS, buf_bytes(&sealed));
    INVARIANT(sqlite3_step(statement) == SQLITE_ROW);
    if (read_event(&store, statement, &a, &out, &e).failed) {
        INVARIANT(e.code == ERR_DATA_LOSS && strcmp(e.reason, "RECORD_TAMPERED") == 0 && !untouched);
        return;
    }
    INVARIANT(out.seq == in.seq && memcmp(out.tenant, in.tenant, sizeof in.tenant) == 0 && bytes_equal(out.event, in.event));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct reader r = reader_of(BYTES(data, size));
    prepare();
    if (reader_u8(&r) & 1)
        check_event(&r);
    else
        check_row(&r);
    sqlite3_reset(statement);
    return 0;
}
