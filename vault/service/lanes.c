#include "vault/service/lanes.h"

#include <pthread.h>
#include <stdlib.h>

struct lanes {
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct lane_job *head, **tail;
    uint64_t queued, max;
    bool stop;
    unsigned n;
    pthread_t threads[];
};

static struct lane_job *take(struct lanes *l)
{
    pthread_mutex_lock(&l->lock);
    while (l->head == NULL && !l->stop)
        pthread_cond_wait(&l->more, &l->lock);
    struct lane_job *j = l->head;
    if (j != NULL) {
        l->head = j->next;
        if (l->head == NULL)
            l->tail = &l->head;
        l->queued--;
    }
    pthread_mutex_unlock(&l->lock);
    return j;
}

static void *lane_thread(void *arg)
{
    struct lanes *l = arg;
    struct lane_job *j;
    while ((j = take(l)) != NULL)
        j->run(j);
    return NULL;
}

struct lanes *lanes_new(unsigned threads, uint64_t queue_max)
{
    struct lanes *l = calloc(1, sizeof *l + threads * sizeof l->threads[0]);
    INVARIANT(l != NULL && threads > 0);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->more, NULL);
    l->tail = &l->head;
    l->max = queue_max;
    for (; l->n < threads; l->n++)
        INVARIANT(pthread_create(&l->threads[l->n], NULL, lane_thread, l) == 0);
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

bool lanes_submit(struct lanes *l, struct lane_job *j)
{
    pthread_mutex_lock(&l->lock);
    bool room = l->queued < l->max && !l->stop;
    if (room) {
        j->next = NULL;
        *l->tail = j;
        l->tail = &j->next;
        l->queued++;
        pthread_cond_signal(&l->more);
    }
    pthread_mutex_unlock(&l->lock);
    return room;
}
