/* A defect on purpose, linked beside the real kmsd-core into a tree of its own: the sanitizer run counts for nothing unless it
 * hears this one out of a child of the real monitor. The leak also proves that a process is searched that leaves by _exit. */
#include <pthread.h>
#include <stdlib.h>

#if defined(QUALITY_tsan)
static int counted;

static void *count(void *arg)
{
    (void)arg;
    counted++;
    return NULL;
}

__attribute__((constructor)) static void plant(void)
{
    pthread_t a, b;
    if (pthread_create(&a, NULL, count, NULL) != 0 || pthread_create(&b, NULL, count, NULL) != 0)
        abort();
    (void)pthread_join(a, NULL);
    (void)pthread_join(b, NULL);
}
#else
static void *volatile lost;
#if defined(QUALITY_valgrind)
static int volatile seen;

__attribute__((noinline)) static void plant_uninitialised(const int *never_set)
{
    if (never_set[3] > 7) /* memcheck's other half; ASan would not see it */
        seen = 1;
}
#endif

__attribute__((constructor)) static void plant(void)
{
    for (int i = 0; i < 64; i++)
        lost = malloc(4321);
#if defined(QUALITY_valgrind)
    plant_uninitialised(lost);
#endif
    lost = NULL;
}
#endif
