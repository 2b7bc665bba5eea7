#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void err_reset(struct err *e, enum err_code code, const char *reason, const char *file, int line)
{
    *e = (struct err){.code = code, .reason = reason, .file = file, .line = line};
}

static void mark_cut(struct err *e, size_t wanted)
{
    if (wanted >= sizeof(e->detail))
        memcpy(e->detail + sizeof(e->detail) - 4, "...", 4);
}

__attribute__((format(printf, 2, 0))) static size_t detail_vput(struct err *e, const char *fmt, va_list ap)
{
    int n = vsnprintf(e->detail, sizeof(e->detail), fmt, ap);

    if (n < 0) { /* a format that cannot be rendered must not hide the error itself */
        e->detail[0] = '\0';
        return 0;
    }
    mark_cut(e, (size_t)n);
    return (size_t)n;
}

struct result err_set(struct err *e, enum err_code code, const char *reason, const char *file, int line, const char *fmt,
                      ...)
{
    va_list ap;

    if (e != NULL) {
        err_reset(e, code, reason, file, line);
        va_start(ap, fmt);
        (void)detail_vput(e, fmt, ap);
        va_end(ap);
    }
    return (struct result){1};
}

struct result err_set_field(struct err *e, const char *field, const char *hint, const char *file, int line)
{
    if (e != NULL) {
        err_reset(e, ERR_INVALID, NULL, file, line);
        e->field = field;
        e->hint = hint;
    }
    return (struct result){1};
}

struct result err_set_errno(struct err *e, enum err_code code, const char *reason, int errnum, const char *file, int line,
                            const char *fmt, ...)
{
    char text[64];
    va_list ap;
    size_t n;

    if (e == NULL)
        return (struct result){1};
    err_reset(e, code, reason, file, line);
    va_start(ap, fmt);
    n = detail_vput(e, fmt, ap);
    va_end(ap);
    if (n < sizeof(e->detail)) {
        const char *why = strerror_r(errnum, text, sizeof(text)); /* the GNU form: the returned pointer counts */
        int m = snprintf(e->detail + n, sizeof(e->detail) - n, ": %s", why);
        mark_cut(e, n + (m > 0 ? (size_t)m : 0));
    }
    return (struct result){1};
}

const char *err_phrase(enum err_code code)
{
    switch (code) {
#define X(c, phrase)                                                                                                   \
    case c:                                                                                                            \
        return phrase;
        ERR_CODES(X)
#undef X
    }
    return "internal error";
}

const char *err_name(enum err_code code)
{
    switch (code) {
#define X(c, phrase)                                                                                                   \
    case c:                                                                                                            \
        return #c;
        ERR_CODES(X)
#undef X
    }
    return "ERR_?";
}

const char *err_public(const struct err *e, char *out, size_t n)
{
    (void)snprintf(out, n, "%s%s%s%s%s", err_phrase(e->code), e->field ? ": " : "", e->field ? e->field : "",
                   e->hint ? ": " : "", e->hint ? e->hint : "");
    return out;
}

const char *err_log_text(const struct err *e, char *out, size_t n)
{
    bool detail = e->detail[0] != '\0';

    (void)snprintf(out, n, "%s%s%s%s%s%s%s%s%s%s at %s:%d", err_name(e->code), e->reason ? "/" : "",
                   e->reason ? e->reason : "", e->field ? " " : "", e->field ? e->field : "", e->hint ? ": " : "",
                   e->hint ? e->hint : "", detail ? " (" : "", e->detail, detail ? ")" : "", e->file ? e->file : "?",
                   e->line);
    return out;
}

const char *err_operator(const struct err *e, char *out, size_t n)
{
    const char *words = e->detail[0] != '\0' ? e->detail : e->hint != NULL ? e->hint : err_phrase(e->code);

    (void)snprintf(out, n, "%s%s%s [%s%s%s]", e->field ? e->field : "", e->field ? ": " : "", words, err_name(e->code),
                   e->reason ? "/" : "", e->reason ? e->reason : "");
    return out;
}

/* Only write(2) and abort: the heap or a lock may be what is broken. */
void invariant_failed(const char *what, const char *file, int line)
{
    char text[256];
    int n = snprintf(text, sizeof(text), "claviger: invariant failed: %s at %s:%d\n", what, file, line);

    if (n > 0) {
        size_t len = (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1;
        ssize_t written = write(STDERR_FILENO, text, len);
        (void)written;
    }
    abort();
}
