/*
 * Purpose: the PKCS#11 module: loaded from the configured path by p11-kit, unmanaged (its calls are the vendor's own, so a
 *          hang or a broken finalize stays visible), initialised with OS locking. All calls go through CALL, which arms the
 *          watchdog and keeps the CK_RV for recovery.
 * Owns:    the function list. It is never released: unloading vendors' modules crashes some, and the process ends by _exit.
 * Threads: one thread: the hsm process's main loop. That is the one lock around object calls.
 * Errors:  ERR_STATE "HSM_MODULE" (missing, no PKCS#11 module) with what to do in hint; else as ckr_fail.
 * Limits:  hsm_timeout for each call. Secrets: none kept.
 */
#ifndef HSM_MODULE_H
#define HSM_MODULE_H

#include "hsm/ckr.h"
#include "hsm/watchdog.h"

struct module {
    CK_FUNCTION_LIST *f;
    struct watchdog *watchdog; /* borrowed; NULL: none (short-lived processes) */
    CK_RV last_rv;
    bool initialised;
    uint64_t calls, failures;
    char parameters[1024]; /* "": none. For NSS softoken: library.parameters of the vendor configuration */
};
RESULT module_check(const char *path, struct err *e); /* absolute and readable; module_load asks it too */
/* vendor_config: exported as SOFTHSM2_CONF before the module is loaded; "" leaves the environment alone. Its line
 * "library.parameters = configdir='sql:...' ..." is given to C_Initialize, where NSS softoken wants it. */
RESULT module_load(struct module *m, const char *path, const char *vendor_config, struct watchdog *w, struct err *e);
RESULT module_initialise(struct module *m, struct err *e);
void module_finalise(struct module *m);

/* rv = CALL(m, C_SignInit, session, &mechanism, key); at least one argument. */
#define CALL(m, fn, ...) module_after((m), (module_before((m), #fn), (m)->f->fn(__VA_ARGS__)))
void module_before(struct module *m, const char *call);
CK_RV module_after(struct module *m, CK_RV rv);

#endif
