#include "vault/service/condition.h"

#include <stdio.h>
#include <string.h>

const struct condition_row *condition_row(enum condition c)
{
    static const struct condition_row rows[CONDITION_COUNT] = {
#define X(name, level, wrong, callers, todo) {#name, level, wrong, callers, todo},
        CONDITIONS(X)
#undef X
    };
    return &rows[c];
}

void health_add(struct health *h, enum condition c, const char *detail)
{
    h->is[c] = true;
    h->degraded |= condition_row(c)->level <= DEGRADES;
    h->serving &= condition_row(c)->level != CLOSES;
    snprintf(h->detail[c], sizeof h->detail[c], "%s", detail);
}

void health_text(const struct health *h, enum condition c, char out[CONDITION_TEXT_MAX])
{
    const struct condition_row *r = condition_row(c);
    const char *detail = h->detail[c];
    snprintf(out, CONDITION_TEXT_MAX, "%s: %s%s%s%s. Callers: %s. Do: %s.", r->name, r->wrong, detail[0] != 0 ? " (" : "", detail,
             detail[0] != 0 ? ")" : "", r->callers, r->todo);
}
