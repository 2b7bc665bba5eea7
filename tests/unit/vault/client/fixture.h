/*
 * Purpose: the stand-in with what the tests have beside it: a client that is connected to it, or the files of kmsctl csv in its folder.
 * Owns:    struct fixture. Threads: one. Errors: a set-up that fails fails the group, a connection the test.
 * Limits:  none. Secrets: the stand-in's.
 */
#ifndef TESTS_UNIT_VAULT_CLIENT_FIXTURE_H
#define TESTS_UNIT_VAULT_CLIENT_FIXTURE_H

#include "vault/client/claviger.h"

#include "tests/unit/vault/client/standin.h"
#include "tests/unit/vault/client/testing.h"

struct fixture {
    struct standin server;
    struct claviger *c;                                                /* NULL: a group of kmsctl's */
    char in[128], enc[128], out[128], part[128], place[128], dec[128]; /* paths; nothing is there yet */
};

/* `o` with the stand-in's where it says nothing. */
static inline struct claviger *connect_with(const struct standin *s, struct claviger_options o)
{
    struct claviger *c = NULL;
    o.size = sizeof o;
    o.endpoint = o.endpoint ? o.endpoint : s->endpoint;
    o.ca_file = o.ca_file ? o.ca_file : s->ca;
    o.cert_file = o.cert_file ? o.cert_file : s->cert;
    o.key_file = o.key_file ? o.key_file : s->key;
    assert_int_equal(claviger_connect(&o, &c, NULL), 0);
    return c;
}

static inline int fixture_start(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    if (!f || !standin_start(&f->server))
        return -1;
    standin_path(f->in, &f->server, "in.csv");
    standin_path(f->enc, &f->server, "enc.csv");
    standin_path(f->out, &f->server, "out.csv");
    standin_path(f->part, &f->server, "out.csv.part");
    standin_path(f->place, &f->server, "out.csv.place");
    standin_path(f->dec, &f->server, "dec.csv");
    *state = f;
    return 0;
}

static inline int fixture_connect(void **state, struct claviger_options o)
{
    if (fixture_start(state) != 0)
        return -1;
    struct fixture *f = *state;
    f->c = connect_with(&f->server, o);
    return 0;
}

static inline int fixture_stop(void **state)
{
    struct fixture *f = *state;
    claviger_free(f->c);
    standin_stop(&f->server);
    free(f);
    return 0;
}

static inline struct claviger *client(void **state)
{
    return ((struct fixture *)*state)->c;
}

#endif
