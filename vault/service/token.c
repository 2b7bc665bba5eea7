/* claviger.system.v1: a backup of the token by command. */
#include "vault/service/token.h"

#include "base/log.h"
#include "vault/service/fields.h"
#include "vault/service/rows.h"
#include "vault/service/token_backup.h"

#include <stdatomic.h>
#include <string.h>

typedef Claviger__System__V1__BackupTokenRequest BackupTokenRequest;
typedef Claviger__System__V1__TokenBackup TokenBackup;

enum { COMMIT_TRIES = 5, WHY_MAX = 512 };

static struct result resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    (void)req;
    return field_instance(c, e);
}

/* ---- how it is shown ---- */
static TokenBackup *view(struct call *c, enum instance_backup kind, const struct hsm_backup *b)
{
    TokenBackup *r = call_new_message(c, &claviger__system__v1__token_backup__descriptor);
    INVARIANT(r != NULL);
    r->create_time = field_time(c, b->made_unix_s * 1000000000);
    r->cloned = kind == INSTANCE_BACKUP_VENDOR_CLONE;
    r->token_serial = call_text(c, b->serial);
    r->holds = call_text(c, b->holds);
    r->keys = b->keys;
    r->path = call_text(c, b->path);
    return r;
}

TokenBackup *view_token_backup_on_record(struct call *c)
{
    enum instance_backup kind;
    struct hsm_backup b;
    struct err why = {0};
    if (!instance_backup_read(c->svc->store, &kind, &b, &why).failed)
        return view(c, kind, &b);
    log_event(LOG_WARN, "the record of the token's backup cannot be read", LF_ERR(&why));
    return NULL;
}

static struct bytes json(struct call *c, const struct token_backup *b)
{
    return bytes_str(arena_printf(&c->arena, "{\"backup\":\"%s\",\"serial\":\"%s\",\"made\":%lld,\"holds\":\"%.1024s\",\"keys\":%u,\"keys_added\":%zu,\"keys_absent\":%u}",
                                  b->kind == INSTANCE_BACKUP_VERIFIED ? "verified" : "vendor clone", b->b.serial, (long long)b->b.made_unix_s,
                                  b->b.holds, b->b.keys, b->first.n - b->absent, b->absent));
}

/* ---- BackupToken ---- */
/* Whoever may ask for it runs the machine: they are told what the token, or its copy, has. */
static RESULT check_kind(struct call *c, bool cloned, struct err *e)
{
    struct hsm_status st;
    TRY(hsm_probe(c->svc->hsm, &st, e));
    if (!st.logged_in || st.copyable != cloned)
        return ok();
    if (cloned) {
        struct result r = err_set(e, ERR_STATE, "TOKEN_IS_FILES", __FILE__, __LINE__, "said to be cloned, and it is files");
        e->hint = "this token is files, which are copied and verified here: leave out \"cloned\"";
        return r;
    }
    struct result r = err_set(e, ERR_STATE, "TOKEN_NOT_CLONED", __FILE__, __LINE__, "it is no files");
    e->hint = "this token is no files that could be copied here: clone it by its vendor's tool, then say so: kmsctl token backup --cloned";
    return r;
}

static RESULT make(struct call *c, bool cloned, struct token_backup *ret, struct err *e)
{
    TRY(check_kind(c, cloned, e));
    if (!token_backup_make(c->svc, cloned, ret, e).failed)
        return ok();
    char *why = arena_alloc(&c->arena, WHY_MAX);
    if (why != NULL && e->hint == NULL) {
        err_operator(e, why, WHY_MAX);
        e->hint = why;
    }
    return (struct result){1};
}

/* A rotation may have moved on meanwhile, and have changed the rows of the secrets: what was copied is right all the same. */
static RESULT record(struct call *c, struct token_backup *b, const ProtobufCMessage *resp, struct err *e)
{
    for (unsigned tries = 1;; tries++) {
        CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(c->svc->store);
        struct err why = {0};
        TRY(token_backup_put(c->svc->store, txn, b, NULL, clock_wall_ns(call_clock(c)), e));
        if (!call_commit(c, txn, resp, &why).failed)
            return ok();
        if (why.code != ERR_CONFLICT || tries == COMMIT_TRIES) {
            *e = why;
            return (struct result){1};
        }
    }
}

static struct result backup(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    CLEANUP(token_backup_release) struct token_backup b = {0};
    c->ev.before = bytes_str(arena_printf(&c->arena, "{\"keys_unsaved\":%llu}", (unsigned long long)atomic_load(&c->svc->keys_unsaved)));
    TRY(make(c, ((const BackupTokenRequest *)req)->cloned, &b, e));
    TokenBackup *r = view(c, b.kind, &b.b);
    r->keys_added = (uint32_t)(b.first.n - b.absent);
    r->keys_absent = b.absent;
    c->ev.after = json(c, &b);
    *resp = &r->base;
    TRY(record(c, &b, *resp, e));
    token_backup_done(c->svc, &b);
    struct err why = {0};
    if (keyring_master_changed(c->svc->keyring, &why).failed) /* it happened: that is what is answered */
        log_event(LOG_WARN, "the masters could not be read again after a backup of the token", LF_ERR(&why));
    return ok();
}

static const struct rpc_row rows[] = {
    {.kind = RPC_UNARY, .path = "/claviger.system.v1.System/BackupToken", .request = &claviger__system__v1__backup_token_request__descriptor,
     .response = &claviger__system__v1__token_backup__descriptor, .action = "system.backupToken", .plane = PLANE_CONTROL, .resources = resources,
     .audit = AUDIT_CHANGE, .limit = LIMIT_CONTROL, .mutation = true, .lane = LANE_SLOW, .handle = backup},
};
const struct row_list rows_token = {rows, sizeof rows / sizeof rows[0]};
