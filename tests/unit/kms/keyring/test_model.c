/* Record bodies: every one comes back as it was; anything cut, extended or of another format is refused. */
#include "kms/keyring/model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <string.h>

static void version_of(struct keyring_version *m)
{
    *m = (struct keyring_version){.n = 7, .state = VERSION_DISABLED, .created_ns = 11, .generated_ns = 12, .destroy_ns = 13,
                                  .destroyed_ns = 14, .asked_ns = 15, .asked_by = BYTES_LIT("acme-keyadmin"), .master_version = 3,
                                  .wrapped = BYTES_LIT("wrapped-bytes")};
    memset(m->kvid, 0x5a, sizeof m->kvid);
}

static void version_round_trip(void **state)
{
    (void)state;
    struct keyring_version m, back;
    struct err e = {0};
    version_of(&m);
    CLEANUP(buf_release) struct buf b;
    buf_init(&b, 1024);
    model_version_put(&m, &b);
    struct record r = {.kind = REC_VERSION, .state = VERSION_DISABLED, .body = buf_bytes(&b), .revision = 4};
    assert_false(model_version_get(&r, &back, &e).failed);
    assert_int_equal(back.n, 7);
    assert_int_equal(back.state, VERSION_DISABLED);
    assert_int_equal(back.destroy_ns, 13);
    assert_int_equal(back.asked_ns, 15);
    assert_true(bytes_equal(back.asked_by, m.asked_by));
    assert_int_equal(back.master_version, 3);
    assert_int_equal(back.revision, 4);
    assert_memory_equal(back.kvid, m.kvid, sizeof m.kvid);
    assert_true(bytes_equal(back.wrapped, m.wrapped));
}

static void refused(struct record r)
{
    struct keyring_version back;
    struct err e = {0};
    assert_true(model_version_get(&r, &back, &e).failed);
    assert_int_equal(e.code, ERR_DATA_LOSS);
    assert_string_equal(e.reason, "RECORD_MALFORMED");
}

static void version_refusals(void **state)
{
    (void)state;
    struct keyring_version m;
    version_of(&m);
    CLEANUP(buf_release) struct buf b;
    buf_init(&b, 1024);
    model_version_put(&m, &b);
    struct record r = {.kind = REC_VERSION, .state = VERSION_DISABLED, .body = buf_bytes(&b)};
    for (size_t n = 0; n < b.n; n++) {
        struct record cut = r;
        cut.body.n = n;
        refused(cut);
    }
    struct record other = r;
    other.state = VERSION_ENABLED; /* the plain column says otherwise */
    refused(other);
    b.p[0] = 2; /* a format that is not ours */
    refused(r);
    b.p[0] = 1;
    b.p[5] = 9; /* no such state */
    refused((struct record){.kind = REC_VERSION, .state = 9, .body = buf_bytes(&b)});
    b.p[5] = VERSION_DISABLED;
    buf_put_u8(&b, 0);
    r.body = buf_bytes(&b);
    refused(r);
}

/* Level HSM: no wrapped key and no master, but a check message; and no third level. */
static void version_on_the_token(void **state)
{
    (void)state;
    struct keyring_version m, back;
    struct err e = {0};
    CLEANUP(buf_release) struct buf b;
    version_of(&m);
    m.protection = PROTECTION_HSM;
    m.master_version = 0;
    m.wrapped = (struct bytes){0};
    m.check = BYTES_LIT("check-message");
    buf_init(&b, 1024);
    model_version_put(&m, &b);
    struct record r = {.kind = REC_VERSION, .state = VERSION_DISABLED, .body = buf_bytes(&b)};
    assert_false(model_version_get(&r, &back, &e).failed);
    assert_int_equal(back.protection, PROTECTION_HSM);
    assert_true(bytes_equal(back.check, m.check) && back.wrapped.n == 0);
    const size_t level = b.n - m.check.n - 2 - 1;
    assert_int_equal(b.p[level], PROTECTION_HSM);
    for (size_t n = 0; n < b.n; n++)
        refused((struct record){.kind = REC_VERSION, .state = VERSION_DISABLED, .body = BYTES(b.p, n)});
    b.p[level] = PROTECTION_SOFTWARE; /* which has none */
    refused(r);
    b.p[level] = 3;
    refused(r);
    m.master_version = 1; /* it depends on no master */
    buf_reset(&b);
    model_version_put(&m, &b);
    refused((struct record){.kind = REC_VERSION, .state = VERSION_DISABLED, .body = buf_bytes(&b)});
}

