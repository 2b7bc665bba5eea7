/*
 * _exit for the programs of two trees: core and hsm leave by it, past every exit handler, and so does whoever gives up. In the
 * coverage tree their lines would go uncounted, in the address sanitizer's tree nobody would look for their leaks.
 */
#include <stdint.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef QUALITY_cover
void __gcov_dump(void);
#else
#include <sanitizer/lsan_interface.h>

/* OpenSSL's secure heap is a mapping, and mappings are not searched: what only it points at (the ciphers of the random
 * generators) would look lost. Weak: not every program links OpenSSL. */
int CRYPTO_secure_malloc_initialized(void) __attribute__((weak));
void *CRYPTO_secure_malloc(size_t n, const char *file, int line) __attribute__((weak));

static void search_secure_heap(void)
{
    unsigned long from, to;
    uintptr_t inside;
    FILE *maps;
    char line[512];

    if (CRYPTO_secure_malloc_initialized == NULL || CRYPTO_secure_malloc_initialized() != 1)
        return;
    inside = (uintptr_t)CRYPTO_secure_malloc(1, __FILE__, __LINE__);
    maps = fopen("/proc/self/maps", "r");
    while (maps != NULL && fgets(line, sizeof(line), maps) != NULL)
        if (sscanf(line, "%lx-%lx", &from, &to) == 2 && inside >= from && inside < to)
            __lsan_register_root_region((const void *)from, to - from);
    if (maps != NULL)
        (void)fclose(maps);
}
#endif

void _exit(int status)
{
#ifdef QUALITY_cover
    __gcov_dump();
#else
    search_secure_heap();
    __lsan_do_leak_check(); /* ends the process itself when it finds one */
#endif
    for (;;)
        (void)syscall(SYS_exit_group, status);
}
