#include "tests/unit/kms/audit/fixture.h"

static struct audit_event full(void)
{
    static const uint8_t digest[32] = {1}, cert[32] = {2};
    return (struct audit_event){.id = "0123456789abcde", .time_unix_ns = 1763650000123456789, .principal = BYTES_LIT("spiffe://x/billing"),
                                .auth_method = BYTES_LIT("mtls"), .tenant = BYTES_LIT("acme"), .active_tenant = BYTES_LIT("acme"),
                                .grant = BYTES_LIT("g1"), .action = BYTES_LIT("kms.cryptoKeys.encrypt"),
                                .resource = BYTES_LIT("projects/acme/locations/eu/keyRings/pii/cryptoKeys/\xc3\xa9mail"),
                                .key_version = BYTES_LIT("v"), .outcome = BYTES_LIT("ok"), .code = BYTES_LIT("OK"),
                                .reason = BYTES_LIT("r"), .rule = BYTES_LIT("rule-7"), .policy_digest = BYTES(digest, 32),
                                .request_id = BYTES_LIT("req"), .trace_id = BYTES_LIT("trace"), .address = BYTES_LIT("127.0.0.1:1"),
                                .listener = BYTES_LIT("main"), .certificate = BYTES(cert, 32), .duration_ns = 77, .items = 1000,
                                .items_failed = 3, .repeats = 2, .before = BYTES_LIT("{}"), .after = BYTES_LIT("{\"a\":1}"),
                                .cause = BYTES_LIT("no such principal")};
}

static void test_round_trip(void **state)
{
    struct audit_event in = full(), out;
    struct err e = {0};
    CLEANUP(buf_release) struct buf a, b;
    (void)state;
    buf_init(&a, EVENT_MAX_BYTES);
    buf_init(&b, EVENT_MAX_BYTES);
    event_encode(&in, &a);
    assert_false(event_decode(buf_bytes(&a), &out, &e).failed);
    assert_memory_equal(out.id, in.id, 16);
    assert_true(out.time_unix_ns == in.time_unix_ns && out.items == 1000 && out.items_failed == 3 && out.repeats == 2);
    assert_true(bytes_equal(out.principal, in.principal) && bytes_equal(out.resource, in.resource));
    assert_true(bytes_equal(out.after, in.after) && bytes_equal(out.cause, in.cause) && bytes_equal(out.certificate, in.certificate));
    event_encode(&out, &b); /* canonical: what was read is written the same */
    assert_true(bytes_equal(buf_bytes(&a), buf_bytes(&b)));
}

static void test_known_bytes(void **state)
{
    struct audit_event ev = {.time_unix_ns = 300, .action = BYTES_LIT("do"), .repeats = 1, .after = BYTES_LIT("x")};
    CLEANUP(buf_release) struct buf out;
    (void)state;
    buf_init(&out, EVENT_MAX_BYTES);
    event_encode(&ev, &out); /* by hand from the protobuf wire format: 2: varint 300, 8: "do", 24: 1, 26: "x" */
    assert_true(bytes_equal(buf_bytes(&out), BYTES_LIT("\x10\xac\x02\x42\x02" "do" "\xc0\x01\x01\xd2\x01\x01x")));
    buf_reset(&out);
    ev.time_unix_ns = -1; /* int64: ten bytes */
    event_encode(&ev, &out);
    struct audit_event back;
    struct err e = {0};
    assert_false(event_decode(buf_bytes(&out), &back, &e).failed);
    assert_true(back.time_unix_ns == -1);
}

