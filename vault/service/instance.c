#include "vault/service/instance.h"

#include "base/dir.h"
#include "base/rng.h"
#include "base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ID_TEXT = 32 };

static void places(const struct config *c, struct hsm *h, struct instance *in)
{
    in->hsm = h;
    if (c->journal_dir[0] != 0)
        snprintf(in->journal_dir, sizeof in->journal_dir, "%s", c->journal_dir);
    else
        snprintf(in->journal_dir, sizeof in->journal_dir, "%s/journal", c->state_dir);
    snprintf(in->origin, sizeof in->origin, "%s/%s", c->cluster_name, c->node_name);
}

static void id_path(const struct config *c, char out[4096])
{
    snprintf(out, 4096, "%s/instance", c->state_dir);
}

static RESULT read_id(const struct config *c, uint8_t id[16], struct err *e)
{
    char path[4096], text[ID_TEXT + 2];
    id_path(c, path);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT)
        FAIL(e, ERR_STATE, "NOT_INITIALISED", "%s does not exist: run kmsd init first", path);
    if (fd < 0)
        FAIL_ERRNO(e, ERR_STATE, "INSTANCE_UNREADABLE", "%s", path);
    ssize_t n = read(fd, text, sizeof text);
    close(fd);
    if (n < ID_TEXT || !hex_decode(BYTES(text, ID_TEXT), id, 16))
        FAIL(e, ERR_DATA_LOSS, "INSTANCE_MALFORMED", "%s does not hold 32 hex digits", path);
    return ok();
}

RESULT instance_load(const struct config *c, struct hsm *h, struct instance *ret, struct err *e)
{
    memset(ret, 0, sizeof *ret);
    places(c, h, ret);
    TRY(read_id(c, ret->id, e));
    struct hsm_status st;
    TRY(hsm_probe(h, &st, e));
    /* A core that died while the token is away: nothing is known of the token then, and the daemon must not end for it. */
    if (!st.logged_in)
        FAIL(e, ERR_UNAVAILABLE, "HSM_UNAVAILABLE", "the token is away: core cannot start before it is back");
    if (st.master_newest == 0 || st.seal_newest == 0 || st.audit_newest == 0)
        FAIL(e, ERR_STATE, "NOT_INITIALISED", "token \"%s\" lacks the %s: wrong token, or run kmsd init", st.token_label,
             st.master_newest == 0 ? "master secret" : st.seal_newest == 0 ? "seal secret" : "audit key");
    ret->seal_newest = st.seal_newest;
    ret->audit_version = st.audit_newest;
    return ok();
}

static RESULT write_durably(int fd, const char *text, size_t n, const char *path, struct err *e)
{
    if (write(fd, text, n) != (ssize_t)n || fsync(fd) != 0)
        FAIL_ERRNO(e, ERR_UNAVAILABLE, "STORE_IO", "%s", path);
    return ok();
}

RESULT instance_create(const struct config *c, struct hsm *h, struct instance *ret, struct err *e)
{
    memset(ret, 0, sizeof *ret);
    places(c, h, ret);
    rng_fill(&rng_system, ret->id, sizeof ret->id);
    ret->seal_newest = ret->audit_version = 1;
    char path[4096], text[ID_TEXT + 2];
    id_path(c, path);
    hex_encode(ret->id, sizeof ret->id, text);
    text[ID_TEXT] = '\n';
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 && errno == EEXIST)
        FAIL(e, ERR_EXISTS, "ALREADY_INITIALISED", "%s exists: this folder already holds an instance", path);
    if (fd < 0)
        FAIL_ERRNO(e, ERR_STATE, "STORE_IO", "%s", path);
    struct result done = write_durably(fd, text, ID_TEXT + 1, path, e);
    close(fd);
    TRY(done);
    return dir_sync(c->state_dir, "STORE_IO", e);
}

static RESULT store_key(void *user, uint32_t epoch, struct secret **ret, struct err *e)
{
    const struct instance *in = user;
    uint8_t be[4];
    put_be32(be, epoch);
    struct bytes fields[] = {BYTES(in->id, sizeof in->id), BYTES(be, sizeof be)};
    CLEANUP(buf_release) struct buf input;
    buf_init(&input, KDFENC_MAX_BYTES);
    INVARIANT(kdfenc_build(KDF_STORE_KEY, fields, 2, &input));
    return hsm_derive(in->hsm, HSM_SEAL, epoch, buf_bytes(&input), ret, e);
}

struct store_options instance_store_options(const struct instance *in, const struct config *c, const struct clock *clock)
{
    struct store_options o = {.dir = c->state_dir, .clock = clock, .store_key = store_key, .user = (void *)(uintptr_t)in,
                              .epoch = in->seal_newest, .readers = 1};
    memcpy(o.instance, in->id, sizeof o.instance);
    return o;
}

struct keyring_options instance_keyring_options(const struct instance *in, const struct config *c, const struct clock *clock,
                                                struct store *store)
{
    struct keyring_options o = {.store = store, .hsm = in->hsm, .clock = clock, .cache_max = c->key_cache_max, .cache_ttl_ms = c->key_cache_ttl,
                                .locations = c->locations, .token_keys_max = c->token_keys_per_tenant};
    memcpy(o.instance, in->id, sizeof o.instance);
    return o;
}

