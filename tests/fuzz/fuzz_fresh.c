/* Target functions: fresh_read_root, fresh_load_leaves, overlay_replay (fresh_load), bucket_well_formed, anchor_read: what the store
 * believes about its own newness, read from a database and a floor that somebody else has edited. It loads and is what the
 * root says, or is refused as STORE_STALE; a floor opens or is STORE_ROLLED_BACK; nothing of it reaches further.
 *
 * Input: u8 how (bit 0: the root's body is sealed, as only we can; bit 1: the anchor's too; bit 2: buckets have numbers that exist; bit 3:
 * entries and digests have the right lengths; bit 4: the root is then sealed over the tree that was loaded, which must load), then blocks of u8 length and bytes:
 * root, anchor, and the rows of the tables bucket and root in turn. */
#include "kms/store/internal.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { EPOCH = 2, ROWS_MAX = 8, SEALED = 1, ANCHOR_SEALED = 2, NUMBERS = 4, LENGTHS = 8, AGREE = 16 };

static struct result store_key(void *user, uint32_t epoch, struct secret **ret, struct err *e)
{
    static const uint8_t key[32] = "a key that protects nothing ....";
    (void)user;
    INVARIANT(epoch >= 1 && epoch <= EPOCH);
    return secret_from(key, sizeof key, ret, e);
}

static struct store store;
static struct db db;
static struct bytes floor_found;

static struct result floor_get(void *user, uint8_t out[STORE_ANCHOR_MAX], size_t *ret_n, struct err *e)
{
    (void)user, (void)e;
    if (floor_found.n > 0)
        memcpy(out, floor_found.p, floor_found.n);
    *ret_n = floor_found.n;
    return ok();
}

static void prepare(void)
{
    static struct store_options o = {.epoch = EPOCH, .store_key = store_key};
    struct err e = {0};
    if (db.h == NULL) {
        const struct store_anchor io = {.place = STORE_ANCHOR_TOKEN, .get = floor_get, .get_other = floor_get};
        INVARIANT(!secret_slab_init(256, &e).failed && sqlite3_open(":memory:", &db.h) == SQLITE_OK);
        INVARIANT(!db_exec(&db, "CREATE TABLE bucket (n, digest, entries); CREATE TABLE root (epoch INTEGER PRIMARY KEY, seal, body, entries)", &e).failed);
        seal_init(&store.seal, &o);
        store.anchor = anchor_new(&io);
        buf_init(&store.scratch, 1 << 20);
    }
    INVARIANT(!db_exec(&db, "DELETE FROM bucket; DELETE FROM root", &e).failed);
}

static struct bytes block(struct reader *r)
{
    size_t n = reader_u8(r);
    return reader_take(r, n < r->n ? n : r->n);
}

/* To the next whole number of units, with zeros. */
static struct bytes whole(struct bytes b, size_t unit, bool exactly, struct buf *room)
{
    buf_init(room, 4096);
    buf_put_bytes(room, b);
    while (room->n % unit != 0 || (exactly && room->n < unit))
        buf_put_u8(room, 0);
    return BYTES(room->p, exactly ? unit : room->n);
}

static void row(const char *sql, int64_t n, struct bytes second, struct bytes third)
{
    sqlite3_stmt *st = NULL;
    struct err e = {0};
    INVARIANT(!db_prepare(&db, sql, &st, &e).failed);
    sqlite3_bind_int64(st, 1, n);
    sqlite3_bind_int64(st, 2, EPOCH);
    db_bind_bytes(st, 3, second);
    db_bind_bytes(st, 4, third);
    (void)sqlite3_step(st); /* two of one number: the first stays */
    sqlite3_finalize(st);
}

/* The root's body: sealed or as it is. What is sealed has the right length mostly, or nothing behind it would be reached. */
static void put_root(bool sealed, struct bytes body, struct bytes entries)
{
    CLEANUP(buf_release) struct buf plain = {0}, out = {0};
    struct err e = {0};
    buf_init(&plain, 1024);
    buf_init(&out, 1 << 16);
    if (!sealed) {
        row("INSERT INTO root VALUES (?1, ?2, ?3, ?4)", INT64_MAX, body, entries);
        return;
    }
    buf_put_u8(&plain, 1);
    buf_put_bytes(&plain, body);
    while (plain.n < 1 + 8 + 8 + TREE_DIGEST_BYTES + 1 + FRESH_KEY_BYTES)
        buf_put_u8(&plain, 0);
    INVARIANT(!seal_note(&store.seal, EPOCH, NOTE_ROOT, buf_bytes(&plain), &out, &e).failed);
    row("INSERT INTO root VALUES (?1, ?2, ?3, ?4)", INT64_MAX, buf_bytes(&out), entries);
}

