/*
 * Linked into every program and unit test of the sanitizer trees, and into nothing else: a report ends up in the tree's own
 * folder, whatever a process does with its environment and its standard error. So the daemon needs no variable to pass on, and
 * a child whose output nobody reads is still heard (tools/run-sanitized reads the folder).
 */
#define COMMON "log_path=" QUALITY_REPORTS ":log_exe_name=1:"
const char *__asan_default_options(void);
const char *__lsan_default_options(void);
const char *__ubsan_default_options(void);
const char *__tsan_default_options(void);

const char *__asan_default_options(void)
{
    /* slow stacks: SoftHSM and OpenSSL keep no frame pointers, and suppressions must name the library that leaked */
    return COMMON "fast_unwind_on_malloc=0:malloc_context_size=24:detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1:check_initialization_order=1";
}
const char *__lsan_default_options(void)
{
    return "print_suppressions=0:suppressions=" QUALITY_SUPPRESSIONS "/lsan";
}
const char *__ubsan_default_options(void)
{
    return "print_stacktrace=1";
}
const char *__tsan_default_options(void)
{
    /* Debian's gRPC, abseil, OpenSSL and SQLite are not instrumented: what they do to memory through libc (an epoll_wait on a
     * descriptor, a memmove) would look like a race, since their atomics are not seen. Their locks and threads still are. */
    return COMMON "ignore_noninstrumented_modules=1:print_suppressions=0:second_deadlock_stack=1:history_size=4:suppressions=" QUALITY_SUPPRESSIONS "/tsan";
}
