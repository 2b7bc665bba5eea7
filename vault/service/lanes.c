#include "vault/service/lanes.h"

#include "base/rng.h"
#include "base/thread.h"

#include <stdlib.h>

struct owner { /* those whose names lead to one place */
    struct lane_job *head, **tail;
    uint64_t queued;
    unsigned running;
};
struct lanes {
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct owner owners[LANE_OWNERS];
    size_t turn;                /* whose it was last */
    uint64_t seed, queued, max, share;
    bool stop;
    unsigned n, most;           /* most: jobs of one owner that run at a time */
    pthread_t threads[];
};

/* Nobody can choose whose place they share: the seed is drawn anew at each start. */
static struct owner *owner_of(struct lanes *l, struct bytes name)
{
    uint64_t h = l->seed;
    for (size_t i = 0; i < name.n; i++)
        h = (h ^ name.p[i]) * UINT64_C(0x100000001b3);
    return &l->owners[(h ^ h >> 32) % LANE_OWNERS];
}

/* Whose turn it is, under the lock; NULL: nobody's who may have another thread. At the end everything is run. */
static struct owner *next_owner(struct lanes *l)
{
    for (size_t i = 1; i <= LANE_OWNERS && l->queued > 0; i++) {
        struct owner *o = &l->owners[(l->turn + i) % LANE_OWNERS];
        if (o->head == NULL || (o->running >= l->most && !l->stop))
            continue;
        l->turn = (size_t)(o - l->owners);
        return o;
    }
    return NULL;
}

static struct lane_job *take(struct lanes *l, struct owner **ret)
{
    struct owner *o;
    pthread_mutex_lock(&l->lock);
    while ((o = next_owner(l)) == NULL && !l->stop)
        pthread_cond_wait(&l->more, &l->lock);
    struct lane_job *j = o != NULL ? o->head : NULL;
    if (j != NULL) {
        o->head = j->next;
        if (o->head == NULL)
            o->tail = &o->head;
        o->queued--;
        l->queued--;
        o->running++;
    }
    pthread_mutex_unlock(&l->lock);
    *ret = o;
    return j;
}

/* Whose owner had no thread to spare gets this one: it is who asks next. */
static void ran(struct lanes *l, struct owner *o)
{
    pthread_mutex_lock(&l->lock);
    o->running--;
    pthread_mutex_unlock(&l->lock);
}

static void *lane_thread(void *arg)
{
    struct lanes *l = arg;
    struct lane_job *j;
    struct owner *o;
    while ((j = take(l, &o)) != NULL) {
        j->run(j);
        ran(l, o);
    }
    return NULL;
}

struct lanes *lanes_new(unsigned threads, uint64_t queue_max)
{
    struct lanes *l = calloc(1, sizeof *l + threads * sizeof l->threads[0]);
    INVARIANT(l != NULL && threads > 0);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->more, NULL);
    for (size_t i = 0; i < LANE_OWNERS; i++)
        l->owners[i].tail = &l->owners[i].head;
    rng_fill(&rng_system, &l->seed, sizeof l->seed);
    l->max = queue_max;
    l->share = queue_max - queue_max / 2;
    l->most = threads - threads / 4;
    struct err e = {0};
    for (; l->n < threads; l->n++)
        INVARIANT(!thread_spawn(&l->threads[l->n], "lane", lane_thread, l, &e).failed);
    return l;
}

void lanes_free(struct lanes *l)
{
    if (l == NULL)
        return;
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_broadcast(&l->more);
    pthread_mutex_unlock(&l->lock);
    for (unsigned i = 0; i < l->n; i++)
        pthread_join(l->threads[i], NULL);
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->more);
    free(l);
}

bool lanes_submit(struct lanes *l, struct bytes owner, struct lane_job *j)
{
    pthread_mutex_lock(&l->lock);
    struct owner *o = owner_of(l, owner);
    const bool room = l->queued < l->max && o->queued < l->share && !l->stop;
    if (room) {
        j->next = NULL;
        *o->tail = j;
        o->tail = &j->next;
        o->queued++;
        l->queued++;
        pthread_cond_signal(&l->more);
    }
    pthread_mutex_unlock(&l->lock);
    return room;
}
