/* Destruction over years of a fake clock: on the day and not a second before, once, with one certificate that verifies, whoever dies
 * when; and what was destroyed is in no file any more. */
#include "tests/unit/vault/service/in_files.h"

#include "base/dir.h"
#include "vault/service/certificate.h"
#include "vault/service/destruction.h"

#include <fcntl.h>

#define KEY LIFE_RING "/cryptoKeys/email"
#define V1 KEY "/cryptoKeyVersions/1"
enum { NOTE_ID_BYTES = 4 };
static const struct keeper_task both[] = {{DUE_DESTRUCTION, destruction_due}, {DUE_CERTIFICATE, certificate_due}};

static struct keeper *keeper_of(struct life *f, const struct keeper_task *tasks, size_t ntasks, uint64_t pace)
{
    const struct keeper_options o = {.store = f->s.store, .clock = &f->clock.c, .pace = pace, .tasks = tasks, .ntasks = ntasks, .user = &f->s};
    return keeper_new(&o);
}

static void step(struct life *f)
{
    struct keeper *k = keeper_of(f, both, 2, 1000);
    keeper_step(k);
    keeper_step(k);
    keeper_free(k);
}

static struct keyring_version version(struct life *f, const char *name)
{
    struct keyring_version v;
    const struct name n = life_name(name, NAME_VERSION);
    assert_ok(keyring_version_get(f->s.keyring, &n, &f->a, &v, &f->e));
    return v;
}

/* As the RPCs do it. */
static void change(struct life *f, const char *name, enum version_state to, int64_t delay_s)
{
    struct keyring_version v = version(f, name);
    const struct name n = life_name(name, NAME_VERSION);
    const enum version_state from = v.state;
    struct store_txn *txn = store_txn_new(f->s.store);
    v.state = to;
    v.asked_ns = to == VERSION_DESTROY_SCHEDULED ? clock_wall_ns(&f->clock.c) : 0;
    v.asked_by = to == VERSION_DESTROY_SCHEDULED ? BYTES_LIT("acme-keyadmin") : BYTES_LIT("");
    v.destroy_ns = to == VERSION_DESTROY_SCHEDULED ? v.asked_ns + delay_s * SECOND : 0;
    assert_ok(keyring_version_put(f->s.keyring, &n, &v, from, txn, &f->e));
    life_commit(f, txn);
}

static void schedule(struct life *f, const char *name, int64_t delay_s)
{
    change(f, name, VERSION_DESTROY_SCHEDULED, delay_s);
}

static size_t queued(struct life *f)
{
    struct due *all;
    size_t n;
    assert_ok(due_read(f->s.store, (struct bytes){0}, INT64_MAX, 1000, &f->a, &all, &n, &f->e));
    return n;
}

static bool certified(struct life *f, const char *name, struct certificate_row *ret)
{
    const struct name n = life_name(name, NAME_VERSION);
    struct err why = {0};
    if (!certificate_get(&f->s, &n, &f->a, ret, &why).failed)
        return true;
    assert_int_equal(why.code, ERR_NOT_FOUND);
    return false;
}

static struct bytes text_of(struct bytes note)
{
    const uint8_t *at = memmem(note.p, note.n, "\n\n", 2);
    assert_non_null(at);
    return BYTES(note.p, (size_t)(at + 1 - note.p));
}

/* As somebody else would: by the public key and the note alone. */
static bool verifies(struct life *f, struct bytes note)
{
    uint8_t pk[HSM_PUBKEY_MAX];
    size_t n;
    bool ed;
    CLEANUP(buf_release) struct buf raw;
    const struct bytes text = text_of(note);
    static const char line[] = "\xe2\x80\x94 claviger/node1 ";
    struct bytes signature = BYTES(text.p + text.n + 1, note.n - text.n - 1);
    assert_ok(hsm_audit_pubkey(f->hsm, 1, pk, &n, &ed, &f->e));
    assert_true(ed && signature.n > sizeof line && memcmp(signature.p, line, sizeof line - 1) == 0 && note.p[note.n - 1] == '\n');
    buf_init(&raw, 256);
    assert_true(base64_decode(BYTES(signature.p + sizeof line - 1, signature.n - sizeof line), false, &raw));
    return raw.n == NOTE_ID_BYTES + crypto_sign_BYTES && crypto_sign_verify_detached(raw.p + NOTE_ID_BYTES, text.p, text.n, pk) == 0;
}

