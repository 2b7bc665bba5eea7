#include "vault/client/error.h"

#include "base/arena.h"
#include "google/rpc/error_details.pb-c.h"
#include "google/rpc/status.pb-c.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { DETAILS_MAX = 8192, DETAILS_ARENA_MAX = 65536 };

const char *claviger_code_name(int code)
{
    static const char *const names[] = {"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND",
                                        "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
                                        "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
                                        "UNAUTHENTICATED"};
    return code >= 0 && (size_t)code < sizeof names / sizeof *names ? names[code] : "UNKNOWN";
}

void client_copy_text(char *out, size_t n, struct bytes untrusted)
{
    size_t len = untrusted.n < n - 1 ? untrusted.n : n - 1;
    for (size_t i = 0; i < len; i++)
        out[i] = (char)(untrusted.p[i] < 0x20 || untrusted.p[i] == 0x7f ? ' ' : untrusted.p[i]);
    out[len] = 0;
}

struct result client_fail(struct claviger_error *e, enum claviger_code code, const char *reason, const char *fmt, ...)
{
    *e = (struct claviger_error){.code = (int)code};
    client_copy_text(e->reason, sizeof e->reason, bytes_str(reason));
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(e->message, sizeof e->message, fmt, ap);
    va_end(ap);
    return (struct result){1};
}

static void *in_arena(void *a, size_t n)
{
    return arena_alloc(a, n);
}

static void not_freed(void *a, void *p)
{
    (void)a;
    (void)p;
}

static bool is_type(ProtobufCBinaryData url, const ProtobufCMessageDescriptor *d)
{
    size_t n = strlen(d->name);
    return url.len > n && url.data[url.len - n - 1] == '/' && memcmp(url.data + url.len - n, d->name, n) == 0;
}

static void read_detail(struct claviger_error *e, const Google__Protobuf__Any *any, ProtobufCAllocator *mem)
{
    if (is_type(any->type_url, &google__rpc__error_info__descriptor)) {
        Google__Rpc__ErrorInfo *info = google__rpc__error_info__unpack(mem, any->value.len, any->value.data);
        if (info)
            client_copy_text(e->reason, sizeof e->reason, BYTES(info->reason.data, info->reason.len));
    }
    if (is_type(any->type_url, &google__rpc__bad_request__descriptor)) {
        Google__Rpc__BadRequest *bad = google__rpc__bad_request__unpack(mem, any->value.len, any->value.data);
        if (bad && bad->n_field_violations > 0)
            client_copy_text(e->field, sizeof e->field,
                             BYTES(bad->field_violations[0]->field.data, bad->field_violations[0]->field.len));
    }
    if (is_type(any->type_url, &google__rpc__retry_info__descriptor)) {
        Google__Rpc__RetryInfo *retry = google__rpc__retry_info__unpack(mem, any->value.len, any->value.data);
        if (retry && retry->retry_delay && retry->retry_delay->seconds >= 0 && retry->retry_delay->seconds < 86400 &&
            retry->retry_delay->nanos >= 0)
            e->retry_after_ms = (uint64_t)retry->retry_delay->seconds * 1000 + (uint64_t)retry->retry_delay->nanos / 1000000;
    }
}

static void read_details(struct claviger_error *e, struct bytes untrusted)
{
    if (untrusted.n == 0 || untrusted.n > DETAILS_MAX)
        return;
    CLEANUP(arena_release) struct arena a;
    arena_init(&a, DETAILS_ARENA_MAX);
    ProtobufCAllocator mem = {.alloc = in_arena, .free = not_freed, .allocator_data = &a};
    const Google__Rpc__Status *st = google__rpc__status__unpack(&mem, untrusted.n, untrusted.p);
    /* a status that contradicts the transport's own code is not believed */
    if (!st || st->code != e->code)
        return;
    for (size_t i = 0; i < st->n_details; i++)
        read_detail(e, st->details[i], &mem);
}

int client_known_code(int untrusted)
{
    return untrusted >= CLAVIGER_OK && untrusted <= CLAVIGER_UNAUTHENTICATED ? untrusted : CLAVIGER_UNKNOWN;
}

struct result client_fail_status(struct claviger_error *e, int status, struct bytes untrusted_message,
                                 struct bytes untrusted_details, const char *request_id)
{
    *e = (struct claviger_error){.code = status == CLAVIGER_OK ? CLAVIGER_UNKNOWN : client_known_code(status)};
    client_copy_text(e->message, sizeof e->message, untrusted_message);
    client_copy_text(e->request_id, sizeof e->request_id, bytes_str(request_id));
    read_details(e, untrusted_details);
    return (struct result){1};
}

int client_return(struct result r, const struct claviger_error *e, struct claviger_error *ret)
{
    if (!r.failed)
        return CLAVIGER_OK;
    if (ret)
        *ret = *e;
    return e->code;
}
