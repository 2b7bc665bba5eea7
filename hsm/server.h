/*
 * Purpose: the hsm process once it is confined: opens the token, says READY, then answers core's operations one by one, and
 *          brings the token back when it went away. hsm/README.md draws the states.
 * Owns:    the core channel and the token, for as long as it runs.
 * Threads: one loop, which is the one lock around object calls, and the watchdog's thread.
 * Errors:  before *ret_serving is true: what the operator must mend (the caller says FATAL). Afterwards only DRAIN (ok), a
 *          closed control channel, and what a new process can do better: SERVER_GIVE_UP_MS of a module that cannot be
 *          initialised again, or a token directory that was replaced (the old one is all that Landlock lets this one see).
 * Limits:  SERVER_RETRY_MS between tries to reach a lost token, SERVER_RETRY_SLOW_MS when a person seems to be needed (it may
 *          have been one wrong answer: service returns within 2 s all the same); a check each SERVER_CHECK_MS when idle.
 * Secrets: replies with keys are built in one buffer that is wiped after each.
 *
 * When this process took over from one that served under the same monitor (hsm/served.h), no state of the token is a start-up
 * error: it answers ERR_UNAVAILABLE with the reason, tries again, and says READY once the token is back.
 */
#ifndef HSM_SERVER_H
#define HSM_SERVER_H

#include "base/child.h"
#include "hsm/ops.h"

enum { SERVER_RETRY_MS = 200, SERVER_RETRY_SLOW_MS = 1000, SERVER_CHECK_MS = 1000, SERVER_GIVE_UP_MS = 10000, SERVER_PIN_MS = 5000 };

struct server_options {
    struct child *child;
    bool init; /* kmsd init: the objects may be absent */
    struct verifier *verifier;
    struct watchdog *watchdog;
    const struct clock *clock;
    const char *monitor_id; /* hsm/served.h */
};
RESULT server_run(const struct server_options *o, bool *ret_serving, struct err *e);

#endif
