#include "vault/service/items.h"

#include "vault/service/status_code.h"

#include <stdlib.h>
#include <string.h>

static RESULT items_name(struct call *c, ProtobufCBinaryData name, unsigned kinds, struct name *ret, struct err *e)
{
    struct bytes text = pb_bytes(name);
    if (text.n == 0 && c->stream != NULL) /* a stream's name is given once, in its first message */
        text = bytes_str(c->stream);
    return name_parse_any(text, kinds, "name", ret, e);
}

RESULT items_resources(struct call *c, ProtobufCBinaryData name, size_t n, item_name_fn *item_name, const void *q, unsigned kinds,
                       struct err *e)
{
    if (n == 0 || n > CALL_ITEMS_MAX)
        return err_field(e, "items", "1 to 1000 items");
    c->resources = arena_zalloc(&c->arena, n * sizeof *c->resources);
    if (c->resources == NULL)
        FAIL(e, ERR_EXHAUSTED, "CALL_MEMORY", "no room for %zu items", n);
    struct name shared = {.kind = NAME_NONE};
    if (name.len > 0) /* also where no item needs it: nothing that is given is ignored, and a stream remembers it */
        TRY(items_name(c, name, kinds, &shared, e));
    for (size_t i = 0; i < n; i++) {
        ProtobufCBinaryData own = item_name(q, i);
        if (own.len > 0)
            TRY(name_parse_any(pb_bytes(own), kinds, "items.name", &c->resources[i].name, e));
        else if (shared.kind != NAME_NONE)
            c->resources[i].name = shared;
        else {
            TRY(items_name(c, name, kinds, &shared, e));
            c->resources[i].name = shared;
        }
    }
    c->nresources = n;
    return ok();
}

const struct name *items_same_name(const struct name **last, const struct name *n)
{
    if (*last == NULL || !name_equal(*last, n))
        *last = n;
    return *last;
}

RESULT item_allowed(const struct resource *r, struct err *e)
{
    if (r->denied)
        FAIL(e, ERR_DENIED, "PERMISSION_DENIED", "rule %s", r->rule);
    return ok();
}

static RESULT outcome(struct call *c, const struct err *why, Claviger__Envelope__V1__ItemStatus **ret, struct err *e)
{
    if (why->code == ERR_WOULD_BLOCK) { /* nothing of the message has had an effect */
        *e = *why;
        return (struct result){1};
    }
    Claviger__Envelope__V1__ItemStatus *s = call_new_message(c, &claviger__envelope__v1__item_status__descriptor);
    INVARIANT(s != NULL);
    char text[256];
    s->code = status_code(why->code);
    s->reason = call_text(c, why->reason != NULL ? why->reason : err_name(why->code) + strlen("ERR_"));
    s->message = call_text(c, err_public(why, text, sizeof text));
    *ret = s;
    return ok();
}

RESULT items_each(struct call *c, const struct items_work *w, size_t n, void *ret_results, uint32_t *ret_failed, struct err *e)
{
    void **out = arena_alloc(&c->arena, n * sizeof *out);
    uint32_t failed = 0;
    for (size_t i = 0; out != NULL && i < n; i++) {
        struct err why = {0};
        if ((out[i] = call_new_message(c, w->result)) == NULL) {
            out = NULL;
        } else if (w->one(c, w->batch, i, out[i], &why).failed) {
            failed++;
            TRY(outcome(c, &why, (Claviger__Envelope__V1__ItemStatus **)((char *)out[i] + w->status), e));
        }
    }
    if (out == NULL)
        FAIL(e, ERR_EXHAUSTED, "CALL_MEMORY", "no room for %zu results", n);
    c->ev.items_failed = *ret_failed = failed;
    memcpy(ret_results, &out, sizeof out);
    return ok();
}

void items_remember_name(struct call *c, ProtobufCBinaryData name)
{
    if (name.len == 0)
        return;
    free(c->stream);
    c->stream = calloc(1, name.len + 1);
    INVARIANT(c->stream != NULL);
    memcpy(c->stream, name.data, name.len);
}

void items_stream_close(struct call *c)
{
    free(c->stream);
    c->stream = NULL;
}
