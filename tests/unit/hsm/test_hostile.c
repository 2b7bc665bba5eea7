/* A module that lies: lengths beyond what it was given, searches that never end or forget, objects that are not destroyed, and the
 * Nth call of a key's making that fails. On the shim (tests/hardware), in this process, so that a sanitizer sees every byte. */
#include "tests/unit/hsm/direct.h"

#include "hsm/answer.h"

static int setup(void **state)
{
    struct world *w = world_on_shim();
    OK(ops_generate(&w->t, &verifier, HSM_MASTER, 1, &e));
    OK(ops_generate(&w->t, &verifier, HSM_SEAL, 1, &e));
    *state = w;
    return 0;
}

/* After whatever happened: the fault is gone, the token opens, and its keys are what they were. */
static void unharmed(struct world *w, const struct secret *want)
{
    shim_lift(&w->f);
    token_close(&w->t);
    OK(token_open(&w->t, &e));
    CLEANUP(secret_freep) struct secret *now = world_derive(w);
    assert_true(secret_equal(now, want));
}

/* ---- lengths ------------------------------------------------------------------------------------------------------- */

static void test_more_slots_than_room(void **state)
{
    struct world *w = *state;
    CLEANUP(secret_freep) struct secret *want = world_derive(w);
    shim_plan(&w->f, "C_GetSlotList length:100000 always");
    token_close(&w->t);
    REFUSED(ERR_INTERNAL, "HSM_ERROR", token_open(&w->t, &e));
    unharmed(w, want);
}

static void test_lengths_of_a_signature(void **state)
{
    struct world *w = *state;
    CLEANUP(secret_freep) struct secret *want = world_derive(w);
    CLEANUP(buf_release) struct buf in = {0};
    struct secret *key = NULL;
    static const char *const lies[] = {"0", "31", "33", "64", "18446744073709551615"};
    tenant_kek_input(&in);
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        char rule[64];
        (void)snprintf(rule, sizeof rule, "C_Sign length:%s nth:1", lies[i]);
        shim_plan(&w->f, rule);
        REFUSED(ERR_UNAVAILABLE, "HSM_UNAVAILABLE", ops_derive(&w->t, HSM_MASTER, 1, buf_bytes(&in), &key, &e));
        assert_null(key);
        assert_int_equal(ckr_class(w->t.m.last_rv), CKR_CLASS_DEVICE); /* so that it is brought back */
    }
    unharmed(w, want);
}

/* Whatever length an attribute claims, and whatever bit of it is wrong: refused or taken, and the next look finds all as it was. */
static void test_attributes_that_lie(void **state)
{
    struct world *w = *state;
    CLEANUP(secret_freep) struct secret *want = world_derive(w);
    static const char *const lengths[] = {"0", "1", "4", "5", "6", "8", "16", "47", "48", "49", "64", "65", "4096", "18446744073709551614",
                                          "18446744073709551615"};
    unsigned refused = 0;
    const struct object *o;
    OK(objects_get(&w->t.objects, HSM_MASTER, CKO_SECRET_KEY, 1, &o, &e));
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        char rule[96], label[OBJECT_LABEL_MAX];
        size_t n = 99;
        bool known = true;
        (void)snprintf(rule, sizeof rule, "C_GetAttributeValue length:%s always", lengths[i]);
        shim_plan(&w->f, rule);
        OK(object_read(&w->t.m, w->t.session, o->handle, CKA_LABEL, label, sizeof label, &n, &known, &e));
        assert_true(n <= sizeof label && known == (strtoul(lengths[i], NULL, 10) <= sizeof label));
    }
    for (unsigned i = 0; i < 200; i++) {
        struct err e = {0};
        char rule[96];
        if (i % 2 == 0)
            (void)snprintf(rule, sizeof rule, "C_GetAttributeValue length:%s nth:%u", lengths[i / 2 % 15], 1 + i / 5);
        else
            (void)snprintf(rule, sizeof rule, "C_GetAttributeValue flip:%u nth:%u", i, 1 + i / 5);
        shim_plan(&w->f, rule);
        refused += token_reload(&w->t, &e).failed ? 1 : 0;
    }
    assert_in_range(refused, 50, 199);
    unharmed(w, want);
}

