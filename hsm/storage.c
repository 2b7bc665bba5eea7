#include "hsm/storage.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void close_file(FILE **f)
{
    if (*f != NULL)
        (void)fclose(*f);
}

/* "directories.tokendir = /path" into dir; SoftHSM takes white space anywhere around both parts. */
static bool tokendir_of(char *line, char **ret)
{
    static const char key[] = "directories.tokendir";
    while (isspace((unsigned char)*line))
        line++;
    if (strncmp(line, key, sizeof key - 1) != 0)
        return false;
    line += sizeof key - 1;
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

RESULT storage_path(const char *vendor_config, char *ret, size_t n, struct err *e)
{
    ret[0] = '\0';
    if (vendor_config[0] == '\0')
        return ok();
    CLEANUP(close_file) FILE *f = fopen(vendor_config, "re");
    if (f == NULL) {
        struct result r = err_set_errno(e, ERR_STATE, "HSM_CONFIG", errno, __FILE__, __LINE__, "the vendor configuration %s",
                                        vendor_config);
        e->hint = "correct hsm_config_file";
        return r;
    }
    char line[4096], *dir;
    for (size_t seen = 0; seen < STORAGE_CONF_MAX && fgets(line, sizeof line, f) != NULL; seen += strlen(line))
        if (tokendir_of(line, &dir))
            (void)snprintf(ret, n, "%s", dir);
    return ok();
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
