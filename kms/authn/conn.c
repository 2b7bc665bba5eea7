#include "kms/authn/conn.h"

#include "base/text.h"

#include <stdlib.h>
#include <string.h>

struct authn_conn *authn_conn_ref(struct authn_conn *c)
{
    ref_take(&c->refs);
    return c;
}

void authn_conn_unref(struct authn_conn *c)
{
    if (!c || !ref_drop(&c->refs))
        return;
    principal_unref(c->principal);
    pthread_mutex_destroy(&c->lock);
    free(c->der);
    free(c);
}

struct bytes authn_conn_address(const struct authn_conn *c)
{
    return BYTES(c->address, c->address_n);
}

struct bytes authn_conn_listener(const struct authn_conn *c)
{
    return BYTES(c->listener, c->listener_n);
}

struct bytes authn_conn_certificate(const struct authn_conn *c)
{
    return BYTES(c->cert_sha256, c->chain_n ? sizeof c->cert_sha256 : 0);
}

static void conn_unrefp(struct authn_conn **c)
{
    authn_conn_unref(*c);
}

static RESULT copy_label(struct bytes text, char *out, size_t *ret_n, struct err *e)
{
    if (text.n > IPC_ADDR_MAX || !text_is_clean_utf8(text))
        FAIL(e, ERR_INVALID, NULL, "connection notice with an address or listener of %zu bytes", text.n);
    if (text.n)
        memcpy(out, text.p, text.n);
    out[text.n] = '\0';
    *ret_n = text.n;
    return ok();
}

/* A chain over a limit is dropped but remembered, so that its calls are refused and audited like any other bad chain. */
static void copy_chain(struct authn_conn *c, const struct bytes *der, size_t n, size_t total)
{
    if (n > AUTHN_CHAIN_MAX || total > IPC_CHAIN_MAX_BYTES || total == 0)
        return;
    uint8_t *at = c->der = malloc(total);
    INVARIANT(at);
    for (size_t i = 0; i < n; i++) {
        if (der[i].n)
            memcpy(at, der[i].p, der[i].n);
        c->chain[i] = BYTES(at, der[i].n);
        at += der[i].n;
    }
    c->chain_n = n;
    unsigned len = sizeof c->cert_sha256;
    INVARIANT(EVP_Digest(c->chain[0].p, c->chain[0].n, c->cert_sha256, &len, EVP_sha256(), NULL) == 1);
}

RESULT conn_parse(struct bytes untrusted_conn_new, struct authn_conn **ret, struct err *e)
{
    struct reader r = reader_of(untrusted_conn_new);
    struct bytes der[UINT8_MAX];
    size_t total = 0;
    CLEANUP(conn_unrefp) struct authn_conn *c = calloc(1, sizeof *c);
    INVARIANT(c && pthread_mutex_init(&c->lock, NULL) == 0);
    ref_init(&c->refs);
    reader_copy(&r, c->id, sizeof c->id);
    struct bytes listener = reader_v16(&r), address = reader_v16(&r);
    size_t n = reader_u8(&r);
    for (size_t i = 0; i < n && !r.bad; i++) {
        der[i] = reader_v32(&r);
        total += der[i].n;
    }
    if (!reader_done(&r))
        FAIL(e, ERR_INVALID, NULL, "connection notice of %zu bytes is cut short or too long", untrusted_conn_new.n);
    TRY(copy_label(listener, c->listener, &c->listener_n, e));
    TRY(copy_label(address, c->address, &c->address_n, e));
    copy_chain(c, der, n, total);
    if (n && !c->chain_n)
        memcpy(c->cause, "chain empty or over the limit", sizeof "chain empty or over the limit");
    *ret = c;
    c = NULL;
    return ok();
}
