#include "hsm/token.h"

#include "hsm/answer.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static RESULT fail_hint(enum err_code code, const char *reason, const char *hint, const char *detail, struct err *e)
{
    struct result r = err_set(e, code, reason, __FILE__, __LINE__, "%s", detail);
    e->hint = hint;
    return r;
}

RESULT token_init(struct token *t, const struct token_setup *setup, struct err *e)
{
    *t = (struct token){.setup = *setup, .session = CK_INVALID_HANDLE, .tries.fd = -1, .storage.fd = -1};
    TRY(hsm_uri_parse(setup->uri, &t->uri, e));
    TRY(pin_tries_open(&t->tries, setup->state_dir, setup->clock, e));
    TRY(module_load(&t->m, setup->module_path, setup->vendor_config, setup->watchdog, e));
    return storage_open(&t->storage, setup->vendor_config, e);
}

void token_release(struct token *t)
{
    token_close(t);
    hsm_uri_free(t->uri);
    t->uri = NULL;
    pin_tries_close(&t->tries);
    storage_close(&t->storage);
    keys_release(&t->keys);
}

static RESULT find_slot(struct token *t, struct err *e)
{
    CK_SLOT_ID slots[TOKEN_SLOTS_MAX];
    CK_ULONG n = TOKEN_SLOTS_MAX;
    CK_RV rv = CALL(&t->m, C_GetSlotList, CK_TRUE, slots, &n);
    if (rv != CKR_OK)
        return ckr_fail(rv, "C_GetSlotList", e);
    if (n > TOKEN_SLOTS_MAX)
        FAIL(e, ERR_INTERNAL, "HSM_ERROR", "C_GetSlotList gave %lu slots where it was given room for %d", n, TOKEN_SLOTS_MAX);
    unsigned found = 0;
    for (CK_ULONG i = 0; i < n; i++) {
        CK_SLOT_INFO si;
        CK_TOKEN_INFO ti;
        /* A slot that fails to describe itself is not the one that was named. */
        if (CALL(&t->m, C_GetSlotInfo, slots[i], &si) != CKR_OK || CALL(&t->m, C_GetTokenInfo, slots[i], &ti) != CKR_OK ||
            !hsm_uri_matches(t->uri, slots[i], &si, &ti))
            continue;
        found++;
        t->slot = slots[i];
        t->info = ti;
    }
    if (found == 1)
        return ok();
    t->m.last_rv = CKR_TOKEN_NOT_PRESENT;
    if (found == 0)
        return fail_hint(ERR_UNAVAILABLE, "HSM_TOKEN",
                         "insert or initialise the token (softhsm2-util --show-slots, pkcs11-tool -T), or correct hsm_token "
                         "and hsm_config_file",
                         "no token matches hsm_token", e);
    return fail_hint(ERR_STATE, "HSM_TOKEN", "add serial= to hsm_token", "more than one token matches hsm_token", e);
}

/* Any daemon derives and signs; what makes its secrets is asked for when they are made. */
static RESULT probe_mechanisms(struct token *t, struct err *e)
{
    TRY(mechanisms_probe(&t->m, t->slot, &t->can, e));
    if (t->setup.partial)
        return ok();
    if (!t->can.has[MECH_HMAC])
        TRY(mechanisms_need(&t->can, GROUP_KDF, e));
    return mechanisms_need(&t->can, GROUP_SIGN, e);
}

static RESULT check_flags(const struct token *t, struct err *e)
{
    if (!(t->info.flags & CKF_TOKEN_INITIALIZED) || !(t->info.flags & CKF_USER_PIN_INITIALIZED))
        return fail_hint(ERR_STATE, "HSM_TOKEN", "initialise the token and set its user PIN",
                         "the token is not initialised or has no user PIN", e);
    if (t->info.flags & CKF_USER_PIN_LOCKED)
        return fail_hint(ERR_STATE, "HSM_PIN", "unlock it as its security officer", "the token's user PIN is locked", e);
    if (t->info.flags & CKF_USER_PIN_FINAL_TRY)
        return fail_hint(ERR_STATE, "HSM_PIN", "log in once by the vendor's own tool with the right PIN, then start again",
                         "one PIN try is left before the token locks: not used here", e);
    return ok();
}

static void secret_close_fd(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
}

static CK_RV login_with(struct token *t, const struct secret *pin)
{
    /* PKCS#11 wants a mutable pointer and does not write through it. */
    return CALL(&t->m, C_Login, t->session, CKU_USER, (CK_UTF8CHAR_PTR)(uintptr_t)secret_borrow(pin), secret_len(pin));
}

static RESULT login_refused(struct token *t, CK_RV rv, uint32_t count, struct err *e)
{
    t->m.last_rv = rv;
    struct result r = ckr_fail(rv, "C_Login", e);
    if (ckr_class(rv) != CKR_CLASS_PIN)
        return r;
    r = err_set(e, ERR_STATE, "HSM_PIN", __FILE__, __LINE__, "the token refuses the PIN: C_Login: %s, try %u of %d", ckr_name(rv),
                count, PIN_TRIES_MAX);
    e->hint = "correct hsm_pin_file; one try a minute, and after three none until the record hsm-pin-tries is removed";
    return r;
}

