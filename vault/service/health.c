/* grpc.health.v1: what load balancers ask. Public: it says whether we serve, never why not. */
#include "vault/service/rows.h"

#include "vault/service/call.h"
#include "vault/service/service.h"

#include <grpc/health/v1/health.pb-c.h>
#include <proto_index.h>
#include <string.h>

typedef Grpc__Health__V1__HealthCheckRequest Request;
typedef Grpc__Health__V1__HealthCheckResponse Response;
typedef Grpc__Health__V1__HealthCheckResponse__ServingStatus Status;
#define STATUS(s) GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__##s

/* The server as a whole, or one of its services by full name. */
static bool known(struct bytes service)
{
    if (service.n == 0)
        return true;
    for (unsigned i = 0; i < proto_services_n; i++)
        if (bytes_equal(service, bytes_str(proto_services[i])))
            return true;
    return false;
}

static Status status_now(struct service *s)
{
    struct health h;

    if (atomic_load(&s->draining))
        return STATUS(NOT_SERVING);
    service_health(s, &h);
    return h.serving ? STATUS(SERVING) : STATUS(NOT_SERVING);
}

static RESULT respond(struct call *c, Status status, ProtobufCMessage **resp, struct err *e)
{
    Response *r = call_new_message(c, &grpc__health__v1__health_check_response__descriptor);

    if (r == NULL)
        FAIL(e, ERR_EXHAUSTED, "CALL_MEMORY", "the watch has said too much");
    r->status = status;
    *resp = &r->base;
    return ok();
}

static RESULT check(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    const Request *q = (const void *)req;

    if (!known(pb_bytes(q->service)))
        FAIL(e, ERR_NOT_FOUND, "NO_SUCH_SERVICE", "no service of that name");
    return respond(c, status_now(c->svc), resp, e);
}

/* The first state at once, then each change. c->stream remembers what was said last; 0 is never said. */
static RESULT watch_ready(struct call *c, ProtobufCMessage **resp, bool *ret_more, struct err *e)
{
    const Request *q = c->request;
    Status now = known(pb_bytes(q->service)) ? status_now(c->svc) : STATUS(SERVICE_UNKNOWN);

    *ret_more = true;
    *resp = NULL;
    if ((Status)(uintptr_t)c->stream == now)
        return ok();
    TRY(respond(c, now, resp, e));
    c->stream = (void *)(uintptr_t)now;
    return ok();
}

static void watch_close(struct call *c)
{
    c->stream = NULL;
}

static const struct rpc_stream watch = {.ready = watch_ready, .close = watch_close};

#define PUBLIC .plane = PLANE_PUBLIC, .audit = AUDIT_NONE, .limit = LIMIT_PUBLIC
static const struct rpc_row rows[] = {
    {.kind = RPC_UNARY,
     .path = "/grpc.health.v1.Health/Check",
     .request = &grpc__health__v1__health_check_request__descriptor,
     .response = &grpc__health__v1__health_check_response__descriptor,
     PUBLIC,
     .lane = LANE_FAST,
     .handle = check},
    {.kind = RPC_SERVER_STREAM,
     .path = "/grpc.health.v1.Health/Watch",
     .request = &grpc__health__v1__health_check_request__descriptor,
     .response = &grpc__health__v1__health_check_response__descriptor,
     PUBLIC,
     .lane = LANE_FAST,
     .stream = &watch},
};
const struct row_list rows_health = {rows, sizeof(rows) / sizeof(rows[0])};
