/* A sanitizer's tree is many times slower: tools/run-sanitized says how many, and deadlines that a test sets grow by it. */
#ifndef TESTS_UNIT_SLOW_H
#define TESTS_UNIT_SLOW_H

#include <stdlib.h>

static inline int slower(int ms)
{
    const char *factor = getenv("CLV_SLOW");
    const int times = factor != NULL ? (int)strtol(factor, NULL, 10) : 1;
    return times > 1 ? ms * times : ms;
}

#endif
