/*
 * free() and realloc() that zero what they give back (MEASURED 18): libraries such as gRPC keep copies of plaintext in
 * heap blocks that nobody wipes. This object is linked into the executables only, never into a library, and not under
 * sanitizers, which bring their own allocator. glibc's documented names for replacing malloc: all of the family must be
 * replaced together, so the others hand through to glibc's own entry points.
 */
#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <string.h>

void *__libc_realloc(void *p, size_t n);
void __libc_free(void *p);

void free(void *p)
{
    int saved = errno; /* POSIX 2024: free keeps errno */

    if (p != NULL) {
        explicit_bzero(p, malloc_usable_size(p));
        __libc_free(p);
    }
    errno = saved;
}

/* Shrinking in place would leave the tail, and moving would leave the whole: copy, then wipe the old block. */
void *realloc(void *p, size_t n)
{
    size_t old;
    void *q;

    if (p == NULL)
        return malloc(n);
    if (n == 0) {
        free(p);
        return NULL;
    }
    old = malloc_usable_size(p);
    if (n <= old && n >= old / 2) {
        explicit_bzero((uint8_t *)p + n, old - n);
        return p;
    }
    q = malloc(n);
    if (q == NULL)
        return NULL;
    memcpy(q, p, old < n ? old : n);
    free(p);
    return q;
}
