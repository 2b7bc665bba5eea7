#include "vault/service/uses.h"

#include <string.h>

enum { USES_FIRST = 4, USES_LOOK_BACK = 4 /* versions that the items of a message take turns with, each in two ways at most */ };

static struct event_use *find(struct call *c, const struct key_view *k, enum event_use_what what)
{
    for (size_t i = c->nuses; i > 0 && c->nuses - i < USES_LOOK_BACK; i--) {
        struct event_use *u = &c->uses[i - 1];
        if (u->what == what && memcmp(u->kvid, k->kvid, sizeof u->kvid) == 0 && u->primary == k->primary)
            return u;
    }
    return NULL;
}

static RESULT grow(struct call *c, struct err *e)
{
    const size_t room = c->uses_room == 0 ? USES_FIRST : c->uses_room * 4;
    struct event_use *more = arena_alloc(&c->arena, room * sizeof *more);
    if (more == NULL)
        FAIL(e, ERR_EXHAUSTED, "CALL_MEMORY", "what was used does not fit the call's memory");
    if (c->nuses > 0)
        memcpy(more, c->uses, c->nuses * sizeof *more);
    c->uses = more;
    c->uses_room = room;
    return ok();
}

RESULT uses_add(struct call *c, const struct key_view *k, enum event_use_what what, struct err *e)
{
    struct event_use *u = find(c, k, what);
    if (u != NULL) {
        u->items++;
        return ok();
    }
    INVARIANT(c->nuses < EVENT_USES_MAX);
    if (c->nuses == c->uses_room)
        TRY(grow(c, e));
    u = &c->uses[c->nuses++];
    *u = (struct event_use){.what = what, .primary = k->primary, .items = 1};
    memcpy(u->kvid, k->kvid, sizeof u->kvid);
    return ok();
}

void uses_take_back(struct call *c, const struct key_view *k, enum event_use_what what)
{
    struct event_use *u = find(c, k, what);
    INVARIANT(u != NULL && u->items > 0);
    if (--u->items == 0)
        *u = c->uses[--c->nuses];
}
