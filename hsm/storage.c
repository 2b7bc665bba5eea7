#include "hsm/storage.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { STORAGE_SERIAL = 16 };

static void close_file(FILE **f)
{
    if (*f != NULL)
        (void)fclose(*f);
}

/* "directories.tokendir = /path" into ret; SoftHSM takes white space anywhere around both parts. */
static bool value_of(char *line, const char *key, char **ret)
{
    while (isspace((unsigned char)*line))
        line++;
    if (strncmp(line, key, strlen(key)) != 0)
        return false;
    line += strlen(key);
    while (isspace((unsigned char)*line))
        line++;
    if (*line++ != '=')
        return false;
    while (isspace((unsigned char)*line))
        line++;
    size_t n = strlen(line);
    while (n > 0 && isspace((unsigned char)line[n - 1]))
        line[--n] = '\0';
    *ret = line;
    return n > 0;
}

static RESULT open_config(const char *vendor_config, FILE **ret, struct err *e)
{
    *ret = fopen(vendor_config, "re");
    if (*ret != NULL)
        return ok();
    struct result r = err_set_errno(e, ERR_STATE, "HSM_CONFIG", errno, __FILE__, __LINE__, "the vendor configuration %s",
                                    vendor_config);
    e->hint = "correct hsm_config_file";
    return r;
}

RESULT storage_setting(const char *vendor_config, const char *key, char *ret, size_t n, struct err *e)
{
    ret[0] = '\0';
    if (vendor_config[0] == '\0')
        return ok();
    CLEANUP(close_file) FILE *f = NULL;
    TRY(open_config(vendor_config, &f, e));
    char line[4096], *value;
    for (size_t seen = 0; seen < STORAGE_CONF_MAX && fgets(line, sizeof line, f) != NULL; seen += strlen(line))
        if (value_of(line, key, &value))
            (void)snprintf(ret, n, "%s", value);
    return ok();
}

RESULT storage_path(const char *vendor_config, char *ret, size_t n, struct err *e)
{
    return storage_setting(vendor_config, "directories.tokendir", ret, n, e);
}

RESULT storage_open(struct storage *s, const char *vendor_config, struct err *e)
{
    struct stat st;
    *s = (struct storage){.fd = -1};
    TRY(storage_path(vendor_config, s->path, sizeof s->path, e));
    if (s->path[0] == '\0')
        return ok();
    s->fd = open(s->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (s->fd >= 0 && fstat(s->fd, &st) == 0) {
        s->dev = st.st_dev;
        s->ino = st.st_ino;
    }
    return ok();
}

void storage_close(struct storage *s)
{
    if (s->fd >= 0)
        (void)close(s->fd);
    s->fd = -1;
}

bool storage_absent(const struct storage *s)
{
    struct stat st;
    return s->path[0] != '\0' && stat(s->path, &st) != 0;
}

bool storage_replaced(const struct storage *s)
{
    struct stat st;
    return s->path[0] != '\0' && stat(s->path, &st) == 0 && (st.st_dev != s->dev || st.st_ino != s->ino);
}

RESULT storage_sync(const struct storage *s, struct err *e)
{
    if (s->fd < 0) {
        sync(); /* Linux waits for completion */
        return ok();
    }
    if (syncfs(s->fd) != 0)
        FAIL_ERRNO(e, ERR_INTERNAL, "HSM_STORAGE", "syncing %s", s->path);
    return ok();
}

static bool is_folder_of(const char *name, const char *serial)
{
    char digits[STORAGE_FOLDER_MAX];
    size_t n = 0;
    for (; *name != '\0' && n < sizeof digits - 1; name++)
        if (*name != '-')
            digits[n++] = *name;
    digits[n] = '\0';
    return *name == '\0' && n > strlen(serial) && strcmp(digits + n - strlen(serial), serial) == 0;
}

RESULT storage_token_folder(const struct storage *s, const char *serial, char ret[STORAGE_FOLDER_MAX], struct err *e)
{
    unsigned found = 0;
    DIR *d = s->path[0] != '\0' && strlen(serial) == STORAGE_SERIAL ? opendir(s->path) : NULL;
    if (d == NULL)
        FAIL(e, ERR_UNIMPLEMENTED, "HSM_BACKUP", "this token is no files that could be copied");
    for (const struct dirent *entry; (entry = readdir(d)) != NULL;)
        if (is_folder_of(entry->d_name, serial)) {
            (void)snprintf(ret, STORAGE_FOLDER_MAX, "%s", entry->d_name);
            found++;
        }
    (void)closedir(d);
    if (found != 1)
        FAIL(e, ERR_UNIMPLEMENTED, "HSM_BACKUP", "%u folders in %s belong to the token with serial %s", found, s->path, serial);
    return ok();
}

RESULT storage_config_for(const char *vendor_config, const char *tokendir, struct buf *out, struct err *e)
{
    CLEANUP(close_file) FILE *f = NULL;
    char chunk[4096];
    size_t n;
    TRY(open_config(vendor_config, &f, e));
    while ((n = fread(chunk, 1, sizeof chunk, f)) > 0)
        buf_put(out, chunk, n);
    buf_putf(out, "\ndirectories.tokendir = %s\n", tokendir); /* the last one counts */
    if (ferror(f) != 0 || out->overflow)
        FAIL(e, ERR_STATE, "HSM_CONFIG", "the vendor configuration %s cannot be read, or is too long", vendor_config);
    return ok();
}