static void test_long_and_dirty(void **state)
{
    static char big[20000];
    struct audit_event ev = {0}, out;
    struct err e = {0};
    CLEANUP(buf_release) struct buf a;
    (void)state;
    memset(big, 'x', sizeof big);
    buf_init(&a, EVENT_MAX_BYTES);
    struct bytes *texts[] = {&ev.principal, &ev.auth_method, &ev.tenant, &ev.active_tenant, &ev.grant, &ev.action, &ev.resource,
                             &ev.key_version, &ev.outcome, &ev.code, &ev.reason, &ev.rule, &ev.request_id, &ev.trace_id,
                             &ev.address, &ev.listener, &ev.before, &ev.after, &ev.cause};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        *texts[i] = BYTES(big, sizeof big);
    event_encode(&ev, &a);
    assert_false(a.overflow); /* the longest event fits */
    assert_false(event_decode(buf_bytes(&a), &out, &e).failed);
    assert_true(out.principal.n <= EVENT_TEXT_MAX && out.principal.n > EVENT_TEXT_MAX - 8);
    assert_non_null(memmem(out.principal.p, out.principal.n, "xxx... sha256:", 14));
    assert_memory_equal(out.principal.p + out.principal.n - 11, "bytes:20000", 11);
    assert_memory_equal(out.after.p, "sha256:", 7); /* changes: nothing of a value that is too long */
    assert_null(memmem(out.after.p, out.after.n, "xxx", 3));

    struct audit_event dirty = {.resource = BYTES_LIT("a\0b\xff\n")};
    buf_reset(&a);
    event_encode(&dirty, &a);
    assert_false(event_decode(buf_bytes(&a), &out, &e).failed);
    assert_memory_equal(out.resource.p, "a\\x00b\\xff\\x0a... sha256:", 24);
    struct audit_event rubbed_out = {.resource = BYTES_LIT("a\x7f")}; /* DEL is a control character too */
    buf_reset(&a);
    event_encode(&rubbed_out, &a);
    assert_false(event_decode(buf_bytes(&a), &out, &e).failed);
    assert_memory_equal(out.resource.p, "a\\x7f... sha256:", 15);

    memset(big, 0xc3, 600); /* two-byte characters are not cut in half */
    for (int i = 1; i < 600; i += 2)
        big[i] = (char)0xa9;
    struct audit_event accents = {.resource = BYTES(big, 600), .outcome = BYTES(big, 258)};
    buf_reset(&a);
    event_encode(&accents, &a);
    assert_false(event_decode(buf_bytes(&a), &out, &e).failed);
    assert_true(out.resource.n > 0 && out.outcome.n > 0);
}

