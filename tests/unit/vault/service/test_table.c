/* The one table: complete as it stands, and refused when a row lacks anything. */
#include "vault/service/table.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "google/cloud/kms/v1/service.pb-c.h"

static void whole(void **state)
{
    (void)state;
    struct err e = {0};
    assert_false(table_check(&e).failed);
    size_t n;
    const struct rpc_row *const *rows = table_rows(&n);
    assert_true(n >= 40);
    for (size_t i = 0; i < n; i++)
        assert_ptr_equal(table_find(rows[i]->path), rows[i]);
    assert_null(table_find("/google.cloud.kms.v1.KeyManagementService/AsymmetricSign"));
    assert_null(table_find("/google.cloud.kms.v1.KeyManagementService/encrypt"));
    assert_null(table_find(""));
}

/* Every method that our .proto declares is served: nothing is announced by reflection and then missing. */
static void declared_is_served(void **state)
{
    (void)state;
    const ProtobufCServiceDescriptor *d = &google__cloud__kms__v1__key_management_service__descriptor;
    for (unsigned i = 0; i < d->n_methods; i++) {
        char path[256];
        snprintf(path, sizeof path, "/%s/%s", d->name, d->methods[i].name);
        const struct rpc_row *row = table_find(path);
        assert_non_null(row);
        assert_ptr_equal(row->request, d->methods[i].input);
        assert_ptr_equal(row->response, d->methods[i].output);
    }
}

static void only_health_and_reflection_are_public(void **state)
{
    (void)state;
    size_t n, public = 0;
    const struct rpc_row *const *rows = table_rows(&n);
    for (size_t i = 0; i < n; i++)
        if (rows[i]->plane == PLANE_PUBLIC) {
            public++;
            assert_true(strncmp(rows[i]->path, "/grpc.health.v1.", 16) == 0 || strncmp(rows[i]->path, "/grpc.reflection.", 17) == 0);
        } else {
            assert_non_null(rows[i]->action);
            assert_int_not_equal(rows[i]->audit, AUDIT_NONE);
            assert_int_not_equal(rows[i]->limit, LIMIT_PUBLIC);
        }
    assert_int_equal(public, 4); /* Check, Watch, two reflections */
}

static struct result some_resources(struct call *c, const ProtobufCMessage *q, struct err *e)
{
    (void)c, (void)q, (void)e;
    return ok();
}

static struct result some_handler(struct call *c, const ProtobufCMessage *q, ProtobufCMessage **r, struct err *e)
{
    (void)c, (void)q, (void)r, (void)e;
    return ok();
}

static struct rpc_row good_row(void)
{
    return (struct rpc_row){.kind = RPC_UNARY, .path = "/x.Y/Z", .request = &google__cloud__kms__v1__encrypt_request__descriptor,
                            .response = &google__cloud__kms__v1__encrypt_response__descriptor, .action = "x.y", .plane = PLANE_DATA,
                            .resources = some_resources, .audit = AUDIT_USE, .limit = LIMIT_DATA, .lane = LANE_FAST, .handle = some_handler};
}

static void refused(const struct rpc_row *r)
{
    struct err e = {0};
    assert_true(table_check_row(r, &e).failed);
    assert_int_equal(e.code, ERR_INTERNAL);
}

static void incomplete_rows_are_refused(void **state)
{
    (void)state;
    struct err e = {0};
    struct rpc_row r = good_row();
    assert_false(table_check_row(&r, &e).failed);
#define WITHOUT(change) do { r = good_row(); change; refused(&r); } while (0)
    WITHOUT(r.path = NULL);
    WITHOUT(r.path = "x");
    WITHOUT(r.kind = 0);
    WITHOUT(r.request = NULL);
    WITHOUT(r.response = NULL);
    WITHOUT(r.action = NULL);
    WITHOUT(r.plane = 0);
    WITHOUT(r.plane = PLANE_PUBLIC);
    WITHOUT(r.resources = NULL);
    WITHOUT(r.audit = 0);
    WITHOUT(r.audit = AUDIT_NONE);
    WITHOUT(r.limit = 0);
    WITHOUT(r.limit = LIMIT_PUBLIC);
    WITHOUT(r.lane = 0);
    WITHOUT(r.handle = NULL);
    WITHOUT(r.kind = RPC_BIDI);
    WITHOUT(r.kind = RPC_SERVER_STREAM);
    WITHOUT(r.mutation = true);          /* a mutation is audited as a change, on the slow lane */
    WITHOUT(r.destructive = true);       /* and what destroys is a mutation */
    WITHOUT((r.hot = true, r.lane = LANE_SLOW));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole),
        cmocka_unit_test(declared_is_served),
        cmocka_unit_test(only_health_and_reflection_are_public),
        cmocka_unit_test(incomplete_rows_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
