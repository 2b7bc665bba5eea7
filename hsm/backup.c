#include "hsm/backup.h"

#include "base/dir.h"
#include "base/log.h"
#include "base/rng.h"
#include "base/text.h"
#include "hsm/copy.h"
#include "hsm/openssl.h"
#include "hsm/ops.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define ROOT "token-backup"
#define SCRATCH ".verify"
#define CONF "softhsm2.conf"
#define PART ".part"
#define SUMS "SHA256SUMS"
#define STAMP "%Y%m%dT%H%M%SZ"
enum { PATH_BYTES = 4096, KEY_LINE_MAX = 48 };

static void close_fd(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
}

struct job {
    struct token *t;
    struct verifier *v;
    char serial[17], own[STORAGE_FOLDER_MAX]; /* the token's folder, here and in the copy */
    char name[64], part[80];                  /* of the backup, with and without being verified */
    int root, folder;                         /* token-backup and the backup in it */
    struct copy_list original;
    int64_t made_unix_s;
};

static void job_release(struct job *j)
{
    close_fd(&j->folder);
    close_fd(&j->root);
    copy_list_release(&j->original);
}

/* ---- what is there ----------------------------------------------------------------------------------------------- */

static RESULT open_root(const struct token *t, bool make, int *ret, struct err *e)
{
    CLEANUP(close_fd) int state = -1;
    struct err why = {0};
    TRY(copy_open_folder(AT_FDCWD, t->setup.state_dir, &state, e));
    if (!make)
        return copy_open_folder(state, ROOT, ret, e);
    if (!copy_make_folder(state, ROOT, ret, &why).failed)
        return ok();
    if (why.code == ERR_EXISTS)
        return copy_open_folder(state, ROOT, ret, e);
    *e = why;
    return (struct result){1};
}

/* A copy of that token, be it a backup or what was never verified. */
static bool is_copy_of(const char *name, const char *serial)
{
    const size_t n = strlen(serial);
    return strncmp(name, serial, n) == 0 && name[n] == '-';
}

static bool is_part(const char *name)
{
    const size_t len = strlen(name), part = sizeof PART - 1;
    return len >= part && strcmp(name + len - part, PART) == 0;
}

static bool is_backup_of(const char *name, const char *serial)
{
    return is_copy_of(name, serial) && !is_part(name);
}

