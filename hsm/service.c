#include "hsm/service.h"

#include "base/chan.h"
#include "base/log.h"
#include "hsm/backup.h"
#include "hsm/seal.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SERVICE_PATIENCE_MS = 1000 };

static RESULT bad_request(struct err *e)
{
    FAIL(e, ERR_INTERNAL, "HSM_BAD_REQUEST", "a request of core cannot be read");
}

static RESULT do_probe(struct token *t, struct buf *out)
{
    struct hsm_status st;
    ops_status(t, &st);
    buf_put_u8(out, st.logged_in);
    buf_put_v16(out, bytes_str(st.token_label));
    buf_put_v16(out, bytes_str(st.manufacturer));
    buf_put_v16(out, bytes_str(st.model));
    buf_put_v16(out, bytes_str(st.serial));
    buf_put_u32(out, st.master_newest);
    buf_put_u32(out, st.seal_newest);
    buf_put_u32(out, st.audit_newest);
    buf_put_v16(out, bytes_str(st.missing));
    buf_put_v16(out, bytes_str(st.cannot));
    buf_put_v16(out, bytes_str(st.weaknesses));
    buf_put_u64(out, st.calls);
    buf_put_u64(out, st.failures);
    buf_put_u8(out, st.copyable);
    buf_put_u32(out, st.backups);
    return ok();
}

static RESULT do_derive(struct service *s, struct token *t, struct reader *in, struct err *e)
{
    enum hsm_object object = (enum hsm_object)reader_u8(in);
    uint32_t version = reader_u32(in);
    struct bytes input = reader_v16(in);
    if (!reader_done(in))
        return bad_request(e);
    secret_freep(&s->key); /* of a try before this one */
    return ops_derive(t, object, version, input, &s->key, e);
}

static RESULT do_random(struct token *t, struct reader *in, struct buf *out, struct err *e)
{
    uint8_t random[HSM_RANDOM_MAX];
    size_t n = reader_u16(in);
    if (!reader_done(in))
        return bad_request(e);
    TRY(ops_random(t, random, n, e));
    buf_put(out, random, n);
    wipe(random, sizeof random);
    return ok();
}

static RESULT do_sign(struct token *t, enum wire_op op, struct reader *in, struct buf *out, struct err *e)
{
    uint8_t sig[HSM_SIG_MAX];
    size_t n;
    uint32_t version = reader_u32(in);
    struct bytes message = reader_v16(in);
    if (!reader_done(in))
        return bad_request(e);
    if (op == WIRE_SIGN_CERTIFICATE)
        TRY(ops_sign_certificate(t, version, message, sig, &n, e));
    else
        TRY(ops_sign_checkpoint(t, version, message, sig, &n, e));
    buf_put_v16(out, BYTES(sig, n));
    return ok();
}

static RESULT do_pubkey(struct token *t, struct reader *in, struct buf *out, struct err *e)
{
    uint8_t key[HSM_PUBKEY_MAX];
    size_t n;
    bool ed25519;
    uint32_t version = reader_u32(in);
    if (!reader_done(in))
        return bad_request(e);
    TRY(ops_audit_pubkey(t, version, key, &n, &ed25519, e));
    buf_put_u8(out, ed25519);
    buf_put_v16(out, BYTES(key, n));
    return ok();
}

static RESULT do_object(struct service *s, struct token *t, enum wire_op op, struct reader *in, struct err *e)
{
    enum hsm_object object = (enum hsm_object)reader_u8(in);
    uint32_t version = reader_u32(in);
    if (!reader_done(in))
        return bad_request(e);
    struct result r = op == WIRE_GENERATE ? ops_generate(t, s->verifier, object, version, e) : ops_destroy(t, object, version, e);
    if (!r.failed)
        log_event(LOG_INFO, "token changed", LF_STR("change", op == WIRE_GENERATE ? "object made and verified" : "object destroyed"),
                  LF_INT("object", object), LF_INT("version", version));
    return r;
}

static RESULT do_backup(struct service *s, struct token *t, const struct reader *in, struct buf *out, struct err *e)
{
    struct hsm_backup made;
    if (!reader_done(in))
        return bad_request(e);
    TRY(ops_backup(t, s->verifier, &made, e));
    buf_put_v16(out, bytes_str(made.path));
    buf_put_v16(out, bytes_str(made.serial));
    buf_put_v16(out, bytes_str(made.holds));
    buf_put_u64(out, (uint64_t)made.made_unix_s);
    buf_put_u32(out, made.keys);
    return ok();
}

