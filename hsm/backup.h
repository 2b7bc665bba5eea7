/*
 * Purpose: a verified copy of a token that is files, in <folder>/token-backup/<serial>-<UTC time>/, where <folder> is
 *          token_setup.state_dir:
 *              <the token's own folder name>/...   byte for byte
 *              SHA256SUMS                          written last, as `sha256sum -c` reads it; "# " lines say what it is, and
 *                                                  "# key <kvid>" which keys of level HSM are in it
 *          Until it is verified the folder's name ends in ".part": one that a crash left is never taken for a backup.
 *          Verified means: the files, copied once more to where a restore would put them (token-backup/.verify: opening a
 *          token writes to it, so never the backup itself), open in a fresh process under the same PIN, and each master,
 *          seal and audit key there gives the answer that it gives here, stored known answers included, and the keys of level HSM
 *          there are those that are here, both objects of each; then the backup is read once more and every file has the digest of
 *          the original.
 * Owns:    the folder token-backup.
 * Threads: the main loop's. Errors: ERR_UNIMPLEMENTED "HSM_BACKUP" (the token is no files), ERR_DATA_LOSS "HSM_BACKUP" or
 *          "HSM_KNOWN_ANSWER" (the copy is not the token), ERR_EXHAUSTED "HSM_BACKUP", else as copy.h and verify.h.
 * Limits:  BACKUPS_MAX of one token: room for one more is made by removing the oldest that are older than backup_retention, but for the
 *          BACKUPS_KEPT newest, whatever the clock says; and by the same rule those go that hold a seal secret which the token has no
 *          more, whenever a new one was verified; the limits of copy.h; one fresh process and one login for each key.
 * Secrets: the copy is as secret as the token: whoever has it and the PIN has the masters.
 */
#ifndef HSM_BACKUP_H
#define HSM_BACKUP_H

#include "hsm/verify.h"

enum { BACKUPS_MAX = 64, BACKUPS_KEPT = 3 };

RESULT ops_backup(struct token *t, struct verifier *v, struct hsm_backup *ret, struct err *e);

struct backup_state {
    bool possible;      /* the token is files in a folder of its own */
    uint32_t verified;  /* backups of this token (by serial) that lie in token-backup */
    bool same_device;   /* one of them shares its device with the token: one dead disk takes both */
};
void backup_look(const struct token *t, struct backup_state *ret);

#endif