static void key_round_trip(void **state)
{
    (void)state;
    CLEANUP(arena_release) struct arena a;
    arena_init(&a, 65536);
    struct label labels[] = {{BYTES_LIT("env"), BYTES_LIT("prod")}, {BYTES_LIT("team"), BYTES_LIT("")}};
    struct keyring_key m = {.created_ns = 5, .primary = 2, .newest = 9, .rotation_period_s = 86400, .next_rotation_ns = 77,
                            .destroy_delay_s = 99, .labels = labels, .nlabels = 2}, back;
    struct err e = {0};
    CLEANUP(buf_release) struct buf b;
    buf_init(&b, 4096);
    model_key_put(&m, &b);
    struct record r = {.kind = REC_CRYPTOKEY, .body = buf_bytes(&b)};
    assert_false(model_key_get(&r, &a, &back, &e).failed);
    assert_int_equal(back.newest, 9);
    assert_int_equal(back.nlabels, 2);
    assert_true(bytes_equal(back.labels[1].key, BYTES_LIT("team")));
    b.p[1 + 8 + 4 + 4 + 8 + 8 + 8] = 2; /* import only: neither yes nor no */
    assert_true(model_key_get(&r, &a, &back, &e).failed);
    assert_int_equal(e.code, ERR_DATA_LOSS);
    b.p[1 + 8 + 4 + 4 + 8 + 8 + 8] = 0;
    r.body.n--;
    e = (struct err){0};
    assert_true(model_key_get(&r, &a, &back, &e).failed);
    assert_int_equal(e.code, ERR_DATA_LOSS);
}

static void tenant_round_trip(void **state)
{
    (void)state;
    struct model_tenant m = {.t.name = "acme", .t.location = "eu", .t.display_name = "Acme", .t.master_version = 2, .t.created_ns = 3,
                             .nkeks = 2, .keks = {{.master = 2}, {.master = 1}}, .t.state = TENANT_ACTIVE}, back;
    memset(m.salt, 1, sizeof m.salt);
    memset(m.audit_key, 2, sizeof m.audit_key);
    memset(m.keks[0].kcv, 3, sizeof m.keks[0].kcv);
    memset(m.keks[1].kcv, 4, sizeof m.keks[1].kcv);
    struct err e = {0};
    CLEANUP(buf_release) struct buf b;
    buf_init(&b, 4096);
    model_tenant_put(&m, &b);
    struct record r = {.kind = REC_TENANT, .id = BYTES_LIT("acme"), .state = TENANT_ACTIVE, .body = buf_bytes(&b)};
    assert_false(model_tenant_get(&r, &back, &e).failed);
    assert_string_equal(back.t.location, "eu");
    assert_memory_equal(back.salt, m.salt, sizeof m.salt);
    assert_int_equal(back.nkeks, 2);
    assert_memory_equal(back.keks, m.keks, sizeof m.keks);
    b.p[1 + 16 + 2] = 0; /* a NUL inside the location */
    assert_true(model_tenant_get(&r, &back, &e).failed);
    assert_int_equal(e.code, ERR_DATA_LOSS);
    b.p[1 + 16 + 2] = 'e';
    e = (struct err){0};
    r.body.n--;
    assert_true(model_tenant_get(&r, &back, &e).failed);
    assert_int_equal(e.code, ERR_DATA_LOSS);
}

