/* Target functions: hsm_probe, hsm_derive and the other operations of hsm/hsm.h in core, on what an hsm process that went wrong
 * may say: an operation fails with a code of the closed list, or gives what the header promises. Answers that nobody asked for,
 * of another operation or cut short change nothing else, and no call outlives the channel.
 *
 * Input: u8 operation, then packets: u8 how, u8 length, bytes. how even: a reply, mostly to what was asked; odd:
 * as it is. */
#include "base/chan.h"
#include "hsm/call.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { REPLIES_MAX = 8, OPERATIONS = 16 };
static const enum wire_op ops[OPERATIONS] = {WIRE_PROBE, WIRE_DERIVE, WIRE_RANDOM, WIRE_BACKUP, WIRE_GENERATE, WIRE_ANCHOR_PUT,
                                             WIRE_ANCHOR_GET, WIRE_SIGN_CHECKPOINT, WIRE_AUDIT_PUBKEY, WIRE_SIGN_CERTIFICATE,
                                             WIRE_KEY_GENERATE, WIRE_KEY_CHECK, WIRE_KEY_SEAL, WIRE_KEY_OPEN, WIRE_KEY_LIST,
                                             WIRE_ANCHOR_TRY};

static bool text_ended(const char *s, size_t n)
{
    return memchr(s, 0, n) != NULL;
}

static struct result probe(struct hsm *h, struct err *e)
{
    struct hsm_status st;
    memset(&st, 0xa5, sizeof st);
    TRY(hsm_probe(h, &st, e));
    INVARIANT(text_ended(st.token_label, sizeof st.token_label) && text_ended(st.serial, sizeof st.serial));
    INVARIANT(text_ended(st.missing, sizeof st.missing) && text_ended(st.cannot, sizeof st.cannot) && text_ended(st.weaknesses, sizeof st.weaknesses));
    return ok();
}

static struct result derive(struct hsm *h, struct err *e)
{
    CLEANUP(secret_freep) struct secret *key = NULL;
    TRY(hsm_derive(h, HSM_MASTER, 1, BYTES_LIT("input"), &key, e));
    INVARIANT(key != NULL && secret_len(key) == SECRET_KEY_BYTES);
    return ok();
}

static struct result backup(struct hsm *h, struct err *e)
{
    struct hsm_backup b;
    memset(&b, 0xa5, sizeof b);
    TRY(hsm_backup(h, &b, e));
    INVARIANT(text_ended(b.path, sizeof b.path) && text_ended(b.serial, sizeof b.serial) && text_ended(b.holds, sizeof b.holds));
    return ok();
}

/* n is beyond the buffer until the operation sets it. */
static struct result bytes_of(struct hsm *h, enum wire_op op, struct err *e)
{
    uint8_t out[HSM_ANCHOR_MAX];
    size_t n = SIZE_MAX;
    bool ed25519;
    switch (op) {
    case WIRE_ANCHOR_GET:
        TRY(hsm_anchor_get(h, out, &n, e));
        INVARIANT(n <= HSM_ANCHOR_MAX);
        return ok();
    case WIRE_SIGN_CHECKPOINT:
        TRY(hsm_sign_checkpoint(h, 1, BYTES_LIT("message"), out, &n, e));
        INVARIANT(n > 0 && n <= HSM_SIG_MAX);
        return ok();
    case WIRE_SIGN_CERTIFICATE:
        TRY(hsm_sign_certificate(h, 1, BYTES_LIT("message"), out, &n, e));
        INVARIANT(n > 0 && n <= HSM_SIG_MAX);
        return ok();
    default:
        TRY(hsm_audit_pubkey(h, 1, out, &n, &ed25519, e));
        INVARIANT(n > 0 && n <= HSM_PUBKEY_MAX);
        return ok();
    }
}

