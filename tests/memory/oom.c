/*
 * Preloaded into one program: the Nth allocation fails. A page that the test maps too says which one, and whose; it counts what was
 * asked for, and remembers where memory was refused.
 *
 * Below gRPC by default: libgrpc, abseil and libstdc++ stop the process when an allocation fails, so what they and libc itself ask for
 * is not counted unless the page says `everybody`. The programs' own realloc (base/wipefree.c) asks malloc, and so comes here.
 */
#include <fcntl.h>
#include <link.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t m);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t align, size_t n);

struct page { /* test_oom.py has the same */
    _Atomic int64_t countdown; /* the allocation that fails: 1 is the next; 0: none */
    _Atomic int64_t seen;      /* allocations counted since it was set to 0 */
    _Atomic int64_t hits;      /* allocations refused */
    _Atomic int64_t everybody;
    _Atomic int64_t attached;  /* processes that this library is in */
};

enum { RANGES_MAX = 64 };
static struct page *page;
static struct {
    uintptr_t from, to;
} not_ours[RANGES_MAX];
static size_t nranges;

static int look_at(struct dl_phdr_info *info, size_t size, void *unused)
{
    static const char *const names[] = {"libgrpc.", "libgpr.", "libabsl", "libstdc++", "libupb", "libaddress_sorting", "libre2.", "libcares.",
                                        "libc.so", "ld-linux", "oom.so"};
    (void)size, (void)unused;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strstr(info->dlpi_name, names[i]) == NULL)
            continue;
        for (int h = 0; h < info->dlpi_phnum && nranges < RANGES_MAX; h++)
            if (info->dlpi_phdr[h].p_type == PT_LOAD && (info->dlpi_phdr[h].p_flags & PF_X) != 0) {
                not_ours[nranges].from = info->dlpi_addr + info->dlpi_phdr[h].p_vaddr;
                not_ours[nranges].to = not_ours[nranges].from + info->dlpi_phdr[h].p_memsz;
                nranges++;
            }
        return 0;
    }
    return 0;
}

__attribute__((constructor)) static void attach(void)
{
    const char *path = getenv("OOM_PAGE");
    int fd = path != NULL ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *p;

    if (fd < 0)
        return;
    (void)dl_iterate_phdr(look_at, NULL);
    p = mmap(NULL, sizeof(*page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    (void)close(fd);
    if (p == MAP_FAILED)
        return;
    page = p;
    atomic_fetch_add(&page->attached, 1);
}

static bool refuse(const void *caller)
{
    if (page == NULL)
        return false;
    if (!atomic_load_explicit(&page->everybody, memory_order_relaxed))
        for (size_t i = 0; i < nranges; i++)
            if ((uintptr_t)caller >= not_ours[i].from && (uintptr_t)caller < not_ours[i].to)
                return false;
    atomic_fetch_add(&page->seen, 1);
    if (atomic_load(&page->countdown) <= 0 || atomic_fetch_sub(&page->countdown, 1) != 1)
        return false;
    atomic_fetch_add(&page->hits, 1);
    return true;
}

void *malloc(size_t n)
{
    return refuse(__builtin_return_address(0)) ? NULL : __libc_malloc(n);
}

void *calloc(size_t n, size_t m)
{
    return refuse(__builtin_return_address(0)) ? NULL : __libc_calloc(n, m);
}

void *realloc(void *p, size_t n)
{
    return refuse(__builtin_return_address(0)) ? NULL : __libc_realloc(p, n);
}

void *aligned_alloc(size_t align, size_t n)
{
    return refuse(__builtin_return_address(0)) ? NULL : __libc_memalign(align, n);
}
