/* Lists: filters and orders are served or refused; a token opens for its caller and its query alone. */
#include "vault/service/listing.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

enum { ALL = 1u << TERM_STATE | 1u << TERM_NAME | 1u << TERM_LABEL };

struct fixture {
    struct service svc;
    struct call *c;
    struct principal who;
    struct rpc_row row;
};

static int setup(void **state)
{
    static bool slab;
    struct err e = {0};
    if (!slab)
        assert_false(secret_slab_init(64, &e).failed);
    slab = true;
    struct fixture *f = calloc(1, sizeof *f);
    struct secret *s;
    assert_false(secret_from("0123456789abcdef0123456789abcdef", 32, &s, &e).failed);
    struct bytes fields[] = {BYTES_LIT("token"), {NULL, 0}};
    assert_false(aead_key_derive(s, KDF_STORE, fields, 2, 1, &f->svc.token_key, &e).failed);
    secret_free(s);
    f->svc.clock = &clock_system;
    f->row.path = "/s/List";
    strcpy(f->who.name, "alice");
    struct call_start start = {.row = &f->row};
    f->c = call_new(&f->svc, &start, (struct call_sink){NULL, NULL});
    f->c->id.principal = &f->who;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    f->c->id = (struct identity){0}; /* its principal is ours */
    f->row.kind = RPC_UNARY;
    call_free(f->c);
    aead_key_free(f->svc.token_key);
    free(f);
    return 0;
}

static ProtobufCBinaryData text(const char *s)
{
    return (ProtobufCBinaryData){strlen(s), (uint8_t *)(uintptr_t)s};
}

static struct result parse(struct fixture *f, int32_t size, const char *token, const char *filter, const char *order, struct listing *l,
                           struct err *e)
{
    *e = (struct err){0};
    return listing_parse(f->c, size, text(token), text(filter), text(order), (struct bytes){0}, ALL, l, e);
}

static void refused(struct fixture *f, int32_t size, const char *token, const char *filter, const char *order, const char *field)
{
    struct listing l;
    struct err e;
    assert_true(parse(f, size, token, filter, order, &l, &e).failed);
    assert_int_equal(e.code, ERR_INVALID);
    assert_string_equal(e.field, field);
}

static void page_sizes(void **state)
{
    struct fixture *f = *state;
    struct listing l;
    struct err e;
    assert_false(parse(f, 0, "", "", "", &l, &e).failed);
    assert_int_equal(l.page, LISTING_PAGE_DEFAULT);
    assert_false(parse(f, 1, "", "", "", &l, &e).failed);
    assert_int_equal(l.page, 1);
    assert_false(parse(f, INT32_MAX, "", "", "", &l, &e).failed);
    assert_int_equal(l.page, LISTING_PAGE_MAX);
    refused(f, -1, "", "", "", "page_size");
}

static void orders(void **state)
{
    struct fixture *f = *state;
    struct listing l;
    struct err e;
    assert_false(parse(f, 0, "", "", "name", &l, &e).failed);
    assert_false(l.descending);
    assert_false(parse(f, 0, "", "", "name desc", &l, &e).failed);
    assert_true(l.descending);
    static const char *const bad[] = {"name  desc", "Name", "create_time", "name desc,", " name", "name DESC"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        refused(f, 0, "", "", bad[i], "order_by");
}

static void filters(void **state)
{
    struct fixture *f = *state;
    struct listing l;
    struct err e;
    assert_false(parse(f, 0, "", "state=ENABLED AND name:mail AND labels.env=\"prod\"", "", &l, &e).failed);
    assert_int_equal(l.nterms, 3);
    assert_true(listing_match_state(&l, "ENABLED"));
    assert_false(listing_match_state(&l, "DISABLED"));
    assert_true(listing_match_name(&l, BYTES_LIT("projects/a/cryptoKeys/email")));
    assert_false(listing_match_name(&l, BYTES_LIT("projects/a/cryptoKeys/phone")));
    struct label prod = {BYTES_LIT("env"), BYTES_LIT("prod")}, test = {BYTES_LIT("env"), BYTES_LIT("test")};
    assert_true(listing_match_labels(&l, &prod, 1));
    assert_false(listing_match_labels(&l, &test, 1));
    assert_false(listing_match_labels(&l, NULL, 0));
    static const char *const bad[] = {"state", "state=", "state=enabled", "state=NONE", "state!=ENABLED", "create_time>1", "name=x", "labels.=x",
                                      "labels.env", "state=ENABLED OR name:x", "state=ENABLED AND ", " AND ", "name:\"a", "name:a b",
                                      "state=ENABLED and name:x"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        refused(f, 0, "", bad[i], "", "filter");
    struct err why = {0}; /* a field that this list cannot be filtered by */
    assert_true(listing_parse(f->c, 0, text(""), text("state=ENABLED"), text(""), (struct bytes){0}, 1u << TERM_NAME, &l, &why).failed);
    assert_string_equal(why.field, "filter");
}

static void tokens(void **state)
{
    struct fixture *f = *state;
    struct listing l, next;
    struct err e;
    assert_false(parse(f, 5, "", "name:a", "name", &l, &e).failed);
    ProtobufCBinaryData t = listing_token(f->c, &l, BYTES_LIT("last-child"));
    char token[512];
    memcpy(token, t.data, t.len);
    token[t.len] = 0;
    assert_false(parse(f, 9, token, "name:a", "name", &next, &e).failed); /* the page size may change */
    assert_true(bytes_equal(next.after, BYTES_LIT("last-child")));
    assert_null(strstr(token, "last-child"));

    refused(f, 5, token, "name:b", "name", "page_token");
    refused(f, 5, token, "name:a", "name desc", "page_token");
    struct err why = {0};
    assert_true(listing_parse(f->c, 5, text(token), text("name:a"), text("name"), BYTES_LIT("scope"), ALL, &next, &why).failed);
    assert_string_equal(why.field, "page_token");
    strcpy(f->who.name, "mallory");
    refused(f, 5, token, "name:a", "name", "page_token");
    strcpy(f->who.name, "alice");
    f->row.path = "/s/Other";
    refused(f, 5, token, "name:a", "name", "page_token");
    f->row.path = "/s/List";
    for (size_t i = 0; token[i] != 0; i++) {
        char keep = token[i];
        token[i] = keep == 'A' ? 'B' : 'A';
        refused(f, 5, token, "name:a", "name", "page_token");
        token[i] = keep;
    }
    refused(f, 5, "A", "name:a", "name", "page_token");
    refused(f, 5, "!!!!", "name:a", "name", "page_token");
    assert_false(parse(f, 5, token, "name:a", "name", &next, &e).failed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(page_sizes, setup, teardown), cmocka_unit_test_setup_teardown(orders, setup, teardown),
        cmocka_unit_test_setup_teardown(filters, setup, teardown),    cmocka_unit_test_setup_teardown(tokens, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
