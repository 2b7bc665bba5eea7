#include "base/log.h"

#include "base/clock.h"
#include "base/text.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static _Atomic int log_max_level = LOG_INFO;
static const char *_Atomic log_process = "claviger";

static const char *const level_names[] = {[LOG_ERROR] = "error", [LOG_WARN] = "warn", [LOG_INFO] = "info", [LOG_DEBUG] = "debug"};

/* One line on the stack: logging must work when the heap does not. `full` cuts, but the newline always fits. */
struct line {
    char p[LOG_LINE_BYTES];
    size_t n;
};

static void line_put(struct line *l, const char *s, size_t n)
{
    size_t room = sizeof(l->p) - 1 - l->n;

    if (n > room)
        n = room;
    memcpy(l->p + l->n, s, n);
    l->n += n;
}

static void line_str(struct line *l, const char *s)
{
    line_put(l, s, strlen(s));
}

static bool is_plain(struct bytes s)
{
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] <= ' ' || s.p[i] >= 0x7f || s.p[i] == '"' || s.p[i] == '=' || s.p[i] == '\\')
            return false;
    return s.n > 0;
}

/* Everything but printable characters is escaped, so no value can end the line or forge a field. */
static void line_value(struct line *l, struct bytes s)
{
    bool utf8;

    if (is_plain(s)) {
        line_put(l, (const char *)s.p, s.n);
        return;
    }
    utf8 = text_is_clean_utf8(s);
    line_str(l, "\"");
    for (size_t i = 0; i < s.n; i++) {
        char esc[8];
        uint8_t c = s.p[i];
        if (c == '"' || c == '\\')
            (void)snprintf(esc, sizeof(esc), "\\%c", c);
        else if (c == '\n')
            (void)snprintf(esc, sizeof(esc), "\\n");
        else if (c < ' ' || c == 0x7f || (c >= 0x80 && !utf8))
            (void)snprintf(esc, sizeof(esc), "\\x%02x", c);
        else
            (void)snprintf(esc, sizeof(esc), "%c", c);
        line_str(l, esc);
    }
    line_str(l, "\"");
}

static void line_hex(struct line *l, struct bytes s)
{
    for (size_t i = 0; i < s.n; i++) {
        char two[3];
        hex_encode(s.p + i, 1, two);
        line_put(l, two, 2);
    }
}

/* Always three digits of the second, so that columns line up. */
static void line_time(struct line *l, int64_t unix_ms)
{
    char when[TEXT_RFC3339_BYTES], fraction[8];

    text_format_rfc3339(unix_ms / 1000 * 1000000000, when);
    (void)snprintf(fraction, sizeof(fraction), ".%03uZ", (unsigned)(unix_ms % 1000) % 1000);
    line_put(l, when, strlen(when) - 1); /* without its Z */
    line_str(l, fraction);
}

static void line_field(struct line *l, const struct log_field *f)
{
    char text[ERR_DETAIL_BYTES + 512];

    line_str(l, " ");
    line_str(l, f->key);
    line_str(l, "=");
    switch (f->kind) {
    case LOGF_INT:
        (void)snprintf(text, sizeof(text), "%lld", (long long)f->i);
        line_str(l, text);
        break;
    case LOGF_STR:
        line_value(l, f->s);
        break;
    case LOGF_HEX:
        line_hex(l, f->s);
        break;
    case LOGF_ERR:
        line_value(l, bytes_str(err_log_text(f->e, text, sizeof(text))));
        break;
    case LOGF_END:
        break;
    }
}

void log_init(const char *process, enum log_level max_level)
{
    atomic_store(&log_process, process);
    log_set_level(max_level);
}

void log_set_level(enum log_level max_level)
{
    atomic_store(&log_max_level, (int)max_level);
}

bool log_level_from_text(struct bytes text, enum log_level *ret)
{
    for (size_t i = 0; i < sizeof(level_names) / sizeof(*level_names); i++) {
        if (bytes_equal(text, bytes_str(level_names[i]))) {
            *ret = (enum log_level)i;
            return true;
        }
    }
    return false;
}

void log_write(enum log_level level, const char *msg, const struct log_field *fields)
{
    struct line l = {.n = 0};
    int saved = errno;

    if ((int)level > atomic_load_explicit(&log_max_level, memory_order_relaxed))
        return;
    line_str(&l, "time=");
    line_time(&l, clock_wall_ns(&clock_system) / 1000000);
    line_str(&l, " level=");
    line_str(&l, level_names[level]);
    line_str(&l, " process=");
    line_str(&l, atomic_load(&log_process));
    line_str(&l, " msg=");
    line_value(&l, bytes_str(msg));
    for (size_t i = 0; i < LOG_FIELDS_MAX && fields[i].kind != LOGF_END; i++)
        line_field(&l, &fields[i]);
    l.p[l.n++] = '\n';
    ssize_t written = write(STDERR_FILENO, l.p, l.n); /* one call: lines of several threads do not mix */
    (void)written;
    errno = saved;
}
