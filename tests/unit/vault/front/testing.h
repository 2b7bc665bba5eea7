#ifndef TEST_FRONT_TESTING_H
#define TEST_FRONT_TESTING_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#endif
