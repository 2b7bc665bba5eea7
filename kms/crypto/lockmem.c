#include "kms/crypto/lockmem.h"

#include "base/bytes.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* One arena a process: OpenSSL's allocation hooks carry no context to hang it on. Written once, before first use. */
static _Atomic(uint8_t *) arena;
static pthread_once_t arena_once = PTHREAD_ONCE_INIT;
/* Kept outside the arena: a fork wipes that, and must still know which slots its parent's pointers hold. */
static atomic_bool taken[LOCKMEM_SLOTS];

static void arena_map(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), n = (size_t)LOCKMEM_SLOTS * LOCKMEM_SLOT_BYTES;
    INVARIANT(n % page == 0);
    uint8_t *m = mmap(NULL, n + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m == MAP_FAILED)
        return;
    /* mlock by its number: sanitizers replace the function by nothing, and then success would prove nothing. */
    bool good = mprotect(m + page, n, PROT_READ | PROT_WRITE) == 0 && syscall(SYS_mlock, m + page, n) == 0 &&
                madvise(m + page, n, MADV_DONTDUMP) == 0 && madvise(m + page, n, MADV_WIPEONFORK) == 0;
    if (good)
        atomic_store(&arena, m + page);
}

RESULT lockmem_init(struct err *e)
{
    pthread_once(&arena_once, arena_map);
    if (atomic_load(&arena) == NULL)
        FAIL(e, ERR_EXHAUSTED, "SECRET_MEMORY",
             "cannot lock %d bytes for cipher contexts; raise the limit (systemd: LimitMEMLOCK=, shell: ulimit -l)",
             LOCKMEM_SLOTS * LOCKMEM_SLOT_BYTES);
    return ok();
}

void *lockmem_take(size_t n)
{
    if (n > LOCKMEM_SLOT_BYTES)
        return NULL;
    pthread_once(&arena_once, arena_map);
    INVARIANT(atomic_load(&arena) != NULL);
    for (size_t i = 0; i < LOCKMEM_SLOTS; i++)
        if (!atomic_load_explicit(&taken[i], memory_order_relaxed) && !atomic_exchange(&taken[i], true))
            return atomic_load(&arena) + i * LOCKMEM_SLOT_BYTES;
    return NULL;
}

bool lockmem_owns(const void *p)
{
    uintptr_t at = (uintptr_t)p, from = (uintptr_t)atomic_load(&arena);
    return from != 0 && at >= from && at < from + (size_t)LOCKMEM_SLOTS * LOCKMEM_SLOT_BYTES;
}

void lockmem_give(void *p)
{
    INVARIANT(lockmem_owns(p));
    uint8_t *base = atomic_load(&arena);
    size_t i = (size_t)((uint8_t *)p - base) / LOCKMEM_SLOT_BYTES;
    wipe(base + i * LOCKMEM_SLOT_BYTES, LOCKMEM_SLOT_BYTES);
    INVARIANT(atomic_exchange(&taken[i], false));
}

size_t lockmem_used(void)
{
    size_t n = 0;
    for (size_t i = 0; i < LOCKMEM_SLOTS; i++)
        n += atomic_load(&taken[i]);
    return n;
}
