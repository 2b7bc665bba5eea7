#include "vault/ops/init.h"

#include "base/chan.h"
#include "base/dir.h"
#include "base/text.h"
#include "vault/ops/files.h"

#include <fnmatch.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void close_fd(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
}

static int is_document(const struct dirent *d)
{
    return d->d_name[0] != '.' && fnmatch("*.yaml", d->d_name, 0) == 0;
}

static RESULT put_document(const char *dir, const char *name, struct buf *out, struct err *e)
{
    CLEANUP(buf_release) struct buf text;
    CLEANUP(close_fd) int fd = -1;
    char path[PATH_MAX], chunk[4096];
    ssize_t n;

    buf_init(&text, CHAN_MAX_BYTES);
    if (snprintf(path, sizeof(path), "%s/%s", dir, name) >= (int)sizeof(path))
        FAIL(e, ERR_INVALID, "POLICY_DIR", "the path of policy document %s is too long", name);
    TRY(files_open("policy document", path, false, &fd, e));
    while ((n = read(fd, chunk, sizeof(chunk))) > 0)
        buf_put(&text, chunk, (size_t)n);
    if (n < 0)
        FAIL_ERRNO(e, ERR_INVALID, "POLICY_DIR", "cannot read %s", path);
    if (text.overflow || !text_is_utf8(buf_bytes(&text)))
        FAIL(e, ERR_INVALID, "POLICY_DIR", "%s is longer than %d bytes or not UTF-8", path, CHAN_MAX_BYTES);
    buf_put_v16(out, bytes_str(name));
    buf_put_v32(out, buf_bytes(&text));
    return ok();
}

static RESULT check_name(const char *what, const char *value, struct err *e)
{
    struct bytes v = bytes_str(value);

    if (v.n == 0 || v.n > INIT_NAME_MAX || !text_is_clean_utf8(v))
        FAIL(e, ERR_INVALID, "INIT_ARGUMENT", "%s must be 1 to %d characters without control characters", what, INIT_NAME_MAX);
    return ok();
}

RESULT init_message(const struct init_request *r, struct buf *out, struct err *e)
{
    CLEANUP(dir_names_release) struct dir_names l = {0};

    TRY(check_name("--admin", r->admin, e));
    TRY(check_name("--admin-san", r->admin_san, e));
    const char *how = r->token_backup;
    if (how != NULL && strcmp(how, INIT_VENDOR_CLONE) != 0)
        FAIL(e, ERR_INVALID, "INIT_ARGUMENT", "--token-backup can only be " INIT_VENDOR_CLONE);
    l.n = scandir(r->policy_dir, &l.entries, is_document, dir_by_name);
    if (l.n < 0)
        FAIL_ERRNO(e, ERR_NOT_FOUND, "POLICY_DIR", "cannot read policy folder %s (--policy-dir names it)", r->policy_dir);
    if (l.n == 0 || l.n > INIT_DOCUMENTS_MAX)
        FAIL(e, ERR_NOT_FOUND, "POLICY_DIR", "%s has %d policy documents (*.yaml); 1 to %d are needed", r->policy_dir, l.n,
             INIT_DOCUMENTS_MAX);
    buf_put_v16(out, bytes_str(r->admin));
    buf_put_v16(out, bytes_str(r->admin_san));
    buf_put_u16(out, (uint16_t)l.n);
    for (int i = 0; i < l.n; i++)
        TRY(put_document(r->policy_dir, l.entries[i]->d_name, out, e));
    buf_put_u8(out, how != NULL);
    if (out->overflow || out->n > CHAN_MAX_BYTES)
        FAIL(e, ERR_INVALID, "POLICY_DIR", "the policy documents in %s are longer than %d bytes together", r->policy_dir,
             CHAN_MAX_BYTES);
    return ok();
}
