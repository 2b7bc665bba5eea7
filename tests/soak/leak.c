/* The soak's control, preloaded into kmsd-core alone (test_soak.py, soak.py --leak): memory and descriptors that are lost with
 * the work that is done. A soak that does not see it would see nothing. */
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LOST_BYTES = 2048, A_DESCRIPTOR_EACH = 64 };

int fdatasync(int fd); /* one for each group of events */

int fdatasync(int fd)
{
    static atomic_uint calls;
    static int (*real)(int);
    static void *volatile lost;

    if (real == NULL)
        real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    lost = malloc(LOST_BYTES);
    if (lost != NULL)
        memset(lost, 1, LOST_BYTES);
    if (atomic_fetch_add(&calls, 1) % A_DESCRIPTOR_EACH == 0)
        (void)dup(fd);
    return real(fd);
}
