#include "vault/cmd/kmsctl/kmsctl.h"

#include "base/text.h"
#include "claviger/audit/v1/audit.pb-c.h"
#include "claviger/audit/v1/event.pb-c.h"

#include <string.h>

static void *in_arena(void *a, size_t n)
{
    return arena_alloc(a, n);
}

static void not_freed(void *a, void *p)
{
    (void)a;
    (void)p;
}

static void add_event(json_t *j, const Claviger__Audit__V1__TailResponse *p, struct arena *a)
{
    ProtobufCAllocator mem = {.alloc = in_arena, .free = not_freed, .allocator_data = a};
    const Claviger__Audit__V1__Event *ev = claviger__audit__v1__event__unpack(&mem, p->event.len, p->event.data);
    if (!ev) {
        json_object_set_new(j, "event", json_null());
        return;
    }
    char when[TEXT_RFC3339_BYTES];
    text_format_rfc3339(ev->time_unix_ns, when);
    json_t *o = json_of(&ev->base);
    json_object_set_new(o, "time", json_string(when));
    json_object_set_new(j, "event", o);
}

static const char *text_of(const json_t *o, const char *key, char out[160])
{
    const char *s = json_string_value(json_object_get(o, key));
    client_copy_text(out, 160, bytes_str(s));
    return *out ? out : "-";
}

/* One line an event: when, who, what, on what, how it ended, by which rule. */
static void print_event(const json_t *j)
{
    const json_t *o = json_object_get(j, "event");
    char t[160], who[160], what[160], on[160], end[160], code[160], rule[160];
    const char *resource = text_of(o, "key_version", on);
    if (strcmp(resource, "-") == 0)
        resource = text_of(o, "resource", on);
    long long items = json_integer_value(json_object_get(o, "items")), repeats = json_integer_value(json_object_get(o, "repeats"));
    printf("%lld %s %s %s %s %s %s rule=%s", (long long)json_integer_value(json_object_get(j, "index")), text_of(o, "time", t),
           text_of(o, "principal", who), text_of(o, "action", what), resource, text_of(o, "outcome", end),
           text_of(o, "code", code), text_of(o, "rule", rule));
    if (items > 1)
        printf(" items=%lld", items);
    if (repeats > 1)
        printf(" repeats=%lld", repeats);
    putchar('\n');
}

static struct result tail_stream(struct ctl *c, struct stream *s, struct claviger_error *e)
{
    CLEANUP(arena_release) struct arena a;
    arena_init(&a, CLIENT_ARENA_MAX);
    while (true) {
        ProtobufCMessage *m = NULL;
        TRY(stream_recv(s, &claviger__audit__v1__tail_response__descriptor, &a, &m, e));
        if (!m)
            return ok();
        json_t *j = json_of(m);
        add_event(j, (const void *)m, &a);
        if (c->json)
            print_json_line(j);
        else
            print_event(j);
        json_decref(j);
        arena_reset(&a);
        if (fflush(stdout) != 0)
            return client_fail(e, CLAVIGER_UNKNOWN, "OUTPUT", "stdout cannot be written");
    }
}

static struct result log_status(struct ctl *c, const Claviger__Audit__V1__LogStatus **ret, struct claviger_error *e)
{
    Claviger__Audit__V1__GetStatusRequest q = CLAVIGER__AUDIT__V1__GET_STATUS_REQUEST__INIT;
    return ctl_read(c, "/claviger.audit.v1.Audit/GetStatus", &q.base, &claviger__audit__v1__log_status__descriptor, ret, e);
}

/* The request's limit ends the stream, which --follow must not: there the last --lines become an index to start from. */
static struct result follow_from(struct ctl *c, uint64_t lines, Claviger__Audit__V1__TailRequest *q, struct claviger_error *e)
{
    const Claviger__Audit__V1__LogStatus *st = NULL;
    TRY(log_status(c, &st, e));
    q->from_index = st->entries > lines ? st->entries - lines : 0;
    q->from_end = false;
    q->limit = 0;
    return ok();
}

static struct result audit_tail(struct ctl *c, struct claviger_error *e)
{
    Claviger__Audit__V1__TailRequest q = CLAVIGER__AUDIT__V1__TAIL_REQUEST__INIT;
    uint64_t lines;
    TRY(args_u64(&c->args, OPT_LINES, 0, 1000000, 20, &lines, e));
    TRY(args_u64(&c->args, OPT_FROM, 0, UINT64_MAX, 0, &q.from_index, e));
    q.from_end = c->args.value[OPT_FROM] == NULL;
    q.follow = c->args.value[OPT_FOLLOW] != NULL;
    q.limit = q.from_end || c->args.value[OPT_LINES] ? (uint32_t)lines : 0;
    if (c->args.value[OPT_TENANT])
        q.tenant = name_prefixed(c, "projects/", c->args.value[OPT_TENANT]);
    TRY(ctl_connect(c, e));
    if (q.follow && q.from_end)
        TRY(follow_from(c, lines, &q, e));
    struct stream *s = NULL;
    struct rpc_options o = {.path = "/claviger.audit.v1.Audit/Tail"};
    TRY(stream_open(client_transport(c->client), &o, &s, e));
    struct result r = stream_send(s, &q.base, e);
    if (!r.failed)
        r = stream_half_close(s, e);
    if (!r.failed)
        r = tail_stream(c, s, e);
    stream_close(s);
    return r;
}

static struct result audit_status(struct ctl *c, struct claviger_error *e)
{
    const Claviger__Audit__V1__LogStatus *p = NULL;
    TRY(log_status(c, &p, e));
    return show(c, &p->base, "ORIGIN origin|ENTRIES entries|USED bytes_used|FREE bytes_free|ADMITS admits|LAST last_time|AUDIT_KEY audit_key", e);
}

static const struct command rows[] = {
    {"audit", "tail", "", 0, 0, O(OPT_FOLLOW) | O(OPT_LINES) | O(OPT_FROM) | O(OPT_TENANT), ROLE_OPERATOR, audit_tail,
     "the newest events, one a line; --output json has every field", "kmsctl audit tail --follow --tenant acme"},
    {"audit", "status", "", 0, 0, 0, ROLE_OPERATOR, audit_status, "how large the log is, and whether it admits work",
     "kmsctl audit status"},
};
const struct command_rows rows_audit = {rows, sizeof rows / sizeof *rows};
