#include "vault/ops/edge.h"

#include "base/log.h"

#include <unistd.h>

void edge_init(struct edge *g, struct proc *a, enum ipc_control to_a, struct proc *b, enum ipc_control to_b)
{
    *g = (struct edge){.side = {a, b}, .type = {to_a, to_b}, .held = {-1, -1}};
}

static void drop(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
    *fd = -1;
}

void edge_release(struct edge *g)
{
    drop(&g->held[0]);
    drop(&g->held[1]);
}

/* The end is closed here in every case: the other process has its own copy, or nobody shall have one. */
static RESULT give(struct edge *g, size_t i, struct err *e)
{
    int fd = g->held[i];
    struct result r = proc_send(g->side[i], g->type[i], BYTES(NULL, 0), &fd, 1, e);

    drop(&g->held[i]);
    return r;
}

RESULT edge_connect(struct edge *g, const struct proc *started, struct err *e)
{
    size_t i = started == g->side[1];
    size_t other = 1 - i;
    struct err other_e;

    if (g->side[i] != started)
        return ok();
    /* A waiting end is good only while the one who has its counterpart lives. */
    if (g->held[i] >= 0 && proc_alive(g->side[other]))
        return give(g, i, e);
    edge_release(g);
    TRY(chan_pair(g->held, e));
    TRY(give(g, i, e));
    if (proc_alive(g->side[other]) && give(g, other, &other_e).failed)
        log_event(LOG_WARN, "a channel waits for its other side", LF_STR("role", g->side[other]->role), LF_ERR(&other_e));
    return ok();
}

