#include "base/config.h"

#include "base/log.h"
#include "base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DAY_MS = 86400000, SEALS_KEPT = 61 /* retired ones; beside these one is in use, one is being left, one being made: TOKEN_SECRETS_MAX */ };
enum config_type { TYPE_STR, TYPE_PATH, TYPE_INT, TYPE_MS, TYPE_BOOL };

struct config_key {
    const char *name;
    enum config_type type;
    const char *def; /* NULL: must be given */
    uint64_t min, max;
    const char *help;
    size_t offset;
};

static const struct config_key keys[] = {
#define X(type, name, def, min, max, help) {#name, TYPE_##type, def, min, max, help, offsetof(struct config, name)},
    CONFIG_TABLE(X)
#undef X
};
enum { KEY_COUNT = sizeof(keys) / sizeof(*keys) };

/* Where a value comes from, for messages. line 0: the default. */
struct source {
    const char *what, *base_dir;
    unsigned line;
};

static char **str_at(const struct config *c, const struct config_key *k)
{
    return (char **)(void *)((char *)(uintptr_t)c + k->offset);
}

static uint64_t *int_at(const struct config *c, const struct config_key *k)
{
    return (uint64_t *)(void *)((char *)(uintptr_t)c + k->offset);
}

static bool *bool_at(const struct config *c, const struct config_key *k)
{
    return (bool *)(void *)((char *)(uintptr_t)c + k->offset);
}

static RESULT set_text(struct config *c, const struct config_key *k, struct bytes v, const struct source *s, struct err *e)
{
    CLEANUP(buf_release) struct buf b;
    bool relative = k->type == TYPE_PATH && v.n > 0 && v.p[0] != '/';

    buf_init(&b, 8192);
    if (v.n < k->min || v.n > k->max)
        FAIL(e, ERR_INVALID, "CONFIG_VALUE", "%s:%u: %s must have %llu to %llu characters, not %zu", s->what, s->line,
             k->name, (unsigned long long)k->min, (unsigned long long)k->max, v.n);
    if (relative && s->base_dir == NULL)
        FAIL(e, ERR_INVALID, "CONFIG_VALUE", "%s:%u: %s must be an absolute path", s->what, s->line, k->name);
    if (relative)
        buf_putf(&b, "%s/", s->base_dir);
    buf_put_bytes(&b, v);
    if (b.overflow || b.n > k->max)
        FAIL(e, ERR_INVALID, "CONFIG_VALUE", "%s:%u: %s is longer than %llu characters as an absolute path", s->what,
             s->line, k->name, (unsigned long long)k->max);
    buf_put_u8(&b, 0);
    *str_at(c, k) = (char *)buf_steal(&b, NULL);
    return ok();
}

static RESULT set_value(struct config *c, const struct config_key *k, struct bytes v, const struct source *s, struct err *e)
{
    uint64_t n = 0;

    switch (k->type) {
    case TYPE_STR:
    case TYPE_PATH:
        return set_text(c, k, v, s, e);
    case TYPE_BOOL:
        if (!text_parse_bool(v, bool_at(c, k)))
            FAIL(e, ERR_INVALID, "CONFIG_VALUE", "%s:%u: %s must be true or false", s->what, s->line, k->name);
        return ok();
    case TYPE_INT:
        if (!text_parse_u64(v, k->max, &n) || n < k->min)
            FAIL(e, ERR_INVALID, "CONFIG_VALUE", "%s:%u: %s must be a number from %llu to %llu", s->what, s->line, k->name,
                 (unsigned long long)k->min, (unsigned long long)k->max);
        break;
    case TYPE_MS:
        if (!text_parse_duration_ms(v, &n) || n < k->min || n > k->max)
            FAIL(e, ERR_INVALID, "CONFIG_VALUE",
                 "%s:%u: %s must be a duration such as 250ms, 5s, 10m or 1h, from %llums to %llums", s->what, s->line,
                 k->name, (unsigned long long)k->min, (unsigned long long)k->max);
        break;
    }
    *int_at(c, k) = n;
    return ok();
}

static struct bytes trim(struct bytes s)
{
    while (s.n > 0 && (s.p[0] == ' ' || s.p[0] == '\t'))
        s = BYTES(s.p + 1, s.n - 1);
    while (s.n > 0 && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t'))
        s.n--;
    return s;
}

static struct bytes take_line(struct bytes *text)
{
    const uint8_t *nl = memchr(text->p, '\n', text->n);
    size_t n = nl != NULL ? (size_t)(nl - text->p) : text->n;
    struct bytes line = {text->p, n};
    size_t skip = nl != NULL ? n + 1 : n;

