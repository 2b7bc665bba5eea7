/*
 * Purpose: what a disk may hold after the power went: of each file what was synced, and of the rest any part: each write whole, not at
 *          all, or torn at sectors; names as far as their folder was synced, and any number of the next ones.
 * Owns: a copy of everything, in memory. Threads: any; one lock. Errors: a failed set-up fails the test.
 * Limits: DISK_FILES files in all, DISK_SECTOR bytes are written whole. Secrets: none.
 */
#ifndef TESTS_UNIT_KMS_DISK_H
#define TESTS_UNIT_KMS_DISK_H

#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DISK_FILES = 256, DISK_SECTOR = 512, DISK_PATH = 200 };
#define DISK_MUST(x) ((x) ? (void)0 : (perror(#x), abort()))

struct disk_op { /* since the file's last sync */
    struct disk_op *next;
    bool resize;
    uint64_t at; /* resize: the new size */
    size_t n;
    uint8_t p[];
};
struct disk_file {
    uint8_t *p; /* as synced */
    size_t n;
    struct disk_op *head, **tail;
    char name[DISK_PATH], durable_name[DISK_PATH]; /* below root; "": none */
};
struct disk_name { /* since the folder's last sync */
    int file;
    char name[DISK_PATH];
};
struct disk {
    pthread_mutex_t mu;
    char root[DISK_PATH];
    struct disk_file f[DISK_FILES];
    int nfiles;
    struct disk_name *names;
    size_t nnames, names_cap;
    uint64_t ops, cut_at;                     /* calls so far; the next cut comes before this one's successor */
    void (*cut)(struct disk *d, void *user); /* under the lock: disk_image, and set cut_at */
    void *user;
};

static inline uint64_t disk_random(uint64_t *state) /* splitmix64 */
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

static inline void disk_init(struct disk *d, const char *root)
{
    memset(d, 0, sizeof *d);
    snprintf(d->root, sizeof d->root, "%s", root);
    d->cut_at = UINT64_MAX;
    DISK_MUST(pthread_mutex_init(&d->mu, NULL) == 0);
}

static inline void disk_forget(struct disk_file *f)
{
    for (struct disk_op *o = f->head, *next; o; o = next) {
        next = o->next;
        free(o);
    }
    f->head = NULL;
    f->tail = &f->head;
}

static inline void disk_release(struct disk *d)
{
    for (int i = 0; i < d->nfiles; i++) {
        disk_forget(&d->f[i]);
        free(d->f[i].p);
    }
    free(d->names);
    pthread_mutex_destroy(&d->mu);
}

static inline const char *disk_below(const struct disk *d, const char *path)
{
    size_t n = strlen(d->root);
    return strncmp(path, d->root, n) == 0 && path[n] == '/' ? path + n + 1 : NULL;
}

static inline int disk_find(const struct disk *d, const char *name)
{
    for (int i = 0; i < d->nfiles; i++)
        if (strcmp(d->f[i].name, name) == 0)
            return i;
    return -1;
}

/* What happened; counted, and perhaps the moment of a cut. */
static inline void disk_happened(struct disk *d)
{
    if (++d->ops == d->cut_at)
        d->cut(d, d->user);
}

static inline void disk_name(struct disk *d, int file, const char *name)
{
    if (d->nnames == d->names_cap) {
        d->names_cap = d->names_cap ? d->names_cap * 2 : 64;
        d->names = realloc(d->names, d->names_cap * sizeof *d->names);
        DISK_MUST(d->names != NULL);
    }
    snprintf(d->f[file].name, DISK_PATH, "%s", name);
    d->names[d->nnames].file = file;
    snprintf(d->names[d->nnames++].name, DISK_PATH, "%s", name);
}

/* The file of that path: known, or new with that name. -1: not on this disk. */
static inline int disk_open(struct disk *d, const char *path)
{
    const char *name = disk_below(d, path);
    if (!name)
        return -1;
    pthread_mutex_lock(&d->mu);
    int i = disk_find(d, name);
    if (i < 0) {
        DISK_MUST(d->nfiles < DISK_FILES);
        i = d->nfiles++;
        d->f[i].tail = &d->f[i].head;
        disk_name(d, i, name);
        disk_happened(d);
    }
    pthread_mutex_unlock(&d->mu);
    return i;
}

