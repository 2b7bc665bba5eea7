/*
 * Purpose: the slow lane: a bounded queue and its threads, for whatever may wait on the store, the HSM or the network.
 * Owns:    its threads; a job belongs to the lane from a successful submit until its run() begins.
 * Threads: submit from any thread, never blocks. Errors: submit false when there is no room: the caller answers EXHAUSTED.
 * Limits:  queue length and threads as given. One owner has at most half of the queue, and of four and more threads three quarters;
 *          those who wait are served in turn, an owner at a time, so a batch for the token of one holds up the others by one call, not by
 *          all that it has sent. Owners are told apart by LANE_OWNERS places: two may share one.
 * Secrets: none of its own.
 */
#ifndef VAULT_SERVICE_LANES_H
#define VAULT_SERVICE_LANES_H

#include "base/bytes.h"
#include "base/err.h"

enum { LANE_OWNERS = 256 };
struct lane_job {
    struct lane_job *next;
    void (*run)(struct lane_job *j);
};
struct lanes;
struct lanes *lanes_new(unsigned threads, uint64_t queue_max);
void lanes_free(struct lanes *l); /* runs what is queued, then joins; NULL accepted */
/* owner: whom the job is for, by whatever name. */
bool lanes_submit(struct lanes *l, struct bytes owner, struct lane_job *j);

#endif