/* ---- searches ------------------------------------------------------------------------------------------------------ */

static void test_a_search_that_never_ends(void **state)
{
    struct world *w = *state;
    CLEANUP(secret_freep) struct secret *want = world_derive(w);
    shim_plan(&w->f, "C_FindObjects endless always");
    REFUSED(ERR_STATE, "HSM_OBJECT_DOUBLE", token_reload(&w->t, &e));
    assert_false(w->t.ready);
    assert_in_range(shim_count(&w->f, "C_FindObjects", "endless"), 1000, 40000);
    unharmed(w, want);
}

static void test_an_object_that_stays(void **state)
{
    struct world *w = *state;
    CLEANUP(secret_freep) struct secret *want = world_derive(w);
    OK(ops_generate(&w->t, &verifier, HSM_MASTER, 2, &e));
    shim_plan(&w->f, "C_DestroyObject endless always");
    REFUSED(ERR_INTERNAL, "HSM_ERROR", ops_destroy(&w->t, HSM_MASTER, 2, &e));
    unharmed(w, want);
    OK(ops_destroy(&w->t, HSM_MASTER, 2, &e));
}

/* A key that the search missed is made a second time under its name: what is undone is the second, not both. */
static void test_a_forgotten_key_is_not_made_again(void **state)
{
    struct world *w = *state;
    CLEANUP(secret_freep) struct secret *want = world_derive(w);
    unsigned made = 0;
    for (unsigned nth = 1; nth <= 12; nth++) {
        char rule[64];
        struct err e = {0};
        (void)snprintf(rule, sizeof rule, "C_FindObjects few nth:%u", nth);
        shim_plan(&w->f, rule);
        const unsigned before = shim_count(&w->f, "C_FindObjects", "few");
        assert_true(ops_generate(&w->t, &verifier, HSM_MASTER, 1, &e).failed);
        made += e.code != ERR_EXISTS;
        assert_int_equal(shim_count(&w->f, "C_FindObjects", "few"), before + 1);
        unharmed(w, want);
    }
    assert_true(made > 0); /* else the fault did not do what it is here for */
}

static size_t anchors_named(struct world *w, const char *name)
{
    CK_OBJECT_HANDLE h[32];
    size_t n = 0;
    CK_ATTRIBUTE match[] = {{CKA_APPLICATION, (void *)(uintptr_t)name, strlen(name)}};
    OK(object_find(&w->t.m, w->t.session, match, 1, h, 32, &n, &e));
    return n;
}

/* Two anchors of one name: the newest counts, and the next of that name removes both. */
static void test_a_forgotten_anchor(void **state)
{
    struct world *w = *state;
    uint8_t out[HSM_ANCHOR_MAX];
    size_t n;
    for (unsigned char i = 1; i <= 24; i++) {
        char rule[128];
        struct err why = {0};
        /* Both looks of a put miss the same one of the two. */
        (void)snprintf(rule, sizeof rule, "C_FindObjects few nth:%u\nC_FindObjects few nth:%u", 1 + i % 3, 3 + i % 3);
        shim_plan(&w->f, rule);
        if (ops_anchor_put(&w->t, BYTES(&i, 1), &why).failed)
            continue;
        shim_plan(&w->f, "");
        OK(ops_anchor_get(&w->t, out, &n, &e));
        assert_true(n == 1 && out[0] == i);
        fake_clock_advance(&w->clock, 2000000000);
    }
    assert_true(shim_count(&w->f, "C_FindObjects", "few") > 24);
    for (unsigned char i = 0; i < 4; i++)
        OK(ops_anchor_put(&w->t, BYTES(&i, 1), &e));
    for (unsigned nth = 1; nth <= 4; nth++) { /* one search that forgets is not "never written", nor an older floor */
        char rule[64];
        (void)snprintf(rule, sizeof rule, "C_FindObjects few nth:%u", nth);
        shim_plan(&w->f, rule);
        OK(ops_anchor_get(&w->t, out, &n, &e));
        assert_true(n == 1 && out[0] == 3);
    }
    shim_lift(&w->f);
    assert_int_equal(anchors_named(w, "claviger-anchor-a "), 1);
    assert_int_equal(anchors_named(w, "claviger-anchor-b "), 1);
}

