/* grpc.reflection v1 and v1alpha, which are the same on the wire: one set of handlers and messages serves both. The
 * descriptors are the untransformed ones that proto/proto.mk links in with an index. */
#include "vault/service/rows.h"

#include "vault/service/call.h"
#include "vault/service/service.h"

#include <google/rpc/code.pb-c.h>
#include <grpc/reflection/v1/reflection.pb-c.h>
#include <proto_index.h>
#include <string.h>

typedef Grpc__Reflection__V1__ServerReflectionRequest Request;
typedef Grpc__Reflection__V1__ServerReflectionResponse Response;
#define D(name) &grpc__reflection__v1__##name##__descriptor
#define ASKED(what) GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_##what
#define SAID(what) GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_##what

static RESULT take(struct call *c, const ProtobufCMessageDescriptor *d, void *ret, struct err *e)
{
    void *m = call_new_message(c, d);

    if (m == NULL)
        FAIL(e, ERR_EXHAUSTED, "CALL_MEMORY", "no room for the answer");
    memcpy(ret, &m, sizeof(m));
    return ok();
}

static RESULT take_list(struct call *c, size_t n, size_t size, void *ret, struct err *e)
{
    void *p = arena_zalloc(&c->arena, n * size);

    if (p == NULL)
        FAIL(e, ERR_EXHAUSTED, "CALL_MEMORY", "no room for the answer");
    memcpy(ret, &p, sizeof(p));
    return ok();
}

static ProtobufCBinaryData literal(const char *s)
{
    return pb_view(bytes_str(s));
}

/* The stream goes on after a question that has no answer: that is what error_response is for. */
static RESULT say_not_found(struct call *c, Response *r, struct err *e)
{
    Grpc__Reflection__V1__ErrorResponse *m;

    TRY(take(c, D(error_response), &m, e));
    m->error_code = GOOGLE__RPC__CODE__NOT_FOUND;
    m->error_message = literal("not found");
    r->message_response_case = SAID(ERROR_RESPONSE);
    r->error_response = m;
    return ok();
}

static RESULT say_file(struct call *c, Response *r, unsigned number, struct err *e)
{
    const struct proto_file *f = &proto_files[number];
    Grpc__Reflection__V1__FileDescriptorResponse *m;

    TRY(take(c, D(file_descriptor_response), &m, e));
    m->n_file_descriptor_proto = f->with_imports_n;
    TRY(take_list(c, f->with_imports_n, sizeof(m->file_descriptor_proto[0]), &m->file_descriptor_proto, e));
    for (unsigned i = 0; i < f->with_imports_n; i++) {
        const struct proto_file *part = &proto_files[f->with_imports[i]];
        m->file_descriptor_proto[i] = pb_view(BYTES(proto_blob + part->offset, part->n));
    }
    r->message_response_case = SAID(FILE_DESCRIPTOR_RESPONSE);
    r->file_descriptor_response = m;
    return ok();
}

static RESULT file_by_name(struct call *c, Response *r, struct bytes name, struct err *e)
{
    for (unsigned i = 0; i < proto_files_n; i++)
        if (bytes_equal(name, bytes_str(proto_files[i].name)))
            return say_file(c, r, i, e);
    return say_not_found(c, r, e);
}

