/* Calls whose answer is printed, and nothing else: one message, or a list over all its pages. */
#include "vault/cmd/kmsctl/kmsctl.h"

RESULT ask_read(struct ctl *c, const char *path, const ProtobufCMessage *q, const ProtobufCMessageDescriptor *d, const char *columns,
                struct claviger_error *e)
{
    const ProtobufCMessage *p = NULL;
    TRY(ctl_read(c, path, q, d, &p, e));
    return show(c, p, columns, e);
}

RESULT ask_change(struct ctl *c, const char *path, const ProtobufCMessage *q, const ProtobufCMessageDescriptor *d, const char *columns,
                  struct claviger_error *e)
{
    const ProtobufCMessage *p = NULL;
    TRY(ctl_change(c, path, q, d, &p, e));
    return show(c, p, columns, e);
}

/* What the page's message calls it; a list without it is our own mistake. */
static const ProtobufCFieldDescriptor *field_of(const ProtobufCMessageDescriptor *d, const char *name)
{
    const ProtobufCFieldDescriptor *f = protobuf_c_message_descriptor_get_field_by_name(d, name);
    INVARIANT(f != NULL);
    return f;
}

static RESULT pages(struct ctl *c, const char *path, ProtobufCMessage *q, const ProtobufCMessageDescriptor *d, const char *list,
                    json_t *all, struct claviger_error *e)
{
    const ProtobufCFieldDescriptor *rows = field_of(d, list), *next = field_of(d, "next_page_token");
    ProtobufCBinaryData *token = (void *)((uint8_t *)q + field_of(q->descriptor, "page_token")->offset);
    INVARIANT(rows->label == PROTOBUF_C_LABEL_REPEATED && rows->type == PROTOBUF_C_TYPE_MESSAGE);
    do {
        const ProtobufCMessage *p = NULL;
        TRY(ctl_read(c, path, q, d, &p, e));
        const uint8_t *base = (const uint8_t *)p;
        const size_t n = *(const size_t *)(const void *)(base + rows->quantifier_offset);
        ProtobufCMessage *const *each = *(ProtobufCMessage *const *const *)(const void *)(base + rows->offset);
        for (size_t i = 0; i < n; i++)
            json_array_append_new(all, json_of(each[i]));
        *token = *(const ProtobufCBinaryData *)(const void *)(base + next->offset);
    } while (token->len > 0);
    return ok();
}

RESULT ask_list(struct ctl *c, const char *path, ProtobufCMessage *q, const ProtobufCMessageDescriptor *d, const char *list,
                const char *columns, struct claviger_error *e)
{
    json_t *all = json_array();
    const struct result r = pages(c, path, q, d, list, all, e);
    if (!r.failed)
        return show_list(c, all, list, columns, e);
    json_decref(all);
    return r;
}
