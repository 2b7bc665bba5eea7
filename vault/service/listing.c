#include "vault/service/listing.h"

#include <string.h>

/* ---- filter -------------------------------------------------------------------------------------------------------- */
static bool take_prefix(struct bytes *s, const char *prefix)
{
    size_t n = strlen(prefix);
    if (s->n < n || memcmp(s->p, prefix, n) != 0)
        return false;
    *s = BYTES(s->p + n, s->n - n);
    return true;
}

static bool unquote(struct bytes *v)
{
    if (v->n >= 2 && v->p[0] == '"' && v->p[v->n - 1] == '"')
        *v = BYTES(v->p + 1, v->n - 2);
    return v->n > 0 && memchr(v->p, '"', v->n) == NULL;
}

static bool parse_term(struct bytes s, struct listing_term *t)
{
    if (take_prefix(&s, "state=")) {
        t->kind = TERM_STATE;
    } else if (take_prefix(&s, "name:")) {
        t->kind = TERM_NAME;
    } else if (take_prefix(&s, "labels.")) {
        const uint8_t *eq = memchr(s.p, '=', s.n);
        if (eq == NULL || eq == s.p)
            return false;
        t->kind = TERM_LABEL;
        t->label = BYTES(s.p, (size_t)(eq - s.p));
        s = BYTES(eq + 1, s.n - t->label.n - 1);
    } else {
        return false;
    }
    t->value = s;
    return unquote(&t->value) && memchr(t->value.p, ' ', t->value.n) == NULL;
}

/* *ret_more: an AND follows, so there must be another term, even if nothing stands there. */
static struct bytes next_term(struct bytes *rest, bool *ret_more)
{
    static const char and[] = " AND ";
    const uint8_t *at = rest->n > 0 ? memmem(rest->p, rest->n, and, sizeof and - 1) : NULL;
    struct bytes term = *rest;
    *ret_more = at != NULL;
    if (at == NULL) {
        *rest = (struct bytes){0};
        return term;
    }
    term.n = (size_t)(at - rest->p);
    *rest = BYTES(at + sizeof and - 1, rest->n - term.n - (sizeof and - 1));
    return term;
}

static bool known_state(struct bytes v)
{
    for (enum version_state s = VERSION_ENABLED; s <= VERSION_DESTROY_SCHEDULED; s++)
        if (bytes_equal(v, bytes_str(version_state_name(s))))
            return true;
    return false;
}

static RESULT parse_filter(struct bytes filter, unsigned kinds, struct listing *l, struct err *e)
{
    bool more = filter.n > 0;
    while (more) {
        struct listing_term t = {0};
        if (l->nterms == LISTING_TERMS_MAX)
            return err_field(e, "filter", "at most 8 terms");
        if (!parse_term(next_term(&filter, &more), &t))
            return err_field(e, "filter", "terms are state=VALUE, name:TEXT or labels.KEY=VALUE, joined by AND");
        if ((kinds >> t.kind & 1) == 0)
            return err_field(e, "filter", "this list cannot be filtered by that field");
        if (t.kind == TERM_STATE && !known_state(t.value))
            return err_field(e, "filter", "state is ENABLED, DISABLED, DESTROY_SCHEDULED or DESTROYED");
        l->terms[l->nterms++] = t;
    }
    return ok();
}

static RESULT parse_order(struct bytes o, struct listing *l, struct err *e)
{
    if (o.n == 0 || bytes_equal(o, BYTES_LIT("name")) || bytes_equal(o, BYTES_LIT("name asc")))
        return ok();
    if (!bytes_equal(o, BYTES_LIT("name desc")))
        return err_field(e, "order_by", "only name, name asc or name desc");
    l->descending = true;
    return ok();
}

bool listing_match_name(const struct listing *l, struct bytes name)
{
    for (size_t i = 0; i < l->nterms; i++)
        if (l->terms[i].kind == TERM_NAME && memmem(name.p, name.n, l->terms[i].value.p, l->terms[i].value.n) == NULL)
            return false;
    return true;
}

bool listing_match_state(const struct listing *l, const char *state)
{
    for (size_t i = 0; i < l->nterms; i++)
        if (l->terms[i].kind == TERM_STATE && !bytes_equal(l->terms[i].value, bytes_str(state)))
            return false;
    return true;
}

