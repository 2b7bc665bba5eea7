#include "kms/name/name.h"

#include <string.h>

/* One row a level, in nesting order: the word before the id, and the hint that names the whole shape. */
static const struct level {
    const char *word;
    const char *hint;
} LEVELS[] = {
    [NAME_TENANT] = {"projects", "must be projects/{tenant}"},
    [NAME_LOCATION] = {"locations", "must be projects/{tenant}/locations/{location}"},
    [NAME_KEYRING] = {"keyRings", "must be projects/{tenant}/locations/{location}/keyRings/{ring}"},
    [NAME_CRYPTOKEY] = {"cryptoKeys",
                        "must be projects/{tenant}/locations/{location}/keyRings/{ring}/cryptoKeys/{key}"},
    [NAME_VERSION] = {"cryptoKeyVersions", "must be projects/{tenant}/locations/{location}/keyRings/{ring}/cryptoKeys/"
                                           "{key}/cryptoKeyVersions/{number}"},
};

static bool is_lower_id(struct bytes id)
{
    if (id.n < 2 || id.n > NAME_SEGMENT_MAX)
        return false;
    for (size_t i = 0; i < id.n; i++) {
        uint8_t c = id.p[i];
        bool letter = c >= 'a' && c <= 'z', digit = c >= '0' && c <= '9';
        bool inner = i > 0 && i + 1 < id.n;
        if (!letter && !(digit && i > 0) && !(c == '-' && inner))
            return false;
    }
    return true;
}

static bool is_mixed_id(struct bytes id)
{
    if (id.n < 1 || id.n > NAME_SEGMENT_MAX)
        return false;
    for (size_t i = 0; i < id.n; i++) {
        uint8_t c = id.p[i];
        bool alnum = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!alnum && c != '_' && c != '-')
            return false;
    }
    return true;
}

static bool parse_version(struct bytes id, uint32_t *ret)
{
    if (id.n < 1 || id.n > 10 || id.p[0] == '0')
        return false;
    uint64_t v = 0;
    for (size_t i = 0; i < id.n; i++) {
        if (id.p[i] < '0' || id.p[i] > '9')
            return false;
        v = v * 10 + (uint64_t)(id.p[i] - '0');
    }
    if (v > INT32_MAX)
        return false;
    *ret = (uint32_t)v;
    return true;
}

bool name_valid_id(struct bytes id, enum name_kind kind)
{
    uint32_t version;
    switch (kind) {
    case NAME_TENANT:
        /* Both words mean something else where tenants are written: a binding's platform, a full name's first word. */
        return is_lower_id(id) && !bytes_equal(id, BYTES_LIT("platform")) && !bytes_equal(id, BYTES_LIT("projects"));
    case NAME_LOCATION:
        return is_lower_id(id);
    case NAME_KEYRING:
    case NAME_CRYPTOKEY:
        return is_mixed_id(id);
    case NAME_VERSION:
        return parse_version(id, &version);
    case NAME_NONE:
        return false;
    }
    return false;
}

bool name_valid_principal(struct bytes id)
{
    if (id.n < 1 || id.n > NAME_PRINCIPAL_MAX)
        return false;
    for (size_t i = 0; i < id.n; i++) {
        uint8_t c = id.p[i];
        bool alnum = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
        bool inner = i > 0 && i + 1 < id.n;
        if (!alnum && !((c == '.' || c == '_' || c == '-') && inner))
            return false;
    }
    return true;
}

/* The text up to `stop` or the end; *rest is what follows the stop character, with p NULL when there was none. */
static struct bytes cut(struct bytes text, char stop, struct bytes *rest)
{
    const uint8_t *at = text.n ? memchr(text.p, stop, text.n) : NULL;
    if (!at) {
        *rest = (struct bytes){NULL, 0};
        return text;
    }
    size_t n = (size_t)(at - text.p);
    *rest = (struct bytes){at + 1, text.n - n - 1};
    return (struct bytes){text.p, n};
}

static bool set_part(struct name *n, enum name_kind kind, struct bytes id)
{
    struct bytes *const places[] = {
        [NAME_TENANT] = &n->tenant, [NAME_LOCATION] = &n->location, [NAME_KEYRING] = &n->ring, [NAME_CRYPTOKEY] = &n->key};
    if (!name_valid_id(id, kind))
        return false;
    n->kind = kind;
    if (kind == NAME_VERSION)
        return parse_version(id, &n->version);
    *places[kind] = id;
    return true;
}

static bool parse_full(struct bytes text, struct name *ret)
{
    struct name n = {0};
    if (text.n == 0 || text.n >= NAME_MAX_BYTES)
        return false;
    for (unsigned kind = NAME_TENANT; text.p; kind++) {
        struct bytes rest;
        if (kind > NAME_VERSION || !bytes_equal(cut(text, '/', &rest), bytes_str(LEVELS[kind].word)) || !rest.p)
            return false;
        if (!set_part(&n, (enum name_kind)kind, cut(rest, '/', &text)))
            return false;
    }
    *ret = n;
    return true;
}

static bool parse_short(struct bytes text, struct name *ret)
{
    struct name n = {0};
    struct bytes version = {0};
    if (text.n == 0 || text.n >= NAME_MAX_BYTES)
        return false;
    text = cut(text, '@', &version);
    for (unsigned kind = NAME_TENANT; text.p; kind++) {
        struct bytes rest;
        if (kind > NAME_CRYPTOKEY || !set_part(&n, (enum name_kind)kind, cut(text, '/', &rest)))
            return false;
        text = rest;
    }
    if (version.p && (n.kind != NAME_CRYPTOKEY || !set_part(&n, NAME_VERSION, version)))
        return false;
    *ret = n;
    return true;
}