static bool says(struct bytes note, const char *line)
{
    return memmem(note.p, note.n, line, strlen(line)) != NULL;
}

/* One day and a hundred and twenty: not a second early; then once, with before and after on record, and at whose request. */
static void on_the_day(void **state)
{
    struct life *f = *state;
    struct audit_event ev = {0};
    struct certificate_row c;
    static const int64_t delays[] = {DAY_S, 120 * DAY_S};
    for (size_t i = 0; i < 2; i++) {
        char name[128];
        (void)snprintf(name, sizeof name, LIFE_RING "/cryptoKeys/d%zu", i);
        life_key(f, name, 0, 0);
        strcat(name, "/cryptoKeyVersions/1");
        schedule(f, name, delays[i]);
        fake_clock_advance(&f->clock, delays[i] * SECOND - 1);
        step(f);
        assert_int_equal(version(f, name).state, VERSION_DESTROY_SCHEDULED);
        assert_false(certified(f, name, &c));
        fake_clock_advance(&f->clock, 1);
        step(f);
        const struct keyring_version v = version(f, name);
        assert_int_equal(v.state, VERSION_DESTROYED);
        assert_int_equal(v.wrapped.n, 0);
        assert_true(v.destroyed_ns == clock_wall_ns(&f->clock.c) && v.destroy_ns == v.destroyed_ns);
        assert_true(bytes_equal(v.asked_by, BYTES_LIT("acme-keyadmin")));
        assert_true(certified(f, name, &c) && c.is_signed && verifies(f, c.note));
        step(f);
        assert_int_equal(life_events(f, "system:destruction", &ev), 2 * (i + 1)); /* that it was destroyed, and that it was signed */
        assert_int_equal(queued(f), 0);
    }
    assert_true(bytes_equal(ev.action, BYTES_LIT("kms.certificates.sign")));
}

static void what_is_on_record(void **state)
{
    struct life *f = *state;
    struct outbox_event *all;
    struct audit_event ev = {0};
    struct certificate_row c;
    size_t n;
    char want[128], hex[65];
    uint8_t hash[32];
    life_key(f, KEY, 0, 0);
    schedule(f, V1, DAY_S);
    const struct keyring_version v = version(f, V1);
    fake_clock_advance(&f->clock, 3 * DAY);
    step(f);
    assert_true(certified(f, V1, &c));
    const struct bytes text = text_of(c.note);
    sha256(&text, 1, hash);
    hex_encode(hash, sizeof hash, hex);
    (void)snprintf(want, sizeof want, "{\"state\":\"DESTROYED\",\"certificate\":\"sha256:%s\"}", hex);
    assert_ok(store_outbox_read(f->s.store, 0, 1000, &f->a, &all, &n, &f->e));
    assert_int_equal(n, 2);
    assert_ok(event_decode(all[0].event, &ev, &f->e));
    assert_true(bytes_equal(ev.principal, BYTES_LIT("system:destruction")) && bytes_equal(ev.action, BYTES_LIT("kms.cryptoKeyVersions.erase")));
    assert_true(bytes_equal(ev.resource, BYTES_LIT(V1)) && bytes_equal(ev.active_tenant, BYTES_LIT("acme")));
    assert_true(bytes_equal(ev.before, BYTES_LIT("{\"state\":\"DESTROY_SCHEDULED\"}")) && bytes_equal(ev.after, bytes_str(want)));
    assert_true(bytes_equal(c.name, BYTES_LIT(V1)));
    assert_true(says(text, "claviger.certificate/v1\nclaviger/node1\nkind: version\nname: " V1 "\n"));
    hex_encode(v.kvid, sizeof v.kvid, hex);
    (void)snprintf(want, sizeof want, "\nkvid: %s\nprotection: SOFTWARE\n", hex);
    assert_true(says(text, want));
    assert_true(says(text, "\ncreated: 2027-01-15T08:00:00Z\nrequested: 2027-01-15T08:00:00Z\nrequested-by: acme-keyadmin\ndue: 2027-01-16T08:00:00Z\n"
                           "destroyed: 2027-01-18T08:00:00Z\nseal-epoch: 1\ncovers: "));
}

