/*
 * Purpose: the slow lane: a bounded queue and its threads, for whatever may wait on the store, the HSM or the network.
 * Owns:    its threads; a job belongs to the lane from a successful submit until its run() begins.
 * Threads: submit from any thread, never blocks. Errors: submit false when the queue is full: the caller answers EXHAUSTED.
 * Limits:  queue length and threads as given. Secrets: none of its own.
 */
#ifndef VAULT_SERVICE_LANES_H
#define VAULT_SERVICE_LANES_H

#include "base/err.h"

#include <stdint.h>

struct lane_job {
    struct lane_job *next;
    void (*run)(struct lane_job *j);
};
struct lanes;
struct lanes *lanes_new(unsigned threads, uint64_t queue_max);
void lanes_free(struct lanes *l); /* runs what is queued, then joins; NULL accepted */
bool lanes_submit(struct lanes *l, struct lane_job *j);

#endif
