/*
 * Purpose: state machines as tables: allowed next states as a bitmask, checked at every move.
 * Owns: nothing. Threads: the caller's. Errors: an illegal transition is ERR_STATE; sm_must is for those that are bugs.
 * Limits: 32 states. Secrets: none.
 */
#ifndef BASE_SM_H
#define BASE_SM_H

#include "base/err.h"

#include <stdint.h>

struct sm_state {
    const char *name;
    uint32_t next; /* bit i: may move to state i */
};
struct sm_table {
    const char *what;
    const struct sm_state *states;
    unsigned n;
};
bool sm_can(const struct sm_table *t, unsigned from, unsigned to);
RESULT sm_move(const struct sm_table *t, unsigned *state, unsigned to, struct err *e); /* unchanged on failure */
const char *sm_name(const struct sm_table *t, unsigned state); /* "?" when out of range */

#endif
