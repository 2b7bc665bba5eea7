#include "base/secret.h"

#include "base/confine_build.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

struct secret {
    uint8_t bytes[SECRET_MAX_BYTES];
};
_Static_assert(sizeof(struct secret) == SECRET_MAX_BYTES, "slots are dense");

enum { NO_SLOT = UINT32_MAX };

/* The one slab of the process. len[i] is 0 while slot i is free: that is how double free and use after free are seen.
 * The free list is a queue, so that a freed slot stays unused (and its zeros are checked) for as long as possible. */
static struct {
    struct secret *slots; /* between two PROT_NONE pages */
    uint8_t *map;
    size_t map_bytes, slot_bytes;
    _Atomic uint8_t *len;
    uint32_t *next;
    uint32_t head, tail;
    size_t n, used;
    pthread_mutex_t lock;
} slab = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* VmLck of this process in bytes, 0 when it cannot be read: then locking is not proved. */
static size_t locked_bytes(void)
{
    FILE *f = fopen("/proc/self/status", "re");
    char line[256];
    unsigned long kib = 0;

    if (f == NULL)
        return 0;
    while (fgets(line, sizeof(line), f) != NULL)
        if (sscanf(line, "VmLck: %lu kB", &kib) == 1)
            break;
    (void)fclose(f);
    return (size_t)kib * 1024;
}

static void raise_memlock_limit(void)
{
    struct rlimit l;

    if (getrlimit(RLIMIT_MEMLOCK, &l) == 0 && l.rlim_cur < l.rlim_max) {
        l.rlim_cur = l.rlim_max;
        (void)setrlimit(RLIMIT_MEMLOCK, &l); /* where it fails, mlock below says so */
    }
}

static RESULT slab_lock(void *p, size_t n, struct err *e)
{
    size_t before = locked_bytes();

    raise_memlock_limit();
    if (madvise(p, n, MADV_DONTDUMP) != 0)
        FAIL_ERRNO(e, ERR_INTERNAL, "SECRET_MEMORY", "MADV_DONTDUMP on key memory");
    if (madvise(p, n, MADV_WIPEONFORK) != 0)
        FAIL_ERRNO(e, ERR_INTERNAL, "SECRET_MEMORY", "MADV_WIPEONFORK on key memory");
    /* The raw call: sanitizers replace mlock() by nothing, and then it would prove nothing. */
    if (syscall(SYS_mlock, p, n) != 0)
        FAIL_ERRNO(e, ERR_EXHAUSTED, "SECRET_MEMORY",
                   "cannot lock %zu bytes of key memory; raise the limit (systemd: LimitMEMLOCK=, shell: ulimit -l) or "
                   "lower key_cache_max",
                   n);
    if (locked_bytes() < before + n)
        FAIL(e, ERR_INTERNAL, "SECRET_MEMORY", "the kernel does not show %zu bytes of key memory as locked (VmLck)", n);
    return ok();
}

static size_t whole_pages(size_t n, size_t page)
{
    return (n + page - 1) / page * page;
}

RESULT secret_pages_new(size_t n, uint8_t **ret, struct err *e)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = whole_pages(n, page);
    void *map = mmap(NULL, bytes + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    INVARIANT(n > 0);
    if (map == MAP_FAILED)
        FAIL_ERRNO(e, ERR_EXHAUSTED, "SECRET_MEMORY", "map %zu bytes", bytes);
    uint8_t *p = (uint8_t *)map + page;
    struct result r = mprotect(p, bytes, PROT_READ | PROT_WRITE) == 0
                          ? slab_lock(p, bytes, e)
                          : err_set_errno(e, ERR_INTERNAL, "SECRET_MEMORY", errno, __FILE__, __LINE__, "mprotect key memory");
    if (r.failed) {
        (void)munmap(map, bytes + 2 * page);
        return r;
    }
    *ret = p;
    return ok();
}

void secret_pages_free(uint8_t *p, size_t n)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);

    if (p == NULL)
        return;
    wipe(p, n);
    (void)munmap(p - page, whole_pages(n, page) + 2 * page);
}