static struct bytes file(struct life *f, const char *path)
{
    uint8_t *p = arena_alloc(&f->a, 8192);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    const ssize_t n = read(fd, p, 8192);
    close(fd);
    assert_true(n > 0 && n < 8192);
    return BYTES(p, (size_t)n);
}

/* To the byte what tests/conformance reads, which was made by another program from docs/FORMATS.md: text, key and signature. */
static void as_the_vectors(void **state)
{
    struct life *f = *state;
    struct certificate c = {.kind = CERTIFICATE_VERSION, .name = BYTES_LIT(V1), .tenant_id = "tenant-16-bytes", .kvid = "kvid-of-16-byte",
                            .created_ns = T0, .requested_ns = T0 + 31 * DAY + SECOND / 4, .requested_by = BYTES_LIT("acme-keyadmin"),
                            .due_ns = T0 + 61 * DAY + SECOND / 4, .destroyed_ns = T0 + 61 * DAY + SECOND + 7};
    struct certificate t = {.kind = CERTIFICATE_TENANT, .name = BYTES_LIT("projects/acme"), .tenant_id = "tenant-16-bytes", .created_ns = T0,
                            .due_ns = c.due_ns, .destroyed_ns = c.destroyed_ns, .counts = {1, 2, 3, 4, 5}};
    const struct name tenant = life_name("projects/acme", NAME_TENANT);
    struct certificate_row row;
    uint8_t hash[32];
    char key[SIGNED_NOTE_KEY_TEXT_MAX];
    f->config.seal_period = 30 * UINT64_C(86400000); /* as shipped */
    f->config.backup_retention = 35 * UINT64_C(86400000);
    struct store_txn *txn = store_txn_new(f->s.store);
    certificate_put(&f->s, txn, &t, hash);
    life_commit(f, txn);
    txn = store_txn_new(f->s.store);
    certificate_put(&f->s, txn, &c, hash);
    life_commit(f, txn);
    fake_clock_advance(&f->clock, 100 * DAY);
    step(f);
    step(f);
    assert_ok(certificate_get(&f->s, &tenant, &f->a, &row, &f->e));
    assert_true(row.is_signed && row.kind == CERTIFICATE_TENANT && bytes_equal(row.note, file(f, "tests/vectors/certificates/tenant.txt")));
    /* The row of the version belongs to the tenant id that it names, which is not acme's: read as it lies there. */
    const struct store_scan q = {.kind = REC_CERTIFICATE, .limit = 10, .all_tenants = true};
    struct record *rows;
    size_t n;
    assert_ok(store_scan(f->s.store, &q, &f->a, &rows, &n, &f->e));
    assert_int_equal(n, 2);
    const struct bytes want = file(f, "tests/vectors/certificates/version.txt");
    assert_non_null(memmem(rows[1].body.p, rows[1].body.n, want.p, text_of(want).n));
    signed_note_key_text(&f->s.audit_key, key);
    assert_true(bytes_equal(bytes_str(key), BYTES(file(f, "tests/vectors/certificates/key.txt").p, strlen(key))));
}

/* A byte of it changed: whichever it is, it does not verify. */
static void changed_by_a_byte(void **state)
{
    struct life *f = *state;
    struct certificate_row c;
    life_key(f, KEY, 0, 0);
    schedule(f, V1, DAY_S);
    fake_clock_advance(&f->clock, DAY);
    step(f);
    assert_true(certified(f, V1, &c) && verifies(f, c.note));
    const struct bytes text = text_of(c.note);
    uint8_t *note = arena_dup(&f->a, c.note.p, c.note.n);
    for (size_t i = 0; i + 1 < text.n; i++) {
        if (note[i] == '\n')
            continue;
        note[i] ^= 1;
        assert_true(note[i] == '\n' || !verifies(f, BYTES(note, c.note.n)));
        note[i] ^= 1;
    }
    assert_true(verifies(f, BYTES(note, c.note.n)));
}

