/* Target functions: conn_parse: the front's notice of a connection. The front is the process that strangers talk to, so core does
 * not trust it either: what is accepted is within the limits and is written again to the same bytes. */
#include "kms/authn/authn.h"
#include "kms/authn/conn.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void put(const struct authn_conn *c, struct buf *out)
{
    buf_put(out, c->id, sizeof c->id);
    buf_put_v16(out, BYTES(c->listener, c->listener_n));
    buf_put_v16(out, BYTES(c->address, c->address_n));
    buf_put_u8(out, (uint8_t)c->chain_n);
    for (size_t i = 0; i < c->chain_n; i++)
        buf_put_v32(out, c->chain[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct authn_conn *c = NULL;
    struct err e = {0};
    CLEANUP(buf_release) struct buf again = {0};
    buf_init(&again, 2 * IPC_CHAIN_MAX_BYTES);
    if (conn_parse(BYTES(data, size), &c, &e).failed) {
        INVARIANT(e.code == ERR_INVALID && c == NULL);
        return 0;
    }
    INVARIANT(c->listener_n <= IPC_ADDR_MAX && c->address_n <= IPC_ADDR_MAX && c->chain_n <= AUTHN_CHAIN_MAX);
    put(c, &again);
    bool dropped = c->chain_n == 0; /* a chain over a limit is dropped, and its calls are refused */
    INVARIANT(dropped ? again.n <= size && memcmp(again.p, data, again.n - 1) == 0 : bytes_equal(buf_bytes(&again), BYTES(data, size)));
    authn_conn_unref(c);
    return 0;
}
