/*
 * _exit for the programs of two trees: core and hsm leave by it, past every exit handler. In the coverage tree their lines would
 * go uncounted, in the address sanitizer's tree nobody would look for their leaks.
 */
#include <sys/syscall.h>
#include <unistd.h>

#ifdef QUALITY_cover
void __gcov_dump(void);
#else
#include <sanitizer/lsan_interface.h>
#endif

void _exit(int status)
{
#ifdef QUALITY_cover
    __gcov_dump();
#else
    __lsan_do_leak_check(); /* ends the process itself when it finds one */
#endif
    for (;;)
        (void)syscall(SYS_exit_group, status);
}
