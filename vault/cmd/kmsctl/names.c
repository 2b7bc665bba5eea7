#include "vault/cmd/kmsctl/kmsctl.h"

#include "kms/name/name.h"

#include <stdlib.h>
#include <string.h>

static const char *const shape[] = {
    [NAME_NONE] = "nothing",           [NAME_TENANT] = "acme",           [NAME_LOCATION] = "acme/eu",
    [NAME_KEYRING] = "acme/eu/pii",    [NAME_CRYPTOKEY] = "acme/eu/pii/email", [NAME_VERSION] = "acme/eu/pii/email@1",
};

static struct result parse(const char *given, unsigned kinds, struct name *ret, struct claviger_error *e)
{
    struct err inner = {0};
    if (name_parse_short(bytes_str(given), ret, &inner).failed)
        return usage(e, "\"%s\" is not a name: write it like %s%s%s", given, shape[31 - __builtin_clz(kinds)],
                     inner.hint ? "; " : "", inner.hint ? inner.hint : "");
    if (!(kinds & (1u << ret->kind)))
        return usage(e, "\"%s\" names something else: this verb wants a name like %s", given, shape[31 - __builtin_clz(kinds)]);
    return ok();
}

static ProtobufCBinaryData canonical(struct ctl *c, const struct name *n)
{
    char text[NAME_MAX_BYTES];
    size_t len = name_format(n, text);
    return pb_of(BYTES(arena_dup(&c->arena, text, len + 1), len));
}

RESULT name_full(struct ctl *c, const char *given, unsigned kinds, ProtobufCBinaryData *ret, struct claviger_error *e)
{
    struct name n;
    TRY(parse(given, kinds, &n, e));
    *ret = canonical(c, &n);
    return ok();
}

RESULT name_split(struct ctl *c, const char *given, unsigned kind, ProtobufCBinaryData *ret_parent, ProtobufCBinaryData *ret_id,
                  struct claviger_error *e)
{
    struct name n;
    TRY(parse(given, 1u << kind, &n, e));
    struct bytes id = kind == NAME_KEYRING ? n.ring : n.key;
    char *number = NULL;
    if (kind == NAME_VERSION) {
        number = arena_printf(&c->arena, "%u", n.version);
        id = bytes_str(number);
    }
    struct name parent = name_parent(&n);
    *ret_parent = canonical(c, &parent);
    *ret_id = pb_of(id);
    return ok();
}

const char *name_default(struct ctl *c, const char *given)
{
    const char *t = getenv("KMS_TENANT"), *l = getenv("KMS_LOCATION");
    if (given || !t || !l)
        return given ? given : "";
    return arena_printf(&c->arena, "%s/%s", t, l);
}

ProtobufCBinaryData name_prefixed(struct ctl *c, const char *prefix, const char *given)
{
    if (strncmp(given, prefix, strlen(prefix)) == 0)
        return pb_of(bytes_str(given));
    return pb_of(bytes_str(arena_printf(&c->arena, "%s%s", prefix, given)));
}
