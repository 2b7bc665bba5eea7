/* What gRPC does not end by itself (MEASURED 7): answers that nobody reads, and calls past a deadline that only we gave. */
#include "base/thread.h"
#include "vault/rpc/internal.h"

#include <grpc/support/time.h>
#include <limits.h>
#include <stdint.h>

static struct rpc_shard *shard_of(struct rcall *rc)
{
    return &rc->srv->shards[((uintptr_t)rc >> 8) % RPC_SHARDS];
}

void sweep_add(struct rcall *rc)
{
    struct rpc_shard *sh = shard_of(rc);

    pthread_mutex_lock(&sh->lock);
    rc->next = sh->list.next;
    rc->prev = &sh->list;
    rc->next->prev = rc;
    sh->list.next = rc;
    pthread_mutex_unlock(&sh->lock);
}

void sweep_remove(struct rcall *rc)
{
    struct rpc_shard *sh = shard_of(rc);

    pthread_mutex_lock(&sh->lock);
    rc->prev->next = rc->next;
    rc->next->prev = rc->prev;
    pthread_mutex_unlock(&sh->lock);
}

int64_t rpc_deadline_boot_ms(const struct rpc_server *s, gpr_timespec deadline, bool unary)
{
    int64_t now = clock_boot_ms(s->clock), left;
    gpr_timespec span;

    if (gpr_time_cmp(deadline, gpr_inf_future(deadline.clock_type)) == 0)
        return unary ? now + RPC_UNARY_MS : INT64_MAX;
    span = gpr_time_sub(deadline, gpr_now(deadline.clock_type));
    left = (int64_t)gpr_timespec_to_micros(span) / 1000;
    return left > 0 ? now + left : now;
}

static void sweep_one(struct rcall *rc, int64_t now)
{
    int64_t final = atomic_load_explicit(&rc->final_boot_ms, memory_order_relaxed);
    struct call *c = atomic_load_explicit(&rc->c, memory_order_acquire);

    if (final != 0) {
        if (now - final > RPC_FINAL_MS)
            grpc_call_cancel_with_status(rc->gc, GRPC_STATUS_DEADLINE_EXCEEDED, "the answer was not read", NULL);
    } else if (now > rc->deadline_boot_ms) {
        /* gRPC first: the service's own last words would say CANCELLED */
        grpc_call_cancel_with_status(rc->gc, GRPC_STATUS_DEADLINE_EXCEEDED, "the deadline has passed", NULL);
        if (c != NULL)
            call_cancel(c);
    }
}

void *sweep_main(void *server)
{
    struct rpc_server *s = server;

    pthread_mutex_lock(&s->idle_lock);
    while (!s->stopping) {
        const struct timespec until = wait_until(RPC_SWEEP_MS);
        pthread_cond_timedwait(&s->stop, &s->idle_lock, &until);
        pthread_mutex_unlock(&s->idle_lock);
        for (size_t i = 0; i < RPC_SHARDS; i++) {
            struct rpc_shard *sh = &s->shards[i];
            int64_t now = clock_boot_ms(s->clock);
            pthread_mutex_lock(&sh->lock);
            for (struct rcall *rc = sh->list.next; rc != &sh->list; rc = rc->next)
                sweep_one(rc, now);
            pthread_mutex_unlock(&sh->lock);
        }
        pthread_mutex_lock(&s->idle_lock);
    }
    pthread_mutex_unlock(&s->idle_lock);
    return NULL;
}