static void check_floor(bool sealed, struct bytes body)
{
    CLEANUP(buf_release) struct buf plain = {0}, value = {0}, note = {0};
    struct floor_value f = {0};
    struct err e = {0};
    buf_init(&plain, 1024);
    buf_init(&note, 4096);
    buf_init(&value, STORE_ANCHOR_MAX);
    buf_put_u8(&plain, 1);
    buf_put_bytes(&plain, body);
    while (plain.n < 1 + 16 + 3 * 8)
        buf_put_u8(&plain, 0);
    INVARIANT(!seal_note(&store.seal, EPOCH, NOTE_ANCHOR, buf_bytes(&plain), &note, &e).failed);
    buf_put_u32(&value, EPOCH);
    buf_put_bytes(&value, buf_bytes(&note));
    floor_found = sealed ? buf_bytes(&value) : body;
    struct root none = {0};
    bool refused = anchor_read(&store, &none, &f, &e).failed;
    INVARIANT(refused == (!sealed || plain.n != 1 + 16 + 3 * 8));
    INVARIANT(!refused || (e.code == ERR_STATE && strcmp(e.reason, "STORE_ROLLED_BACK") == 0));
    INVARIANT(refused || (f.epoch == get_be64(plain.p + 17) && f.journal_next == get_be64(plain.p + 33)));
}

static bool check_load(void)
{
    uint8_t digest[TREE_DIGEST_BYTES];
    struct err e = {0};
    if (fresh_load(&store, &db, &e).failed) {
        INVARIANT(e.code == ERR_DATA_LOSS && strcmp(e.reason, "STORE_STALE") == 0);
        return false;
    }
    tree_root(store.fresh.tree, digest);
    INVARIANT(memcmp(digest, store.fresh.root.tree, sizeof digest) == 0);
    return true;
}

/* Sealed again over what was loaded: then it loads. What it holds is found, and nothing beside it. */
static void check_agreed(struct bytes entries)
{
    CLEANUP(buf_release) struct buf body = {0};
    struct entry_hash h = {.b = {0}};
    uint8_t digest[TREE_DIGEST_BYTES], out[ENTRY_BYTES];
    struct err e = {0};
    bool there;
    tree_root(store.fresh.tree, digest);
    buf_init(&body, 1024);
    for (int i = 0; i < 16; i++)
        buf_put_u8(&body, 0);
    buf_put(&body, digest, sizeof digest);
    INVARIANT(!db_exec(&db, "DELETE FROM root WHERE epoch = 9223372036854775807", &e).failed);
    put_root(true, buf_bytes(&body), entries);
    fresh_release(&store.fresh);
    fresh_init(&store.fresh);
    INVARIANT(check_load());
    for (size_t at = 0; at + ENTRY_BYTES <= entries.n; at += ENTRY_BYTES) {
        memcpy(h.b, entries.p + at, sizeof h.b);
        INVARIANT(overlay_entry(store.fresh.overlay, &h, out, &there));
        INVARIANT(!there || memcmp(out, h.b, sizeof h.b) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct reader r = reader_of(BYTES(data, size));
    prepare();
    fresh_init(&store.fresh);
    uint8_t how = reader_u8(&r);
    struct buf room = {0}, other = {0}, first = {0};
    struct bytes root = block(&r);
    check_floor(how & ANCHOR_SEALED, block(&r));
    struct bytes newest = block(&r);
    newest = how & LENGTHS ? whole(newest, ENTRY_BYTES, false, &first) : newest;
    put_root(how & SEALED, root, newest);
    for (unsigned i = 0; i < ROWS_MAX && r.n > 2; i++) {
        uint16_t n = reader_u16(&r);
        struct bytes entries = block(&r), digest = block(&r);
        if (how & LENGTHS) {
            entries = whole(entries, ENTRY_BYTES, false, &room);
            digest = whole(digest, TREE_DIGEST_BYTES, true, &other);
        }
        if (i & 1)
            row("INSERT OR IGNORE INTO root VALUES (?1, ?2, ?3, ?4)", n, digest, entries);
        else
            row("INSERT INTO bucket VALUES (?1, ?3, ?4)", how & NUMBERS ? n : (int64_t)n << 20, digest, entries);
        (void)bucket_well_formed(n, entries);
        buf_release(&room);
        buf_release(&other);
    }
    bool loaded = check_load();
    if (!loaded && (how & (SEALED | NUMBERS | LENGTHS | AGREE)) == (SEALED | NUMBERS | LENGTHS | AGREE))
        check_agreed(newest);
    buf_release(&first);
    fresh_release(&store.fresh);
    return 0;
}
