#include "hsm/verify.h"

#include "base/chan.h"
#include "base/log.h"
#include "base/text.h"
#include "hsm/openssl.h"
#include "hsm/seal.h"
#include "hsm/wire.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { HELPER_FD = 3, REQUEST_MAX = 20000, TEXT_MAX = 4096, CHILD_SLOTS = 8,
       KIND_KEY = 0x40 /* in place of an object's kind: a key of protection level HSM */ };

struct request {
    enum hsm_object kind;
    uint32_t version, unanswered;
    uint64_t timeout_ms;
    uint8_t nonce[ANSWER_NONCE_BYTES], answer[ANSWER_BYTES];
    bool is_key; /* then: */
    uint8_t kvid[HSM_KVID_BYTES], aad_hash[HSM_AAD_HASH_BYTES], check[HSM_CHECK_BYTES];
    bool is_copy; /* then: */
    uint32_t keys;
    uint8_t census[KEYS_CENSUS_BYTES];
    char module[TEXT_MAX], uri[TEXT_MAX], vendor_config[TEXT_MAX], state_dir[TEXT_MAX];
    int pin_fd;
};

/* ---- in the fresh process --------------------------------------------------------------------------------------- */

static RESULT give_pin(void *user, int *ret_fd, struct err *e)
{
    struct request *r = user;
    if (r->pin_fd < 0)
        FAIL(e, ERR_STATE, "HSM_PIN_FILE", "the PIN was asked for twice");
    *ret_fd = r->pin_fd;
    r->pin_fd = -1;
    return ok();
}

/* Presence, by name, of each object; that they are the same keys is what the files' digests say. */
static RESULT same_keys(const struct token *t, const struct request *r, struct err *e)
{
    uint8_t census[KEYS_CENSUS_BYTES];
    keys_census(&t->keys, census);
    if (t->keys.n != r->keys || !bytes_equal(BYTES(census, sizeof census), BYTES(r->census, sizeof r->census)))
        FAIL(e, ERR_DATA_LOSS, "HSM_BACKUP", "a fresh process finds %zu keys of level HSM in the copy, not the token's %u, or not all of each", t->keys.n,
             r->keys);
    return ok();
}

static RESULT answer_again(struct token *t, const struct request *r, struct err *e)
{
    char label[OBJECT_LABEL_MAX];
    uint8_t now[ANSWER_BYTES];
    object_label(r->kind, r->version, label);
    /* Opening the token tried every stored answer: one that vanished would have been tried by nobody. */
    if (t->objects.unanswered != r->unanswered)
        FAIL(e, ERR_DATA_LOSS, "HSM_KNOWN_ANSWER", "a fresh process finds %u secrets without a stored known answer instead of %u",
             t->objects.unanswered, r->unanswered);
    if (r->is_copy)
        TRY(same_keys(t, r, e));
    TRY(verifier_answer(t, r->kind, r->version, r->nonce, now, e));
    if (!bytes_ct_equal(now, r->answer, sizeof now))
        FAIL(e, ERR_DATA_LOSS, "HSM_KNOWN_ANSWER", "a fresh process gets another answer from %s", label);
    return ok();
}

static RESULT verify_fresh(struct request *r, const struct confine *confine, struct err *e)
{
    static struct watchdog watchdog; /* its thread lives as long as this short process, */
    static struct token fresh;       /* and so does what the module was given */
    struct token *t = &fresh;
    /* Landlock here and not in the helper: its rule for /proc/self would name the helper. */
    if (confine != NULL) {
        TRY(confine_landlock(confine->paths, confine->npaths, confine->role, e));
        TRY(confine_seccomp(confine->role, e));
    }
    TRY(secret_slab_init(CHILD_SLOTS, e));
    TRY(watchdog_start(&watchdog, r->timeout_ms, &clock_system, e));
    const struct token_setup setup = {.module_path = r->module,
                                      .uri = r->uri,
                                      .vendor_config = r->vendor_config,
                                      .state_dir = r->state_dir,
                                      .partial = true, /* what was made is what must be there */
                                      .narrow = r->is_key,
                                      .watchdog = &watchdog,
                                      .clock = &clock_system,
                                      .pin = give_pin,
                                      .pin_user = r};
    TRY(token_init(t, &setup, e));
    TRY(token_open(t, e));
    return r->is_key ? ops_key_check(t, r->kvid, r->aad_hash, r->check, e) : answer_again(t, r, e);
}

