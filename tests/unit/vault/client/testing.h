/* cmocka and what its header needs before it. */
#ifndef TESTS_UNIT_VAULT_CLIENT_TESTING_H
#define TESTS_UNIT_VAULT_CLIENT_TESTING_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#endif