static void slab_drop(void)
{
    if (slab.map != NULL)
        (void)munmap(slab.map, slab.map_bytes);
    free((void *)slab.len);
    free(slab.next);
    slab.map = NULL;
    slab.slots = NULL;
    slab.len = NULL;
    slab.next = NULL;
    slab.n = slab.used = slab.map_bytes = slab.slot_bytes = 0;
}

RESULT secret_slab_init(size_t slots, struct err *e)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    struct result r;
    void *p;

    INVARIANT(slab.map == NULL);
    if (slots == 0 || slots > UINT32_MAX / SECRET_MAX_BYTES)
        FAIL(e, ERR_INVALID, "SECRET_MEMORY", "%zu key slots asked for", slots);
    slab.slot_bytes = whole_pages(slots * SECRET_MAX_BYTES, page);
    slab.map_bytes = slab.slot_bytes + 2 * page;
    p = mmap(NULL, slab.map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        FAIL_ERRNO(e, ERR_EXHAUSTED, "SECRET_MEMORY", "map %zu bytes", slab.map_bytes);
    slab.map = p;
    slab.slots = (struct secret *)(void *)(slab.map + page);
    slab.len = calloc(slots, sizeof(*slab.len));
    slab.next = calloc(slots, sizeof(*slab.next));
    INVARIANT(slab.len != NULL && slab.next != NULL);
    r = mprotect(slab.slots, slab.slot_bytes, PROT_READ | PROT_WRITE) == 0
            ? slab_lock(slab.slots, slab.slot_bytes, e)
            : err_set_errno(e, ERR_INTERNAL, "SECRET_MEMORY", errno, __FILE__, __LINE__, "mprotect key memory");
    if (r.failed) {
        slab_drop();
        return r;
    }
    for (uint32_t i = 0; i < slots; i++)
        slab.next[i] = i + 1 < slots ? i + 1 : NO_SLOT;
    slab.head = 0;
    slab.tail = (uint32_t)slots - 1;
    slab.n = slots;
    return ok();
}

void secret_slab_release(void)
{
    INVARIANT(slab.used == 0);
    slab_drop();
}

struct secret_stats secret_stats(void)
{
    struct secret_stats s;

    (void)pthread_mutex_lock(&slab.lock);
    s = (struct secret_stats){.slots = slab.n, .used = slab.used, .locked_bytes = slab.slot_bytes};
    (void)pthread_mutex_unlock(&slab.lock);
    return s;
}

static bool all_zero(const uint8_t *p, size_t n)
{
    uint8_t any = 0;

    for (size_t i = 0; i < n; i++)
        any |= p[i];
    return any == 0;
}

static uint32_t slot_of(const struct secret *s)
{
    uintptr_t offset = (uintptr_t)s - (uintptr_t)slab.slots;

    INVARIANT(slab.slots != NULL && offset % sizeof(*s) == 0 && offset / sizeof(*s) < slab.n);
    return (uint32_t)(offset / sizeof(*s));
}

static size_t live_len(const struct secret *s)
{
    size_t n = atomic_load_explicit(&slab.len[slot_of(s)], memory_order_relaxed);

    INVARIANT(n != 0); /* used after it was freed */
    return n;
}

RESULT secret_new(size_t len, struct secret **ret, struct err *e)
{
    uint32_t i;

    INVARIANT(slab.map != NULL);
    if (len == 0 || len > SECRET_MAX_BYTES)
        FAIL(e, ERR_INVALID, "SECRET_LENGTH", "a secret of %zu bytes", len);
    (void)pthread_mutex_lock(&slab.lock);
    i = slab.used < slab.n ? slab.head : NO_SLOT;
    if (i != NO_SLOT) {
        slab.head = slab.next[i];
        if (slab.head == NO_SLOT)
            slab.tail = NO_SLOT;
        slab.used++;
    }
    (void)pthread_mutex_unlock(&slab.lock);
    if (i == NO_SLOT)
        FAIL(e, ERR_EXHAUSTED, "SECRET_SLOTS", "all %zu key slots are in use", slab.n);
    INVARIANT(all_zero(slab.slots[i].bytes, SECRET_MAX_BYTES)); /* somebody wrote to it after it was freed */
    atomic_store_explicit(&slab.len[i], (uint8_t)len, memory_order_relaxed);
    *ret = &slab.slots[i];
    return ok();
}

