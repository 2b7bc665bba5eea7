#include "vault/rpc/status.h"

#include <google/rpc/code.pb-c.h>
#include <google/rpc/error_details.pb-c.h>
#include <google/rpc/status.pb-c.h>
#include <string.h>

/* google.rpc.Code is gRPC's own list: the one mapping (vault/service) serves both. */
_Static_assert(GOOGLE__RPC__CODE__UNAUTHENTICATED == (int)GRPC_STATUS_UNAUTHENTICATED &&
                   GOOGLE__RPC__CODE__DATA_LOSS == (int)GRPC_STATUS_DATA_LOSS &&
                   GOOGLE__RPC__CODE__OUT_OF_RANGE == (int)GRPC_STATUS_OUT_OF_RANGE,
               "two lists of codes");

const char *status_reason(const struct err *e)
{
    const char *name = e->reason != NULL ? e->reason : err_name(e->code);

    return strncmp(name, "ERR_", 4) == 0 ? name + 4 : name;
}

static ProtobufCBinaryData text(const char *s)
{
    return (ProtobufCBinaryData){strlen(s), (uint8_t *)(uintptr_t)s};
}

struct packed { /* a detail: its Any and the bytes behind it */
    Google__Protobuf__Any any;
    uint8_t bytes[STATUS_DETAILS_MAX / 3];
};

static bool pack(struct packed *p, const char *url, const ProtobufCMessage *m)
{
    size_t n = protobuf_c_message_get_packed_size(m);

    if (n > sizeof(p->bytes))
        return false;
    google__protobuf__any__init(&p->any);
    p->any.type_url = text(url);
    p->any.value = (ProtobufCBinaryData){protobuf_c_message_pack(m, p->bytes), p->bytes};
    return true;
}

static bool pack_info(struct packed *p, const struct err *e)
{
    Google__Rpc__ErrorInfo m = GOOGLE__RPC__ERROR_INFO__INIT;

    m.reason = text(status_reason(e));
    m.domain = text(STATUS_DOMAIN);
    return pack(p, "type.googleapis.com/google.rpc.ErrorInfo", &m.base);
}

static bool pack_field(struct packed *p, const struct err *e)
{
    Google__Rpc__BadRequest__FieldViolation v = GOOGLE__RPC__BAD_REQUEST__FIELD_VIOLATION__INIT, *vs = &v;
    Google__Rpc__BadRequest m = GOOGLE__RPC__BAD_REQUEST__INIT;

    v.field = text(e->field);
    v.description = text(e->hint != NULL ? e->hint : err_phrase(e->code));
    v.reason = text(status_reason(e));
    m.n_field_violations = 1;
    m.field_violations = &vs;
    return pack(p, "type.googleapis.com/google.rpc.BadRequest", &m.base);
}

static bool pack_retry(struct packed *p, uint64_t ms)
{
    Google__Protobuf__Duration d = GOOGLE__PROTOBUF__DURATION__INIT;
    Google__Rpc__RetryInfo m = GOOGLE__RPC__RETRY_INFO__INIT;

    d.seconds = (int64_t)(ms / 1000);
    d.nanos = (int32_t)(ms % 1000) * 1000000;
    m.retry_delay = &d;
    return pack(p, "type.googleapis.com/google.rpc.RetryInfo", &m.base);
}

void status_details(const struct err *e, uint64_t retry_after_ms, struct buf *out)
{
    Google__Rpc__Status m = GOOGLE__RPC__STATUS__INIT;
    Google__Protobuf__Any *anys[3];
    struct packed parts[3];
    char message[STATUS_TEXT_MAX];
    uint8_t wire[STATUS_DETAILS_MAX + STATUS_TEXT_MAX + 256];

    m.code = status_code(e->code);
    m.message = text(err_public(e, message, sizeof(message)));
    m.details = anys;
    for (size_t i = 0; i < 3; i++)
        anys[i] = &parts[i].any;
    if (pack_info(&parts[m.n_details], e))
        m.n_details++;
    if (e->field != NULL && pack_field(&parts[m.n_details], e))
        m.n_details++;
    if (retry_after_ms > 0 && pack_retry(&parts[m.n_details], retry_after_ms))
        m.n_details++;
    INVARIANT(protobuf_c_message_get_packed_size(&m.base) <= sizeof(wire));
    buf_put(out, wire, protobuf_c_message_pack(&m.base, wire));
}
