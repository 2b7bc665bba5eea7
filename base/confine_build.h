/*
 * Purpose: which builds cannot be confined as a whole: sanitizers, valgrind and coverage need system calls and files that the daemon
 *          never does. Decided when compiling and linking; nothing at run time can switch confinement off.
 * Owns: nothing. Threads: pure. Errors: none. Limits: none. Secrets: none.
 */
#ifndef BASE_CONFINE_BUILD_H
#define BASE_CONFINE_BUILD_H

#include <stdbool.h>
#include <stddef.h>

/* Present only in programs that were built to write coverage files at exit. */
extern void __gcov_exit(void) __attribute__((weak));

static inline bool confine_is_coverage_build(void)
{
    return __gcov_exit != NULL;
}

static inline bool confine_is_sanitizer_build(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(CLV_VALGRIND)
    return true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
    return true;
#else
    return false;
#endif
#else
    return false;
#endif
}

#endif
