/* Arming: an rcall waits on its queue for the next call of its kind. */
#include "vault/rpc/internal.h"

#include <stdlib.h>

static struct rcall *rcall_new(struct rpc_server *s, const struct hot_method *hot)
{
    struct rcall *rc = calloc(1, sizeof(*rc));

    INVARIANT(rc != NULL);
    rc->srv = s;
    rc->hot = hot;
    rc->row = hot != NULL ? hot->row : NULL;
    ref_init(&rc->refs);
    grpc_metadata_array_init(&rc->metadata);
    grpc_call_details_init(&rc->details);
    INVARIANT(pthread_mutex_init(&rc->lock, NULL) == 0);
    for (int op = 0; op < OP_COUNT; op++)
        rc->tags[op] = (struct rpc_tag){.rc = rc, .op = (enum rpc_op)op};
    return rc;
}

void rcall_arm(struct rpc_server *s, const struct hot_method *hot)
{
    struct rcall *rc = rcall_new(s, hot);
    grpc_call_error failed;

    if (hot != NULL)
        failed = grpc_server_request_registered_call(s->grpc, hot->registered, &rc->gc, &rc->deadline, &rc->metadata,
                                                     &rc->received, s->fast, s->fast, tag_give(&rc->tags[OP_NEW]));
    else
        failed = grpc_server_request_call(s->grpc, &rc->gc, &rc->details, &rc->metadata, s->slow, s->slow,
                                          tag_give(&rc->tags[OP_NEW]));
    INVARIANT(failed == GRPC_CALL_OK);
}
