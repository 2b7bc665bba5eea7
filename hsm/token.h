/*
 * Purpose: the one token: found by URI, one session that stays open, one login, mechanisms probed, objects audited and
 *          checked against their stored known answers; and brought back when it went away.
 * Owns:    module, session, handle table, the record of PIN tries, the token's directory.
 * Threads: the hsm process's main loop only: that is the one lock around object calls.
 * Errors:  ERR_STATE with what to do in hint: "HSM_TOKEN" (absent, two, not initialised), "HSM_PIN", "HSM_PIN_WAIT",
 *          "HSM_PIN_TRIES", "HSM_MECHANISM", HSM_OBJECT_*; ERR_DATA_LOSS "HSM_KNOWN_ANSWER"; else as ckr_fail.
 * Limits:  TOKEN_SLOTS_MAX slots are looked at; hsm_timeout for each call.
 * Secrets: the PIN is asked for at each login, passes from its file to the token in one struct secret, and is wiped.
 */
#ifndef HSM_TOKEN_H
#define HSM_TOKEN_H

#include "hsm/keys.h"
#include "hsm/mechanisms.h"
#include "hsm/object.h"
#include "hsm/pin.h"
#include "hsm/storage.h"
#include "hsm/uri.h"

enum { TOKEN_SLOTS_MAX = 64, TOKEN_RANDOM_BYTES = 16 };

struct token_setup { /* strings are borrowed and outlive the token */
    const char *module_path, *uri, *vendor_config, *state_dir;
    const char *origin; /* first line of every checkpoint that may be signed; "cluster/node" */
    uint64_t backup_retention_ms; /* how long a backup of the token may still be needed */
    bool complete;      /* a token without master, seal and audit key is not ready (all but kmsd init) */
    bool partial;       /* what the token cannot do is refused when it is asked for: not at open (kmsd init) */
    bool narrow;        /* no object is looked up at open: keys_get finds the one that is wanted */
    struct watchdog *watchdog;
    const struct clock *clock;
    /* Opens the PIN file anew: *ret_fd is the caller's. */
    RESULT (*pin)(void *user, int *ret_fd, struct err *e);
    void *pin_user;
};
struct token {
    struct token_setup setup;
    struct module m;
    struct hsm_uri *uri;
    struct pin_tries tries;
    CK_SLOT_ID slot;
    CK_SESSION_HANDLE session; /* CK_INVALID_HANDLE: none */
    bool ready;                /* logged in, objects audited */
    CK_TOKEN_INFO info;
    struct objects objects;
    struct keys keys;
    struct mechanisms can;
    struct storage storage;
    uint8_t last_random[TOKEN_RANDOM_BYTES]; /* the generator's last block, which never left unmixed */
    uint32_t reinitialised; /* times the module was finalised and initialised again */
    /* Called within what takes long while no object changes, between two calls of the module: serves what can be served until `fd` is
     * readable or ms are over; fd -1: only what is waiting now. NULL: nobody waits. */
    void (*meanwhile)(void *user, int fd, uint64_t ms);
    void *meanwhile_user;
};
/* Loads the module, finds the storage; no login yet. */
RESULT token_init(struct token *t, const struct token_setup *setup, struct err *e);
/* Everything up to ready; idempotent. On failure the module is finalised again, so that a later try starts clean. */
RESULT token_open(struct token *t, struct err *e);
void token_close(struct token *t);   /* logs out and finalises; token_open may follow */
void token_release(struct token *t); /* after token_init, whether it succeeded or not */
RESULT token_reload(struct token *t, struct err *e); /* objects looked up, audited and checked again; not ready when it fails */
/* After a call failed: the shortest way back that the last CK_RV allows, then the longer ones. Ok: try the call again. */
RESULT token_recover(struct token *t, struct err *e);
/* Is the session still good? Marks the token not ready when not. Cheap: once a second. */
RESULT token_check(struct token *t, struct err *e);

#endif
