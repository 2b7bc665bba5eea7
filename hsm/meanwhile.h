/*
 * Purpose: what core gets while one of its operations takes long (a backup, a fresh process that confirms a key): what only uses keys is
 *          answered in between, what changes the token is held until that one is done. So a copy of the token is of one moment, and calls
 *          that need a key do not fail while it is made.
 * Owns:    copies of the messages that are held. Threads: the main loop's.
 * Errors:  none: a channel that is of no more use is found out by whoever answers next. Limits: MEANWHILE_HELD messages are held; then
 *          nothing more is read. Secrets: plaintext in messages, wiped with them; none of those that are held has any.
 */
#ifndef HSM_MEANWHILE_H
#define HSM_MEANWHILE_H

#include "base/chan.h"

enum { MEANWHILE_HELD = 16, MEANWHILE_AT_ONCE = 16 };
struct meanwhile {
    const int *core; /* the loop's end of core's channel; it may be replaced while the PIN is asked for */
    int begun_on;    /* what it was when the operation began */
    bool lost;
    RESULT (*answer)(void *user, const struct chan_msg *m, struct err *e);
    void *user;
    struct meanwhile_held {
        uint16_t type;
        uint32_t seq;
        uint8_t *body;
        size_t n;
    } held[MEANWHILE_HELD];
    size_t n;
};
/* As token.h's meanwhile; m: struct meanwhile. */
void meanwhile_serve(void *m, int fd, uint64_t ms);
/* The oldest that is held: *ret views a body that the caller frees (free, which wipes). */
bool meanwhile_take(struct meanwhile *m, struct chan_msg *ret);
void meanwhile_clear(struct meanwhile *m);

#endif