static enum pin_outcome judge(CK_RV rv)
{
    if (rv == CKR_OK || rv == CKR_USER_ALREADY_LOGGED_IN)
        return PIN_RIGHT;
    if (rv == CKR_PIN_LOCKED)
        return PIN_LOCKED;
    return ckr_class(rv) == CKR_CLASS_PIN ? PIN_WRONG : PIN_NOT_TRIED;
}

static RESULT login(struct token *t, struct err *e)
{
    CLEANUP(secret_close_fd) int fd = -1;
    CLEANUP(secret_freep) struct secret *pin = NULL;
    /* Whatever stops us before C_Login must not look like the token's own failure. */
    t->m.last_rv = CKR_FUNCTION_CANCELED;
    TRY(check_flags(t, e));
    TRY(pin_tries_check(&t->tries, e));
    TRY(t->setup.pin(t->setup.pin_user, &fd, e));
    uint64_t stamp = pin_file_stamp(fd);
    TRY(secret_read_fd(fd, &pin, e));
    TRY(pin_tries_begin(&t->tries, stamp, e));
    CK_RV rv = login_with(t, pin);
    uint32_t count = 0;
    TRY(pin_tries_end(&t->tries, judge(rv), &count, e));
    return judge(rv) == PIN_RIGHT ? ok() : login_refused(t, rv, count, e);
}

static RESULT open_session(struct token *t, struct err *e)
{
    CK_SESSION_HANDLE s;
    CK_RV rv = CALL(&t->m, C_OpenSession, t->slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &s);
    if (rv != CKR_OK)
        return ckr_fail(rv, "C_OpenSession", e);
    t->session = s;
    return ok();
}

static RESULT check_complete(const struct token *t, struct err *e)
{
    static const char *const names[] = {[HSM_MASTER] = "master secret", [HSM_SEAL] = "seal secret", [HSM_AUDIT] = "audit key"};
    for (enum hsm_object k = HSM_MASTER; t->setup.complete && k <= HSM_AUDIT; k++) {
        if (objects_newest(&t->objects, k) > 0)
            continue;
        struct result r = err_set(e, ERR_STATE, "HSM_OBJECT_ABSENT", __FILE__, __LINE__, "the token holds no %s", names[k]);
        e->hint = "run kmsd init, or correct hsm_token if this is not the token that was initialised";
        return r;
    }
    return ok();
}

RESULT token_reload(struct token *t, struct err *e)
{
    t->ready = false;
    if (!t->setup.narrow) {
        TRY(objects_load(&t->m, t->session, &t->objects, &t->keys, e));
        TRY(check_complete(t, e));
        TRY(answers_check(t, e));
    }
    t->ready = true;
    return ok();
}

/* A file token whose folder is gone makes the module say CKR_GENERAL_ERROR and no more. */
static RESULT initialise(struct token *t, struct err *e)
{
    if (t->m.initialised || !module_initialise(&t->m, e).failed)
        return ok();
    if (storage_absent(&t->storage)) {
        size_t n = strlen(e->detail);
        snprintf(e->detail + n, sizeof e->detail - n, "; the token folder %s does not exist: put it back, or its backup", t->storage.path);
    }
    return (struct result){1};
}

static RESULT open_all(struct token *t, struct err *e)
{
    TRY(initialise(t, e));
    TRY(find_slot(t, e));
    TRY(probe_mechanisms(t, e));
    TRY(open_session(t, e));
    TRY(login(t, e));
    return token_reload(t, e);
}

RESULT token_open(struct token *t, struct err *e)
{
    if (t->ready)
        return ok();
    struct result r = open_all(t, e);
    if (r.failed) {
        CK_RV why = t->m.last_rv;
        token_close(t);
        t->m.last_rv = why;
    }
    return r;
}

void token_close(struct token *t)
{
    t->ready = false;
    t->objects.n = 0;
    keys_clear(&t->keys);
    t->session = CK_INVALID_HANDLE;
    module_finalise(&t->m); /* closes sessions and logs out */
}

/* The login belongs to the token, not to the session, but many tokens drop it with the last session. */
static RESULT renew_session(struct token *t, struct err *e)
{
    (void)CALL(&t->m, C_CloseAllSessions, t->slot);
    t->session = CK_INVALID_HANDLE;
    TRY(open_session(t, e));
    TRY(login(t, e));
    return token_reload(t, e);
}

RESULT token_recover(struct token *t, struct err *e)
{
    const enum ckr_class class = ckr_class(t->m.last_rv);
    struct err ignored = {0};
    if (!t->ready && t->session == CK_INVALID_HANDLE)
        return token_open(t, e);
    t->ready = false;
    if (class == CKR_CLASS_STALE_OBJECT && !token_reload(t, &ignored).failed)
        return ok();
    if (class == CKR_CLASS_STALE_SESSION && !renew_session(t, &ignored).failed)
        return ok();
    token_close(t);
    t->reinitialised++;
    return token_open(t, e);
}

RESULT token_check(struct token *t, struct err *e)
{
    CK_SESSION_INFO info;
    CK_RV rv = CALL(&t->m, C_GetSessionInfo, t->session, &info);
    if (rv == CKR_OK && info.state != CKS_RW_USER_FUNCTIONS)
        t->m.last_rv = rv = CKR_USER_NOT_LOGGED_IN;
    if (rv == CKR_OK)
        return ok();
    t->ready = false;
    return ckr_fail(rv, "C_GetSessionInfo", e);
}