static const struct proto_symbol *find_symbol(struct bytes name)
{
    unsigned lo = 0, hi = proto_symbols_n;

    while (lo < hi) {
        unsigned mid = lo + (hi - lo) / 2;
        int order = bytes_compare(bytes_str(proto_symbols[mid].name), name);
        if (order == 0)
            return &proto_symbols[mid];
        if (order < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

static RESULT file_by_symbol(struct call *c, Response *r, struct bytes name, struct err *e)
{
    const struct proto_symbol *s = find_symbol(name);

    return s != NULL ? say_file(c, r, s->file, e) : say_not_found(c, r, e);
}

static bool is_served(const char *service)
{
    size_t n, len = strlen(service);
    const struct rpc_row *const *all = table_rows(&n);

    for (size_t i = 0; i < n; i++)
        if (strncmp(all[i]->path + 1, service, len) == 0 && all[i]->path[1 + len] == '/')
            return true;
    return false;
}

static RESULT list_services(struct call *c, Response *r, struct err *e)
{
    Grpc__Reflection__V1__ListServiceResponse *m;

    TRY(take(c, D(list_service_response), &m, e));
    TRY(take_list(c, proto_services_n, sizeof(m->service[0]), &m->service, e));
    for (unsigned i = 0; i < proto_services_n; i++) {
        if (!is_served(proto_services[i]))
            continue;
        TRY(take(c, D(service_response), &m->service[m->n_service], e));
        m->service[m->n_service++]->name = literal(proto_services[i]);
    }
    r->message_response_case = SAID(LIST_SERVICES_RESPONSE);
    r->list_services_response = m;
    return ok();
}

/* We define no extensions; of a type that exists there are none, of another there is no answer. */
static RESULT extension_numbers(struct call *c, Response *r, ProtobufCBinaryData type, struct err *e)
{
    Grpc__Reflection__V1__ExtensionNumberResponse *m;

    if (find_symbol(pb_bytes(type)) == NULL)
        return say_not_found(c, r, e);
    TRY(take(c, D(extension_number_response), &m, e));
    m->base_type_name = type;
    r->message_response_case = SAID(ALL_EXTENSION_NUMBERS_RESPONSE);
    r->all_extension_numbers_response = m;
    return ok();
}

static RESULT answer(struct call *c, Response *r, const Request *q, struct err *e)
{
    switch (q->message_request_case) {
    case ASKED(FILE_BY_FILENAME):
        return file_by_name(c, r, pb_bytes(q->file_by_filename), e);
    case ASKED(FILE_CONTAINING_SYMBOL):
        return file_by_symbol(c, r, pb_bytes(q->file_containing_symbol), e);
    case ASKED(ALL_EXTENSION_NUMBERS_OF_TYPE):
        return extension_numbers(c, r, q->all_extension_numbers_of_type, e);
    case ASKED(LIST_SERVICES):
        return list_services(c, r, e);
    case ASKED(FILE_CONTAINING_EXTENSION):
        return say_not_found(c, r, e);
    case ASKED(_NOT_SET):
    case _GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST__CASE_IS_INT_SIZE:
        break;
    }
    return err_field(e, "message_request", "ask something");
}

static RESULT message(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    const Request *q = (const void *)req;
    Response *r;

    if (!c->svc->config->reflection)
        FAIL(e, ERR_UNIMPLEMENTED, "REFLECTION_OFF", "the configuration switches reflection off");
    TRY(take(c, D(server_reflection_response), &r, e));
    r->valid_host = q->host;
    r->original_request = (Request *)(uintptr_t)q;
    TRY(answer(c, r, q, e));
    *resp = &r->base;
    return ok();
}

static void closed(struct call *c)
{
    (void)c; /* nothing is kept between messages */
}

static const struct rpc_stream stream = {.message = message, .close = closed};

#define ROW(version)                                                                                                   \
    {.kind = RPC_BIDI,                                                                                                 \
     .path = "/grpc.reflection." version ".ServerReflection/ServerReflectionInfo",                                     \
     .request = D(server_reflection_request),                                                                          \
     .response = D(server_reflection_response),                                                                        \
     .plane = PLANE_PUBLIC,                                                                                            \
     .audit = AUDIT_NONE,                                                                                              \
     .limit = LIMIT_PUBLIC,                                                                                            \
     .lane = LANE_FAST,                                                                                                \
     .stream = &stream}
static const struct rpc_row rows[] = {ROW("v1"), ROW("v1alpha")};
const struct row_list rows_reflection = {rows, sizeof(rows) / sizeof(rows[0])};
