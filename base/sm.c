#include "base/sm.h"

bool sm_can(const struct sm_table *t, unsigned from, unsigned to)
{
    if (t->n > 32 || from >= t->n || to >= t->n)
        return false;
    return (t->states[from].next >> to & 1U) != 0;
}

RESULT sm_move(const struct sm_table *t, unsigned *state, unsigned to, struct err *e)
{
    if (!sm_can(t, *state, to))
        FAIL(e, ERR_STATE, "ILLEGAL_TRANSITION", "%s cannot move from %s to %s", t->what, sm_name(t, *state),
             sm_name(t, to));
    *state = to;
    return ok();
}

const char *sm_name(const struct sm_table *t, unsigned state)
{
    return state < t->n && t->states[state].name != NULL ? t->states[state].name : "?";
}
