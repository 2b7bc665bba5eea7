#include "hsm/module.h"

#include "hsm/storage.h"

#include <errno.h>
#include <p11-kit/p11-kit.h>
#include <stdlib.h>
#include <unistd.h>

void module_before(struct module *m, const char *call)
{
    if (m->watchdog != NULL)
        watchdog_arm(m->watchdog, call);
}

CK_RV module_after(struct module *m, CK_RV rv)
{
    if (m->watchdog != NULL)
        watchdog_disarm(m->watchdog);
    m->last_rv = rv;
    m->calls++;
    m->failures += rv != CKR_OK;
    return rv;
}

RESULT module_check(const char *path, struct err *e)
{
    /* p11-kit would look a relative name up in its own folder: that is not the file the operator named. */
    if (path[0] != '/')
        FAIL(e, ERR_INVALID, "HSM_MODULE", "hsm_module must be an absolute path: %s", path);
    if (access(path, R_OK) == 0)
        return ok();
    struct result r = err_set_errno(e, ERR_STATE, "HSM_MODULE", errno, __FILE__, __LINE__, "the PKCS#11 module %s", path);
    e->hint = "install the module or correct hsm_module";
    return r;
}

RESULT module_load(struct module *m, const char *path, const char *vendor_config, struct watchdog *w, struct err *e)
{
    *m = (struct module){.watchdog = w};
    TRY(module_check(path, e));
    if (vendor_config[0] != '\0' && setenv("SOFTHSM2_CONF", vendor_config, 1) != 0)
        FAIL_ERRNO(e, ERR_INTERNAL, NULL, "exporting SOFTHSM2_CONF");
    m->f = p11_kit_module_load(path, P11_KIT_MODULE_UNMANAGED);
    if (m->f != NULL)
        return storage_setting(vendor_config, "library.parameters", m->parameters, sizeof m->parameters, e);
    const char *why = p11_kit_message();
    struct result r = err_set(e, ERR_STATE, "HSM_MODULE", __FILE__, __LINE__, "%s is no usable PKCS#11 module: %s", path,
                              why != NULL ? why : "cannot be loaded");
    e->hint = "correct hsm_module";
    return r;
}

RESULT module_initialise(struct module *m, struct err *e)
{
    /* NSS softoken is told its database here: its own structure has one member more, LibraryParameters, where others have pReserved,
     * which to all others must be NULL (PKCS#11 v2.40 section 5.4). */
    struct {
        CK_C_INITIALIZE_ARGS args;
        void *reserved;
    } nss = {.args = {.flags = CKF_OS_LOCKING_OK, .pReserved = m->parameters[0] != '\0' ? m->parameters : NULL}};
    CK_RV rv = CALL(m, C_Initialize, &nss.args);
    if (rv != CKR_OK && rv != CKR_CRYPTOKI_ALREADY_INITIALIZED)
        return ckr_fail(rv, "C_Initialize", e);
    m->initialised = true;
    return ok();
}

void module_finalise(struct module *m)
{
    if (!m->initialised)
        return;
    /* What a module answers here changes nothing: the next initialise tells whether it can go on. */
    (void)CALL(m, C_Finalize, NULL);
    m->initialised = false;
}