struct journal_options instance_journal_options(const struct instance *in, const struct config *c, const struct clock *clock)
{
    struct journal_options o = {.dir = in->journal_dir, .origin = in->origin, .segment_bytes = c->journal_segment_bytes,
                                .reserve_bytes = c->journal_reserve_bytes, .clock = clock};
    memcpy(o.instance, in->id, sizeof o.instance);
    return o;
}

#define BACKUP_ID BYTES_LIT("token-backup")

void instance_backup_put(struct store_txn *txn, enum instance_backup kind, const struct hsm_backup *b, uint64_t expected)
{
    CLEANUP(buf_release) struct buf body;
    buf_init(&body, sizeof *b + 64);
    buf_put_u8(&body, 1);
    buf_put_u8(&body, (uint8_t)kind);
    buf_put_u64(&body, (uint64_t)b->made_unix_s);
    buf_put_v16(&body, bytes_str(b->serial));
    buf_put_v16(&body, bytes_str(b->holds));
    buf_put_v16(&body, bytes_str(b->path));
    buf_put_u32(&body, b->keys);
    INVARIANT(!body.overflow);
    const struct record r = {.kind = REC_META, .id = BACKUP_ID, .body = buf_bytes(&body)};
    store_txn_put(txn, &r, expected);
}

RESULT instance_backup_read(struct store *s, enum instance_backup *ret_kind, struct hsm_backup *ret, struct err *e)
{
    static const uint8_t no_tenant[STORE_TENANT_BYTES];
    CLEANUP(arena_release) struct arena a;
    struct hsm_backup b = {0};
    struct record r;
    arena_init(&a, 1 << 16);
    TRY(store_get(s, REC_META, no_tenant, BACKUP_ID, &a, &r, e));
    struct reader in = reader_of(r.body);
    const uint8_t format = reader_u8(&in), kind = reader_u8(&in);
    b.made_unix_s = (int64_t)reader_u64(&in);
    const bool fits = text_copy(reader_v16(&in), b.serial, sizeof b.serial) && text_copy(reader_v16(&in), b.holds, sizeof b.holds) &&
                      text_copy(reader_v16(&in), b.path, sizeof b.path);
    b.keys = reader_u32(&in);
    if (!fits || !reader_done(&in) || format != 1 || (kind != INSTANCE_BACKUP_VERIFIED && kind != INSTANCE_BACKUP_VENDOR_CLONE))
        FAIL(e, ERR_DATA_LOSS, "RECORD_MALFORMED", "the record of the token's backup is not ours");
    *ret_kind = (enum instance_backup)kind;
    *ret = b;
    return ok();
}

/* ---- what every store has ---- */
#define TOKEN_KEY BYTES_LIT("page-token-key")
static const uint8_t no_tenant[STORE_TENANT_BYTES];

static RESULT token_key_read(struct store *s, struct secret **ret, struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    struct record r;
    arena_init(&a, STORE_BODY_MAX + 4096);
    TRY(store_get(s, REC_META, no_tenant, TOKEN_KEY, &a, &r, e));
    if (r.body.n != SECRET_KEY_BYTES)
        FAIL(e, ERR_DATA_LOSS, "RECORD_MALFORMED", "the key of page tokens has %zu bytes", r.body.n);
    return secret_from(r.body.p, r.body.n, ret, e);
}

static void token_key_put(struct store_txn *txn)
{
    uint8_t key[SECRET_KEY_BYTES];
    rng_fill(&rng_system, key, sizeof key);
    const struct record r = {.kind = REC_META, .id = TOKEN_KEY, .body = BYTES(key, sizeof key)};
    store_txn_put(txn, &r, STORE_ABSENT);
    wipe(key, sizeof key);
}

RESULT instance_records(struct store *s, int64_t now_ns, struct store_txn *txn, bool *ret_any, struct err *e)
{
    CLEANUP(secret_freep) struct secret *key = NULL;
    struct token_secrets seals;
    struct err why = {0};
    TRY(token_secrets_read(s, HSM_SEAL, &seals, e));
    *ret_any = seals.n == 0;
    if (seals.n == 0)
        token_secret_first(txn, HSM_SEAL, store_seal_epoch(s), now_ns);
    if (!token_key_read(s, &key, &why).failed)
        return ok();
    if (why.code != ERR_NOT_FOUND) {
        *e = why;
        return (struct result){1};
    }
    token_key_put(txn);
    *ret_any = true;
    return ok();
}

RESULT instance_token_key(struct store *s, struct aead_key **ret, struct err *e)
{
    CLEANUP(secret_freep) struct secret *key = NULL;
    struct bytes fields[] = {BYTES_LIT("token"), {NULL, 0}};
    TRY(token_key_read(s, &key, e));
    return aead_key_derive(key, KDF_STORE, fields, 2, 1, ret, e);
}
