/*
 * Purpose: never lock the token: wrong PINs are counted on disk *before* each try, so a crash in between cannot forget one.
 *          One try a minute after a wrong one, three in all; then an operator removes the file. A right PIN resets.
 * Owns:    the file state_dir/hsm-pin-tries (0600, one line of text, written in place).
 * Threads: one. Errors: ERR_STATE "HSM_PIN_WAIT", "HSM_PIN_TRIES" (three used up, or the file is damaged), ERR_INTERNAL.
 * Limits:  PIN_TRIES_MAX, PIN_WAIT_S. A login that ended with neither yes nor no (crash, hang) counts as wrong unless the
 *          PIN file is, by its stamp, the one that last succeeded: so a hung token costs no tries.
 * Secrets: none: the stamp hashes the file's device, inode, size and times, never its content.
 */
#ifndef HSM_PIN_H
#define HSM_PIN_H

#include "base/clock.h"
#include "base/err.h"

enum { PIN_TRIES_MAX = 3, PIN_WAIT_S = 60 };
#define PIN_TRIES_FILE "hsm-pin-tries"

struct pin_tries {
    int fd;
    char path[4096];
    const struct clock *clock;
};
RESULT pin_tries_open(struct pin_tries *t, const char *state_dir, const struct clock *clock, struct err *e);
void pin_tries_close(struct pin_tries *t);
uint64_t pin_file_stamp(int fd);

/* Before asking for the PIN: may there be a try now? */
RESULT pin_tries_check(struct pin_tries *t, struct err *e);
/* Just before the login, durable. */
RESULT pin_tries_begin(struct pin_tries *t, uint64_t stamp, struct err *e);
enum pin_outcome { PIN_RIGHT, PIN_WRONG, PIN_LOCKED, PIN_NOT_TRIED /* the token failed before judging it */ };
RESULT pin_tries_end(struct pin_tries *t, enum pin_outcome outcome, uint32_t *ret_count, struct err *e);

#endif
