/* The control page: one file, mapped by the test (page.py) and by every core that the test starts. All fields little endian. */
#ifndef TESTS_CRASH_PAGE_H
#define TESTS_CRASH_PAGE_H

#include <stdatomic.h>
#include <stdint.h>

enum page_call { CALL_OPEN, CALL_WRITE, CALL_SYNC, CALL_RESIZE, CALL_NAME, CALL_UNLINK, CALL_SEND, CALLS };
enum page_file { FILE_OTHER, FILE_DB, FILE_WAL, FILE_SHM, FILE_JOURNAL, FILE_PART, FILE_ANCHOR, FILE_FOLDER, FILE_CLIENT, FILE_CHANNEL, FILE_LOG, FILES };
enum page_action {
    ACT_NONE,
    ACT_KILL_BEFORE, /* the call does not happen */
    ACT_KILL_AFTER,  /* it happened, and nobody was told */
    ACT_KILL_TORN,   /* a write's first half happened */
    ACT_FAIL,        /* errno = error; the call does not happen */
    ACT_SHORT,       /* a write's first half, as the kernel may do */
    ACT_LOSE,        /* says it was done, and does nothing: to see that the tests notice */
};

enum { PAGE_MAGIC = 0x43525348, PAGE_BYTES = 4096 };

struct page {
    uint32_t magic;
    _Atomic uint32_t action;   /* written last by the test; enum page_action */
    uint32_t error;
    uint32_t only_start;       /* not 0: only the core that started as this many-th */
    uint64_t nth;              /* from 1, of the selected calls since it was armed */
    uint64_t times;            /* how many from the nth on: 1, or all */
    _Atomic uint64_t seen;     /* selected calls since it was armed */
    _Atomic uint64_t fired;    /* how many were hit */
    _Atomic uint32_t pid;      /* the core that mapped it last */
    _Atomic uint32_t starts;   /* how many did */
    uint32_t fired_call, fired_file, fired_pid, spare;
    uint8_t selected[CALLS][16];
    _Atomic uint64_t counts[CALLS][16]; /* every call, since the page was made */
};
_Static_assert(sizeof(struct page) <= PAGE_BYTES, "one page");

#endif
