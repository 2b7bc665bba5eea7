/*
 * Purpose: lists: page size, sealed page tokens bound to caller and query, filters, order.
 * Owns:    nothing: parsed forms view the request, tokens live in the arena.
 * Threads: the call's owner (slow lane).
 * Errors:  ERR_INVALID naming page_size, page_token, filter or order_by. Nothing is ignored: what is not served is refused.
 * Limits:  LISTING_PAGE_MAX a page, LISTING_TERMS_MAX terms, LISTING_SCAN_MAX rows looked at for one page, and no more of them once the
 *          call has used LISTING_BYTES of memory: a page may be shorter than was asked for.
 * Secrets: a token is sealed (instance_token_key: the same as long as the store lives): it shows nothing and cannot be made or moved.
 *
 * Filter: terms joined by " AND "; each `state=VALUE` (versions), `name:SUBSTRING`, `labels.KEY=VALUE` (keys); a value may be
 * in double quotes. order_by: empty, "name", "name asc" or "name desc".
 */
#ifndef VAULT_SERVICE_LISTING_H
#define VAULT_SERVICE_LISTING_H

#include "vault/service/fields.h"

enum { LISTING_PAGE_DEFAULT = 100, LISTING_PAGE_MAX = 1000, LISTING_TERMS_MAX = 8, LISTING_SCAN_MAX = 10000,
       LISTING_AFTER_MAX = 256, LISTING_BYTES = CALL_ARENA_MAX / 4 };

struct listing_term {
    enum { TERM_STATE = 1, TERM_NAME, TERM_LABEL } kind;
    struct bytes label, value;
};
struct listing {
    size_t page;
    bool descending;
    struct listing_term terms[LISTING_TERMS_MAX];
    size_t nterms;
    struct bytes after;        /* from the token: the last child id (or be32 version) of the page before; empty: first page */
    struct bytes query;        /* canonical text of the query: what a token is bound to */
};
/* scope: any other field that makes the query what it is (empty: none). kinds: bitmask of the TERM_ kinds that this list can filter by. */
RESULT listing_parse(struct call *c, int32_t page_size, ProtobufCBinaryData page_token, ProtobufCBinaryData filter,
                     ProtobufCBinaryData order_by, struct bytes scope, unsigned kinds, struct listing *ret, struct err *e);
/* After a chunk of rows: may the next be read for this page, too? Rows may be large: what they and the answer take must fit the call. */
static inline bool listing_goes_on(const struct call *c, size_t got, size_t chunk, size_t looked)
{
    return got == chunk && looked < LISTING_SCAN_MAX && c->arena.used < LISTING_BYTES;
}
ProtobufCBinaryData listing_token(struct call *c, const struct listing *l, struct bytes last);

bool listing_match_name(const struct listing *l, struct bytes name);
bool listing_match_state(const struct listing *l, const char *state);
bool listing_match_labels(const struct listing *l, const struct label *labels, size_t n);

#endif