static void put_and_get(struct world *w, unsigned char value)
{
    uint8_t out[HSM_ANCHOR_MAX];
    size_t n;
    OK(ops_anchor_put(&w->t, BYTES(&value, 1), &e));
    OK(ops_anchor_get(&w->t, out, &n, &e));
    assert_true(n == 1 && out[0] == value);
}

/* Both objects once made, an anchor is changed in place; made anew where the token refuses that, and neither where it fails. */
static void test_an_anchor_is_changed_in_place(void **state)
{
    struct world *w = *state;
    uint8_t out[HSM_ANCHOR_MAX], six = 6;
    size_t n;
    put_and_get(w, 1);
    put_and_get(w, 2);
    const unsigned before = shim_faults(&w->f), refused = shim_count(&w->f, "C_SetAttributeValue", NULL);
    shim_plan(&w->f, "C_CreateObject 0x30 always\nC_DestroyObject 0x30 always");
    for (unsigned char i = 3; i <= 5; i++)
        put_and_get(w, i);
    assert_int_equal(shim_faults(&w->f), before);
    shim_plan(&w->f, "C_SetAttributeValue 0x30 always");
    REFUSED(ERR_UNAVAILABLE, "HSM_UNAVAILABLE", ops_anchor_put(&w->t, BYTES(&six, 1), &e));
    OK(token_recover(&w->t, &e));
    OK(ops_anchor_get(&w->t, out, &n, &e));
    assert_true(n == 1 && out[0] == 5);
    shim_plan(&w->f, "C_SetAttributeValue 0x10 always"); /* CKR_ATTRIBUTE_READ_ONLY */
    for (unsigned char i = 6; i <= 9; i++)
        put_and_get(w, i);
    assert_int_equal(shim_count(&w->f, "C_SetAttributeValue", NULL), refused + 1 + 4);
    shim_lift(&w->f);
    assert_int_equal(anchors_named(w, "claviger-anchor-a ") + anchors_named(w, "claviger-anchor-b "), 2);
}

static bool lacks(struct world *w, const char *want)
{
    struct hsm_status st;
    ops_status(&w->t, &st);
    return strcmp(st.missing, want) == 0;
}

/* A token that is out of order for a moment does not lack what it cannot describe just then. */
static void test_a_mechanism_that_cannot_be_described(void **state)
{
    struct world *w = *state;
    CLEANUP(secret_freep) struct secret *want = world_derive(w);
    for (unsigned nth = 1; nth <= 6; nth++) {
        char rule[64];
        (void)snprintf(rule, sizeof rule, "C_GetMechanismInfo 0x30 nth:%u", nth);
        shim_plan(&w->f, rule);
        token_close(&w->t);
        REFUSED(ERR_UNAVAILABLE, "HSM_UNAVAILABLE", token_open(&w->t, &e));
        OK(token_open(&w->t, &e));
        assert_true(w->t.can.eddsa && lacks(w, ""));
    }
    shim_plan(&w->f, "C_GetMechanismInfo 0x70 nth:3"); /* CKR_MECHANISM_INVALID: this one it does lack */
    token_close(&w->t);
    OK(token_open(&w->t, &e));
    assert_true(!w->t.can.eddsa && w->t.can.ecdsa && lacks(w, "CKM_EDDSA"));
    unharmed(w, want);
}