/* Restored a second before its day it lives, and there is no certificate; scheduled again, its new day counts, and the old one is no day. */
static void restored_in_time(void **state)
{
    struct life *f = *state;
    struct certificate_row c;
    life_key(f, KEY, 0, 0);
    schedule(f, V1, 30 * DAY_S);
    fake_clock_advance(&f->clock, 30 * DAY - SECOND);
    step(f);
    change(f, V1, VERSION_DISABLED, 0);
    assert_int_equal(queued(f), 0);
    fake_clock_advance(&f->clock, 400 * DAY);
    step(f);
    assert_int_equal(version(f, V1).state, VERSION_DISABLED);
    assert_true(version(f, V1).wrapped.n > 0);
    assert_false(certified(f, V1, &c));
    change(f, V1, VERSION_ENABLED, 0);
    schedule(f, V1, 2 * DAY_S);
    /* a row that was left behind names a day that the version does not have */
    struct store_txn *txn = store_txn_new(f->s.store);
    due_move(txn, DUE_DESTRUCTION, BYTES_LIT(V1), 0, clock_wall_ns(&f->clock.c));
    due_move(txn, DUE_DESTRUCTION, BYTES_LIT(KEY "/cryptoKeyVersions/9"), 0, clock_wall_ns(&f->clock.c)); /* and one nothing at all */
    due_move(txn, DUE_CERTIFICATE, BYTES_LIT(V1), 0, clock_wall_ns(&f->clock.c));
    life_commit(f, txn);
    assert_int_equal(queued(f), 4);
    step(f);
    assert_int_equal(queued(f), 1);
    assert_int_equal(version(f, V1).state, VERSION_DESTROY_SCHEDULED);
    fake_clock_advance(&f->clock, 2 * DAY);
    step(f);
    assert_int_equal(version(f, V1).state, VERSION_DESTROYED);
    assert_true(certified(f, V1, &c) && c.is_signed);
}

/* Who dies between the transaction and the signature finds the certificate unsigned, and signs it: one, and of that day. */
static void dead_before_the_signature(void **state)
{
    struct life *f = *state;
    struct audit_event ev = {0};
    struct certificate_row before, after;
    life_key(f, KEY, 0, 0);
    schedule(f, V1, DAY_S);
    fake_clock_advance(&f->clock, DAY);
    struct keeper *k = keeper_of(f, both, 1, 10); /* destroys, and signs nothing */
    keeper_step(k);
    keeper_free(k);
    assert_int_equal(version(f, V1).state, VERSION_DESTROYED);
    assert_true(certified(f, V1, &before) && !before.is_signed);
    assert_int_equal(f->hsm->signed_count, 0);
    life_close(f);
    fake_clock_advance(&f->clock, 7 * DAY);
    life_open(f);
    step(f);
    assert_true(certified(f, V1, &after) && after.is_signed && verifies(f, after.note));
    assert_true(bytes_equal(text_of(after.note), before.note));
    step(f);
    assert_int_equal(f->hsm->signed_count, 1);
    assert_int_equal(life_events(f, "system:destruction", &ev), 2);
}

/* Destroyed on its day all the same; the certificate waits, and health says so. */
static void while_the_token_is_away(void **state)
{
    struct life *f = *state;
    struct certificate_row c;
    struct keeper_status st;
    life_key(f, KEY, 0, 0);
    schedule(f, V1, DAY_S);
    life_close(f);
    life_open(f);
    fake_clock_advance(&f->clock, DAY);
    f->hsm->away = true;
    struct keeper *k = keeper_of(f, both, 2, 10);
    keeper_step(k);
    keeper_step(k);
    assert_int_equal(version(f, V1).state, VERSION_DESTROYED);
    assert_true(certified(f, V1, &c) && !c.is_signed);
    keeper_status(k, &st);
    assert_true(st.failing && strstr(st.why, V1) != NULL && strstr(st.why, "HSM_UNAVAILABLE") != NULL);
    f->hsm->away = false;
    fake_clock_advance(&f->clock, DUE_RETRY_MAX_S * SECOND);
    keeper_step(k);
    assert_true(certified(f, V1, &c) && c.is_signed && verifies(f, c.note));
    assert_int_equal(queued(f), 0);
    keeper_free(k);
}

