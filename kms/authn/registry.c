#include "kms/authn/registry.h"

#include "base/ref.h"
#include "kms/authn/san.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

struct counted {
    struct ref refs;
    struct principal p;
};
struct registry {
    struct ref refs;
    size_t n;
    struct counted **by_san;
};

static struct counted *counted_of(const struct principal *p)
{
    return (struct counted *)((uintptr_t)p - offsetof(struct counted, p));
}

const struct principal *principal_ref(const struct principal *p)
{
    ref_take(&counted_of(p)->refs);
    return p;
}

void principal_unref(const struct principal *p)
{
    if (p && ref_drop(&counted_of(p)->refs))
        free(counted_of(p));
}

/* Fixed-size text from outside may lack its NUL. */
static struct bytes field_text(const char *text, size_t size)
{
    return BYTES(text, strnlen(text, size));
}

RESULT authn_principal_check(const struct principal *untrusted, const char *trust_domain, struct err *e)
{
    const struct principal *p = untrusted;
    struct bytes name = field_text(p->name, sizeof p->name), san = field_text(p->san, sizeof p->san),
                 tenant = field_text(p->tenant, sizeof p->tenant);
    if (!name_valid_principal(name))
        return err_field(e, "name", "must match [a-z0-9]([a-z0-9._-]{0,126}[a-z0-9])?");
    if (tenant.n && (tenant.n == sizeof p->tenant || !name_valid_id(tenant, NAME_TENANT)))
        return err_field(e, "tenant", "must be a tenant's id, or empty for the platform");
    TRY(san_check(san, trust_domain, e));
    if (p->state != PRINCIPAL_ACTIVE && p->state != PRINCIPAL_DISABLED)
        return err_field(e, "state", "must be ACTIVE or DISABLED");
    return ok();
}

static int compare_san(const void *a, const void *b)
{
    return strcmp((*(struct counted *const *)a)->p.san, (*(struct counted *const *)b)->p.san);
}

static int compare_name(const void *a, const void *b)
{
    return strcmp((*(struct counted *const *)a)->p.name, (*(struct counted *const *)b)->p.name);
}

static void registry_unrefp(struct registry **r)
{
    registry_unref(*r);
}

RESULT registry_new(const struct principal *list, size_t n, const char *trust_domain, struct registry **ret, struct err *e)
{
    if (n > REGISTRY_MAX)
        FAIL(e, ERR_INVALID, NULL, "%zu principals; at most %d", n, REGISTRY_MAX);
    CLEANUP(registry_unrefp) struct registry *r = calloc(1, sizeof *r);
    INVARIANT(r);
    ref_init(&r->refs);
    r->by_san = calloc(n ? n : 1, sizeof *r->by_san);
    INVARIANT(r->by_san);
    for (size_t i = 0; i < n; i++) {
        TRY(authn_principal_check(&list[i], trust_domain, e));
        struct counted *c = malloc(sizeof *c);
        INVARIANT(c);
        ref_init(&c->refs);
        c->p = list[i];
        r->by_san[r->n++] = c;
    }
    qsort(r->by_san, n, sizeof *r->by_san, compare_name);
    for (size_t i = 1; i < n; i++)
        if (compare_name(&r->by_san[i - 1], &r->by_san[i]) == 0)
            FAIL(e, ERR_INVALID, NULL, "two principals are named %s", r->by_san[i]->p.name);
    qsort(r->by_san, n, sizeof *r->by_san, compare_san);
    for (size_t i = 1; i < n; i++)
        if (compare_san(&r->by_san[i - 1], &r->by_san[i]) == 0)
            FAIL(e, ERR_INVALID, NULL, "%s and %s have one certificate name", r->by_san[i - 1]->p.name, r->by_san[i]->p.name);
    *ret = r;
    r = NULL;
    return ok();
}

struct registry *registry_ref(struct registry *r)
{
    ref_take(&r->refs);
    return r;
}

void registry_unref(struct registry *r)
{
    if (!r || !ref_drop(&r->refs))
        return;
    for (size_t i = 0; i < r->n; i++)
        principal_unref(&r->by_san[i]->p);
    free(r->by_san);
    free(r);
}

const struct principal *registry_find(const struct registry *r, const char *san)
{
    size_t low = 0, high = r->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct principal *p = &r->by_san[middle]->p;
        int order = strcmp(san, p->san);
        if (order == 0)
            return principal_ref(p);
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}
