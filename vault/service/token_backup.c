#include "vault/service/token_backup.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

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

RESULT token_backup_make(struct service *s, bool cloned, struct token_backup *ret, struct err *e)
{
    struct hsm_status st;
    TRY(hsm_probe(s->hsm, &st, e));
    if (!st.logged_in)
        FAIL(e, ERR_UNAVAILABLE, "HSM_UNAVAILABLE", "the token is away");
    *ret = (struct token_backup){.kind = INSTANCE_BACKUP_VERIFIED};
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

static void saved(struct store_txn *txn, struct token_secrets *all, int64_t now_ns)
{
    for (size_t i = 0; i < all->n; i++) {
        if (all->all[i].state == SECRET_DESTROYED)
            continue;
        all->all[i].saved_ns = now_ns;
        token_secret_put(txn, &all->all[i]);
    }
}

void token_backup_put(struct store_txn *txn, const struct token_backup *b, struct token_secrets *masters, struct token_secrets *seals, int64_t now_ns)
{
    instance_backup_put(txn, b->kind, &b->b, STORE_ANY);
    saved(txn, masters, now_ns);
    saved(txn, seals, now_ns);
}
