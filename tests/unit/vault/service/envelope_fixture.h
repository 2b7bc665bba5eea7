/*
 * Purpose: what the tests of the envelope's handlers share: a keyring that is nothing but its caches, with two keys of two versions each,
 *          and a call that runs the handler's own steps.
 * Owns:    a keyring and a service for the process. Threads: one. Errors: a failed set-up fails the test.
 * Limits:  two keys. Secrets: none worth keeping.
 */
#ifndef TESTS_UNIT_VAULT_SERVICE_ENVELOPE_FIXTURE_H
#define TESTS_UNIT_VAULT_SERVICE_ENVELOPE_FIXTURE_H

#include "vault/service/crypt.h"
#include "vault/service/rows.h"
#include "vault/service/service.h"

#include "claviger/envelope/v1/envelope.pb-c.h"
#include "kms/keyring/internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct result (*handler)(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e);

/* ---- two keys, "one" and "two", each with versions 1 and 2; the primary is 2 --------------------------------------------- */
static struct keyring ring;
static struct service svc;
static struct key_entry *entries[2];
static const char *const KEYS[] = {"projects/acme/locations/eu/keyRings/r/cryptoKeys/one", "projects/acme/locations/eu/keyRings/r/cryptoKeys/two"};

static inline void never(struct cache_entry *e)
{
    (void)e; /* freed with the process */
}

static inline struct aead_key *aead_of(unsigned seed)
{
    uint8_t raw[32];
    memset(raw, (int)seed, sizeof raw);
    struct secret *s = NULL;
    struct aead_key *k = NULL;
    struct bytes fields[] = {BYTES_LIT("record"), {0}};
    struct err e;
    assert_false(secret_from(raw, sizeof raw, &s, &e).failed);
    assert_false(aead_key_derive(s, KDF_STORE, fields, 2, 1, &k, &e).failed);
    secret_free(s);
    return k;
}

static inline void put_handle(unsigned key, struct version_info *v, enum key_use use)
{
    char name[NAME_MAX_BYTES];
    int n = snprintf(name, sizeof name, "%s/cryptoKeyVersions/%u", KEYS[key], v->n);
    struct key_handle *h = calloc(1, sizeof *h + sizeof name);
    memcpy(h->id, v->kvid, FORMAT_KVID_BYTES);
    h->id[FORMAT_KVID_BYTES] = (uint8_t)use;
    h->version = v->n;
    h->aead = aead_of(key * 8 + v->n * 2 + (unsigned)use);
    h->name_n = (uint16_t)n;
    memcpy(h->name, name, (size_t)n);
    cache_entry_init(&h->entry, BYTES(h->id, sizeof h->id), never);
    cache_put(ring.handles, &h->entry, cache_generation(ring.handles, BYTES(h->id, sizeof h->id)));
}

static inline int setup(void **state)
{
    (void)state;
    struct err e = {0};
    if (secret_slab_init(256, &e).failed)
        return 1;
    ring = (struct keyring){.clock = &clock_system, .keys = cache_new(65536, 1u << 30, &clock_system), .handles = cache_new(65536, 1u << 30, &clock_system)};
    svc = (struct service){.keyring = &ring, .clock = &clock_system};
    for (unsigned key = 0; key < 2; key++) {
        struct key_entry *entry = entries[key] = calloc(1, sizeof *entry);
        entry->primary = 2;
        entry->nversions = 2;
        entry->versions = calloc(2, sizeof *entry->versions);
        for (unsigned i = 0; i < 2; i++) {
            struct version_info *v = &entry->versions[i];
            *v = (struct version_info){.n = i + 1, .state = VERSION_ENABLED};
            memset(v->kvid, (int)(0x10 + key * 2 + i), sizeof v->kvid);
            put_handle(key, v, KEY_USE_ENCRYPT);
            put_handle(key, v, KEY_USE_WRAP);
        }
        cache_entry_init(&entry->entry, bytes_str(KEYS[key]), never);
        cache_put(ring.keys, &entry->entry, cache_generation(ring.keys, bytes_str(KEYS[key])));
    }
    return 0;
}

static inline const struct rpc_row *row_of(const char *method)
{
    const struct row_list *lists[] = {&rows_envelope, &rows_envelope_batch, &rows_envelope_rewrap};
    for (size_t l = 0; l < sizeof lists / sizeof lists[0]; l++)
        for (size_t i = 0; i < lists[l]->n; i++)
            if (strcmp(strrchr(lists[l]->rows[i].path, '/') + 1, method) == 0)
                return &lists[l]->rows[i];
    fail_msg("no %s", method);
    return NULL;
}

static inline void begin(struct call *c, const char *method, size_t memory)
{
    *c = (struct call){.svc = &svc, .row = row_of(method)};
    arena_init(&c->arena, memory);
}

/* The steps that are the handler's own; *ret_resp in the call's arena. */
static inline RESULT ask(struct call *c, const void *req, void *ret_resp, struct err *e)
{
    handler fn = c->row->kind == RPC_UNARY ? c->row->handle : c->row->stream->message;
    TRY(c->row->resources(c, req, e));
    return fn(c, req, ret_resp, e);
}

#define TEXT(s) ((ProtobufCBinaryData){strlen(s), (uint8_t *)(uintptr_t)(s)})
static uint8_t plain[4000];

static inline ProtobufCBinaryData sealed_under(unsigned key, unsigned version, enum key_use use, struct bytes what, uint8_t *out)
{
    char name[NAME_MAX_BYTES];
    struct name n;
    struct err e;
    struct crypt_key k = {0};
    struct call c;
    struct bytes sealed;
    CLEANUP(buf_release) struct buf aad;
    snprintf(name, sizeof name, "%s/cryptoKeyVersions/%u", KEYS[key], version);
    assert_false(name_parse(bytes_str(name), NAME_VERSION, "name", &n, &e).failed);
    begin(&c, "Wrap", CALL_ARENA_MAX);
    buf_init(&aad, 64);
    format_plain_aad((struct bytes){0}, &aad);
    assert_false(crypt_key_for_seal(&c, &n, use, &k, &e).failed);
    assert_false(crypt_seal(&c, &k, use, buf_bytes(&aad), what, &sealed, &e).failed);
    memcpy(out, sealed.p, sealed.n);
    crypt_key_release(&k);
    arena_release(&c.arena);
    return (ProtobufCBinaryData){sealed.n, out};
}

#endif
