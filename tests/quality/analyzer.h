/* Only for tools/run-tidy, ahead of every file: the analyzer looks at one file at a time and does not know that these never
 * succeed. Without it each output that a function sets on success only would look uninitialised after TRY. */
#ifndef TESTS_QUALITY_ANALYZER_H
#define TESTS_QUALITY_ANALYZER_H

#include "base/err.h"
#include "vault/client/error.h"

#define err_set(...) (err_set(__VA_ARGS__), (struct result){1})
#define err_set_errno(...) (err_set_errno(__VA_ARGS__), (struct result){1})
#define err_set_field(...) (err_set_field(__VA_ARGS__), (struct result){1})
#define client_fail(...) (client_fail(__VA_ARGS__), (struct result){1})
#define client_fail_status(...) (client_fail_status(__VA_ARGS__), (struct result){1})

#endif