static bool request_parse(const struct chan_msg *m, struct request *r)
{
    struct reader in = reader_of(m->body);
    uint8_t kind = reader_u8(&in);
    r->kind = (enum hsm_object)kind;
    r->is_key = kind == KIND_KEY;
    r->version = reader_u32(&in);
    r->unanswered = reader_u32(&in);
    r->timeout_ms = reader_u64(&in);
    reader_copy(&in, r->nonce, sizeof r->nonce);
    reader_copy(&in, r->answer, sizeof r->answer);
    if (r->is_key) {
        reader_copy(&in, r->kvid, sizeof r->kvid);
        reader_copy(&in, r->aad_hash, sizeof r->aad_hash);
        reader_copy(&in, r->check, sizeof r->check);
    }
    r->is_copy = reader_u8(&in) != 0;
    if (r->is_copy) {
        r->keys = reader_u32(&in);
        reader_copy(&in, r->census, sizeof r->census);
    }
    bool fits = text_copy(reader_v16(&in), r->module, TEXT_MAX) && text_copy(reader_v16(&in), r->uri, TEXT_MAX) &&
                text_copy(reader_v16(&in), r->vendor_config, TEXT_MAX) && text_copy(reader_v16(&in), r->state_dir, TEXT_MAX);
    r->pin_fd = m->nfds == 1 ? m->fds[0] : -1;
    return fits && reader_done(&in) && r->pin_fd >= 0;
}

static void reply(uint32_t seq, struct result r, const struct err *why)
{
    CLEANUP(buf_release) struct buf b = {0};
    struct err ignored = {0};
    buf_init(&b, WIRE_MAX);
    wire_put_result(&b, r, why);
    const struct chan_msg m = {.type = WIRE_VERIFY | WIRE_REPLY, .seq = seq, .body = buf_bytes(&b)};
    if (chan_send(HELPER_FD, &m, &ignored).failed)
        _exit(1); /* hsm is gone, and nobody waits */
}

/* ---- the helper: waits, forks, reports a child that could not report itself -------------------------------------- */

static void check_in_child(const struct chan_msg *m, const struct confine *confine)
{
    struct request *r = calloc(1, sizeof *r);
    struct err e = {0};
    INVARIANT(r != NULL);
    if (!request_parse(m, r))
        _exit(2);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0L, 0L, 0L);
    struct result res = verify_fresh(r, confine, &e);
    reply(m->seq, res, &e);
    _exit(0);
}