/* Without HMAC, or without any signature, it is no token for a daemon; one that was asked what it can do says so when it comes to it. */
static void test_a_token_that_can_do_nothing(void **state)
{
    struct world *w = *state;
    CLEANUP(secret_freep) struct secret *want = world_derive(w);
    shim_plan(&w->f, "C_GetMechanismInfo 0x70 always");
    token_close(&w->t);
    REFUSED(ERR_STATE, "HSM_MECHANISM", token_open(&w->t, &e));
    w->t.setup.partial = true;
    OK(token_open(&w->t, &e));
    struct hsm_status st;
    ops_status(&w->t, &st);
    assert_string_equal(st.cannot, "kdf (it lacks CKM_SHA256_HMAC CKM_GENERIC_SECRET_KEY_GEN), "
                                   "sign (it lacks CKM_EDDSA CKM_EC_EDWARDS_KEY_PAIR_GEN CKM_ECDSA CKM_EC_KEY_PAIR_GEN)");
    for (enum hsm_object k = HSM_MASTER; k <= HSM_AUDIT; k++)
        REFUSED(ERR_STATE, "HSM_MECHANISM", ops_generate(&w->t, &verifier, k, 9, &e));
    assert_int_not_equal(objects_newest(&w->t.objects, HSM_AUDIT), 9);
    w->t.setup.partial = false;
    shim_lift(&w->f);
    token_close(&w->t);
    OK(token_open(&w->t, &e));
    /* What NSS says of an attribute that it does not know is a fault from others: no key with fewer attributes comes of it. */
    shim_plan(&w->f, "C_GenerateKey 0x5 nth:1");
    REFUSED(ERR_UNAVAILABLE, "HSM_UNAVAILABLE", ops_generate(&w->t, &verifier, HSM_MASTER, 9, &e));
    /* And one that refuses the stored answer, but takes another data object, has failed: it makes no key. */
    shim_plan(&w->f, "C_CreateObject 0x13 nth:1");
    REFUSED(ERR_INTERNAL, "HSM_ERROR", ops_generate(&w->t, &verifier, HSM_MASTER, 9, &e));
    OK(token_reload(&w->t, &e));
    assert_int_equal(objects_newest(&w->t.objects, HSM_MASTER), 1);
    unharmed(w, want);
}

/* One that keeps no data objects at all has no anchor, which is said; and its stored answers are lines of a file. */
static void test_a_token_without_data_objects(void **state)
{
    struct world *w = *state;
    CLEANUP(secret_freep) struct secret *want = world_derive(w);
    char path[160];
    (void)snprintf(path, sizeof path, "%s/hsm-answers", w->f.state);
    OK(ops_anchor_try(&w->t, &e));
    assert_int_equal(anchors_named(w, "claviger-anchor-try"), 0);
    assert_int_not_equal(access(path, F_OK), 0); /* a token that does keep them needs no such file */
    shim_plan(&w->f, "C_CreateObject 0x13 always");
    REFUSED(ERR_UNIMPLEMENTED, "HSM_MECHANISM", ops_anchor_try(&w->t, &e));
    OK(ops_generate(&w->t, &verifier, HSM_MASTER, 9, &e));
    OK(ops_generate(&w->t, &verifier, HSM_SEAL, 9, &e));
    assert_string_equal(w->t.objects.weaknesses, "");
    shim_plan(&w->f, "C_CreateObject 0x30 always"); /* trouble is no such answer */
    REFUSED(ERR_UNAVAILABLE, "HSM_UNAVAILABLE", ops_anchor_try(&w->t, &e));
    REFUSED(ERR_UNAVAILABLE, "HSM_UNAVAILABLE", ops_generate(&w->t, &verifier, HSM_MASTER, 10, &e));
    shim_plan(&w->f, "C_Sign bit:3 always"); /* what it answers is compared, at once and at the next start */
    struct secret *key = NULL;
    CLEANUP(buf_release) struct buf in = {0};
    tenant_kek_input(&in);
    REFUSED(ERR_UNAVAILABLE, "HSM_UNAVAILABLE", ops_derive(&w->t, HSM_MASTER, 9, buf_bytes(&in), &key, &e));
    shim_plan(&w->f, "");
    OK(token_recover(&w->t, &e));
    OK(ops_destroy(&w->t, HSM_SEAL, 9, &e));
    OK(ops_destroy(&w->t, HSM_MASTER, 9, &e));
    struct stat st;
    assert_true(stat(path, &st) == 0 && st.st_size == 0); /* its lines went with them */
    unharmed(w, want);
}

static void text_of(const char *path, char out[4096])
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, out, 4095) : -1;
    assert_true(n >= 0 && close(fd) == 0);
    out[n] = '\0';
}