void backup_look(const struct token *t, struct backup_state *ret)
{
    char serial[17], own[STORAGE_FOLDER_MAX];
    struct err none = {0};
    int root = -1;
    *ret = (struct backup_state){0};
    ops_serial(t, serial);
    ret->possible = !storage_token_folder(&t->storage, serial, own, &none).failed;
    if (!ret->possible || open_root(t, false, &root, &none).failed)
        return;
    DIR *d = fdopendir(root);
    if (d == NULL) {
        (void)close(root);
        return;
    }
    for (const struct dirent *entry; (entry = readdir(d)) != NULL;) {
        struct stat st;
        if (!is_backup_of(entry->d_name, serial) || fstatat(root, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0 ||
            !S_ISDIR(st.st_mode))
            continue;
        ret->verified++;
        ret->same_device |= st.st_dev == t->storage.dev;
    }
    (void)closedir(d);
}

/* ---- what goes --------------------------------------------------------------------------------------------------- */

static RESULT list_root(const struct job *j, struct dir_names *ret, struct err *e)
{
    ret->n = scandirat(j->root, ".", &ret->entries, NULL, dir_by_name);
    if (ret->n >= 0)
        return ok();
    ret->n = 0;
    FAIL_ERRNO(e, ERR_UNAVAILABLE, "HSM_BACKUP", "listing %s", ROOT);
}

/* Copies of this token that were never verified: of runs that died or failed. Who tries again every few seconds must not fill the disk. */
static RESULT remove_parts(const struct job *j, struct err *e)
{
    CLEANUP(dir_names_release) struct dir_names l = {0};
    TRY(list_root(j, &l, e));
    for (int i = 0; i < l.n; i++)
        if (is_copy_of(l.entries[i]->d_name, j->serial) && is_part(l.entries[i]->d_name))
            TRY(copy_remove(j->root, l.entries[i]->d_name, e));
    return ok();
}

/* When it was made, by its name; false: the name does not say. */
static bool made_at(const struct job *j, const char *name, int64_t *ret_unix_s)
{
    struct tm utc = {0};
    const char *end = is_backup_of(name, j->serial) ? strptime(name + strlen(j->serial) + 1, STAMP, &utc) : NULL;
    *ret_unix_s = end != NULL ? (int64_t)timegm(&utc) : 0;
    return end != NULL && *end == '\0';
}

/* Those that may go, the oldest first: whose time, by their name, backup_retention does not ask to be kept; never the BACKUPS_KEPT newest. */
static RESULT list_expired(const struct job *j, struct dir_names *ret, struct err *e)
{
    const int64_t oldest_kept_s = j->made_unix_s - (int64_t)(j->t->setup.backup_retention_ms / 1000);
    int64_t at;
    int dated = 0, expired = 0;
    TRY(list_root(j, ret, e));
    for (int i = 0; i < ret->n; i++)
        dated += made_at(j, ret->entries[i]->d_name, &at);
    for (int i = 0; i < ret->n; i++) {
        const bool has_date = made_at(j, ret->entries[i]->d_name, &at);
        if (has_date && dated > BACKUPS_KEPT && at < oldest_kept_s) {
            struct dirent *moved = ret->entries[expired];
            ret->entries[expired++] = ret->entries[i];
            ret->entries[i] = moved;
        }
        dated -= has_date;
    }
    while (ret->n > expired)
        free(ret->entries[--ret->n]);
    return ok();
}

/* It loses its name first: what a crash leaves of it must not pass for a backup. */
static RESULT remove_backup(const struct job *j, const char *name, struct err *e)
{
    char part[COPY_NAME_MAX + sizeof PART];
    (void)snprintf(part, sizeof part, "%s" PART, name);
    if (renameat2(j->root, name, j->root, part, RENAME_NOREPLACE) != 0 || fsync(j->root) != 0)
        FAIL_ERRNO(e, ERR_UNAVAILABLE, "HSM_BACKUP", "removing %.100s", name);
    log_event(LOG_WARN, "a backup of the token that has expired was removed", LF_STR("backup", name));
    return copy_remove(j->root, part, e);
}

/* What it holds, by its own word; false: it has none that can be read. */
static bool holds_of(const struct job *j, const char *name, char out[HSM_BACKUP_HOLDS_MAX])
{
    static const char word[] = "# holds ";
    CLEANUP(close_fd) int folder = -1;
    struct err none = {0};
    char *line = NULL;
    size_t room = 0;
    bool found = false;
    if (copy_open_folder(j->root, name, &folder, &none).failed)
        return false;
    const int fd = openat(folder, SUMS, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    FILE *f = fd >= 0 ? fdopen(fd, "r") : NULL;
    if (f == NULL && fd >= 0)
        (void)close(fd);
    while (f != NULL && !found && getline(&line, &room, f) > 0 && line[0] == '#')
        if (strncmp(line, word, sizeof word - 1) == 0) {
            line[strcspn(line, "\n")] = '\0';
            found = snprintf(out, HSM_BACKUP_HOLDS_MAX, "%s", line + sizeof word - 1) < HSM_BACKUP_HOLDS_MAX;
        }
    free(line);
    if (f != NULL)
        (void)fclose(f);
    return found;
}

/* A seal secret that the token has no more: destroyed, so that nobody reads in older copies of the store what was destroyed there. One
 * above all that are there was not destroyed: the token lost it, or was put back from before it, and the backup may be what mends that. */
static bool holds_spent_seal(const struct token *t, char *holds)
{
    static const char word[] = "seal-";
    const uint32_t newest = objects_newest(&t->objects, HSM_SEAL);
    char *rest = NULL;
    for (const char *w = strtok_r(holds, " ", &rest); w != NULL; w = strtok_r(NULL, " ", &rest)) {
        const struct object *there;
        struct err none = {0};
        uint64_t version;
        if (strncmp(w, word, sizeof word - 1) != 0 || !text_parse_u64(bytes_str(w + sizeof word - 1), UINT32_MAX, &version))
            continue;
        if (version < newest && objects_get(&t->objects, HSM_SEAL, CKO_SECRET_KEY, (uint32_t)version, &there, &none).failed)
            return true;
    }
    return false;
}

/* After a new one: those that have expired and hold such a secret. It is tried again with the next. */
static RESULT remove_spent(const struct job *j, struct err *e)
{
    CLEANUP(dir_names_release) struct dir_names l = {0};
    char holds[HSM_BACKUP_HOLDS_MAX];
    TRY(list_expired(j, &l, e));
    for (int i = 0; i < l.n; i++)
        if (holds_of(j, l.entries[i]->d_name, holds) && holds_spent_seal(j->t, holds))
            TRY(remove_backup(j, l.entries[i]->d_name, e));
    return ok();
}

/* Room for one more, by those that have expired. Others are somebody's to move: whoever can have backups made must not be able to push out
 * what may still be needed. */
static RESULT make_room(const struct job *j, unsigned have, struct err *e)
{
    CLEANUP(dir_names_release) struct dir_names l = {0};
    if (have < BACKUPS_MAX)
        return ok();
    TRY(list_expired(j, &l, e));
    for (int i = 0; i < l.n && have >= BACKUPS_MAX; i++, have--)
        TRY(remove_backup(j, l.entries[i]->d_name, e));
    if (have >= BACKUPS_MAX)
        FAIL(e, ERR_EXHAUSTED, "HSM_BACKUP", "%u backups of this token lie in %s: move some away", have, ROOT);
    return ok();
}

/* Nothing changes on the token until the backup is done: meanwhile.h. */
static void between(void *user)
{
    struct token *t = user;
    if (t->meanwhile != NULL)
        t->meanwhile(t->meanwhile_user, -1, 0);
}

/* ---- copy -------------------------------------------------------------------------------------------------------- */

static RESULT begin(struct job *j, struct err *e)
{
    struct backup_state have;
    struct tm utc;
    char stamp[32];
    ops_serial(j->t, j->serial);
    TRY(storage_token_folder(&j->t->storage, j->serial, j->own, e));
    backup_look(j->t, &have);
    j->made_unix_s = clock_unix_s(j->t->setup.clock);
    const time_t when = (time_t)j->made_unix_s;
    INVARIANT(gmtime_r(&when, &utc) != NULL && strftime(stamp, sizeof stamp, STAMP, &utc) > 0);
    (void)snprintf(j->name, sizeof j->name, "%s-%s", j->serial, stamp);
    (void)snprintf(j->part, sizeof j->part, "%s" PART, j->name);
    TRY(open_root(j->t, true, &j->root, e));
    if (faccessat(j->root, j->name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        FAIL(e, ERR_EXISTS, "HSM_BACKUP", "%s was made within the same second: try again", j->name);
    TRY(remove_parts(j, e));
    TRY(make_room(j, have.verified, e));
    return copy_make_folder(j->root, j->part, &j->folder, e);
}

static RESULT copy_token(struct job *j, struct err *e)
{
    CLEANUP(close_fd) int from = -1;
    CLEANUP(close_fd) int to = -1;
    TRY(copy_open_folder(j->t->storage.fd, j->own, &from, e));
    TRY(copy_make_folder(j->folder, j->own, &to, e));
    j->original.between = between;
    j->original.user = j->t;
    TRY(copy_folder(from, to, &j->original, e));
    TRY(copy_sync(to, e));
    log_event(LOG_INFO, "token copied, not verified yet", LF_STR("backup", j->part), LF_INT("files", j->original.n));
    return ok();
}

/* ---- verify ------------------------------------------------------------------------------------------------------ */

static RESULT read_again(const struct job *j, int to, struct err *e)
{
    CLEANUP(close_fd) int own = -1;
    CLEANUP(copy_list_release) struct copy_list now = {.between = between, .user = j->t};
    TRY(copy_open_folder(j->folder, j->own, &own, e));
    TRY(copy_folder(own, to, &now, e));
    return copy_same(&j->original, &now, e);
}

/* The restore, rehearsed: the same files at another place, with a configuration that names it. */
static RESULT rehearse(const struct job *j, char conf[PATH_BYTES], struct err *e)
{
    CLEANUP(close_fd) int scratch = -1;
    CLEANUP(close_fd) int own = -1;
    CLEANUP(buf_release) struct buf text = {0};
    TRY(copy_make_folder(j->root, SCRATCH, &scratch, e));
    TRY(copy_make_folder(scratch, j->own, &own, e));
    TRY(read_again(j, own, e));
    char dir[PATH_BYTES];
    buf_init(&text, STORAGE_CONF_MAX + PATH_BYTES);
    if (snprintf(dir, sizeof dir, "%s/" ROOT "/" SCRATCH, j->t->setup.state_dir) >= PATH_BYTES ||
        snprintf(conf, PATH_BYTES, "%s/" ROOT "/" SCRATCH "/" CONF, j->t->setup.state_dir) >= PATH_BYTES)
        FAIL(e, ERR_INVALID, "HSM_BACKUP", "state_dir is too long a path");
    TRY(storage_config_for(j->t->setup.vendor_config, dir, &text, e));
    return copy_write_file(scratch, CONF, buf_bytes(&text), e);
}

static RESULT check_keys(const struct job *j, const char *conf, struct err *e)
{
    for (size_t i = 0; i < j->t->objects.n; i++) {
        const struct object *o = &j->t->objects.all[i];
        uint8_t nonce[ANSWER_NONCE_BYTES], answer[ANSWER_BYTES];
        if (o->class == CKO_PUBLIC_KEY)
            continue; /* asked for with its private half */
        rng_fill(&rng_system, nonce, sizeof nonce);
        TRY(verifier_answer(j->t, o->kind, o->version, nonce, answer, e));
        TRY(verifier_check(j->v, j->t, conf, o->kind, o->version, nonce, answer, e));
    }
    return ok();
}

static RESULT verify(const struct job *j, struct err *e)
{
    char conf[PATH_BYTES];
    struct err ignored = {0};
    TRY(copy_remove(j->root, SCRATCH, e)); /* what an interrupted run left */
    struct result r = rehearse(j, conf, e);
    if (!r.failed)
        r = check_keys(j, conf, e);
    if (copy_remove(j->root, SCRATCH, &ignored).failed)
        log_event(LOG_WARN, "the folder that a backup was verified in was not removed", LF_ERR(&ignored));
    TRY(r);
    return read_again(j, -1, e);
}

/* ---- say that it is good ----------------------------------------------------------------------------------------- */

static uint32_t version_after(const struct objects *o, enum hsm_object kind, uint32_t version)
{
    uint32_t next = 0;
    for (size_t i = 0; i < o->n; i++)
        if (o->all[i].kind == kind && o->all[i].class != CKO_PUBLIC_KEY && o->all[i].version > version &&
            (next == 0 || o->all[i].version < next))
            next = o->all[i].version;
    return next;
}

/* In order, which the token does not keep. */
static RESULT put_holds(const struct token *t, struct buf *out, struct err *e)
{
    for (enum hsm_object k = HSM_MASTER; k <= HSM_AUDIT; k++)
        for (uint32_t v = 0; (v = version_after(&t->objects, k, v)) != 0;) {
            char label[OBJECT_LABEL_MAX];
            object_label(k, v, label);
            buf_putf(out, "%s%s", out->n > 0 ? " " : "", label + strlen("claviger-"));
        }
    if (out->n == 0)
        FAIL(e, ERR_STATE, "HSM_BACKUP", "the token holds no key of ours: there is nothing to back up");
    INVARIANT(!out->overflow);
    return ok();
}

static RESULT finish(const struct job *j, const char *holds, struct err *e)
{
    CLEANUP(buf_release) struct buf text = {0};
    char hex[2 * COPY_DIGEST_BYTES + 1];
    buf_init(&text, (COPY_NAME_MAX + STORAGE_FOLDER_MAX + 80) * (j->original.n + 1) + HSM_BACKUP_HOLDS_MAX + KEY_LINE_MAX * (j->t->keys.n + 1));
    buf_putf(&text, "# Claviger token backup 1\n# serial %s\n# made %s\n# holds %s\n", j->serial, j->name + strlen(j->serial) + 1,
             holds);
    for (size_t i = 0; i < j->t->keys.n; i++) { /* by which somebody finds the backup that has a key which fsck misses */
        if (!key_whole(&j->t->keys.all[i]))
            continue;
        hex_encode(j->t->keys.all[i].kvid, HSM_KVID_BYTES, hex);
        buf_putf(&text, "# key %s\n", hex);
    }
    for (size_t i = 0; i < j->original.n; i++) {
        hex_encode(j->original.files[i].sha256, COPY_DIGEST_BYTES, hex);
        buf_putf(&text, "%s  %s/%s\n", hex, j->own, j->original.files[i].name);
    }
    INVARIANT(!text.overflow);
    TRY(copy_write_file(j->folder, SUMS, buf_bytes(&text), e));
    if (fsync(j->folder) != 0 || renameat2(j->root, j->part, j->root, j->name, RENAME_NOREPLACE) != 0 || fsync(j->root) != 0)
        FAIL_ERRNO(e, ERR_UNAVAILABLE, "HSM_BACKUP", "naming the verified backup %s", j->name);
    return ok();
}

RESULT ops_backup(struct token *t, struct verifier *v, struct hsm_backup *ret, struct err *e)
{
    CLEANUP(job_release) struct job j = {.t = t, .v = v, .root = -1, .folder = -1};
    CLEANUP(buf_release) struct buf holds = {0};
    struct err why = {0};
    buf_init(&holds, HSM_BACKUP_HOLDS_MAX - 1);
    TRY(token_reload(t, e)); /* what it has now, not what it had when it was opened */
    TRY(put_holds(t, &holds, e));
    TRY(begin(&j, e));
    TRY(copy_token(&j, e));
    TRY(verify(&j, e));
    TRY(finish(&j, buf_cstr(&holds), e));
    *ret = (struct hsm_backup){.made_unix_s = j.made_unix_s, .keys = (uint32_t)keys_whole(&t->keys)};
    (void)snprintf(ret->serial, sizeof ret->serial, "%s", j.serial);
    (void)snprintf(ret->holds, sizeof ret->holds, "%s", buf_cstr(&holds));
    (void)snprintf(ret->path, sizeof ret->path, "%s/" ROOT "/%s", t->setup.state_dir, j.name);
    if (remove_spent(&j, &why).failed)
        log_event(LOG_WARN, "expired backups of the token that hold a destroyed seal secret were not removed", LF_ERR(&why));
    log_event(LOG_INFO, "token backup verified", LF_STR("backup", ret->path), LF_STR("holds", ret->holds), LF_INT("keys", ret->keys));
    return ok();
}