/* States and what belongs to them: any other combination is not ours. */
static void tenant_states(void **state)
{
    (void)state;
    struct model_tenant m = {.t.name = "acme", .t.location = "eu", .t.master_version = 1, .nkeks = 1, .keks = {{.master = 1}}, .t.deleted_by = "admin",
                             .toll = {1, 2, 3, 4, 5, 6}}, back;
    unsigned good = 0;
    for (unsigned is = 0; is <= TENANT_PURGED; is++)
        for (unsigned was = 0; was <= TENANT_PURGED; was++)
            for (int64_t purge_ns = 0; purge_ns < 2; purge_ns++) {
                struct err e = {0};
                CLEANUP(buf_release) struct buf b;
                buf_init(&b, 4096);
                m.t.state = is;
                m.t.was = was;
                m.t.purge_ns = purge_ns;
                model_tenant_put(&m, &b);
                struct record r = {.kind = REC_TENANT, .id = BYTES_LIT("acme"), .state = is, .body = buf_bytes(&b)};
                const bool deleted = is == TENANT_DELETED || is == TENANT_PURGING;
                const bool fits = is >= TENANT_ACTIVE && is <= TENANT_PURGING &&
                                  (deleted ? purge_ns > 0 && (was == TENANT_ACTIVE || was == TENANT_SUSPENDED) : purge_ns == 0 && was == 0);
                assert_int_equal(model_tenant_get(&r, &back, &e).failed, !fits);
                if (!fits) {
                    assert_int_equal(e.code, ERR_DATA_LOSS);
                    continue;
                }
                good++;
                assert_string_equal(back.t.deleted_by, "admin");
                assert_int_equal(back.toll.others, is == TENANT_PURGING ? 6 : 0);
                r.state = is == TENANT_ACTIVE ? TENANT_SUSPENDED : TENANT_ACTIVE; /* the plain column says otherwise */
                assert_true(model_tenant_get(&r, &back, &e).failed);
            }
    assert_int_equal(good, 6);
}

static void state_table(void **state)
{
    (void)state;
    static const bool can[5][5] = {
        /* to:                     -  EN     DIS    DESTROYED SCHEDULED */
        [VERSION_ENABLED]           = {0, false, true,  false, true},
        [VERSION_DISABLED]          = {0, true,  false, false, true},
        [VERSION_DESTROYED]         = {0, false, false, false, false},
        [VERSION_DESTROY_SCHEDULED] = {0, false, true,  true,  false},
    };
    for (unsigned from = 0; from < 6; from++)
        for (unsigned to = 0; to < 6; to++)
            assert_int_equal(version_state_can(from, to), from < 5 && to < 5 && can[from][to]);
}

static void ids_nest(void **state)
{
    (void)state;
    struct err e = {0};
    struct name v;
    assert_false(name_parse(bytes_str("projects/acme/locations/eu/keyRings/pii/cryptoKeys/email/cryptoKeyVersions/3"), NAME_VERSION, "name",
                            &v, &e).failed);
    struct model_id id = model_id_of(&v);
    struct name key = name_truncate(&v, NAME_CRYPTOKEY);
    struct model_id prefix = model_child_prefix(&key);
    assert_true(id.n == prefix.n + 4 && memcmp(id.b, prefix.b, prefix.n) == 0);
    static const uint8_t want[] = "eu\0pii\0email\0\0\0\0\3";
    assert_int_equal(id.n, sizeof want - 1);
    assert_memory_equal(id.b, want, id.n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(version_round_trip), cmocka_unit_test(version_refusals), cmocka_unit_test(version_on_the_token), cmocka_unit_test(key_round_trip),
        cmocka_unit_test(tenant_round_trip), cmocka_unit_test(tenant_states),  cmocka_unit_test(state_table),      cmocka_unit_test(ids_nest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