static RESULT do_anchor_get(struct token *t, struct buf *out, struct err *e)
{
    uint8_t value[HSM_ANCHOR_MAX];
    size_t n;
    TRY(ops_anchor_get(t, value, &n, e));
    buf_put_v16(out, BYTES(value, n));
    return ok();
}

static RESULT do_anchor_put(struct token *t, struct reader *in, struct err *e)
{
    struct bytes value = reader_v16(in);
    if (!reader_done(in))
        return bad_request(e);
    return ops_anchor_put(t, value, e);
}

/* ---- keys of protection level HSM ---- */
struct key_request {
    uint8_t kvid[HSM_KVID_BYTES], aad_hash[HSM_AAD_HASH_BYTES];
    enum hsm_sealed type;
};
static void take_key(struct reader *in, bool typed, struct key_request *q)
{
    reader_copy(in, q->kvid, sizeof q->kvid);
    q->type = typed ? (enum hsm_sealed)reader_u8(in) : HSM_SEALED_CHECK;
    reader_copy(in, q->aad_hash, sizeof q->aad_hash);
}

static RESULT do_key_generate(struct service *s, struct token *t, struct reader *in, struct buf *out, struct err *e)
{
    struct key_request q;
    uint8_t check[HSM_CHECK_BYTES];
    take_key(in, false, &q);
    if (!reader_done(in))
        return bad_request(e);
    TRY(ops_key_generate(t, s->verifier, q.kvid, q.aad_hash, check, e));
    buf_put(out, check, sizeof check);
    return ok();
}

static RESULT do_key_check(struct token *t, struct reader *in, struct err *e)
{
    struct key_request q;
    uint8_t check[HSM_CHECK_BYTES];
    take_key(in, false, &q);
    reader_copy(in, check, sizeof check);
    return reader_done(in) ? ops_key_check(t, q.kvid, q.aad_hash, check, e) : bad_request(e);
}

static void wipe_message(uint8_t (*p)[HSM_SEALED_OVERHEAD + HSM_PLAIN_MAX])
{
    wipe(*p, sizeof *p);
}

static RESULT do_key_seal(struct token *t, struct reader *in, struct buf *out, struct err *e)
{
    uint8_t sealed[HSM_SEALED_OVERHEAD + HSM_PLAIN_MAX];
    struct key_request q;
    take_key(in, true, &q);
    struct bytes plain = reader_v16(in);
    if (!reader_done(in))
        return bad_request(e);
    TRY(ops_key_seal(t, q.kvid, q.type, q.aad_hash, plain, sealed, e));
    buf_put(out, sealed, plain.n + HSM_SEALED_OVERHEAD);
    return ok();
}

static RESULT do_key_open(struct token *t, struct reader *in, struct buf *out, struct err *e)
{
    CLEANUP(wipe_message) uint8_t plain[HSM_SEALED_OVERHEAD + HSM_PLAIN_MAX];
    struct key_request q;
    take_key(in, true, &q);
    struct bytes sealed = reader_v16(in);
    if (!reader_done(in))
        return bad_request(e);
    TRY(ops_key_open(t, q.kvid, q.type, q.aad_hash, sealed, plain, e));
    buf_put(out, plain, sealed.n - HSM_SEALED_OVERHEAD);
    return ok();
}

static RESULT do_key_destroy(struct token *t, struct reader *in, struct err *e)
{
    uint8_t kvid[HSM_KVID_BYTES];
    reader_copy(in, kvid, sizeof kvid);
    return reader_done(in) ? ops_key_destroy(t, kvid, e) : bad_request(e);
}

static RESULT do_key_list(struct token *t, struct reader *in, struct buf *out, struct err *e)
{
    struct bytes after = reader_v16(in);
    if (!reader_done(in) || (after.n != 0 && after.n != HSM_KVID_BYTES))
        return bad_request(e);
    ops_key_list(t, after.n != 0 ? after.p : NULL, out);
    return ok();
}

