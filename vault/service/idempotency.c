/* Step 6: a mutation with an idempotency key happens once; the same request again gets the same answer. */
#include "vault/service/pipeline.h"

#include "kms/crypto/kdf.h"

#include <string.h>

/* Scoped to tenant, principal, method and key: no one else's key is ever met. */
static void record_id(const struct call *c, uint8_t out[32])
{
    uint8_t zero = 0;
    struct bytes sep = {&zero, 1};
    struct bytes parts[] = {bytes_str(c->id.principal->tenant), sep, bytes_str(c->id.principal->name), sep,
                            bytes_str(c->row->path), sep, bytes_str(c->idempotency_key)};
    sha256(parts, sizeof parts / sizeof parts[0], out);
}

static void tenant_column(const struct call *c, uint8_t out[16])
{
    memset(out, 0, 16);
    if (c->priv->tenant != NULL)
        memcpy(out, tenant_ref_info(c->priv->tenant)->id, 16);
}

RESULT idempotency_read(struct bytes body, const uint8_t request_digest[32], struct bytes *ret_answer, struct err *e)
{
    struct reader in = reader_of(body);
    struct bytes digest = reader_take(&in, 32), answer = reader_v32(&in);
    if (!reader_done(&in))
        FAIL(e, ERR_DATA_LOSS, "RECORD_MALFORMED", "an idempotency record is not ours");
    if (!bytes_ct_equal(digest.p, request_digest, 32))
        FAIL(e, ERR_INVALID, "IDEMPOTENCY_KEY_REUSED", "the key was used for another request");
    *ret_answer = answer;
    return ok();
}

RESULT idempotency_lookup(struct call *c, bool *ret_replayed, struct err *e)
{
    uint8_t id[32], tenant[16];
    record_id(c, id);
    tenant_column(c, tenant);
    sha256(&c->priv->raw, 1, c->priv->request_digest);
    struct record r;
    struct err why = {0};
    *ret_replayed = false;
    if (store_get(c->svc->store, REC_IDEMPOTENCY, tenant, BYTES(id, sizeof id), &c->arena, &r, &why).failed) {
        if (why.code == ERR_NOT_FOUND)
            return ok();
        *e = why;
        return (struct result){1};
    }
    TRY(idempotency_read(r.body, c->priv->request_digest, &c->priv->encoded, e));
    *ret_replayed = true;
    return ok();
}

void idempotency_put(struct call *c, const ProtobufCMessage *resp, struct store_txn *txn)
{
    uint8_t id[32];
    record_id(c, id);
    CLEANUP(buf_release) struct buf body;
    buf_init(&body, STORE_BODY_MAX);
    size_t n = protobuf_c_message_get_packed_size(resp);
    uint8_t *packed = arena_alloc(&c->arena, n + 1);
    INVARIANT(packed != NULL);
    protobuf_c_message_pack(resp, packed);
    buf_put(&body, c->priv->request_digest, sizeof c->priv->request_digest);
    buf_put_v32(&body, BYTES(packed, n));
    struct record r = {.kind = REC_IDEMPOTENCY, .id = BYTES(id, sizeof id), .time_unix_ns = c->start_wall_ns, .body = buf_bytes(&body)};
    tenant_column(c, r.tenant);
    store_txn_put(txn, &r, STORE_ABSENT);
}
