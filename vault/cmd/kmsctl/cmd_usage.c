/* versions usage, and what destroying one says of it first. */
#include "vault/cmd/kmsctl/kmsctl.h"

#include "base/text.h"
#include "claviger/lifecycle/v1/lifecycle.pb-c.h"
#include "kms/name/name.h"

#include <inttypes.h>

#define LIFE "/claviger.lifecycle.v1.Lifecycle/"
#define USAGE_COLUMNS                                                                                                                    \
    "NAME name|STATE state|ENCRYPTED encrypted|DECRYPTED decrypted|WRAPPED wrapped|UNWRAPPED unwrapped|SHARE share|LAST-USE last_use|"   \
    "CALLERS who"
enum { NAMES_SHOWN = 3 };

typedef Claviger__Lifecycle__V1__Usage usage_response;
typedef Claviger__Lifecycle__V1__VersionUsage version_usage;

static struct result of_version(struct ctl *c, ProtobufCBinaryData name, const usage_response **ret, struct claviger_error *e)
{
    Claviger__Lifecycle__V1__GetUsageRequest q = CLAVIGER__LIFECYCLE__V1__GET_USAGE_REQUEST__INIT;
    q.name = name;
    return ctl_read(c, LIFE "GetUsage", &q.base, &claviger__lifecycle__v1__usage__descriptor, ret, e);
}

static char *who_used_it(struct ctl *c, const version_usage *u)
{
    CLEANUP(buf_release) struct buf b;
    buf_init(&b, 4096);
    for (size_t i = 0; i < u->n_callers && i < NAMES_SHOWN; i++)
        buf_putf(&b, "%s%.*s", i > 0 ? ", " : "", (int)u->callers[i]->principal.len, (const char *)u->callers[i]->principal.data);
    if (u->more_callers)
        buf_putf(&b, " and more than %zu others", u->n_callers - NAMES_SHOWN);
    else if (u->n_callers > NAMES_SHOWN)
        buf_putf(&b, " and %zu more", u->n_callers - NAMES_SHOWN);
    return arena_strdup(&c->arena, buf_bytes(&b));
}

/* ---- versions usage ------------------------------------------------------------------------------------------------------ */
struct usage_walk {
    json_t *rows;
    uint64_t opened; /* of all versions, since the last rotation */
    bool all, complete; /* all: every version of the key */
    char *meaning, *primary;
};

static void add_row(struct ctl *c, struct usage_walk *w, const version_usage *u)
{
    json_t *row = json_of(&u->base);
    if (!c->json)
        json_object_set_new(row, "who", json_string(who_used_it(c, u)));
    w->opened += u->opened_since_rotation;
    json_array_append_new(w->rows, row);
}

static void add_page(struct ctl *c, struct usage_walk *w, const usage_response *p)
{
    for (size_t i = 0; i < p->n_versions; i++)
        add_row(c, w, p->versions[i]);
    w->complete = w->complete && p->complete;
    w->meaning = arena_strdup(&c->arena, pb_bytes_of(p->meaning));
    w->primary = arena_strdup(&c->arena, pb_bytes_of(p->primary));
}

static struct result walk_pages(struct ctl *c, ProtobufCBinaryData key, struct usage_walk *w, struct claviger_error *e)
{
    Claviger__Lifecycle__V1__ListUsageRequest q = CLAVIGER__LIFECYCLE__V1__LIST_USAGE_REQUEST__INIT;
    q.parent = key;
    do {
        const usage_response *p = NULL;
        TRY(ctl_read(c, LIFE "ListUsage", &q.base, &claviger__lifecycle__v1__usage__descriptor, &p, e));
        add_page(c, w, p);
        q.page_token = p->next_page_token;
    } while (q.page_token.len > 0);
    return ok();
}