/* A file that is there already, and safe. */
static inline void disk_adopt(struct disk *d, const char *path)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC), i = disk_open(d, path);
    DISK_MUST(fd >= 0 && i >= 0 && fstat(fd, &st) == 0);
    struct disk_file *f = &d->f[i];
    f->n = (size_t)st.st_size;
    f->p = malloc(f->n + 1);
    DISK_MUST(f->p && pread(fd, f->p, f->n, 0) == (ssize_t)f->n);
    memcpy(f->durable_name, f->name, DISK_PATH);
    d->nnames = 0;
    close(fd);
}

static inline void disk_op(struct disk *d, int file, bool resize, const void *p, size_t n, uint64_t at)
{
    if (file < 0)
        return;
    struct disk_op *o = malloc(sizeof *o + n);
    DISK_MUST(o != NULL);
    *o = (struct disk_op){.resize = resize, .at = at, .n = n};
    if (n)
        memcpy(o->p, p, n);
    pthread_mutex_lock(&d->mu);
    *d->f[file].tail = o;
    d->f[file].tail = &o->next;
    disk_happened(d);
    pthread_mutex_unlock(&d->mu);
}
static inline void disk_write(struct disk *d, int file, const void *p, size_t n, uint64_t at) { disk_op(d, file, false, p, n, at); }
static inline void disk_resize(struct disk *d, int file, uint64_t n) { disk_op(d, file, true, NULL, 0, n); }

static inline void disk_grow(uint8_t **p, size_t *n, size_t want)
{
    if (want > *n) {
        *p = realloc(*p, want);
        DISK_MUST(*p != NULL);
        memset(*p + *n, 0, want - *n);
    }
    *n = want > *n ? want : *n;
}

static inline void disk_apply(uint8_t **p, size_t *n, const struct disk_op *o, uint64_t *torn /* NULL: whole */)
{
    if (o->resize) {
        disk_grow(p, n, o->at);
        *n = o->at;
        return;
    }
    disk_grow(p, n, o->at + o->n);
    for (size_t done = 0; done < o->n;) {
        size_t part = DISK_SECTOR - (size_t)((o->at + done) % DISK_SECTOR);
        part = part < o->n - done ? part : o->n - done;
        if (!torn || disk_random(torn) % 2)
            memcpy(*p + o->at + done, o->p + done, part);
        done += part;
    }
}

static inline void disk_sync(struct disk *d, int file)
{
    if (file < 0)
        return;
    pthread_mutex_lock(&d->mu);
    struct disk_file *f = &d->f[file];
    for (const struct disk_op *o = f->head; o; o = o->next)
        disk_apply(&f->p, &f->n, o, NULL);
    disk_forget(f);
    disk_happened(d);
    pthread_mutex_unlock(&d->mu);
}

static inline bool disk_in_folder(const char *name, const char *folder /* below root; "" is root */)
{
    size_t n = strlen(folder);
    return n ? strncmp(name, folder, n) == 0 && name[n] == '/' : strchr(name, '/') == NULL;
}

/* to NULL: unlinked. */
static inline void disk_rename(struct disk *d, const char *path, const char *to)
{
    const char *name = disk_below(d, path), *new_name = to ? disk_below(d, to) : "";
    if (!name || !new_name)
        return;
    pthread_mutex_lock(&d->mu);
    int i = disk_find(d, name), over = new_name[0] ? disk_find(d, new_name) : -1;
    if (over >= 0 && over != i)
        disk_name(d, over, "");
    if (i >= 0)
        disk_name(d, i, new_name);
    disk_happened(d);
    pthread_mutex_unlock(&d->mu);
}

