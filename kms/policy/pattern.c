#include "kms/policy/pattern.h"

#include <string.h>

static const char *const WORDS[] = {
    [NAME_TENANT] = "projects",          [NAME_LOCATION] = "locations",        [NAME_KEYRING] = "keyRings",
    [NAME_CRYPTOKEY] = "cryptoKeys", [NAME_VERSION] = "cryptoKeyVersions",
};

/* First segment of *rest; rest->p is NULL after the last one. */
static struct bytes next_segment(struct bytes *rest)
{
    const uint8_t *slash = rest->n ? memchr(rest->p, '/', rest->n) : NULL;
    struct bytes segment = slash ? BYTES(rest->p, (size_t)(slash - rest->p)) : *rest;
    *rest = slash ? BYTES(slash + 1, rest->n - segment.n - 1) : (struct bytes){0};
    return segment;
}

static const char *parse_segment(struct bytes text, enum name_kind kind, struct segment *ret)
{
    *ret = (struct segment){.kind = SEGMENT_LITERAL, .text = text};
    if (bytes_equal(text, BYTES_LIT("*"))) {
        ret->kind = SEGMENT_ANY;
        return NULL;
    }
    if (bytes_equal(text, BYTES_LIT("{tenant}"))) {
        ret->kind = SEGMENT_CALLERS_TENANT;
        return kind == NAME_TENANT ? NULL : "{tenant} stands for the tenant segment only";
    }
    if (!name_valid_id(text, kind))
        return "a segment is neither a valid id nor \"*\"";
    for (size_t i = 0; kind == NAME_VERSION && i < text.n; i++)
        ret->version = ret->version * 10 + (uint32_t)(text.p[i] - '0');
    return NULL;
}

const char *pattern_parse(struct bytes untrusted, struct pattern *ret)
{
    struct pattern p = {.shallow = NAME_NONE, .deepest = NAME_NONE};
    struct bytes rest = untrusted;
    if (bytes_equal(rest, BYTES_LIT("instance"))) {
        *ret = p;
        return NULL;
    }
    while (rest.p) {
        struct bytes word = next_segment(&rest);
        bool tail = bytes_equal(word, BYTES_LIT("**"));
        if (!tail) {
            if (p.depth == NAME_VERSION || !bytes_equal(word, bytes_str(WORDS[p.depth + 1])))
                return "must be instance, or projects/{tenant}/locations/.../keyRings/.../cryptoKeys/.../cryptoKeyVersions/...";
            if (!rest.p)
                return "ends after a collection's word: add an id, \"*\" or \"**\"";
            struct bytes id = next_segment(&rest);
            tail = bytes_equal(id, BYTES_LIT("**"));
            p.shallow = (enum name_kind)(p.depth + 1);
            const char *wrong = tail ? NULL : parse_segment(id, p.shallow, &p.segments[p.depth]);
            if (wrong)
                return wrong;
            p.depth += tail ? 0 : 1;
        }
        p.deepest = tail ? NAME_VERSION : p.shallow;
        if (tail && rest.p)
            return "\"**\" may only come last";
    }
    *ret = p;
    return NULL;
}

bool pattern_match(const struct pattern *p, const struct name *resource, struct bytes callers_tenant)
{
    if (resource->kind < p->shallow || resource->kind > p->deepest)
        return false;
    const struct bytes *const ids[] = {&resource->tenant, &resource->location, &resource->ring, &resource->key};
    for (unsigned i = 0; i < p->depth; i++) {
        const struct segment *s = &p->segments[i];
        if (s->kind == SEGMENT_ANY)
            continue;
        if (i + 1 == NAME_VERSION) {
            if (s->version != resource->version)
                return false;
            continue;
        }
        struct bytes want = s->kind == SEGMENT_CALLERS_TENANT ? callers_tenant : s->text;
        if (want.n == 0 || want.n != ids[i]->n || memcmp(want.p, ids[i]->p, want.n) != 0)
            return false;
    }
    return true;
}

bool pattern_names_callers_tenant(const struct pattern *p)
{
    return p->depth > 0 && p->segments[0].kind == SEGMENT_CALLERS_TENANT;
}
