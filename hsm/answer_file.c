#include "hsm/answer_file.h"

#include "base/dir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { PATH_BYTES = 4200 };
#define FILE_NAME "hsm-answers"

static void close_fd(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
}

static RESULT path_of(const char *folder, const char *name, char out[PATH_BYTES], struct err *e)
{
    const int n = snprintf(out, PATH_BYTES, "%s/%s", folder, name);
    if (n < 0 || n >= PATH_BYTES)
        FAIL(e, ERR_INVALID, "HSM_STORAGE", "state_dir is too long");
    return ok();
}

/* Empty where there is no file. */
static RESULT read_all(const char *folder, struct buf *out, struct err *e)
{
    CLEANUP(close_fd) int fd = -1;
    char path[PATH_BYTES], chunk[4096];
    ssize_t n = 0;
    TRY(path_of(folder, FILE_NAME, path, e));
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT)
        return ok();
    while (fd >= 0 && (n = read(fd, chunk, sizeof chunk)) > 0)
        buf_put(out, chunk, (size_t)n);
    if (fd < 0 || n < 0)
        FAIL_ERRNO(e, ERR_INTERNAL, "HSM_STORAGE", "reading %s", path);
    return ok();
}

static void put_line(const struct answer_line *l, struct buf *out)
{
    char nonce[2 * ANSWER_NONCE_BYTES + 1], answer[2 * ANSWER_BYTES + 1];
    hex_encode(l->nonce, sizeof l->nonce, nonce);
    hex_encode(l->answer, sizeof l->answer, answer);
    buf_putf(out, "%s %s %s\n", l->name, nonce, answer);
}

static RESULT foreign(struct err *e)
{
    struct result r = err_set(e, ERR_STATE, "HSM_STORAGE", __FILE__, __LINE__, FILE_NAME " in hsm's folder holds what was not written by hsm");
    e->hint = "put it back as it was; without it the token's secrets are not tried at start, which is a named weakness";
    return r;
}

/* The next line of the text, and what is left of it. False: the text is at its end, or this is no line of ours. */
static bool next_line(struct bytes *text, struct bytes *ret_line, struct bytes *ret_name)
{
    enum { TAIL = 1 + 2 * ANSWER_NONCE_BYTES + 1 + 2 * ANSWER_BYTES };
    const uint8_t *end = text->n > 0 ? memchr(text->p, '\n', text->n) : NULL;
    if (end == NULL)
        return false;
    *ret_line = BYTES(text->p, (size_t)(end - text->p));
    *text = BYTES(end + 1, text->n - ret_line->n - 1);
    if (ret_line->n <= TAIL)
        return false;
    *ret_name = BYTES(ret_line->p, ret_line->n - TAIL);
    return memchr(ret_name->p, ' ', ret_name->n) == NULL;
}

RESULT answer_lines(struct bytes untrusted, const char *name, struct answer_line *found, bool *ret_found, struct buf *others, struct err *e)
{
    struct bytes text = untrusted, line, is;
    *ret_found = false;
    while (text.n > 0) {
        struct answer_line l;
        if (!next_line(&text, &line, &is))
            return foreign(e);
        const uint8_t *nonce = is.p + is.n + 1, *answer = nonce + 2 * sizeof l.nonce + 1;
        if (is.p[is.n] != ' ' || answer[-1] != ' ' || !hex_decode(BYTES(nonce, 2 * sizeof l.nonce), l.nonce, sizeof l.nonce) ||
            !hex_decode(BYTES(answer, 2 * sizeof l.answer), l.answer, sizeof l.answer))
            return foreign(e);
        const bool this = bytes_equal(is, bytes_str(name));
        if (this && *ret_found)
            return foreign(e); /* twice */
        *ret_found |= this;
        if (this && found != NULL) {
            memcpy(found->nonce, l.nonce, sizeof l.nonce);
            memcpy(found->answer, l.answer, sizeof l.answer);
        }
        if (!this && others != NULL) {
            buf_put_bytes(others, line);
            buf_put_u8(others, '\n');
        }
    }
    return ok();
}

RESULT answer_file_get(const char *folder, struct answer_line *line, bool *ret_found, struct err *e)
{
    CLEANUP(buf_release) struct buf text = {0};
    buf_init(&text, ANSWER_FILE_MAX);
    TRY(read_all(folder, &text, e));
    return text.overflow ? foreign(e) : answer_lines(buf_bytes(&text), line->name, line, ret_found, NULL, e);
}

static RESULT write_new(const char *path, struct bytes text, struct err *e)
{
    CLEANUP(close_fd) int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 || write(fd, text.p, text.n) != (ssize_t)text.n || fsync(fd) != 0)
        FAIL_ERRNO(e, ERR_INTERNAL, "HSM_STORAGE", "writing %s", path);
    return ok();
}

static RESULT replace(const char *folder, struct bytes text, struct err *e)
{
    char path[PATH_BYTES], part[PATH_BYTES];
    TRY(path_of(folder, FILE_NAME, path, e));
    TRY(path_of(folder, FILE_NAME ".part", part, e));
    TRY(write_new(part, text, e));
    if (rename(part, path) != 0)
        FAIL_ERRNO(e, ERR_INTERNAL, "HSM_STORAGE", "renaming %s", part);
    return dir_sync(folder, "HSM_STORAGE", e);
}

RESULT answer_file_put(const char *folder, const struct answer_line *line, struct err *e)
{
    CLEANUP(buf_release) struct buf text = {0}, next = {0};
    bool found;
    buf_init(&text, ANSWER_FILE_MAX);
    buf_init(&next, ANSWER_FILE_MAX);
    TRY(read_all(folder, &text, e));
    TRY(answer_lines(buf_bytes(&text), line->name, NULL, &found, &next, e));
    put_line(line, &next);
    if (text.overflow || next.overflow)
        FAIL(e, ERR_INTERNAL, "HSM_STORAGE", FILE_NAME " is longer than %d bytes", ANSWER_FILE_MAX);
    return replace(folder, buf_bytes(&next), e);
}

RESULT answer_file_remove(const char *folder, const char *name, struct err *e)
{
    CLEANUP(buf_release) struct buf text = {0}, next = {0};
    bool found;
    buf_init(&text, ANSWER_FILE_MAX);
    buf_init(&next, ANSWER_FILE_MAX);
    TRY(read_all(folder, &text, e));
    if (text.overflow)
        return foreign(e);
    TRY(answer_lines(buf_bytes(&text), name, NULL, &found, &next, e));
    return found ? replace(folder, buf_bytes(&next), e) : ok();
}