/* The file of such a token: absent is a named weakness, wrong is another key, anything else is not ours. */
static void test_stored_answers_in_a_file(void **state)
{
    struct world *w = *state;
    char path[160], good[4096], bad[2 * 4096];
    (void)snprintf(path, sizeof path, "%s/hsm-answers", w->f.state);
    shim_plan(&w->f, "C_CreateObject 0x13 always");
    OK(ops_generate(&w->t, &verifier, HSM_MASTER, 8, &e));
    OK(ops_generate(&w->t, &verifier, HSM_MASTER, 9, &e));
    text_of(path, good);
    for (size_t at = 0; at < strlen(good); at += 7) {
        struct err e = {0};
        (void)snprintf(bad, sizeof bad, "%s", good);
        bad[at] = bad[at] == '0' ? '1' : '0';
        write_file(path, bad);
        const bool refused = token_reload(&w->t, &e).failed;
        assert_true(refused ? e.code == ERR_DATA_LOSS || e.code == ERR_STATE : strstr(w->t.objects.weaknesses, ": no stored known answer") != NULL);
    }
    static const char *const foreign[] = {"x", "\n", "master-9\n", "master-9 00 00\n"};
    for (size_t i = 0; i < sizeof foreign / sizeof foreign[0]; i++) {
        write_file(path, foreign[i]);
        REFUSED(ERR_STATE, "HSM_STORAGE", token_reload(&w->t, &e));
    }
    (void)snprintf(bad, sizeof bad, "%s%s", good, good);
    write_file(path, bad);
    REFUSED(ERR_STATE, "HSM_STORAGE", token_reload(&w->t, &e));
    assert_int_equal(unlink(path), 0);
    OK(token_reload(&w->t, &e));
    assert_string_equal(w->t.objects.weaknesses, "master-8: no stored known answer; master-9: no stored known answer");
    write_file(path, good);
    OK(token_reload(&w->t, &e));
    assert_string_equal(w->t.objects.weaknesses, "");
    /* A line of a token that was before this one is not in the way of a new key. */
    OK(ops_destroy(&w->t, HSM_MASTER, 9, &e));
    write_file(path, good);
    OK(ops_generate(&w->t, &verifier, HSM_MASTER, 9, &e));
    text_of(path, bad);
    assert_true(strlen(bad) == strlen(good) && strcmp(bad, good) != 0);
    shim_lift(&w->f);
    OK(token_reload(&w->t, &e));
    assert_string_equal(w->t.objects.weaknesses, "");
}

/* ---- answers ------------------------------------------------------------------------------------------------------- */

/* A bit that is stuck makes the same wrong key twice; the stored answer tells. A bit that fell once is told by the second key. */
static void test_wrong_answers(void **state)
{
    struct world *w = *state;
    CLEANUP(secret_freep) struct secret *want = world_derive(w);
    CLEANUP(buf_release) struct buf tenant = {0}, store = {0};
    struct secret *key = NULL;
    tenant_kek_input(&tenant);
    store_key_input(&store);
    for (unsigned bit = 0; bit < 256; bit += 5) {
        char rule[64];
        (void)snprintf(rule, sizeof rule, "C_Sign bit:%u always", bit);
        shim_plan(&w->f, rule);
        REFUSED(ERR_UNAVAILABLE, "HSM_UNAVAILABLE", ops_derive(&w->t, HSM_MASTER, 1, buf_bytes(&tenant), &key, &e));
        REFUSED(ERR_UNAVAILABLE, "HSM_UNAVAILABLE", ops_derive(&w->t, HSM_SEAL, 1, buf_bytes(&store), &key, &e));
        for (unsigned nth = 1; nth <= 3; nth++) {
            (void)snprintf(rule, sizeof rule, "C_Sign bit:%u nth:%u", bit, nth);
            shim_plan(&w->f, rule);
            REFUSED(ERR_UNAVAILABLE, "HSM_UNAVAILABLE", ops_derive(&w->t, HSM_SEAL, 1, buf_bytes(&store), &key, &e));
        }
    }
    assert_null(key);
    shim_plan(&w->f, "C_Sign bit:0 always");
    REFUSED(ERR_DATA_LOSS, "HSM_KNOWN_ANSWER", token_reload(&w->t, &e));
    unharmed(w, want);
}

