#include "vault/service/act.h"

RESULT act_commit(struct store_txn *txn, const struct clock *clock, const struct tenant_ref *tenant, const struct act *a, struct err *e)
{
    static const uint8_t no_tenant[STORE_TENANT_BYTES];
    struct audit_event ev = {.time_unix_ns = clock_wall_ns(clock),
                             .principal = bytes_str(a->principal),
                             .action = bytes_str(a->action),
                             .resource = a->resource,
                             .key_version = a->key_version,
                             .outcome = bytes_str("ok"),
                             .code = bytes_str("OK"),
                             .before = a->before,
                             .after = a->after,
                             .items = a->items};
    if (tenant != NULL)
        ev.active_tenant = bytes_str(tenant_ref_info(tenant)->name);
    CLEANUP(buf_release) struct buf out;
    buf_init(&out, EVENT_MAX_BYTES);
    event_encode(&ev, &out);
    store_txn_event(txn, tenant != NULL ? tenant_ref_info(tenant)->id : no_tenant, buf_bytes(&out));
    uint64_t seq;
    return store_txn_commit(txn, &seq, e);
}