static RESULT dispatch(struct service *s, struct token *t, uint16_t op, struct bytes body, struct buf *out, struct err *e)
{
    struct reader in = reader_of(body);
    switch (op) {
    case WIRE_PROBE:
        return do_probe(t, out);
    case WIRE_DERIVE:
        return do_derive(s, t, &in, e);
    case WIRE_RANDOM:
        return do_random(t, &in, out, e);
    case WIRE_SIGN_CHECKPOINT:
    case WIRE_SIGN_CERTIFICATE:
        return do_sign(t, (enum wire_op)op, &in, out, e);
    case WIRE_AUDIT_PUBKEY:
        return do_pubkey(t, &in, out, e);
    case WIRE_GENERATE:
    case WIRE_DESTROY:
        return do_object(s, t, (enum wire_op)op, &in, e);
    case WIRE_ANCHOR_GET:
        return do_anchor_get(t, out, e);
    case WIRE_ANCHOR_PUT:
        return do_anchor_put(t, &in, e);
    case WIRE_ANCHOR_TRY:
        return reader_done(&in) ? ops_anchor_try(t, e) : bad_request(e);
    case WIRE_BACKUP:
        return do_backup(s, t, &in, out, e);
    case WIRE_KEY_GENERATE:
        return do_key_generate(s, t, &in, out, e);
    case WIRE_KEY_CHECK:
        return do_key_check(t, &in, e);
    case WIRE_KEY_SEAL:
        return do_key_seal(t, &in, out, e);
    case WIRE_KEY_OPEN:
        return do_key_open(t, &in, out, e);
    case WIRE_KEY_DESTROY:
        return do_key_destroy(t, &in, e);
    case WIRE_KEY_LIST:
        return do_key_list(t, &in, out, e);
    default:
        return bad_request(e);
    }
}

/* A second generate could meet the first one's object; a second anchor would be a second generation of it. */
static bool may_repeat(uint16_t op)
{
    return op != WIRE_GENERATE && op != WIRE_DESTROY && op != WIRE_ANCHOR_PUT && op != WIRE_ANCHOR_TRY && op != WIRE_BACKUP &&
           op != WIRE_KEY_GENERATE && op != WIRE_KEY_DESTROY;
}

static bool token_failed(const struct token *t)
{
    enum ckr_class c = ckr_class(t->m.last_rv);
    /* A PIN is no matter of a call that serves; the login that follows asks pin.c whether it may be tried. */
    return c == CKR_CLASS_STALE_OBJECT || c == CKR_CLASS_STALE_SESSION || c == CKR_CLASS_DEVICE || c == CKR_CLASS_PIN;
}

/* Core asks for versions that its records name: an object that is not in the table may have been missed when it was made. */
static bool missed(uint16_t op, const struct err *e)
{
    return e->code == ERR_NOT_FOUND && (op == WIRE_DERIVE || op == WIRE_SIGN_CHECKPOINT || op == WIRE_SIGN_CERTIFICATE ||
                                        op == WIRE_AUDIT_PUBKEY);
}

static RESULT again(struct service *s, struct token *t, uint16_t op, struct bytes body, struct buf *out, struct err *e)
{
    buf_reset(out);
    struct result r = dispatch(s, t, op, body, out, e);
    if (r.failed && ckr_class(t->m.last_rv) == CKR_CLASS_PIN)
        FAIL(e, ERR_UNAVAILABLE, "HSM_UNAVAILABLE", "the token asks for a PIN where it is logged in: %s", ckr_name(t->m.last_rv));
    return r;
}

static RESULT mend(struct service *s, struct token *t, uint16_t op, struct bytes body, struct buf *out, struct err *e)
{
    log_event(LOG_WARN, "the token failed, bringing it back", LF_STR("cause", ckr_name(t->m.last_rv)),
              LF_STR("detail", e->detail));
    s->why = *e;
    if (token_recover(t, &s->why).failed)
        FAIL(e, ERR_UNAVAILABLE, "HSM_UNAVAILABLE", "the token is not available: %.200s", s->why.detail);
    return may_repeat(op) ? again(s, t, op, body, out, e) : (struct result){1};
}

static RESULT look_again(struct service *s, struct token *t, uint16_t op, struct bytes body, struct buf *out, struct err *e)
{
    if (!token_reload(t, &s->why).failed)
        return again(s, t, op, body, out, e);
    FAIL(e, ERR_UNAVAILABLE, "HSM_UNAVAILABLE", "the token is not available: %.200s", s->why.detail);
}

static RESULT perform(struct service *s, struct token *t, uint16_t op, struct bytes body, struct buf *out, struct err *e)
{
    if (op == WIRE_PROBE)
        return do_probe(t, out);
    if (!t->ready) {
        const struct err *why = &s->why;
        FAIL(e, ERR_UNAVAILABLE, "HSM_UNAVAILABLE", "the token is not available: %.200s", why->detail);
    }
    t->m.last_rv = CKR_OK;
    struct result r = dispatch(s, t, op, body, out, e);
    if (r.failed && token_failed(t))
        r = mend(s, t, op, body, out, e);
    return r.failed && missed(op, e) ? look_again(s, t, op, body, out, e) : r;
}

