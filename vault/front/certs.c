#include "vault/front/certs.h"

#include <stdlib.h>
#include <string.h>

enum { CERTS_BUCKETS = 1024 };

struct cert {
    struct cert *next;
    struct holding *head, *tail;
    uint32_t n;
    uint8_t digest[CERTS_DIGEST_BYTES];
};
struct certs {
    struct cert *buckets[CERTS_BUCKETS];
    uint32_t share, n;
};

struct certs *certs_new(uint32_t share)
{
    struct certs *cs = calloc(1, sizeof *cs);
    INVARIANT(cs != NULL);
    cs->share = share;
    return cs;
}

void certs_free(struct certs *cs)
{
    INVARIANT(cs == NULL || cs->n == 0);
    free(cs);
}

/* A digest's bits are as good as random; choosing certificates to share a chain gains little: each needs a handshake. */
static struct cert **bucket_of(struct certs *cs, const uint8_t digest[CERTS_DIGEST_BYTES])
{
    return &cs->buckets[(digest[0] | digest[1] << 8) % CERTS_BUCKETS];
}

static struct cert *cert_of(struct certs *cs, const uint8_t digest[CERTS_DIGEST_BYTES])
{
    struct cert **at = bucket_of(cs, digest);
    for (struct cert *c = *at; c != NULL; c = c->next)
        if (memcmp(c->digest, digest, CERTS_DIGEST_BYTES) == 0) /* banned-ok: of a certificate, which is public */
            return c;
    struct cert *c = calloc(1, sizeof *c);
    INVARIANT(c != NULL);
    memcpy(c->digest, digest, CERTS_DIGEST_BYTES);
    c->next = *at;
    *at = c;
    return c;
}

void certs_join(struct certs *cs, const uint8_t digest[CERTS_DIGEST_BYTES], struct holding *h)
{
    struct cert *c = cert_of(cs, digest);
    *h = (struct holding){.prev = c->tail, .cert = c};
    *(c->tail == NULL ? &c->head : &c->tail->next) = h;
    c->tail = h;
    c->n++;
    cs->n++;
}

void certs_leave(struct certs *cs, struct holding *h)
{
    struct cert *c = h->cert;
    if (c == NULL)
        return;
    *(h->prev == NULL ? &c->head : &h->prev->next) = h->next;
    *(h->next == NULL ? &c->tail : &h->next->prev) = h->prev;
    *h = (struct holding){0};
    cs->n--;
    if (--c->n > 0)
        return;
    struct cert **at = bucket_of(cs, c->digest);
    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    free(c);
}

bool certs_over(const struct certs *cs, const struct holding *h)
{
    return h->cert->n > cs->share;
}

struct holding *certs_oldest(const struct holding *h)
{
    return h->cert->head;
}