void secret_free(struct secret *s)
{
    uint32_t i;
    size_t n;

    if (s == NULL)
        return;
    i = slot_of(s);
    n = atomic_exchange_explicit(&slab.len[i], 0, memory_order_relaxed);
    INVARIANT(n != 0);                                        /* freed twice */
    INVARIANT(all_zero(s->bytes + n, SECRET_MAX_BYTES - n)); /* written past its end */
    wipe(s->bytes, n);
    (void)pthread_mutex_lock(&slab.lock);
    slab.next[i] = NO_SLOT;
    if (slab.tail == NO_SLOT)
        slab.head = i;
    else
        slab.next[slab.tail] = i;
    slab.tail = i;
    slab.used--;
    (void)pthread_mutex_unlock(&slab.lock);
}

void secret_freep(struct secret **s)
{
    secret_free(*s);
    *s = NULL;
}

RESULT secret_from(const void *p, size_t len, struct secret **ret, struct err *e)
{
    struct secret *s;

    TRY(secret_new(len, &s, e));
    memcpy(s->bytes, p, len);
    *ret = s;
    return ok();
}

RESULT secret_dup(const struct secret *s, struct secret **ret, struct err *e)
{
    return secret_from(s->bytes, live_len(s), ret, e);
}

size_t secret_len(const struct secret *s)
{
    return live_len(s);
}

const uint8_t *secret_borrow(const struct secret *s)
{
    (void)live_len(s);
    return s->bytes;
}

uint8_t *secret_borrow_mut(struct secret *s)
{
    (void)live_len(s);
    return s->bytes;
}

bool secret_equal(const struct secret *a, const struct secret *b)
{
    size_t n = live_len(a);

    return n == live_len(b) && bytes_ct_equal(a->bytes, b->bytes, n);
}

static RESULT read_up_to(int fd, uint8_t *p, size_t n, size_t *ret_got, struct err *e)
{
    size_t got = 0;

    while (got < n) {
        ssize_t k = read(fd, p + got, n - got);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            FAIL_ERRNO(e, ERR_UNAVAILABLE, "SECRET_READ", "read a secret from descriptor %d", fd);
        if (k == 0)
            break;
        got += (size_t)k;
    }
    *ret_got = got;
    return ok();
}

/* The content may be the slot's full length and still end in a newline: the two bytes after it are probed apart. */
RESULT secret_read_fd(int fd, struct secret **ret, struct err *e)
{
    CLEANUP(secret_freep) struct secret *s = NULL;
    uint8_t after[2];
    size_t n, extra = 0;

    TRY(secret_new(SECRET_MAX_BYTES, &s, e));
    TRY(read_up_to(fd, s->bytes, SECRET_MAX_BYTES, &n, e));
    if (n == SECRET_MAX_BYTES)
        TRY(read_up_to(fd, after, sizeof(after), &extra, e));
    bool too_long = extra > 1 || (extra == 1 && after[0] != '\n');
    wipe(after, sizeof(after));
    if (too_long)
        FAIL(e, ERR_INVALID, "SECRET_LENGTH", "the secret is longer than %d bytes", SECRET_MAX_BYTES);
    if (extra == 0 && n > 0 && s->bytes[n - 1] == '\n')
        s->bytes[--n] = 0;
    if (n == 0)
        FAIL(e, ERR_INVALID, "SECRET_LENGTH", "the secret is empty");
    atomic_store_explicit(&slab.len[slot_of(s)], (uint8_t)n, memory_order_relaxed);
    *ret = s;
    s = NULL;
    return ok();
}

RESULT secret_process_harden(struct err *e)
{
    const struct rlimit none = {0};

    if (setrlimit(RLIMIT_CORE, &none) != 0)
        FAIL_ERRNO(e, ERR_INTERNAL, "HARDEN", "RLIMIT_CORE 0");
    if (confine_is_sanitizer_build()) /* the leak checker traces its own process */
        return ok();
    if (prctl(PR_SET_DUMPABLE, 0L, 0L, 0L, 0L) != 0)
        FAIL_ERRNO(e, ERR_INTERNAL, "HARDEN", "PR_SET_DUMPABLE 0");
    return ok();
}