bool listing_match_labels(const struct listing *l, const struct label *labels, size_t n)
{
    for (size_t i = 0; i < l->nterms; i++) {
        if (l->terms[i].kind != TERM_LABEL)
            continue;
        size_t j = 0;
        while (j < n && !(bytes_equal(labels[j].key, l->terms[i].label) && bytes_equal(labels[j].value, l->terms[i].value)))
            j++;
        if (j == n)
            return false;
    }
    return true;
}

/* ---- tokens: base64url(sealed(after)), AAD = everything that makes this list this list ----------------------------------- */
enum { TOKEN_HEADER = 1, TOKEN_FORMAT = 1, TOKEN_TEXT_MAX = 1024 };

static RESULT query_text(struct call *c, struct bytes filter, struct bytes order_by, struct bytes scope, struct bytes *ret, struct err *e)
{
    CLEANUP(buf_release) struct buf b;
    buf_init(&b, 8192);
    buf_put_v16(&b, bytes_str(c->id.principal->name));
    buf_put_v16(&b, bytes_str(c->row->path));
    buf_put_v16(&b, bytes_str(call_resource_text(c)));
    buf_put_v16(&b, filter);
    buf_put_v16(&b, order_by);
    buf_put_v16(&b, scope);
    uint8_t *copy = arena_dup(&c->arena, b.p, b.n);
    if (b.overflow || copy == NULL)
        return err_field(e, "filter", "too long");
    *ret = BYTES(copy, b.n);
    return ok();
}

static RESULT bad_token(struct err *e)
{
    return err_field(e, "page_token", "not a token of this list for this caller");
}

static RESULT open_token(struct call *c, struct bytes text, struct listing *l, struct err *e)
{
    CLEANUP(buf_release) struct buf sealed;
    buf_init(&sealed, TOKEN_TEXT_MAX);
    struct err why = {0};
    if (text.n > TOKEN_TEXT_MAX || !base64_decode(text, true, &sealed) || sealed.n <= TOKEN_HEADER + AEAD_OVERHEAD ||
        sealed.p[0] != TOKEN_FORMAT)
        return bad_token(e);
    size_t n = sealed.n - TOKEN_HEADER - AEAD_OVERHEAD;
    uint8_t *after = arena_alloc(&c->arena, n);
    INVARIANT(after != NULL);
    if (n > LISTING_AFTER_MAX || aead_open(c->svc->token_key, TOKEN_HEADER, l->query, buf_bytes(&sealed), after, &why).failed)
        return bad_token(e);
    l->after = BYTES(after, n);
    return ok();
}

ProtobufCBinaryData listing_token(struct call *c, const struct listing *l, struct bytes last)
{
    uint8_t header = TOKEN_FORMAT, sealed[TOKEN_HEADER + LISTING_AFTER_MAX + AEAD_OVERHEAD];
    INVARIANT(last.n > 0 && last.n <= LISTING_AFTER_MAX);
    aead_seal(c->svc->token_key, BYTES(&header, 1), l->query, last, sealed);
    CLEANUP(buf_release) struct buf text;
    buf_init(&text, TOKEN_TEXT_MAX);
    base64_encode(BYTES(sealed, TOKEN_HEADER + last.n + AEAD_OVERHEAD), true, &text);
    return call_text(c, buf_cstr(&text));
}

RESULT listing_parse(struct call *c, int32_t page_size, ProtobufCBinaryData page_token, ProtobufCBinaryData filter,
                     ProtobufCBinaryData order_by, struct bytes scope, unsigned kinds, struct listing *ret, struct err *e)
{
    *ret = (struct listing){.page = LISTING_PAGE_DEFAULT};
    if (page_size < 0)
        return err_field(e, "page_size", "must not be negative");
    if (page_size > 0)
        ret->page = page_size < LISTING_PAGE_MAX ? (size_t)page_size : LISTING_PAGE_MAX;
    TRY(parse_filter(pb_bytes(filter), kinds, ret, e));
    TRY(parse_order(pb_bytes(order_by), ret, e));
    TRY(query_text(c, pb_bytes(filter), pb_bytes(order_by), scope, &ret->query, e));
    return page_token.len > 0 ? open_token(c, pb_bytes(page_token), ret, e) : ok();
}
