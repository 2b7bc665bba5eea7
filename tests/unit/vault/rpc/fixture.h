/* A server on a socket of its own before the fake service, and one client of it: new for each test, and nothing is left of it. */
#ifndef TESTS_UNIT_VAULT_RPC_FIXTURE_H
#define TESTS_UNIT_VAULT_RPC_FIXTURE_H

#include "tests/unit/vault/rpc/fake_service.h"

#include "tests/unit/slow.h"
#include "tests/unit/vault/rpc/client.h"
#include "vault/rpc/rpc.h"
#include "vault/rpc/status.h"

#include <google/rpc/error_details.pb-c.h>
#include <google/rpc/status.pb-c.h>
#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>

#include <cmocka.h>

enum { MAX_CALLS = 8, MAX_STREAMS = 3 };

struct fixture {
    char dir[32], path[64];
    struct config config;
    struct service svc;
    struct rpc_server *server;
    struct client cl;
};

static inline int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct rpc_options o = {.fast_workers = 2, .max_calls_in_flight = MAX_CALLS, .max_streams = MAX_STREAMS};
    struct err e;

    snprintf(f->dir, sizeof(f->dir), "/tmp/clv-rpc-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->path, sizeof(f->path), "%s/core.sock", f->dir);
    f->config.cluster_name = (char *)(uintptr_t)"test";
    f->config.node_name = (char *)(uintptr_t)"n1";
    f->svc = (struct service){.config = &f->config, .clock = &clock_system};
    o.service = &f->svc;
    o.socket_path = f->path;
    atomic_store(&fake.cancelled, 0);
    atomic_store(&fake.half_closed, 0);
    atomic_store(&fake.arrived, 0);
    fake_start();
    assert_false(rpc_server_start(&o, &f->server, &e).failed);
    client_open(&f->cl, f->path);
    *state = f;
    return 0;
}

static inline int teardown(void **state)
{
    struct fixture *f = *state;
    int64_t begun;

    client_close(&f->cl);
    begun = clock_boot_ms(&clock_system);
    assert_true(rpc_server_stop(f->server, CLIENT_PATIENCE_MS));
    assert_true(clock_boot_ms(&clock_system) - begun < slower(CLIENT_PATIENCE_MS / 2)); /* gRPC's own shutdown may take ten seconds */
    fake_stop();
    assert_int_equal(atomic_load(&fake.live_calls), 0);
    assert_int_equal(atomic_load(&fake.conns_held), 0);
    unlink(f->path);
    assert_int_equal(rmdir(f->dir), 0);
    free(f);
    return 0;
}

static inline grpc_status_code unary(struct fixture *f, const char *method, const char *text, struct client_call *c, char reply[64])
{
    client_call_begin(&f->cl, c, method, CLIENT_PATIENCE_MS);
    client_unary_start(c, bytes_str(text), NULL, 0);
    client_wait(&f->cl);
    client_text(c->received, reply, 64);
    return c->status;
}

static inline void wait_for(atomic_int *what, int value)
{
    for (int i = 0; i < CLIENT_PATIENCE_MS && atomic_load(what) != value; i++)
        usleep(1000);
    assert_int_equal(atomic_load(what), value);
}

static inline void check_details(const struct client_call *c, grpc_status_code code, bool retry)
{
    struct bytes raw = client_trailer(c, "grpc-status-details-bin");
    Google__Rpc__Status *s = google__rpc__status__unpack(NULL, raw.n, raw.p);
    Google__Rpc__ErrorInfo *info;
    Google__Rpc__BadRequest *bad;

    assert_non_null(s);
    assert_int_equal(s->code, code);
    assert_int_equal(s->n_details, retry ? 3 : 2);
    info = google__rpc__error_info__unpack(NULL, s->details[0]->value.len, s->details[0]->value.data);
    assert_memory_equal(info->reason.data, "A_REASON", 8);
    assert_memory_equal(info->domain.data, "claviger.dev", 12);
    bad = google__rpc__bad_request__unpack(NULL, s->details[1]->value.len, s->details[1]->value.data);
    assert_memory_equal(bad->field_violations[0]->field.data, "some.field", 10);
    assert_memory_equal(bad->field_violations[0]->description.data, "is wrong", 8);
    google__rpc__error_info__free_unpacked(info, NULL);
    google__rpc__bad_request__free_unpacked(bad, NULL);
    google__rpc__status__free_unpacked(s, NULL);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