static void serve_one(const struct chan_msg *m, const struct confine *confine)
{
    int status = -1;
    struct err e = {0};
    pid_t pid = fork();
    if (pid == 0)
        check_in_child(m, confine);
    for (size_t i = 0; i < m->nfds; i++)
        (void)close(m->fds[i]);
    if (pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return;
    reply(m->seq, err_set(&e, ERR_UNAVAILABLE, "HSM_UNAVAILABLE", __FILE__, __LINE__,
                          "the process that checks a new key ended with status 0x%x", (unsigned)status), &e);
}

__attribute__((noreturn)) static void helper(int fd, const struct confine *confine)
{
    uint8_t *buf = malloc(REQUEST_MAX);
    struct chan_msg m;
    struct err e = {0};
    INVARIANT(buf != NULL);
    /* The monitor's channel must not live on in here: its closing is how the monitor sees hsm end. */
    if (dup2(fd, HELPER_FD) < 0 || close_range(HELPER_FD + 1, ~0u, 0) != 0 || prctl(PR_SET_PDEATHSIG, SIGKILL, 0L, 0L, 0L) != 0)
        _exit(1);
    if (confine != NULL && (confine_user(confine->user, &e).failed || confine_limits(&e).failed)) {
        log_event(LOG_ERROR, "the helper cannot confine itself", LF_ERR(&e));
        _exit(1);
    }
    while (!chan_recv(HELPER_FD, -1, buf, REQUEST_MAX, &m, &e).failed)
        serve_one(&m, confine);
    _exit(0);
}

/* ---- in hsm ------------------------------------------------------------------------------------------------------ */

RESULT verifier_start(struct verifier *v, const struct confine *confine, struct err *e)
{
    int fds[2];
    TRY(chan_pair(fds, e));
    pid_t pid = fork();
    if (pid == 0)
        helper(fds[1], confine);
    (void)close(fds[1]);
    if (pid < 0) {
        (void)close(fds[0]);
        FAIL(e, ERR_INTERNAL, NULL, "the helper that checks new keys cannot be forked");
    }
    *v = (struct verifier){fds[0], pid};
    return ok();
}

void verifier_stop(struct verifier *v)
{
    if (v->fd < 0)
        return;
    (void)close(v->fd);
    v->fd = -1;
    (void)waitpid(v->pid, NULL, 0);
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
}

RESULT verifier_answer(struct token *t, enum hsm_object kind, uint32_t version, const uint8_t nonce[ANSWER_NONCE_BYTES],
                       uint8_t out[ANSWER_BYTES], struct err *e)
{
    const struct object *key;
    uint8_t pub[HSM_PUBKEY_MAX];
    size_t n;
    bool ed25519;
    if (kind != HSM_AUDIT) {
        TRY(objects_get(&t->objects, kind, CKO_SECRET_KEY, version, &key, e));
        return answer_compute(t, key->handle, nonce, out, e);
    }
    TRY(ops_audit_selftest(t, version, nonce, e));
    TRY(ops_audit_pubkey(t, version, pub, &n, &ed25519, e));
    INVARIANT(EVP_Digest(pub, n, out, NULL, EVP_sha256(), NULL) == 1);
    return ok();
}

static void put_census(const struct token *t, struct buf *b)
{
    uint8_t census[KEYS_CENSUS_BYTES];
    keys_census(&t->keys, census);
    buf_put_u32(b, (uint32_t)t->keys.n);
    buf_put(b, census, sizeof census);
}

/* What to look for has been put into b; this adds where, and asks. */
static RESULT ask(struct verifier *v, struct token *t, const char *vendor_config, struct buf *b, struct err *e)
{
    CLEANUP(close_fd) int pin = -1;
    uint8_t in[WIRE_MAX];
    struct chan_msg m = {.type = WIRE_VERIFY, .seq = 1, .nfds = 1}, answered;
    TRY(t->setup.pin(t->setup.pin_user, &pin, e));
    buf_put_u8(b, vendor_config != NULL);
    if (vendor_config != NULL)
        put_census(t, b);
    buf_put_v16(b, bytes_str(t->setup.module_path));
    buf_put_v16(b, bytes_str(t->setup.uri));
    buf_put_v16(b, bytes_str(vendor_config != NULL ? vendor_config : t->setup.vendor_config));
    buf_put_v16(b, bytes_str(t->setup.state_dir));
    INVARIANT(!b->overflow);
    m.body = buf_bytes(b);
    m.fds[0] = pin;
    TRY(chan_send(v->fd, &m, e));
    if (t->meanwhile != NULL)
        t->meanwhile(t->meanwhile_user, v->fd, VERIFY_TIMEOUT_MS);
    TRY(chan_recv(v->fd, VERIFY_TIMEOUT_MS, in, sizeof in, &answered, e));
    struct reader r = reader_of(answered.body);
    return wire_get_result(&r, e);
}

static void begin(const struct token *t, uint8_t kind, uint32_t version, const uint8_t nonce[ANSWER_NONCE_BYTES],
                  const uint8_t answer[ANSWER_BYTES], struct buf *b)
{
    buf_init(b, REQUEST_MAX - 64);
    buf_put_u8(b, kind);
    buf_put_u32(b, version);
    buf_put_u32(b, t->objects.unanswered);
    buf_put_u64(b, t->setup.watchdog != NULL ? t->setup.watchdog->timeout_ms : VERIFY_TIMEOUT_MS);
    buf_put(b, nonce, ANSWER_NONCE_BYTES);
    buf_put(b, answer, ANSWER_BYTES);
}

RESULT verifier_check(struct verifier *v, struct token *t, const char *vendor_config, enum hsm_object kind, uint32_t version,
                      const uint8_t nonce[ANSWER_NONCE_BYTES], const uint8_t answer[ANSWER_BYTES], struct err *e)
{
    CLEANUP(buf_release) struct buf b = {0};
    begin(t, (uint8_t)kind, version, nonce, answer, &b);
    return ask(v, t, vendor_config, &b, e);
}

RESULT verifier_check_key(struct verifier *v, struct token *t, const uint8_t kvid[HSM_KVID_BYTES],
                          const uint8_t aad_hash[HSM_AAD_HASH_BYTES], const uint8_t check[HSM_CHECK_BYTES], struct err *e)
{
    static const uint8_t nothing[ANSWER_NONCE_BYTES];
    CLEANUP(buf_release) struct buf b = {0};
    begin(t, KIND_KEY, 0, nothing, nothing, &b);
    buf_put(&b, kvid, HSM_KVID_BYTES);
    buf_put(&b, aad_hash, HSM_AAD_HASH_BYTES);
    buf_put(&b, check, HSM_CHECK_BYTES);
    return ask(v, t, NULL, &b, e);
}