/* A key goes from one locked place to another: the answer that brings it is put together in a secret, in no buffer. */
static RESULT join(struct bytes head, const struct secret *key, struct secret **ret, struct err *e)
{
    TRY(secret_new(head.n + secret_len(key), ret, e));
    uint8_t *p = secret_borrow_mut(*ret);
    memcpy(p, head.p, head.n);
    memcpy(p + head.n, secret_borrow(key), secret_len(key));
    return ok();
}

typedef RESULT perform_fn(struct service *s, struct token *t, uint16_t op, struct bytes body, struct buf *out, struct err *e);

static RESULT answer(struct service *s, struct token *t, int fd, const struct chan_msg *m, perform_fn *how, struct err *e)
{
    CLEANUP(buf_release) struct buf payload = {0}, reply = {0};
    CLEANUP(secret_freep) struct secret *key = NULL, *with_key = NULL;
    struct err why = {0};
    buf_init(&payload, WIRE_MAX - 16);
    buf_init(&reply, WIRE_MAX);
    struct result r = how(s, t, m->type, m->body, &payload, &why);
    key = s->key;
    s->key = NULL;
    wire_put_result(&reply, r, &why);
    if (!r.failed)
        buf_put_bytes(&reply, buf_bytes(&payload));
    INVARIANT(!payload.overflow && !reply.overflow);
    struct bytes body = buf_bytes(&reply);
    if (!r.failed && key != NULL) {
        TRY(join(body, key, &with_key, e));
        body = BYTES(secret_borrow(with_key), secret_len(with_key));
    }
    /* A core that does not read its answers must not hold the token. */
    struct pollfd writable = {.fd = fd, .events = POLLOUT};
    if (poll(&writable, 1, SERVICE_PATIENCE_MS) <= 0)
        FAIL(e, ERR_UNAVAILABLE, "CHANNEL", "core does not read its answers");
    const struct chan_msg out = {.type = m->type | WIRE_REPLY, .seq = m->seq, .body = body};
    return chan_send(fd, &out, e);
}

/* Within another operation: whatever is wrong with the token is mended when that one is done. */
static RESULT perform_once(struct service *s, struct token *t, uint16_t op, struct bytes body, struct buf *out, struct err *e)
{
    const CK_RV outer = t->m.last_rv;
    if (!t->ready)
        FAIL(e, ERR_UNAVAILABLE, "HSM_UNAVAILABLE", "the token is not available: %.200s", s->why.detail);
    t->m.last_rv = CKR_OK;
    struct result r = dispatch(s, t, op, body, out, e);
    t->m.last_rv = outer;
    return r;
}

static RESULT answer_meanwhile(void *user, const struct chan_msg *m, struct err *e)
{
    struct service *s = user;
    return answer(s, s->token, s->meanwhile.begun_on, m, perform_once, e);
}

static void begin(struct service *s, struct token *t, int core_fd)
{
    s->token = t;
    s->meanwhile = (struct meanwhile){.core = s->core, .begun_on = core_fd, .answer = answer_meanwhile, .user = s};
    t->meanwhile = s->core != NULL ? meanwhile_serve : NULL;
    t->meanwhile_user = &s->meanwhile;
}

/* Those that were held, in the order in which they came; they may take long in their turn. */
static RESULT answer_held(struct service *s, struct token *t, int core_fd, struct err *e)
{
    struct chan_msg m;
    while (meanwhile_take(&s->meanwhile, &m)) {
        struct result r = answer(s, t, core_fd, &m, perform, e);
        free((void *)(uintptr_t)m.body.p);
        TRY(r);
    }
    return ok();
}

static void wipe_packet(uint8_t (*p)[WIRE_MAX])
{
    wipe(*p, sizeof *p); /* it may have brought somebody's plaintext */
}

RESULT service_answer(struct service *s, struct token *t, int core_fd, struct err *e)
{
    CLEANUP(wipe_packet) uint8_t buf[WIRE_MAX];
    struct chan_msg m;
    TRY(chan_recv(core_fd, 0, buf, sizeof buf, &m, e));
    for (size_t i = 0; i < m.nfds; i++)
        (void)close(m.fds[i]);
    begin(s, t, core_fd);
    struct result r = answer(s, t, core_fd, &m, perform, e);
    if (!r.failed && !s->meanwhile.lost)
        r = answer_held(s, t, core_fd, e);
    if (!r.failed && s->meanwhile.lost)
        r = err_set(e, ERR_UNAVAILABLE, "CHANNEL", __FILE__, __LINE__, "core's channel ended within an operation");
    meanwhile_clear(&s->meanwhile);
    t->meanwhile = NULL;
    return r;
}
