#include "vault/service/token_backup.h"

#include "base/log.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { DROPS_MAX = 1024 /* rows in one transaction */ };

void token_backup_release(struct token_backup *b)
{
    unsaved_release(&b->first);
}

/* ---- made ---- */
/* A backup's name has the second in which it was made: in the same one there can be no other. */
static RESULT copy(struct service *s, struct hsm_backup *ret, struct err *e)
{
    const struct timespec second = {.tv_sec = 1};
    struct err why = {0};
    if (!hsm_backup(s->hsm, ret, &why).failed)
        return ok();
    if (why.code == ERR_EXISTS && nanosleep(&second, NULL) == 0)
        return hsm_backup(s->hsm, ret, e);
    *e = why;
    return (struct result){1};
}

RESULT token_backup_fit(struct service *s, struct hsm_status *ret, struct err *e)
{
    const uint32_t seal = store_seal_epoch(s->store), master = keyring_master(s->keyring);
    TRY(hsm_probe(s->hsm, ret, e));
    if (!ret->logged_in)
        FAIL(e, ERR_UNAVAILABLE, "HSM_UNAVAILABLE", "the token is away");
    if (ret->seal_newest < seal)
        FAIL(e, ERR_STATE, "SEAL_ABSENT", "the store is under seal %u, and the token's newest is %u: put back the token, or its backup, that has it",
             seal, ret->seal_newest);
    if (ret->master_newest < master)
        FAIL(e, ERR_STATE, "KEY_MASTER_GONE", "master %u is in use, and the token's newest is %u: put back the token, or its backup, that has it",
             master, ret->master_newest);
    return ok();
}

static RESULT copy_or_believe(struct service *s, bool cloned, struct token_backup *ret, struct err *e)
{
    struct hsm_status st;
    TRY(token_backup_fit(s, &st, e));
    ret->kind = INSTANCE_BACKUP_VERIFIED;
    if (st.copyable)
        return copy(s, &ret->b, e);
    if (!cloned)
        FAIL(e, ERR_STATE, "TOKEN_NOT_CLONED", "the token is no files that kmsd could back up: clone it by its vendor's tool, then say so "
             "by --token-cloned");
    ret->kind = INSTANCE_BACKUP_VENDOR_CLONE;
    ret->b.made_unix_s = clock_unix_s(s->clock);
    (void)snprintf(ret->b.serial, sizeof ret->b.serial, "%s", st.serial);
    return ok();
}

static int by_kvid(const void *a, const void *b)
{
    return memcmp(a, b, HSM_KVID_BYTES);
}

/* What the token has of those, and how many in all; both lists are in order. */
static RESULT look_at_token(struct service *s, struct token_backup *b, struct err *e)
{
    uint8_t page[HSM_KEY_PAGE][HSM_KVID_BYTES], after[HSM_KVID_BYTES];
    size_t n = HSM_KEY_PAGE, all = 0, there = 0;
    while (n == HSM_KEY_PAGE) {
        TRY(hsm_key_list(s->hsm, all > 0 ? after : NULL, page, &n, e));
        for (size_t i = 0; i < n; i++)
            there += b->first.n > 0 && bsearch(page[i], b->first.kvid, b->first.n, HSM_KVID_BYTES, by_kvid) != NULL;
        if (n > 0)
            memcpy(after, page[n - 1], sizeof after);
        all += n;
    }
    b->absent = (uint32_t)(b->first.n - there);
    if (b->kind == INSTANCE_BACKUP_VENDOR_CLONE)
        b->b.keys = (uint32_t)all;
    return ok();
}

/* Which keys are on record is read before: each of them was made before its row. */
static RESULT make(struct service *s, bool cloned, struct token_backup *ret, struct err *e)
{
    TRY(unsaved_read(s->store, &ret->first, e));
    TRY(copy_or_believe(s, cloned, ret, e));
    return look_at_token(s, ret, e);
}

RESULT token_backup_make(struct service *s, bool cloned, struct token_backup *ret, struct err *e)
{
    *ret = (struct token_backup){0};
    if (!make(s, cloned, ret, e).failed)
        return ok();
    token_backup_release(ret);
    return (struct result){1};
}

bool token_backup_holds(const struct token_backup *b, enum hsm_object kind, uint32_t version)
{
    char word[TOKEN_SECRET_ID_MAX];
    const size_t n = token_secret_id(kind, version, word).n;
    if (b->kind == INSTANCE_BACKUP_VENDOR_CLONE)
        return true;
    for (const char *at = b->b.holds; (at = strstr(at, word)) != NULL; at += n)
        if ((at == b->b.holds || at[-1] == ' ') && (at[n] == ' ' || at[n] == '\0'))
            return true;
    return false;
}

/* ---- on record ---- */
static void saved(struct store_txn *txn, const struct token_backup *b, struct token_secrets *all, int64_t now_ns)
{
    for (size_t i = 0; i < all->n; i++) {
        if (all->all[i].state == SECRET_DESTROYED)
            continue;
        if (token_backup_holds(b, all->all[i].kind, all->all[i].version))
            all->all[i].saved_ns = now_ns;
        token_secret_put(txn, &all->all[i]);
    }
}

static void drop_some(struct store_txn *txn, struct token_backup *b, size_t from)
{
    for (b->dropped = from; b->dropped < b->first.n && b->dropped < from + DROPS_MAX; b->dropped++)
        unsaved_drop(txn, b->first.kvid[b->dropped]);
}

RESULT token_backup_put(struct store *s, struct store_txn *txn, struct token_backup *b, struct token_secrets *changed, int64_t now_ns, struct err *e)
{
    instance_backup_put(txn, b->kind, &b->b, STORE_ANY);
    for (enum hsm_object kind = HSM_MASTER; kind <= HSM_SEAL; kind++) {
        struct token_secrets read;
        const bool given = changed != NULL && changed->kind == kind;
        if (!given)
            TRY(token_secrets_read(s, kind, &read, e));
        saved(txn, b, given ? changed : &read, now_ns);
    }
    drop_some(txn, b, 0);
    return ok();
}

void token_backup_done(struct service *s, struct token_backup *b)
{
    while (b->dropped < b->first.n) {
        CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(s->store);
        struct err why = {0};
        uint64_t seq;
        drop_some(txn, b, b->dropped);
        if (store_txn_commit(txn, &seq, &why).failed) {
            log_event(LOG_WARN, "not all keys that are in a backup of the token are on record as saved", LF_ERR(&why));
            break;
        }
    }
    if (b->absent > 0)
        log_event(LOG_ERROR, "keys of level HSM are not on the token, and in no backup of it: kmsd fsck names them", LF_INT("keys", b->absent));
    token_backup_look(s);
}

void token_backup_look(struct service *s)
{
    struct err e = {0};
    uint64_t n;
    if (!unsaved_count(s->store, &n, &e).failed) /* else what was last known stands: that the store fails is told elsewhere */
        atomic_store(&s->keys_unsaved, n);
}
