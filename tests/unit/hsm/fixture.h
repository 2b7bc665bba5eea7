/* A fresh SoftHSM2 token in a folder of its own, removed at the end; and tools that make objects behind the vault's back. */
#ifndef TESTS_UNIT_HSM_FIXTURE_H
#define TESTS_UNIT_HSM_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "hsm/ops.h"
#include "hsm/verify.h"

#include <fcntl.h>
#include <ftw.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SOFTHSM "/usr/lib/softhsm/libsofthsm2.so"
#define TOKEN_URI "pkcs11:token=claviger-test"
#define RIGHT_PIN "123456"
#define ORIGIN "claviger/node1"
#define CERTIFICATE_HEAD "claviger.certificate/v1\n" ORIGIN "\nkind: version\n"
#define CERTIFICATE_FACTS                                                                                                       \
    "name: projects/acme/locations/eu/keyRings/pii/cryptoKeys/email/cryptoKeyVersions/1\ninstance: 000102030405060708090a0b0c0d0e0f\n" \
    "tenant: 101112131415161718191a1b1c1d1e1f\nkvid: 202122232425262728292a2b2c2d2e2f\nprotection: SOFTWARE\n"                      \
    "created: 2026-11-20T12:00:00Z\nrequested: 2026-11-21T12:00:00.5Z\nrequested-by: acme-keyadmin\ndue: 2026-12-21T12:00:00.5Z\n"    \
    "destroyed: 2026-12-21T12:00:01Z\nseal-epoch: 1\ncovers: much\nremains: little\n"
#define CERTIFICATE CERTIFICATE_HEAD CERTIFICATE_FACTS

extern char **environ;

struct fixture {
    char dir[64], conf[96], tokens[96], pin[96], state[96];
    int timeout_ms; /* hsm_timeout of a kmsd-hsm on it; 0: monitor.h's */
    const char *more; /* lines of its configuration beside monitor.h's; NULL: none */
};

static inline void write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    assert_int_equal(close(fd), 0);
}