/* Nothing written, or always the same: refused, and what lay in the buffer before does not get out. One wrong bit drowns in the kernel's. */
static void test_a_generator_that_is_stuck(void **state)
{
    struct world *w = *state;
    CLEANUP(secret_freep) struct secret *want = world_derive(w);
    uint8_t a[32], b[32];
    static const char *const faults[] = {"C_GenerateRandom few always", "C_GenerateRandom endless always"};
    for (size_t i = 0; i < 2; i++) {
        shim_plan(&w->f, faults[i]);
        REFUSED(ERR_UNAVAILABLE, "HSM_UNAVAILABLE", ops_random(&w->t, a, sizeof a, &e));
        assert_int_equal(ckr_class(w->t.m.last_rv), CKR_CLASS_DEVICE);
        OK(ops_random(&w->t, a, 8, &e)); /* too few to judge, so they are the kernel's */
        OK(ops_random(&w->t, b, 8, &e));
        assert_memory_not_equal(a, b, 8);
    }
    shim_plan(&w->f, "C_GenerateRandom flip:3 always");
    OK(ops_random(&w->t, a, sizeof a, &e));
    OK(ops_random(&w->t, b, sizeof b, &e));
    assert_memory_not_equal(a, b, sizeof a);
    unharmed(w, want);
}

/* ---- the Nth call ---------------------------------------------------------------------------------------------------- */

static bool there(const struct token *t, enum hsm_object kind, uint32_t version)
{
    const struct object *o;
    struct err e = {0};
    return !objects_get(&t->objects, kind, CKO_SECRET_KEY, version, &o, &e).failed;
}

/* Every call of a key's making fails in turn, in this process and in the fresh one: the key is there and whole, or it is not there. */
static void nth_call(struct world *w, const char *fault, unsigned stride)
{
    CLEANUP(secret_freep) struct secret *want = world_derive(w);
    unsigned failed = 0, left = 0, nth = 1;
    for (;; nth += stride) {
        struct err why = {0};
        char rule[64];
        (void)snprintf(rule, sizeof rule, "* %s nth:%u", fault, nth);
        const unsigned before = shim_faults(&w->f);
        shim_plan(&w->f, rule);
        bool made = !ops_generate(&w->t, &verifier, HSM_SEAL, 2, &why).failed;
        bool hit = shim_faults(&w->f) > before;
        failed += !made;
        unharmed(w, want);
        if (made)
            assert_true(there(&w->t, HSM_SEAL, 2));
        else
            left += there(&w->t, HSM_SEAL, 2);
        if (there(&w->t, HSM_SEAL, 2))
            OK(ops_destroy(&w->t, HSM_SEAL, 2, &e));
        if (!hit)
            break;
    }
    print_message("%s at each of %u calls: %u keys not made, %u left unfinished\n", fault, nth, failed, left);
    assert_true(nth > 60 && failed > nth / stride / 2);
    assert_int_equal(left, 0);
}

static void test_the_nth_call_fails(void **state)
{
    const char *every = getenv("LONG"); /* each one: minutes */
    nth_call(*state, "0x30", every != NULL && every[0] != '\0' ? 1 : 11);
}

/* One token for all: each test leaves it as it was. */
#define HOSTILE(name) cmocka_unit_test(name)

int main(void)
{
    const struct CMUnitTest tests[] = {
        HOSTILE(test_more_slots_than_room),
        HOSTILE(test_lengths_of_a_signature),
        HOSTILE(test_attributes_that_lie),
        HOSTILE(test_a_search_that_never_ends),
        HOSTILE(test_an_object_that_stays),
        HOSTILE(test_a_forgotten_key_is_not_made_again),
        HOSTILE(test_a_forgotten_anchor),
        HOSTILE(test_an_anchor_is_changed_in_place),
        HOSTILE(test_a_mechanism_that_cannot_be_described),
        HOSTILE(test_a_token_that_can_do_nothing),
        HOSTILE(test_a_token_without_data_objects),
        HOSTILE(test_stored_answers_in_a_file),
        HOSTILE(test_wrong_answers),
        HOSTILE(test_a_generator_that_is_stuck),
        HOSTILE(test_the_nth_call_fails),
    };
    if (!world_begin(64))
        return 2;
    world_end(cmocka_run_group_tests(tests, setup, world_free));
}