/* The object on the token goes too, before the certificate is signed, which says where the key was. */
static void of_level_hsm(void **state)
{
    struct life *f = *state;
    const struct keyring_key want = {.destroy_delay_s = 30 * DAY_S, .protection = PROTECTION_HSM};
    const struct name n = life_name(KEY, NAME_CRYPTOKEY);
    struct certificate_row c;
    struct keyring_key m;
    struct keyring_version v;
    struct store_txn *txn = store_txn_new(f->s.store);
    assert_ok(keyring_key_create(f->s.keyring, &n, &want, true, txn, &f->a, &m, &v, &f->e));
    life_commit(f, txn);
    assert_int_equal(f->hsm->keys_made, 1);
    schedule(f, V1, DAY_S);
    fake_clock_advance(&f->clock, DAY);
    struct keeper *k = keeper_of(f, both, 1, 10);
    keeper_step(k); /* destroyed, and restored by nobody any more: its object may go now, and not before */
    keeper_free(k);
    assert_int_equal(f->hsm->keys_destroyed, 0);
    assert_true(certified(f, V1, &c) && !c.is_signed && c.on_token);
    f->hsm->away = true;
    step(f);
    assert_true(certified(f, V1, &c) && !c.is_signed);
    f->hsm->away = false;
    fake_clock_advance(&f->clock, 60 * SECOND);
    step(f);
    assert_int_equal(f->hsm->keys_destroyed, 1);
    assert_true(certified(f, V1, &c) && c.is_signed && verifies(f, c.note));
    assert_true(says(c.note, "\nprotection: HSM\n") && says(c.note, "\nremains: copies of the token"));
}

/* A hundred at once, and death after each handful of steps: each is destroyed once, has one certificate, and is on record once. */
static void over_deaths(void **state)
{
    struct life *f = *state;
    struct certificate_row *rows;
    struct audit_event ev = {0};
    const struct name ring = life_name(LIFE_RING, NAME_KEYRING);
    size_t n;
    char name[128];
    for (int i = 0; i < 100; i++) {
        (void)snprintf(name, sizeof name, LIFE_RING "/cryptoKeys/k%02d", i);
        life_key(f, name, 0, 0);
        strcat(name, "/cryptoKeyVersions/1");
        schedule(f, name, DAY_S + i);
    }
    fake_clock_advance(&f->clock, 2 * DAY);
    for (uint64_t pace = 1; queued(f) > 0; pace = pace % 7 + 1) {
        struct keeper *k = keeper_of(f, both, 2, pace);
        keeper_step(k);
        keeper_free(k);
        life_close(f);
        fake_clock_advance(&f->clock, SECOND);
        life_open(f);
    }
    assert_ok(certificate_list(&f->s, &ring, (struct bytes){0}, 1000, &f->a, &rows, &n, &f->e));
    assert_int_equal(n, 100);
    for (size_t i = 0; i < n; i++) {
        (void)snprintf(name, sizeof name, LIFE_RING "/cryptoKeys/k%02zu/cryptoKeyVersions/1", i);
        assert_true(bytes_equal(rows[i].name, bytes_str(name)) && rows[i].is_signed && verifies(f, rows[i].note));
        assert_int_equal(version(f, name).state, VERSION_DESTROYED);
    }
    assert_int_equal(life_events(f, "system:destruction", &ev), 200);
    assert_int_equal(f->hsm->signed_count, 100);
}