static inline void run_tool(char *const *argv)
{
    pid_t pid;
    int status;
    posix_spawn_file_actions_t quiet;
    assert_int_equal(posix_spawn_file_actions_init(&quiet), 0);
    assert_int_equal(posix_spawn_file_actions_addopen(&quiet, STDOUT_FILENO, "/dev/null", O_WRONLY, 0), 0);
    assert_int_equal(posix_spawnp(&pid, argv[0], &quiet, NULL, argv, environ), 0);
    assert_int_equal(posix_spawn_file_actions_destroy(&quiet), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static inline void fixture_init_token(const char *label)
{
    char *argv[] = {(char *)"softhsm2-util", (char *)"--init-token", (char *)"--free", (char *)"--label", (char *)(uintptr_t)label,
                    (char *)"--pin", (char *)RIGHT_PIN, (char *)"--so-pin", (char *)"87654321", NULL};
    run_tool(argv);
}

static inline void fixture_make(struct fixture *f)
{
    char text[256];
    const char *place = getenv("TMPDIR"); /* in memory, where a disk that others use would be what is measured */
    (void)snprintf(f->dir, sizeof f->dir, "%.40s/clv-hsm-XXXXXX", place != NULL && place[0] == '/' ? place : "/tmp");
    assert_non_null(mkdtemp(f->dir));
    (void)snprintf(f->conf, sizeof f->conf, "%s/softhsm2.conf", f->dir);
    (void)snprintf(f->tokens, sizeof f->tokens, "%s/tokens", f->dir);
    (void)snprintf(f->pin, sizeof f->pin, "%s/pin", f->dir);
    (void)snprintf(f->state, sizeof f->state, "%s/state", f->dir);
    assert_int_equal(mkdir(f->tokens, 0700), 0);
    assert_int_equal(mkdir(f->state, 0700), 0);
    (void)snprintf(text, sizeof text, "directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", f->tokens);
    write_file(f->conf, text);
    write_file(f->pin, RIGHT_PIN "\n");
    assert_int_equal(setenv("SOFTHSM2_CONF", f->conf, 1), 0);
    fixture_init_token("claviger-test");
}

static inline int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static inline void fixture_remove(const struct fixture *f)
{
    (void)nftw(f->dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static inline struct result fixture_pin(void *user, int *ret_fd, struct err *e)
{
    const struct fixture *f = user;
    *ret_fd = open(f->pin, O_RDONLY | O_CLOEXEC);
    if (*ret_fd < 0)
        FAIL(e, ERR_STATE, "HSM_PIN_FILE", "no PIN file");
    return ok();
}

static inline struct token_setup fixture_setup(struct fixture *f, const struct clock *clock)
{
    return (struct token_setup){.module_path = SOFTHSM,
                                .uri = TOKEN_URI,
                                .vendor_config = f->conf,
                                .state_dir = f->state,
                                .origin = ORIGIN,
                                .clock = clock,
                                .pin = fixture_pin,
                                .pin_user = f};
}

/* ---- objects made by other means than hsm/create.c ---------------------------------------------------------------- */

struct made {
    bool extractable, derive, modifiable, wrap;
    uint8_t id_bump;
};

/* Imports a secret of known value; with made all zero it has exactly the attributes that are required. */
static inline void make_secret(struct token *t, enum hsm_object kind, uint32_t version, const uint8_t value[32],
                               const struct made *how)
{
    char label[OBJECT_LABEL_MAX];
    uint8_t id[OBJECT_ID_BYTES], key[32];
    CK_BBOOL yes = CK_TRUE, no = CK_FALSE, extractable = how->extractable, derive = how->derive, wrap = how->wrap,
             modifiable = how->modifiable;
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_KEY_TYPE type = CKK_GENERIC_SECRET;
    CK_MECHANISM_TYPE allowed = CKM_SHA256_HMAC;
    CK_OBJECT_HANDLE h;
    object_label(kind, version, label);
    object_id(kind, version, id);
    id[4] = (uint8_t)(id[4] + how->id_bump);
    memcpy(key, value, sizeof key);
    CK_ATTRIBUTE a[] = {{CKA_CLASS, &class, sizeof class},     {CKA_KEY_TYPE, &type, sizeof type},
                        {CKA_VALUE, key, sizeof key},          {CKA_LABEL, label, strlen(label)},
                        {CKA_ID, id, sizeof id},               {CKA_TOKEN, &yes, 1},
                        {CKA_PRIVATE, &yes, 1},                {CKA_SENSITIVE, &yes, 1},
                        {CKA_EXTRACTABLE, &extractable, 1},    {CKA_SIGN, &yes, 1},
                        {CKA_VERIFY, &no, 1},                  {CKA_ENCRYPT, &no, 1},
                        {CKA_DECRYPT, &no, 1},                 {CKA_WRAP, &wrap, 1},
                        {CKA_UNWRAP, &no, 1},                  {CKA_DERIVE, &derive, 1},
                        {CKA_MODIFIABLE, &modifiable, 1},      {CKA_COPYABLE, &no, 1},
                        {CKA_ALLOWED_MECHANISMS, &allowed, sizeof allowed}};
    assert_int_equal(t->m.f->C_CreateObject(t->session, a, sizeof a / sizeof a[0], &h), CKR_OK);
}

/* The in-HSM encoding of tenant-kek with made-up fields. */
static inline void tenant_kek_input(struct buf *out)
{
    uint8_t id[16] = {1}, tenant[16] = {2}, salt[32] = {3}, master[4] = {0, 0, 0, 1};
    struct bytes fields[] = {BYTES(id, 16), BYTES(tenant, 16), BYTES_LIT("eu"), BYTES(salt, 32), BYTES(master, 4)};
    buf_init(out, KDFENC_MAX_BYTES);
    assert_true(kdfenc_build(KDF_TENANT_KEK, fields, 5, out));
}

static inline void store_key_input(struct buf *out)
{
    uint8_t id[16] = {1}, epoch[4] = {0, 0, 0, 1};
    struct bytes fields[] = {BYTES(id, 16), BYTES(epoch, 4)};
    buf_init(out, KDFENC_MAX_BYTES);
    assert_true(kdfenc_build(KDF_STORE_KEY, fields, 2, out));
}

/* Calls take &e; these name the error when it is not the one expected. */
#define OK(call)                                                                                                       \
    do {                                                                                                               \
        struct err e = {0};                                                                                            \
        if ((call).failed)                                                                                             \
            fail_msg("%s: %s/%s %s", #call, err_name(e.code), e.reason, e.detail);                                     \
    } while (0)
#define REFUSED(want_code, want_reason, call)                                                                          \
    do {                                                                                                               \
        struct err e = {0};                                                                                            \
        assert_true((call).failed);                                                                                    \
        if (e.code != (want_code) || e.reason == NULL || strcmp(e.reason, (want_reason)) != 0)                         \
            fail_msg("%s: %s/%s %s", #call, err_name(e.code), e.reason, e.detail);                                     \
    } while (0)

#endif
