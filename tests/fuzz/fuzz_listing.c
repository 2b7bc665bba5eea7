/* Target functions: listing_parse, listing_token. Fields of the input: u8 kinds, then u8 lengths before filter, order and token.
 * A filter that is accepted has only terms that this list can filter by; a token is opened only if it was made for this very
 * query and caller, and then gives back what was put in. */
#include "vault/service/listing.h"

#include "vault/service/pipeline.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct service service;

static void prepare(void)
{
    struct secret *parent;
    struct err e = {0};
    struct bytes fields[] = {BYTES_LIT("token"), {0}};
    static const uint8_t bytes[32] = "a key that protects nothing ....";
    struct aead_key *k;
    if (service.token_key != NULL)
        return;
    INVARIANT(!secret_slab_init(16, &e).failed && !secret_from(bytes, sizeof bytes, &parent, &e).failed);
    INVARIANT(!aead_key_derive(parent, KDF_STORE, fields, 2, 1, &k, &e).failed);
    service.token_key = k;
    secret_free(parent);
}

static void check_terms(const struct listing *l, unsigned kinds)
{
    INVARIANT(l->nterms <= LISTING_TERMS_MAX && l->page >= 1 && l->page <= LISTING_PAGE_MAX);
    for (size_t i = 0; i < l->nterms; i++) {
        const struct listing_term *t = &l->terms[i];
        INVARIANT((kinds >> t->kind & 1) == 1 && t->value.n > 0 && memchr(t->value.p, ' ', t->value.n) == NULL);
        INVARIANT(t->kind != TERM_LABEL || t->label.n > 0);
    }
    struct label own = {BYTES_LIT("env"), BYTES_LIT("prod")};
    (void)listing_match_name(l, BYTES_LIT("projects/acme/locations/eu"));
    (void)listing_match_state(l, "ENABLED");
    (void)listing_match_labels(l, &own, 1);
}

static void check_own_token(struct call *c, const struct listing *l, int32_t page, struct bytes filter, struct bytes order, unsigned kinds)
{
    struct listing second;
    struct err e = {0};
    struct bytes last = BYTES_LIT("the-last-one");
    ProtobufCBinaryData token = listing_token(c, l, last);
    INVARIANT(!listing_parse(c, page, token, pb_view(filter), pb_view(order), (struct bytes){0}, kinds, &second, &e).failed);
    INVARIANT(bytes_equal(second.after, last) && second.descending == l->descending);
    INVARIANT(listing_parse(c, page, token, pb_view(filter), pb_view(order), BYTES_LIT("scope"), kinds, &second, &e).failed);
    INVARIANT(e.code == ERR_INVALID && strcmp(e.field, "page_token") == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct rpc_row row = {.path = "/google.cloud.kms.v1.KeyManagementService/ListCryptoKeys"};
    static const struct principal principal = {.name = "orders"};
    struct call_private private = {.resource_text = "projects/acme/locations/eu/keyRings/pii"};
    struct call c = {.svc = &service, .row = &row, .id.principal = &principal, .priv = &private};
    struct reader r = reader_of(BYTES(data, size));
    struct listing l;
    struct err e = {0};
    unsigned kinds = reader_u8(&r) & 0xe;
    int32_t page = (int32_t)reader_u8(&r) - 2;
    struct bytes filter = reader_take(&r, reader_u8(&r)), order = reader_take(&r, reader_u8(&r)), token = reader_take(&r, r.n);
    if (r.bad)
        return 0;
    prepare();
    arena_init(&c.arena, 1 << 20);
    if (listing_parse(&c, page, pb_view(token), pb_view(filter), pb_view(order), (struct bytes){0}, kinds, &l, &e).failed) {
        INVARIANT(e.code == ERR_INVALID && e.field != NULL && e.hint != NULL);
        token.n = 0; /* the rest may still be good */
        if (listing_parse(&c, page, pb_view(token), pb_view(filter), pb_view(order), (struct bytes){0}, kinds, &l, &e).failed) {
            arena_release(&c.arena);
            return 0;
        }
    }
    INVARIANT(token.n == 0); /* nobody guesses a sealed token */
    check_terms(&l, kinds);
    check_own_token(&c, &l, page, filter, order, kinds);
    arena_release(&c.arena);
    return 0;
}