    *text = BYTES(text->p + skip, text->n - skip);
    return line;
}

static const struct config_key *find_key(struct bytes name)
{
    for (size_t i = 0; i < KEY_COUNT; i++)
        if (bytes_equal(name, bytes_str(keys[i].name)))
            return &keys[i];
    return NULL;
}

static RESULT parse_line(struct config *c, struct bytes line, unsigned *seen_line, const struct source *s, struct err *e)
{
    struct bytes name, value;
    const struct config_key *k;
    const uint8_t *eq;

    line = trim(line);
    if (line.n == 0 || line.p[0] == '#')
        return ok();
    eq = memchr(line.p, '=', line.n);
    if (eq == NULL)
        FAIL(e, ERR_INVALID, "CONFIG_SYNTAX", "%s:%u: expected key = value", s->what, s->line);
    name = trim(BYTES(line.p, (size_t)(eq - line.p)));
    value = trim(BYTES(eq + 1, line.n - (size_t)(eq - line.p) - 1));
    if (!text_is_clean_utf8(line))
        FAIL(e, ERR_INVALID, "CONFIG_SYNTAX", "%s:%u: control characters or bad UTF-8 (Windows line ends?)", s->what,
             s->line);
    if (memmem(value.p, value.n, " #", 2) != NULL || memmem(value.p, value.n, "\t#", 2) != NULL)
        FAIL(e, ERR_INVALID, "CONFIG_SYNTAX", "%s:%u: a comment must stand on its own line", s->what, s->line);
    k = find_key(name);
    if (k == NULL)
        FAIL(e, ERR_INVALID, "CONFIG_UNKNOWN_KEY", "%s:%u: unknown key \"%.*s\" (kmsd --manual lists the keys)", s->what,
             s->line, name.n > 64 ? 64 : (int)name.n, (const char *)name.p);
    if (seen_line[k - keys] != 0)
        FAIL(e, ERR_INVALID, "CONFIG_REPEATED_KEY", "%s:%u: %s was already given in line %u", s->what, s->line, k->name,
             seen_line[k - keys]);
    seen_line[k - keys] = s->line;
    return set_value(c, k, value, s, e);
}

/* Rules the table cannot say. */
static RESULT check_whole(const struct config *c, const char *what, struct err *e)
{
    enum log_level level;

    if (!log_level_from_text(bytes_str(c->log_level), &level))
        FAIL(e, ERR_INVALID, "CONFIG_VALUE", "%s: log_level must be error, warn, info or debug", what);
    if (strncmp(c->hsm_token, "pkcs11:", 7) != 0) /* banned-ok: a URI, nothing secret */
        FAIL(e, ERR_INVALID, "CONFIG_VALUE", "%s: hsm_token must be an RFC 7512 URI such as pkcs11:token=claviger", what);
    if (strstr(c->hsm_token, "pin-value") != NULL || strstr(c->hsm_token, "pin-source") != NULL)
        FAIL(e, ERR_INVALID, "CONFIG_VALUE", "%s: hsm_token must not hold a PIN; name its file in hsm_pin_file", what);
    if (c->seal_period != 0 && c->seal_period < DAY_MS)
        FAIL(e, ERR_INVALID, "CONFIG_VALUE", "%s: seal_period must be 1d to 30d, or 0s", what);
    if (c->seal_period != 0 && c->backup_retention / c->seal_period >= SEALS_KEPT)
        FAIL(e, ERR_INVALID, "CONFIG_VALUE", "%s: backup_retention must be less than %d times seal_period: so many seal secrets are kept", what, SEALS_KEPT);
    return ok();
}

RESULT config_parse(struct bytes text, const char *base_dir, const char *what, struct config **ret, struct err *e)
{
    CLEANUP(config_freep) struct config *c = calloc(1, sizeof(*c));
    unsigned seen_line[KEY_COUNT] = {0};
    struct source s = {.what = what, .base_dir = base_dir};

    INVARIANT(c != NULL);
    if (text.n > CONFIG_MAX_BYTES)
        FAIL(e, ERR_INVALID, "CONFIG_SIZE", "%s is longer than %d bytes", what, CONFIG_MAX_BYTES);
    while (text.n > 0) {
        struct bytes line = take_line(&text);
        s.line++;
        TRY(parse_line(c, line, seen_line, &s, e));
    }
    s.line = 0;
    for (size_t i = 0; i < KEY_COUNT; i++) {
        if (seen_line[i] != 0)
            continue;
        if (keys[i].def == NULL)
            FAIL(e, ERR_INVALID, "CONFIG_MISSING_KEY", "%s: %s must be set: %s", what, keys[i].name, keys[i].help);
        TRY(set_value(c, &keys[i], bytes_str(keys[i].def), &s, e));
    }
    TRY(check_whole(c, what, e));
    *ret = c;
    c = NULL;
    return ok();
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
}

static void free_str(char **s)
{
    free(*s);
}

static RESULT check_file(int fd, const char *path, struct err *e)
{
    struct stat st;

    if (fstat(fd, &st) != 0)
        FAIL_ERRNO(e, ERR_INVALID, "CONFIG_FILE", "cannot examine %s", path);
    if (!S_ISREG(st.st_mode))
        FAIL(e, ERR_INVALID, "CONFIG_FILE", "%s is not a regular file", path);
    if (st.st_uid != 0 && st.st_uid != geteuid())
        FAIL(e, ERR_INVALID, "CONFIG_PERMISSIONS", "%s belongs to user %u; it must belong to root or to the user of kmsd",
             path, st.st_uid);
    if ((st.st_mode & (S_IWGRP | S_IWOTH)) != 0)
        FAIL(e, ERR_INVALID, "CONFIG_PERMISSIONS", "%s can be written by others (mode %04o); run: chmod go-w %s", path,
             st.st_mode & 07777U, path);
    return ok();
}

RESULT config_load(const char *path, struct config **ret, struct err *e)
{
    CLEANUP(close_fd) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    CLEANUP(buf_release) struct buf b;
    CLEANUP(free_str) char *real = NULL;
    char chunk[4096];
    ssize_t n;

    buf_init(&b, CONFIG_MAX_BYTES);
    if (fd < 0)
        FAIL_ERRNO(e, ERR_INVALID, "CONFIG_FILE", "cannot open configuration %s", path);
    TRY(check_file(fd, path, e));
    real = realpath(path, NULL);
    if (real == NULL)
        FAIL_ERRNO(e, ERR_INVALID, "CONFIG_FILE", "cannot resolve %s", path);
    while ((n = read(fd, chunk, sizeof(chunk))) > 0)
        buf_put(&b, chunk, (size_t)n);
    if (n < 0)
        FAIL_ERRNO(e, ERR_INVALID, "CONFIG_FILE", "cannot read %s", path);
    if (b.overflow)
        FAIL(e, ERR_INVALID, "CONFIG_SIZE", "%s is longer than %d bytes", path, CONFIG_MAX_BYTES);
    *strrchr(real, '/') = '\0'; /* realpath is absolute; "" stands for the root folder */
    return config_parse(buf_bytes(&b), real, path, ret, e);
}

void config_free(struct config *c)
{
    if (c == NULL)
        return;
    for (size_t i = 0; i < KEY_COUNT; i++)
        if (keys[i].type == TYPE_STR || keys[i].type == TYPE_PATH)
            free(*str_at(c, &keys[i]));
    free(c);
}

void config_freep(struct config **c)
{
    config_free(*c);
    *c = NULL;
}

static void put_duration(struct buf *out, uint64_t ms)
{
    static const struct {
        const char *name;
        uint64_t ms;
    } units[] = {{"d", 86400000}, {"h", 3600000}, {"m", 60000}, {"s", 1000}};

    for (size_t i = 0; i < sizeof(units) / sizeof(*units); i++) {
        if (ms > 0 && ms % units[i].ms == 0) {
            buf_putf(out, "%llu%s", (unsigned long long)(ms / units[i].ms), units[i].name);
            return;
        }
    }
    buf_putf(out, "%llums", (unsigned long long)ms);
}

void config_dump(const struct config *c, struct buf *out)
{
    for (size_t i = 0; i < KEY_COUNT; i++) {
        const struct config_key *k = &keys[i];
        buf_putf(out, "%s = ", k->name);
        switch (k->type) {
        case TYPE_STR:
        case TYPE_PATH:
            buf_put_str(out, *str_at(c, k));
            break;
        case TYPE_INT:
            buf_putf(out, "%llu", (unsigned long long)*int_at(c, k));
            break;
        case TYPE_MS:
            put_duration(out, *int_at(c, k));
            break;
        case TYPE_BOOL:
            buf_put_str(out, *bool_at(c, k) ? "true" : "false");
            break;
        }
        buf_put_u8(out, '\n');
    }
}

void config_manual(struct buf *out)
{
    static const char *const type_names[] = {[TYPE_STR] = "text", [TYPE_PATH] = "path", [TYPE_INT] = "number",
                                             [TYPE_MS] = "duration", [TYPE_BOOL] = "true or false"};

    buf_put_str(out, "| key | kind | default | meaning |\n| --- | --- | --- | --- |\n");
    for (size_t i = 0; i < KEY_COUNT; i++) {
        const struct config_key *k = &keys[i];
        buf_putf(out, "| `%s` | %s | ", k->name, type_names[k->type]);
        if (k->def == NULL)
            buf_put_str(out, "must be set");
        else if (k->def[0] == '\0')
            buf_put_str(out, "empty");
        else
            buf_putf(out, "`%s`", k->def);
        buf_putf(out, " | %s |\n", k->help);
    }
}