static void test_malformed(void **state)
{
    static const struct bytes bad[] = {
        BYTES_LIT("\x10"),                  /* no value */
        BYTES_LIT("\x10\x80\x00"),          /* not the shortest form */
        BYTES_LIT("\x10\x00"),              /* a default, written */
        BYTES_LIT("\x42\x00"),              /* the same for a text */
        BYTES_LIT("\x42\x05" "do"),         /* longer than there is */
        BYTES_LIT("\x42\x02\xff\xff"),      /* not UTF-8 */
        BYTES_LIT("\x42\x01" "a\x10\x01"),  /* not in order */
        BYTES_LIT("\x10\x01\x10\x01"),      /* twice */
        BYTES_LIT("\x40\x01"),              /* a number where a text belongs */
        BYTES_LIT("\x12\x01" "a"),          /* a text where a number belongs */
        BYTES_LIT("\x0a\x02" "ab"),         /* an id of two bytes */
        BYTES_LIT("\x7a\x02" "ab"),         /* a digest of two bytes */
        BYTES_LIT("\x15\x01\x01\x01\x01"),  /* fixed32 */
        BYTES_LIT("\x02\x01" "a"),          /* field 0 */
        BYTES_LIT("\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"), /* over 64 bits */
        BYTES_LIT("\x42\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct audit_event out = {.items = 99};
        struct err e = {0};
        assert_true(event_decode(bad[i], &out, &e).failed);
        assert_int_equal(e.code, ERR_DATA_LOSS);
        assert_string_equal(e.reason, "EVENT_MALFORMED");
        assert_int_equal(out.items, 99);
    }
    struct audit_event out;
    struct err e = {0};
    assert_false(event_decode(BYTES_LIT("\x10\x01\xda\x01\x01z"), &out, &e).failed); /* field 27: of a later version */
    assert_int_equal(out.time_unix_ns, 1);
}

/* Every truncation and every flipped bit of a full event: refused or read, never a crash, and views stay inside. */
static void test_any_bytes(void **state)
{
    struct audit_event ev = full(), out;
    struct err e = {0};
    CLEANUP(buf_release) struct buf a;
    (void)state;
    buf_init(&a, EVENT_MAX_BYTES);
    event_encode(&ev, &a);
    for (size_t n = 0; n < a.n; n++) {
        uint8_t *exact = malloc(n ? n : 1);
        memcpy(exact, a.p, n);
        (void)event_decode(BYTES(exact, n), &out, &e).failed;
        free(exact);
    }
    for (size_t bit = 0; bit < a.n * 8; bit++) {
        a.p[bit / 8] ^= (uint8_t)(1 << bit % 8);
        if (!event_decode(buf_bytes(&a), &out, &e).failed && out.after.n)
            assert_true(out.after.p >= a.p && out.after.p + out.after.n <= a.p + a.n);
        a.p[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

/* Key versions used: as written, in order; one that is not ours is refused as a whole. */
static void test_uses(void **state)
{
    static struct event_use in[EVENT_USES_MAX];
    struct audit_event ev = full(), out;
    struct event_use got;
    struct err e = {0};
    CLEANUP(buf_release) struct buf a, b;
    (void)state;
    buf_init(&a, EVENT_LONGEST);
    buf_init(&b, EVENT_LONGEST);
    for (size_t i = 0; i < EVENT_USES_MAX; i++) {
        in[i] = (struct event_use){.what = (enum event_use_what)(1 + i % 4), .primary = i % 3 ? 65536 : 0, .items = 1};
        put_be64(in[i].kvid, i);
    }
    in[7].items = 1000;
    ev.use = in;
    ev.nuse = 9;
    event_encode(&ev, &a);
    assert_false(event_decode(buf_bytes(&a), &out, &e).failed);
    struct bytes rest = out.uses;
    for (size_t i = 0; i < 9; i++) {
        assert_true(event_next_use(&rest, &got));
        assert_memory_equal(got.kvid, in[i].kvid, sizeof got.kvid);
        assert_true(got.what == in[i].what && got.primary == in[i].primary && got.items == in[i].items);
    }
    assert_false(event_next_use(&rest, &got));
    event_encode(&out, &b);
    assert_true(bytes_equal(buf_bytes(&a), buf_bytes(&b)));

    in[7].items = 1; /* the most there can be, behind the longest event */
    static char big[20000];
    memset(big, 'x', sizeof big);
    for (size_t i = 0; i < EVENT_USES_MAX; i++)
        in[i].primary = 65536;
    ev.principal = ev.resource = ev.key_version = ev.before = ev.after = BYTES(big, sizeof big);
    ev.nuse = EVENT_USES_MAX;
    buf_reset(&a);
    event_encode(&ev, &a);
    assert_false(a.overflow);
    assert_false(event_decode(buf_bytes(&a), &out, &e).failed);
    assert_int_equal(out.uses.n, EVENT_USES_BYTES);
}

#define KVID "0123456789abcdef"
static void test_uses_malformed(void **state)
{
    static const struct bytes good = BYTES_LIT("\xe2\x01\x14\x0a\x10" KVID "\x10\x01"), later = BYTES_LIT("\xe2\x01\x16\x0a\x10" KVID "\x10\x01\x28\x01"),
                              bad[] = {
                                  BYTES_LIT("\xe2\x01\x12\x0a\x10" KVID),                         /* no word on what for */
                                  BYTES_LIT("\xe2\x01\x02\x10\x01"),                             /* nor on what */
                                  BYTES_LIT("\xe2\x01\x14\x0a\x10" KVID "\x10\x05"),             /* what for? */
                                  BYTES_LIT("\xe2\x01\x14\x0a\x10" KVID "\x10\x00"),
                                  BYTES_LIT("\xe2\x01\x13\x0a\x0f" "123456789abcdef" "\x10\x01"), /* 15 bytes */
                                  BYTES_LIT("\xe2\x01\x16\x0a\x10" KVID "\x10\x01\x18\x01"),     /* the default, written */
                                  BYTES_LIT("\xe2\x01\x16\x0a\x10" KVID "\x10\x01\x20\x00"),
                                  BYTES_LIT("\xe2\x01\x17\x0a\x10" KVID "\x10\x01\x18\xff\x7f"), /* more than a message has */
                                  BYTES_LIT("\xe2\x01\x16\x0a\x10" KVID "\x10\x01\x10\x01"),     /* twice */
                                  BYTES_LIT("\xe2\x01\x14\x10\x01\x0a\x10" KVID),                 /* not in order */
                                  BYTES_LIT("\xe2\x01\x15\x0a\x10" KVID "\x10\x01"),              /* longer than there is */
                                  BYTES_LIT("\xe0\x01\x01"),                                       /* a number */
                                  BYTES_LIT("\xe2\x01\x00"),
                              };
    struct audit_event out;
    struct event_use u;
    struct err e = {0};
    (void)state;
    assert_false(event_decode(good, &out, &e).failed);
    assert_true(event_next_use(&out.uses, &u) && u.items == 1 && u.what == EVENT_USE_ENCRYPT && u.primary == 0);
    assert_false(event_decode(later, &out, &e).failed);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_true(event_decode(bad[i], &out, &e).failed);
        assert_string_equal(e.reason, "EVENT_MALFORMED");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_known_bytes), cmocka_unit_test(test_long_and_dirty),
        cmocka_unit_test(test_malformed),  cmocka_unit_test(test_any_bytes),  cmocka_unit_test(test_uses),
        cmocka_unit_test(test_uses_malformed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
