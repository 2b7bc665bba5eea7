/*
 * Purpose: what batches and streams of items do alike: one resource an item, each item's own outcome, the name that a stream is
 *          given once.
 * Owns:    a stream's name (c->stream), until items_stream_close. Threads: the call's owner.
 * Errors:  a message that is wrong as a whole: ERR_INVALID with the field. An item's error becomes its status; only
 *          ERR_WOULD_BLOCK is passed on, as it takes the whole message to the slow lane.
 * Limits:  CALL_ITEMS_MAX items a message. Secrets: none.
 */
#ifndef VAULT_SERVICE_ITEMS_H
#define VAULT_SERVICE_ITEMS_H

#include "vault/service/fields.h"

#include "claviger/envelope/v1/envelope.pb-c.h"

enum { ITEM_AAD_MAX = FIELD_BYTES_MAX + 64 };

/* Item i's own name in a request q; empty: the request's. */
typedef ProtobufCBinaryData item_name_fn(const void *q, size_t i);
RESULT items_resources(struct call *c, ProtobufCBinaryData name, size_t n, item_name_fn *item_name, const void *q, unsigned kinds,
                       struct err *e);
/* Equal names following each other become one pointer: what crypt re-uses a key by. */
const struct name *items_same_name(const struct name **last, const struct name *n);

RESULT item_allowed(const struct resource *r, struct err *e); /* the decision on it was made with the message */
/* Each item in turn, into a result of its own from the call's memory: `one` fills it in, or says why not, which becomes its status.
 * *ret_results (an array of n results) and *ret_failed are written when all have had their turn; the event has how many failed, too. */
struct items_work {
    RESULT (*one)(struct call *c, void *batch, size_t i, void *result, struct err *e);
    void *batch;
    const ProtobufCMessageDescriptor *result;
    size_t status; /* offset of its ItemStatus */
};
RESULT items_each(struct call *c, const struct items_work *w, size_t n, void *ret_results, uint32_t *ret_failed, struct err *e);

void items_remember_name(struct call *c, ProtobufCBinaryData name); /* for the stream's next messages; empty: it stays */
void items_stream_close(struct call *c);

#endif