static inline void disk_sync_folder(struct disk *d, const char *path)
{
    const char *folder = strcmp(path, d->root) == 0 ? "" : disk_below(d, path);
    if (!folder)
        return;
    pthread_mutex_lock(&d->mu);
    for (size_t i = 0; i < d->nnames; i++) {
        struct disk_file *f = &d->f[d->names[i].file];
        const char *where = d->names[i].name[0] ? d->names[i].name : f->durable_name;
        if (disk_in_folder(where, folder) || disk_in_folder(f->durable_name, folder)) {
            memcpy(f->durable_name, d->names[i].name, DISK_PATH);
            memmove(&d->names[i], &d->names[i + 1], (d->nnames - i - 1) * sizeof *d->names);
            d->nnames--, i--;
        }
    }
    disk_happened(d);
    pthread_mutex_unlock(&d->mu);
}

/* SQLite syncs the folder of a file by itself, at the file's first sync. */
static inline void disk_sync_name(struct disk *d, int file)
{
    char folder[DISK_PATH * 2];
    if (file < 0)
        return;
    snprintf(folder, sizeof folder, "%s/%s", d->root, d->f[file].name);
    *strrchr(folder, '/') = 0;
    disk_sync_folder(d, folder);
}

static inline void disk_put(const char *out, const char *name, const uint8_t *p, size_t n)
{
    char path[DISK_PATH * 2];
    snprintf(path, sizeof path, "%s/%s", out, name);
    char *slash = strrchr(path, '/');
    *slash = 0;
    mkdir(path, 0700);
    *slash = '/';
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    DISK_MUST(fd >= 0 && ftruncate(fd, (off_t)n) == 0);
    for (size_t at = 0; at < n; at += 4096) { /* zeros stay holes */
        static const uint8_t zeros[4096];
        size_t part = n - at < 4096 ? n - at : 4096;
        if (memcmp(p + at, zeros, part) != 0)
            DISK_MUST(pwrite(fd, p + at, part, (off_t)at) == (ssize_t)part);
    }
    close(fd);
}

/* What the disk may hold if the power goes now, into the folder `out`. Under the lock (from `cut`), or when nothing runs. Of the bytes
 * that were not synced, by seed: nothing; everything; all but some; or of each write at random the whole, nothing, or some sectors. */
static inline void disk_image(const struct disk *d, uint64_t seed, const char *out)
{
    uint64_t r = seed;
    unsigned how = (unsigned)(disk_random(&r) % 8);
    char(*names)[DISK_PATH] = calloc((size_t)d->nfiles + 1, sizeof *names);
    DISK_MUST(names != NULL);
    mkdir(out, 0700);
    for (int i = 0; i < d->nfiles; i++)
        memcpy(names[i], d->f[i].durable_name, DISK_PATH);
    size_t kept = d->nnames ? disk_random(&r) % (d->nnames + 1) : 0; /* names change in order */
    for (size_t i = 0; i < kept; i++)
        memcpy(names[d->names[i].file], d->names[i].name, DISK_PATH);
    for (int i = 0; i < d->nfiles; i++) {
        const struct disk_file *f = &d->f[i];
        if (!names[i][0])
            continue;
        size_t n = f->n;
        uint8_t *p = malloc(n + 1);
        DISK_MUST(p != NULL);
        if (n)
            memcpy(p, f->p, n);
        for (const struct disk_op *o = f->head; o; o = o->next) {
            unsigned die = (unsigned)(disk_random(&r) % 4);
            if (how == 1 || (how == 2 && die) || (how > 2 && die < 2))
                disk_apply(&p, &n, o, NULL);
            else if (how > 2 && die == 2)
                disk_apply(&p, &n, o, &r);
        }
        disk_put(out, names[i], p, n);
        free(p);
    }
    free(names);
}

static inline int disk_remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st, (void)kind, (void)at;
    return remove(path);
}
static inline void disk_remove(const char *path)
{
    nftw(path, disk_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* In memory where there is room: thousands of images need no disk. */
static inline void disk_folder(char out[DISK_PATH])
{
    snprintf(out, DISK_PATH, "%s/clv-cut-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    DISK_MUST(mkdtemp(out) != NULL);
}

static inline unsigned disk_points(unsigned otherwise)
{
    const char *text = getenv("CLV_CUT_POINTS");
    return text ? (unsigned)strtoul(text, NULL, 10) : otherwise;
}
static inline uint64_t disk_seed(void)
{
    const char *text = getenv("CLV_CUT_SEED");
    return text ? strtoull(text, NULL, 10) : 1;
}

#endif
