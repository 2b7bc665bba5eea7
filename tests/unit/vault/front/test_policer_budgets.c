/* How often: bursts pass, more is paced, excess is cut, and honest clients never run dry. */
#include "tests/unit/vault/front/rig.h"

/* A budget lets its burst pass, then paces at its rate, then cuts; a pause that refills it half forgives. */
static void check_budget(enum policer_budget b, void (*one)(struct rig *r, uint32_t i), const char *why)
{
    const struct bucket_limit *l = &policer_limits[b];
    struct rig *r = &rig;
    uint32_t sent = 0;
    open_acked(r);
    int64_t left = r->p.budget[b].milli / 1000;
    for (; left > 0; left--) {
        one(r, sent++);
        passes(r);
    }
    one(r, sent++);
    assert_int_equal(feed(r), POLICER_WAIT);
    assert_true(r->span.wait_ms >= 1 && r->span.wait_ms <= 1000 / l->per_s + 1);
    r->now_ms += r->span.wait_ms;
    passes(r);
    struct policer paced = r->p;
    int64_t then = r->now_ms;
    r->now_ms += (int64_t)l->burst * 1000 / l->per_s / 2 + 1000 / l->per_s + 1;
    one(r, sent++);
    passes(r);
    assert_int_equal(r->p.budget[b].dry_ms, 0);
    r->p = paced;
    r->now_ms = then;
    unsigned passed = 0;
    for (;;) {
        one(r, sent++);
        enum policer_verdict v = feed(r);
        while (v == POLICER_WAIT) {
            r->now_ms += r->span.wait_ms;
            v = feed(r);
        }
        if (v == POLICER_CUT)
            break;
        passed++;
        assert_true(passed < l->per_s * 6);
    }
    assert_string_equal(r->p.why, why);
    assert_int_equal(r->p.code, FRAME_ENHANCE_YOUR_CALM);
    assert_true(passed >= l->per_s * 4);
}

static void one_settings(struct rig *r, uint32_t i)
{
    (void)i;
    add_frame(r, FRAME_SETTINGS, 0, 0, NULL, 6);
}

static void one_ping(struct rig *r, uint32_t i)
{
    add_frame(r, FRAME_PING, i % 2 ? FRAME_ACK : 0, 0, NULL, 8); /* an answer nobody asked for is a PING, too */
}

static void one_control(struct rig *r, uint32_t i)
{
    switch (i % 3) {
    case 0:
        add_frame(r, FRAME_WINDOW_UPDATE, 0, 0, NULL, 4);
        return;
    case 1:
        add_frame(r, FRAME_PRIORITY, 0, 1, NULL, 5);
        return;
    default:
        add_frame(r, 0x77, 0, 0, NULL, 0);
    }
}

static void one_reset(struct rig *r, uint32_t i)
{
    r->p.budget[POLICER_HEADERS].milli = 1000000; /* of interest is the other one */
    if (r->n > 0)
        return;
    add_call(r, 1 + 2 * i);
    passes(r);
    add_frame(r, FRAME_RST_STREAM, 0, 1 + 2 * i, NULL, 4);
}

static void one_header(struct rig *r, uint32_t i)
{
    /* refused by the server each time: no work was done, no credit is given */
    if (i > 0)
        server_frame(r, FRAME_RST_STREAM, 0, 2 * i - 1, 4);
    add_call(r, 1 + 2 * i);
}

static void test_budgets(void **state)
{
    (void)state;
    check_budget(POLICER_SETTINGS, one_settings, "too many SETTINGS");
    check_budget(POLICER_PING, one_ping, "too many PINGs");
    check_budget(POLICER_CONTROL, one_control, "too many control frames");
    check_budget(POLICER_RESET, one_reset, "too many streams reset");
    check_budget(POLICER_HEADERS, one_header, "too many requests begun and not completed");
}

static void test_tiny_data_is_control(void **state)
{
    (void)state;
    struct rig *r = &rig;
    open_acked(r);
    add_call(r, 1);
    add_message(r, 1, 0, POLICER_MAX_MESSAGE_BYTES);
    passes(r);
    int64_t before = r->p.budget[POLICER_CONTROL].milli;
    add_frame(r, FRAME_DATA, 0, 1, NULL, POLICER_TINY_BYTES);
    passes(r);
    assert_int_equal(r->p.budget[POLICER_CONTROL].milli, before);
    add_frame(r, FRAME_DATA, 0, 1, NULL, POLICER_TINY_BYTES - 1);
    add_frame(r, FRAME_DATA, 0, 1, NULL, 0);
    passes(r);
    assert_int_equal(r->p.budget[POLICER_CONTROL].milli, before - 2000);
    /* empty messages by the thousand in one frame */
    add_call(r, 3);
    add_frame(r, FRAME_DATA, 0, 3, NULL, 16000);
    assert_int_equal(feed(r), POLICER_WAIT);
    assert_true(r->n > 0);
}

/* An honest client at full speed: every call completes, so nothing ever runs dry, without any time passing. */
static void test_completed_calls_pay_for_the_next(void **state)
{
    (void)state;
    struct rig *r = &rig;
    open_acked(r);
    for (uint32_t i = 0; i < 20000; i++) {
        uint32_t id = 1 + 2 * i;
        add_call(r, id);
        add_frame(r, FRAME_DATA, FRAME_END_STREAM, id, "\0\0\0\0\1x", 6);
        add_frame(r, FRAME_WINDOW_UPDATE, 0, 0, NULL, 4);
        add_frame(r, FRAME_PING, 0, 0, NULL, 8);
        passes(r);
        server_frame(r, FRAME_HEADERS, FRAME_END_HEADERS, id, 1);
        server_frame(r, FRAME_DATA, 0, id, 10);
        server_frame(r, FRAME_HEADERS, FRAME_END_HEADERS | FRAME_END_STREAM, id, 1);
    }
    assert_int_equal(policer_open_streams(&r->p), 0);
}

static void test_answers_to_the_core_are_free(void **state)
{
    (void)state;
    struct rig *r = &rig;
    open_acked(r);
    for (int i = 0; i < 1000; i++) {
        server_frame(r, FRAME_PING, 0, 0, 8);
        server_frame(r, FRAME_SETTINGS, 0, 0, 6);
        add_frame(r, FRAME_PING, FRAME_ACK, 0, NULL, 8);
        add_frame(r, FRAME_SETTINGS, FRAME_ACK, 0, NULL, 0);
        passes(r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_budgets),
        cmocka_unit_test(test_tiny_data_is_control),
        cmocka_unit_test(test_completed_calls_pay_for_the_next),
        cmocka_unit_test(test_answers_to_the_core_are_free),
    };
    return cmocka_run_group_tests_name("policer budgets", tests, NULL, NULL);
}