static struct result walk(struct ctl *c, struct usage_walk *w, struct claviger_error *e)
{
    const usage_response *p = NULL;
    ProtobufCBinaryData full;
    struct name n;
    struct err inner = {0};
    w->complete = true;
    TRY(name_full(c, c->args.pos[0], 1u << NAME_CRYPTOKEY | 1u << NAME_VERSION, &full, e));
    INVARIANT(!name_parse_short(pb_bytes_of(full), &n, &inner).failed);
    w->all = n.kind == NAME_CRYPTOKEY;
    if (w->all)
        return walk_pages(c, full, w, e);
    TRY(of_version(c, full, &p, e));
    add_page(c, w, p);
    return ok();
}

/* Of one version alone the share of all is not known. */
static void add_shares(struct usage_walk *w)
{
    char text[16];
    for (size_t i = 0; w->all && w->opened > 0 && i < json_array_size(w->rows); i++) {
        json_t *row = json_array_get(w->rows, i);
        const double part = (double)json_integer_value(json_object_get(row, "opened_since_rotation"));
        snprintf(text, sizeof text, "%.1f%%", 100 * part / (double)w->opened);
        json_object_set_new(row, "share", json_string(text));
    }
}

static void print_usage(struct ctl *c, struct usage_walk *w)
{
    if (c->json) {
        json_t *j = json_pack("{s:O,s:s,s:b,s:s}", "usage", w->rows, "meaning", w->meaning, "complete", w->complete, "primary", w->primary);
        print_json(j);
        json_decref(j);
        return;
    }
    print_table(w->rows, USAGE_COLUMNS);
    printf("\nThis is %s.\nSHARE: of what was decrypted or unwrapped since the last rotation.\n%s", w->meaning,
           w->complete ? "" : "Not everything is counted yet: ask again.\n");
}

static struct result versions_usage(struct ctl *c, struct claviger_error *e)
{
    struct usage_walk w = {.rows = json_array()};
    struct result r = walk(c, &w, e);
    if (!r.failed) {
        add_shares(&w);
        print_usage(c, &w);
    }
    json_decref(w.rows);
    return r;
}

/* ---- before a destruction -------------------------------------------------------------------------------------------------- */
static void tell(struct ctl *c, const usage_response *p, const version_usage *u)
{
    char last[TEXT_RFC3339_BYTES] = "never";
    if (u->last_use != NULL)
        text_format_rfc3339(u->last_use->seconds * 1000000000 + u->last_use->nanos, last);
    fprintf(stderr, "last used: %s\nby: %s\nencrypted %" PRIu64 ", decrypted %" PRIu64 ", wrapped %" PRIu64 ", unwrapped %" PRIu64 " items\n", last,
            u->n_callers > 0 ? who_used_it(c, u) : "nobody", u->encrypted, u->decrypted, u->wrapped, u->unwrapped);
    if (u->counted_since != NULL) {
        text_format_rfc3339(u->counted_since->seconds * 1000000000, last);
        fprintf(stderr, "counted since: %s\n", last);
    }
    fprintf(stderr, "This is %.*s.\n%s", (int)p->meaning.len, (const char *)p->meaning.data,
            p->complete ? "" : "Not everything is counted yet: ask again.\n");
}

void usage_tell(struct ctl *c, ProtobufCBinaryData version)
{
    const usage_response *p = NULL;
    struct claviger_error why = {0};
    if (of_version(c, version, &p, &why).failed || p->n_versions != 1)
        fprintf(stderr, "What it was used for is not known: %s\n", claviger_code_name(why.code));
    else
        tell(c, p, p->versions[0]);
}

static const struct command rows[] = {
    {"versions", "usage", "KEY[@VERSION]", 1, 1, 0, ROLE_KEYADMIN, versions_usage,
     "what the server has seen: how much was done with each version, when last, and by whom",
     "kmsctl versions usage acme/eu/pii/email\nkmsctl versions usage acme/eu/pii/email@1"},
};
const struct command_rows rows_usage = {rows, sizeof rows / sizeof *rows};