static struct result key_operation(struct hsm *h, enum wire_op op, struct err *e)
{
    static const uint8_t kvid[HSM_KVID_BYTES], hash[HSM_AAD_HASH_BYTES], sealed[HSM_SEALED_OVERHEAD + 7];
    uint8_t check[HSM_CHECK_BYTES] = {0}, out[HSM_SEALED_OVERHEAD + 7], page[HSM_KEY_PAGE][HSM_KVID_BYTES];
    size_t n = SIZE_MAX;
    switch (op) {
    case WIRE_KEY_GENERATE:
        return hsm_key_generate(h, kvid, hash, check, e);
    case WIRE_KEY_CHECK:
        return hsm_key_check(h, kvid, hash, check, e);
    case WIRE_KEY_SEAL:
        return hsm_key_seal(h, kvid, HSM_SEALED_DATA, hash, BYTES_LIT("7 bytes"), out, e);
    case WIRE_KEY_OPEN:
        return hsm_key_open(h, kvid, HSM_SEALED_DATA, hash, BYTES(sealed, sizeof sealed), out, e);
    default:
        TRY(hsm_key_list(h, NULL, page, &n, e));
        INVARIANT(n <= HSM_KEY_PAGE);
        return ok();
    }
}

static struct result operation(struct hsm *h, enum wire_op op, struct err *e)
{
    uint8_t random[64];
    switch (op) {
    case WIRE_PROBE:
        return probe(h, e);
    case WIRE_DERIVE:
        return derive(h, e);
    case WIRE_RANDOM:
        return hsm_random(h, random, sizeof random, e);
    case WIRE_BACKUP:
        return backup(h, e);
    case WIRE_GENERATE:
        return hsm_generate(h, HSM_SEAL, 2, e);
    case WIRE_ANCHOR_PUT:
        return hsm_anchor_put(h, BYTES_LIT("floor"), e);
    case WIRE_ANCHOR_TRY:
        return hsm_anchor_try(h, e);
    case WIRE_KEY_GENERATE:
    case WIRE_KEY_CHECK:
    case WIRE_KEY_SEAL:
    case WIRE_KEY_OPEN:
    case WIRE_KEY_LIST:
        return key_operation(h, op, e);
    default:
        return bytes_of(h, op, e);
    }
}

/* What the other side says, said before it is asked: the first request has the number 1. */
static void say(int fd, uint16_t asked, struct reader *r)
{
    for (unsigned i = 0; i < REPLIES_MAX && r->n > 2; i++) {
        uint8_t how = reader_u8(r), n = reader_u8(r);
        struct bytes in = reader_take(r, n < r->n ? n : r->n);
        uint16_t op = how & 8 ? (uint16_t)(how >> 4) : asked;
        struct chan_msg m = {.type = (uint16_t)(WIRE_REPLY | op), .seq = how & 2 ? 1 : in.n & 3, .body = in};
        struct err e = {0};
        if (how & 1)
            INVARIANT(send(fd, in.p, in.n, MSG_NOSIGNAL) == (ssize_t)in.n);
        else
            INVARIANT(!chan_send(fd, &m, &e).failed);
    }
    INVARIANT(shutdown(fd, SHUT_WR) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool slab;
    struct reader r = reader_of(BYTES(data, size));
    struct hsm *h = NULL;
    struct err e = {0};
    int fds[2];
    unsigned op = reader_u8(&r);
    if (!slab)
        INVARIANT(!secret_slab_init(16, &e).failed);
    slab = true;
    INVARIANT(!chan_pair(fds, &e).failed && !hsm_client_new(fds[0], 1000, &h, &e).failed);
    say(fds[1], (uint16_t)ops[op % OPERATIONS], &r);
    if (operation(h, ops[op % OPERATIONS], &e).failed)
        INVARIANT(e.code > ERR_NONE && e.code <= ERR_INTERNAL && e.code != ERR_WOULD_BLOCK);
    hsm_free(h);
    (void)close(fds[1]);
    return 0;
}
