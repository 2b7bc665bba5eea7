#include "hsm/pin.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct record {
    uint32_t count;
    int64_t last_unix_s;
    uint32_t pending;    /* a login is or was under way */
    uint64_t try_stamp;  /* with this PIN file */
    uint64_t good_stamp; /* the PIN file that last succeeded */
};
enum { RECORD_BYTES = 128 };

/* Fixed widths: the line is overwritten in place, one write of one length, so no crash leaves half of two records. */
static size_t record_format(const struct record *r, char out[RECORD_BYTES])
{
    int n = snprintf(out, RECORD_BYTES, "wrong=%" PRIu32 " last=%012" PRId64 " pending=%" PRIu32 " try=%016" PRIx64
                     " good=%016" PRIx64 "\n", r->count, r->last_unix_s, r->pending, r->try_stamp, r->good_stamp);
    INVARIANT(n > 0 && n < RECORD_BYTES);
    return (size_t)n;
}

static RESULT damaged(const struct pin_tries *t, struct err *e)
{
    struct result r = err_set(e, ERR_STATE, "HSM_PIN_TRIES", __FILE__, __LINE__, "the record of PIN tries is damaged: %s", t->path);
    e->hint = "make sure the PIN file is right, then remove the record";
    return r;
}

/* A removed file means an operator says: start again. */
static void follow_removal(struct pin_tries *t)
{
    struct stat st;
    if (fstat(t->fd, &st) == 0 && st.st_nlink > 0)
        return;
    int fd = open(t->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        /* A confined process may be unable to make it anew; the old, nameless file then goes on counting from zero. */
        (void)!ftruncate(t->fd, 0);
        return;
    }
    (void)close(t->fd);
    t->fd = fd;
}

static RESULT record_read(struct pin_tries *t, struct record *ret, struct err *e)
{
    follow_removal(t);
    char text[RECORD_BYTES + 1], again[RECORD_BYTES];
    ssize_t n = pread(t->fd, text, RECORD_BYTES, 0);
    if (n < 0)
        FAIL_ERRNO(e, ERR_INTERNAL, "HSM_PIN_TRIES", "reading %s", t->path);
    struct record r = {0};
    if (n == 0) {
        *ret = r;
        return ok();
    }
    text[n] = '\0';
    int fields = sscanf(text, "wrong=%" SCNu32 " last=%" SCNd64 " pending=%" SCNu32 " try=%" SCNx64 " good=%" SCNx64, &r.count,
                        &r.last_unix_s, &r.pending, &r.try_stamp, &r.good_stamp);
    /* Only what we would write ourselves is taken: sscanf alone is forgiving. */
    if (fields != 5 || r.last_unix_s < 0 || r.pending > 1 || record_format(&r, again) != (size_t)n ||
        memcmp(text, again, (size_t)n) != 0)
        return damaged(t, e);
    *ret = r;
    return ok();
}

static RESULT record_write(struct pin_tries *t, const struct record *r, struct err *e)
{
    char text[RECORD_BYTES];
    size_t n = record_format(r, text);
    if (pwrite(t->fd, text, n, 0) != (ssize_t)n || ftruncate(t->fd, (off_t)n) != 0 || fdatasync(t->fd) != 0)
        FAIL_ERRNO(e, ERR_INTERNAL, "HSM_PIN_TRIES", "writing %s", t->path);
    return ok();
}

RESULT pin_tries_open(struct pin_tries *t, const char *state_dir, const struct clock *clock, struct err *e)
{
    t->clock = clock;
    t->fd = -1;
    int n = snprintf(t->path, sizeof t->path, "%s/" PIN_TRIES_FILE, state_dir);
    if (n < 0 || (size_t)n >= sizeof t->path)
        FAIL(e, ERR_INVALID, NULL, "state_dir is too long");
    t->fd = open(t->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (t->fd < 0)
        FAIL_ERRNO(e, ERR_STATE, "HSM_PIN_TRIES", "opening %s", t->path);
    return ok();
}

void pin_tries_close(struct pin_tries *t)
{
    if (t->fd >= 0)
        (void)close(t->fd);
    t->fd = -1;
}

static uint64_t mix(uint64_t h, uint64_t v)
{
    h ^= v;
    h *= 0x9e3779b97f4a7c15u;
    return h ^ (h >> 29);
}

uint64_t pin_file_stamp(int fd)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return 0;
    uint64_t h = mix(1, (uint64_t)st.st_dev);
    h = mix(h, (uint64_t)st.st_ino);
    h = mix(h, (uint64_t)st.st_size);
    h = mix(h, (uint64_t)st.st_mtim.tv_sec * 1000000000u + (uint64_t)st.st_mtim.tv_nsec);
    h = mix(h, (uint64_t)st.st_ctim.tv_sec * 1000000000u + (uint64_t)st.st_ctim.tv_nsec);
    return h | 1; /* 0 means none */
}

/* Settles a login whose end nobody saw. */
static void settle(struct record *r)
{
    if (r->pending && r->try_stamp != r->good_stamp)
        r->count++;
    r->pending = 0;
}

RESULT pin_tries_check(struct pin_tries *t, struct err *e)
{
    struct record r;
    TRY(record_read(t, &r, e));
    bool unsettled = r.pending != 0;
    settle(&r);
    const int64_t now = clock_unix_s(t->clock);
    /* A clock set back would stretch the minute to years: count it from now instead. */
    bool future = r.last_unix_s > now;
    if (future)
        r.last_unix_s = now;
    if (unsettled || future)
        TRY(record_write(t, &r, e));
    if (r.count >= PIN_TRIES_MAX) {
        struct result f = err_set(e, ERR_STATE, "HSM_PIN_TRIES", __FILE__, __LINE__,
                                  "%" PRIu32 " wrong PINs were tried, no more is tried until %s is removed", r.count, t->path);
        e->hint = "correct hsm_pin_file, make sure the token is not locked, then remove the record";
        return f;
    }
    /* Whole seconds are compared: a difference of 60 may be one of 59.1. */
    if (r.count > 0 && now - r.last_unix_s <= PIN_WAIT_S) {
        struct result f = err_set(e, ERR_STATE, "HSM_PIN_WAIT", __FILE__, __LINE__,
                                  "a wrong PIN was tried %" PRId64 " s ago (%" PRIu32 " of %d): one try a minute",
                                  now - r.last_unix_s, r.count, PIN_TRIES_MAX);
        e->hint = "correct hsm_pin_file and start again after a minute";
        return f;
    }
    return ok();
}

RESULT pin_tries_begin(struct pin_tries *t, uint64_t stamp, struct err *e)
{
    struct record r;
    TRY(record_read(t, &r, e));
    settle(&r);
    r.pending = 1;
    r.try_stamp = stamp;
    r.last_unix_s = clock_unix_s(t->clock);
    return record_write(t, &r, e);
}

RESULT pin_tries_end(struct pin_tries *t, enum pin_outcome outcome, uint32_t *ret_count, struct err *e)
{
    struct record r;
    TRY(record_read(t, &r, e));
    r.pending = 0;
    switch (outcome) {
    case PIN_RIGHT:
        r.count = 0;
        r.good_stamp = r.try_stamp;
        break;
    case PIN_WRONG:
        r.count++;
        if (r.good_stamp == r.try_stamp)
            r.good_stamp = 0;
        break;
    case PIN_LOCKED:
        r.count = PIN_TRIES_MAX;
        break;
    case PIN_NOT_TRIED:
        break;
    }
    *ret_count = r.count;
    return record_write(t, &r, e);
}