/* An accepted rollback destroys what the journal knows as destroyed; the certificate that went with the given-up store is made again. */
static void destroyed_without_a_certificate(void **state)
{
    struct life *f = *state;
    struct certificate_row c;
    CLEANUP(buf_release) struct buf body;
    bool changed;
    buf_init(&body, STORE_BODY_MAX);
    life_key(f, KEY, 0, 0);
    const struct keyring_version v = version(f, V1);
    const struct name n = life_name(V1, NAME_VERSION);
    struct tenant t;
    assert_ok(keyring_tenant_get(f->s.keyring, n.tenant, true, &t, &f->e));
    const struct store_scan q = {.kind = REC_VERSION, .limit = 10, .all_tenants = true};
    struct record *rows;
    size_t count;
    assert_ok(store_scan(f->s.store, &q, &f->a, &rows, &count, &f->e));
    assert_int_equal(count, 1);
    assert_ok(keyring_version_as_revoked(&rows[0], VERSION_DESTROYED, T0 + DAY, &body, &changed, &f->e));
    assert_true(changed);
    struct store_txn *txn = store_txn_new(f->s.store);
    store_txn_put(txn, &rows[0], v.revision);
    life_commit(f, txn);
    assert_ok(keyring_requeue(f->s.keyring, &f->e)); /* as the first start in a new incarnation does */
    fake_clock_advance(&f->clock, 2 * DAY);
    step(f);
    assert_true(certified(f, V1, &c) && c.is_signed && verifies(f, c.note));
    assert_true(says(c.note, "\nrequested: -\nrequested-by: -\ndue: -\ndestroyed: 2027-01-16T08:00:00Z\n"));
    step(f);
    assert_int_equal(f->hsm->signed_count, 1);
    assert_int_equal(queued(f), 0);
}

/* ---- erased ---- */
/* Rows come, change and go around them, so that the pages of the file are split and joined: of what was destroyed nothing is left in
 * any file, of no revision, once its certificate is signed. What lives is there, and was found before. */
static void nothing_is_left_in_any_file(void **state)
{
    struct life *f = *state;
    struct bodies gone = {.n = 0}, alive = {.n = 0};
    enum { KEYS = 150 };
    unsigned files;
    char name[128];
    for (int i = 0; i < KEYS; i++) {
        (void)snprintf(name, sizeof name, LIFE_RING "/cryptoKeys/%s%03d", i % 3 == 0 ? "keep" : "gone", i * 37 % KEYS);
        life_key(f, name, 0, 0);
    }
    bodies_collect(f, REC_VERSION, "%/gone%", &gone);
    bodies_collect(f, REC_VERSION, "%/keep%", &alive);
    assert_int_equal(gone.n, KEYS / 3 * 2);
    assert_int_equal(bodies_found_all(f, &gone, &files), gone.n); /* it can be found at all */
    assert_int_equal(files, 4);                        /* store.db, -wal, -shm, store.lock */
    for (int round = 0; round < 2; round++) { /* more revisions of each, older copies of their rows */
        for (int i = 0; i < KEYS; i++) {
            (void)snprintf(name, sizeof name, LIFE_RING "/cryptoKeys/%s%03d/cryptoKeyVersions/1", i % 3 == 0 ? "keep" : "gone", i * 37 % KEYS);
            if (i % 3 != 0)
                change(f, name, round == 0 ? VERSION_DISABLED : VERSION_DESTROY_SCHEDULED, DAY_S);
        }
        bodies_collect(f, REC_VERSION, "%/gone%", &gone);
    }
    assert_int_equal(gone.n, KEYS * 2);
    assert_true(bodies_found_many(f, &gone, KEYS / 3 * 2, &files) >= KEYS / 3 * 2);
    fake_clock_advance(&f->clock, DAY);
    step(f);
    assert_int_equal(bodies_found(f, &gone, &files), 0);
    assert_int_equal(files, 4);
    assert_int_equal(bodies_found_all(f, &alive, &files), alive.n);
}

#define LIFE(test) cmocka_unit_test_setup_teardown(test, life_start, life_stop)
int main(void)
{
    const struct CMUnitTest tests[] = {
        LIFE(on_the_day),
        LIFE(what_is_on_record),
        LIFE(as_the_vectors),
        LIFE(changed_by_a_byte),
        LIFE(restored_in_time),
        LIFE(dead_before_the_signature),
        LIFE(while_the_token_is_away),
        LIFE(of_level_hsm),
        LIFE(over_deaths),
        LIFE(destroyed_without_a_certificate),
        LIFE(nothing_is_left_in_any_file),
    };
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