RESULT name_parse_any(struct bytes untrusted, unsigned kinds, const char *field, struct name *ret, struct err *e)
{
    struct name n;
    if (parse_full(untrusted, &n) && (kinds & 1u << n.kind)) {
        *ret = n;
        return ok();
    }
    /* With one kind asked for, the hint can show its whole shape. */
    for (unsigned kind = NAME_TENANT; kind <= NAME_VERSION; kind++)
        if (kinds == 1u << kind)
            return err_field(e, field, LEVELS[kind].hint);
    return err_field(e, field, "must be a resource name of the kind this call takes: projects/{tenant}/locations/"
                               "{location}/keyRings/{ring}/cryptoKeys/{key}[/cryptoKeyVersions/{number}]");
}

RESULT name_parse(struct bytes untrusted, enum name_kind want, const char *field, struct name *ret, struct err *e)
{
    return name_parse_any(untrusted, 1u << want, field, ret, e);
}

RESULT name_parse_short(struct bytes untrusted, struct name *ret, struct err *e)
{
    static const char FULL[] = "projects/";
    struct name n;
    bool full = untrusted.n >= sizeof FULL - 1 && memcmp(untrusted.p, FULL, sizeof FULL - 1) == 0;
    if (full ? parse_full(untrusted, &n) : parse_short(untrusted, &n)) {
        *ret = n;
        return ok();
    }
    return err_field(e, "name", "must be tenant[/location[/ring[/key[@version]]]], e.g. acme/eu/pii/email@3; tenant "
                                "and location are lower case");
}

static size_t put(char *out, size_t at, const char *word, struct bytes id)
{
    size_t w = strlen(word);
    INVARIANT(at + w + id.n < NAME_MAX_BYTES);
    memcpy(out + at, word, w);
    if (id.n)
        memcpy(out + at + w, id.p, id.n);
    out[at + w + id.n] = '\0';
    return at + w + id.n;
}

struct digits {
    uint8_t text[10];
    size_t n;
};

static struct digits digits_of(uint32_t v)
{
    struct digits d = {.n = 0};
    uint8_t reversed[10];
    size_t n = 0;
    do {
        reversed[n++] = (uint8_t)('0' + v % 10);
        v /= 10;
    } while (v);
    while (n)
        d.text[d.n++] = reversed[--n];
    return d;
}

size_t name_format(const struct name *n, char out[NAME_MAX_BYTES])
{
    size_t at = 0;
    out[0] = '\0';
    if (n->kind >= NAME_TENANT)
        at = put(out, at, "projects/", n->tenant);
    if (n->kind >= NAME_LOCATION)
        at = put(out, at, "/locations/", n->location);
    if (n->kind >= NAME_KEYRING)
        at = put(out, at, "/keyRings/", n->ring);
    if (n->kind >= NAME_CRYPTOKEY)
        at = put(out, at, "/cryptoKeys/", n->key);
    if (n->kind >= NAME_VERSION) {
        struct digits d = digits_of(n->version);
        at = put(out, at, "/cryptoKeyVersions/", BYTES(d.text, d.n));
    }
    return at;
}

size_t name_format_short(const struct name *n, char out[NAME_MAX_BYTES])
{
    size_t at = 0;
    out[0] = '\0';
    if (n->kind >= NAME_TENANT)
        at = put(out, at, "", n->tenant);
    if (n->kind >= NAME_LOCATION)
        at = put(out, at, "/", n->location);
    if (n->kind >= NAME_KEYRING)
        at = put(out, at, "/", n->ring);
    if (n->kind >= NAME_CRYPTOKEY)
        at = put(out, at, "/", n->key);
    if (n->kind >= NAME_VERSION) {
        struct digits d = digits_of(n->version);
        at = put(out, at, "@", BYTES(d.text, d.n));
    }
    return at;
}

struct name name_truncate(const struct name *n, enum name_kind kind)
{
    struct name out = {.kind = kind < n->kind ? kind : n->kind};
    if (out.kind >= NAME_TENANT)
        out.tenant = n->tenant;
    if (out.kind >= NAME_LOCATION)
        out.location = n->location;
    if (out.kind >= NAME_KEYRING)
        out.ring = n->ring;
    if (out.kind >= NAME_CRYPTOKEY)
        out.key = n->key;
    if (out.kind >= NAME_VERSION)
        out.version = n->version;
    return out;
}

struct name name_parent(const struct name *n)
{
    return name_truncate(n, n->kind == NAME_NONE ? NAME_NONE : (enum name_kind)(n->kind - 1));
}

bool name_equal(const struct name *a, const struct name *b)
{
    return a->kind == b->kind && (a->kind < NAME_TENANT || bytes_equal(a->tenant, b->tenant)) &&
           (a->kind < NAME_LOCATION || bytes_equal(a->location, b->location)) &&
           (a->kind < NAME_KEYRING || bytes_equal(a->ring, b->ring)) &&
           (a->kind < NAME_CRYPTOKEY || bytes_equal(a->key, b->key)) &&
           (a->kind < NAME_VERSION || a->version == b->version);
}
