/* token backup: what lies on the token and nowhere else is copied. */
#include "vault/cmd/kmsctl/kmsctl.h"

#include "claviger/system/v1/system.pb-c.h"

#define COLUMNS "MADE create_time|CLONED cloned|SERIAL token_serial|HOLDS holds|KEYS keys|ADDED keys_added|PATH path"
#define PATIENCE "5m" /* the daemon's own limit is two minutes, and it may have to do it twice */

static struct result token_backup(struct ctl *c, struct claviger_error *e)
{
    Claviger__System__V1__BackupTokenRequest q = CLAVIGER__SYSTEM__V1__BACKUP_TOKEN_REQUEST__INIT;
    const Claviger__System__V1__TokenBackup *p = NULL;
    q.cloned = c->args.value[OPT_CLONED] != NULL;
    if (c->args.value[OPT_TIMEOUT] == NULL)
        c->args.value[OPT_TIMEOUT] = PATIENCE;
    TRY(ctl_change(c, "/claviger.system.v1.System/BackupToken", &q.base, &claviger__system__v1__token_backup__descriptor, &p, e));
    TRY(show(c, &p->base, COLUMNS, e));
    if (p->keys_absent > 0)
        return client_fail(e, CLAVIGER_DATA_LOSS, "KEY_OBJECT_ABSENT", "the backup is good, but %u keys on record are not on the token: kmsd fsck names them",
                           p->keys_absent);
    return ok();
}

static const struct command rows[] = {
    {"token", "backup", "", 0, 0, O(OPT_CLONED) | O(OPT_IDEMPOTENCY), ROLE_OPERATOR, token_backup,
     "copy a token that is files, and verify the copy; needed for what keys of level HSM have sealed", "kmsctl token backup"},
};
const struct command_rows rows_token = {rows, sizeof rows / sizeof *rows};
