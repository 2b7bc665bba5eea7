#include <errno.h>
#include <fcntl.h>
/* OpenSSL's types.h declares a type ERR_STATE, which is the name of one of our codes. */
#define ERR_STATE OPENSSL_ERR_STATE
#include <openssl/evp.h>
#undef ERR_STATE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "vault/cmd/kmsctl/csv_out.h"
#include "vault/cmd/kmsctl/kmsctl.h"
#include "vault/cmd/kmsctl/whole.h"

enum { PLACE_MAX = 65536, FORMAT = 1, READ_BLOCK = 65536 };

struct csv_out {
    struct csv_work work;
    char *path, *part, *place, *fresh; /* fresh: the next place, until it is renamed */
    int fd;                            /* of part */
    uint64_t bytes;                    /* in part */
    EVP_MD_CTX *sum;                   /* of those */
    int64_t noted_ms;
};

static char *joined(const char *a, const char *b)
{
    char *text = NULL;
    INVARIANT(asprintf(&text, "%s%s", a, b) >= 0);
    return text;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

/* ---- sums ------------------------------------------------------------------------------------------------------------------- */

static EVP_MD_CTX *sum_new(void)
{
    EVP_MD_CTX *m = EVP_MD_CTX_new();
    INVARIANT(m && EVP_DigestInit_ex(m, EVP_sha256(), NULL) == 1);
    return m;
}

/* Of what it has seen so far; it can go on. */
static void sum_text(const EVP_MD_CTX *m, char out[CSV_SUM_TEXT])
{
    uint8_t sum[32];
    EVP_MD_CTX *copy = EVP_MD_CTX_new();
    INVARIANT(copy && EVP_MD_CTX_copy_ex(copy, m) == 1 && EVP_DigestFinal_ex(copy, sum, NULL) == 1);
    EVP_MD_CTX_free(copy);
    hex_encode(sum, sizeof sum, out);
}

/* The first `limit` bytes, or what there is; reads by position, so that a descriptor from elsewhere stays where it is. */
static struct result sum_fd(int fd, const char *what, uint64_t limit, EVP_MD_CTX *m, uint64_t *ret_bytes, struct claviger_error *e)
{
    uint8_t block[READ_BLOCK];
    uint64_t at = 0;
    struct result r = ok();
    while (at < limit) {
        ssize_t n = pread(fd, block, limit - at < sizeof block ? (size_t)(limit - at) : sizeof block, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            r = client_fail(e, CLAVIGER_UNKNOWN, "INPUT", "%s cannot be read: %s", what, strerror(errno));
        if (n <= 0)
            break;
        INVARIANT(EVP_DigestUpdate(m, block, (size_t)n) == 1);
        at += (uint64_t)n;
    }
    wipe(block, sizeof block);
    *ret_bytes = at;
    return r;
}

RESULT csv_sum_file(int fd, const char *what, char ret_sum[CSV_SUM_TEXT], uint64_t *ret_bytes, struct claviger_error *e)
{
    EVP_MD_CTX *m = sum_new();
    struct result r = sum_fd(fd, what, UINT64_MAX, m, ret_bytes, e);
    if (!r.failed)
        sum_text(m, ret_sum);
    EVP_MD_CTX_free(m);
    return r;
}

/* ---- the place, on disk -------------------------------------------------------------------------------------------------------- */

static json_t *place_json(const struct csv_out *o, const struct csv_place *at)
{
    char sum[CSV_SUM_TEXT];
    sum_text(o->sum, sum);
    return json_pack("{s:i,s:s,s:s,s:s,s:I,s:s,s:I,s:I,s:I,s:s,s:I,s:I,s:I,s:I}", "claviger_csv_rewrap", FORMAT, "key", o->work.key, "columns",
                     o->work.columns, "id_column", o->work.id_column, "input_bytes", (json_int_t)o->work.input_bytes, "input_sha256",
                     o->work.input_sum, "read_bytes", (json_int_t)at->input_bytes, "records", (json_int_t)at->records, "written_bytes",
                     (json_int_t)o->bytes, "written_sha256", sum, "moved", (json_int_t)at->moved, "newest", (json_int_t)at->newest, "kept",
                     (json_int_t)at->kept, "bad", (json_int_t)at->bad);
}

static struct result put_fresh(const struct csv_out *o, const char *text, struct claviger_error *e)
{
    CLEANUP(close_fd) int fd = open(o->fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return whole_failed(e, "made", o->fresh);
    TRY(write_fd(fd, o->fresh, bytes_str(text), e));
    return fsync(fd) == 0 ? ok() : whole_failed(e, "synced", o->fresh);
}

static struct result put_place(struct csv_out *o, const struct csv_place *at, struct claviger_error *e)
{
    if (fdatasync(o->fd) != 0)
        return whole_failed(e, "synced", o->part);
    json_t *j = place_json(o, at);
    char *text = j ? json_dumps(j, JSON_INDENT(1)) : NULL;
    json_decref(j);
    if (!text)
        return usage(e, "the names of columns must be UTF-8");
    struct result r = put_fresh(o, text, e);
    free(text);
    TRY(r);
    if (rename(o->fresh, o->place) != 0)
        return whole_failed(e, "renamed", o->fresh);
    o->noted_ms = clock_boot_ms(&clock_system);
    return ok();
}

struct left { /* what an interrupted run left */
    struct csv_place at;
    uint64_t written;
    char written_sum[CSV_SUM_TEXT];
};

static struct result is_damaged(struct claviger_error *e, const char *path)
{
    return client_fail(e, CLAVIGER_DATA_LOSS, "RESUME", "%s is not what the interrupted run left: remove it and begin again", path);
}

static struct result is_other(struct claviger_error *e, const char *what)
{
    return client_fail(e, CLAVIGER_FAILED_PRECONDITION, "RESUME", "the interrupted run had another %s: finish that one, or remove what it left", what);
}

/* Values and what they are of, from the text of FILE.place. */
static struct result read_values(const struct csv_out *o, const json_t *j, struct left *ret, struct claviger_error *e)
{
    int format = 0;
    const char *key, *columns, *id_column, *input_sum, *written_sum;
    json_int_t input, read, records, written, moved, newest, kept, bad;
    if (json_unpack((json_t *)(uintptr_t)j, "{s:i,s:s,s:s,s:s,s:I,s:s,s:I,s:I,s:I,s:s,s:I,s:I,s:I,s:I !}", "claviger_csv_rewrap", &format, "key", &key,
                    "columns", &columns, "id_column", &id_column, "input_bytes", &input, "input_sha256", &input_sum, "read_bytes", &read,
                    "records", &records, "written_bytes", &written, "written_sha256", &written_sum, "moved", &moved, "newest", &newest,
                    "kept", &kept, "bad", &bad) != 0 ||
        format != FORMAT || read < 0 || read > input || records < 1 || written < 0 || moved < 0 || newest < 0 || kept < 0 || bad < 0 ||
        strlen(written_sum) != CSV_SUM_TEXT - 1)
        return is_damaged(e, o->place);
    const struct csv_work *w = &o->work;
    if (strcmp(key, w->key) != 0)
        return is_other(e, "key");
    if (strcmp(columns, w->columns) != 0 || strcmp(id_column, w->id_column) != 0)
        return is_other(e, "choice of columns");
    if ((uint64_t)input != w->input_bytes || strcmp(input_sum, w->input_sum) != 0)
        return is_other(e, "input, or it was changed meanwhile");
    *ret = (struct left){.at = {.input_bytes = (uint64_t)read, .records = (uint64_t)records, .moved = (uint64_t)moved,
                                .newest = (uint64_t)newest, .kept = (uint64_t)kept, .bad = (uint64_t)bad},
                         .written = (uint64_t)written};
    memcpy(ret->written_sum, written_sum, CSV_SUM_TEXT);
    return ok();
}

static struct result read_place(const struct csv_out *o, struct left *ret, struct claviger_error *e)
{
    CLEANUP(buf_release) struct buf text;
    buf_init(&text, PLACE_MAX + 1);
    TRY(read_all(o->place, PLACE_MAX, &text, e));
    json_t *j = json_loadb((const char *)text.p, text.n, JSON_REJECT_DUPLICATES, NULL);
    struct result r = j ? read_values(o, j, ret, e) : is_damaged(e, o->place);
    json_decref(j);
    return r;
}

/* ---- opening ------------------------------------------------------------------------------------------------------------------- */

/* What is before the place is what was written; what comes after it is a run's that did not live to say so. */
static struct result go_on(struct csv_out *o, int fd, const char *path, const struct left *l, struct claviger_error *e)
{
    char sum[CSV_SUM_TEXT];
    TRY(sum_fd(fd, path, l->written, o->sum, &o->bytes, e));
    sum_text(o->sum, sum);
    return o->bytes == l->written && strcmp(sum, l->written_sum) == 0 ? ok() : is_damaged(e, path);
}

/* Is FILE, to the byte, what the run that left the place wrote, and is it all of this run's work? */
static bool is_proven(struct csv_out *o, struct left *l)
{
    struct claviger_error why;
    struct stat st;
    if (read_place(o, l, &why).failed || l->at.input_bytes != o->work.input_bytes)
        return false;
    CLEANUP(close_fd) int fd = open(o->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    return fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == l->written && !go_on(o, fd, o->path, l, &why).failed;
}

/* The run died between its last steps: FILE has its name, and its place is still there. Else FILE is somebody else's. */
static struct result already_complete(struct csv_out *o, struct csv_place *ret, struct claviger_error *e)
{
    struct left l;
    if (!is_proven(o, &l))
        return whole_taken(e, o->path, ", and it is not what the interrupted run wrote");
    if (unlink(o->place) != 0 && errno != ENOENT)
        return whole_failed(e, "removed", o->place);
    *ret = l.at;
    return whole_sync_folder(o->path, e);
}

/* What the run writes beside FILE it cuts off or writes over. */
static struct result spare_input(const struct csv_out *o, struct claviger_error *e)
{
    const char *const written[] = {o->path, o->part, o->place, o->fresh};
    struct stat st;
    for (size_t i = 0; i < sizeof written / sizeof *written; i++)
        if (lstat(written[i], &st) == 0 && st.st_dev == o->work.input->st_dev && st.st_ino == o->work.input->st_ino)
            return usage(e, "the input is %s, which this run would write", written[i]);
    return ok();
}

static struct result open_part(struct csv_out *o, bool resume, struct csv_place *ret, struct claviger_error *e)
{
    struct left l = {0};
    TRY(whole_lock(o->part, o->path, 0600, &o->fd, e));
    bool left = whole_is_there(o->place);
    if (left && !resume)
        return client_fail(e, CLAVIGER_FAILED_PRECONDITION, "RESUME",
                           "an interrupted run left %s: --resume goes on with it, or remove it and %s", o->place, o->part);
    if (left) {
        TRY(read_place(o, &l, e));
        TRY(go_on(o, o->fd, o->part, &l, e));
    }
    if (ftruncate(o->fd, (off_t)l.written) != 0 || lseek(o->fd, (off_t)l.written, SEEK_SET) < 0)
        return whole_failed(e, "cut", o->part);
    *ret = l.at;
    return whole_sync_folder(o->path, e); /* a place without its file would be damage */
}

static struct result open_any(struct csv_out *o, bool resume, struct csv_place *ret, bool *ret_complete, struct claviger_error *e)
{
    *ret_complete = whole_is_there(o->path);
    if (*ret_complete && !(resume && whole_is_there(o->place)))
        return whole_taken(e, o->path, resume ? ", with no interrupted run beside it: a run gives it its name when it is complete" : "");
    return *ret_complete ? already_complete(o, ret, e) : open_part(o, resume, ret, e);
}

RESULT csv_out_open(const char *path, const struct csv_work *work, bool resume, struct csv_place *ret_place, struct csv_out **ret,
                    struct claviger_error *e)
{
    struct csv_out *o = calloc(1, sizeof *o);
    bool complete = false;
    INVARIANT(o);
    *o = (struct csv_out){.work = *work, .path = joined(path, ""), .part = joined(path, ".part"), .place = joined(path, ".place"),
                          .fresh = joined(path, ".place.new"), .fd = -1, .sum = sum_new()};
    struct result r = spare_input(o, e);
    if (!r.failed)
        r = open_any(o, resume, ret_place, &complete, e);
    *ret = o;
    if (r.failed || complete) {
        csv_out_free(o);
        *ret = NULL;
    }
    return r;
}

/* ---- writing ------------------------------------------------------------------------------------------------------------------- */

RESULT csv_out_write(struct csv_out *o, struct bytes b, struct claviger_error *e)
{
    TRY(write_fd(o->fd, o->part, b, e));
    INVARIANT(EVP_DigestUpdate(o->sum, b.p, b.n) == 1);
    o->bytes += b.n;
    return ok();
}

RESULT csv_out_note(struct csv_out *o, const struct csv_place *at, bool now, struct claviger_error *e)
{
    return now || clock_boot_ms(&clock_system) - o->noted_ms >= CSV_NOTE_MS ? put_place(o, at, e) : ok();
}

RESULT csv_out_finish(struct csv_out *o, const struct csv_place *at, struct claviger_error *e)
{
    TRY(put_place(o, at, e));
    TRY(whole_name(o->part, o->path, e)); /* when somebody made FILE meanwhile, all that was written stays beside it */
    TRY(whole_sync_folder(o->path, e));
    if (unlink(o->place) != 0 && errno != ENOENT) /* who resumes may have seen that all is done */
        return whole_failed(e, "removed", o->place);
    return whole_sync_folder(o->path, e);
}

void csv_out_free(struct csv_out *o)
{
    if (!o)
        return;
    close_fd(&o->fd);
    EVP_MD_CTX_free(o->sum);
    free(o->path);
    free(o->part);
    free(o->place);
    free(o->fresh);
    free(o);
}
