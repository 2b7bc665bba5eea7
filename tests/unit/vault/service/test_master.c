/* Rotation and destruction of the master, over a fake clock and a stand-in token: everything moves, whoever dies in between, whatever
 * changes meanwhile; nothing is used before it is saved; nothing goes that is needed. */
#include "tests/unit/vault/service/life.h"

#include "vault/service/master_steps.h"
#include "vault/service/mover.h"

#include <stdatomic.h>
#include <time.h>

enum { TENANTS = 3, KEYS = 5, VERSIONS = 30, STEPS_MAX = 4000 };
static const char *const tenants[TENANTS] = {"acme", "beta", "gamma"};

/* ---- what there is to move ---- */
static void make_tenant(struct life *f, const char *name)
{
    struct tenant t;
    struct keyring_ring r;
    char text[96];
    struct store_txn *txn = store_txn_new(f->s.store);
    assert_ok(keyring_tenant_create(f->s.keyring, bytes_str(name), BYTES_LIT("eu"), BYTES_LIT(""), txn, &t, &f->e));
    life_commit(f, txn);
    (void)snprintf(text, sizeof text, "projects/%s/locations/eu/keyRings/pii", name);
    const struct name ring = life_name(text, NAME_KEYRING);
    txn = store_txn_new(f->s.store);
    assert_ok(keyring_ring_create(f->s.keyring, &ring, txn, &f->a, &r, &f->e));
    life_commit(f, txn);
}

static const char *key_name(struct life *f, const char *tenant, unsigned key)
{
    return arena_printf(&f->a, "projects/%s/locations/eu/keyRings/pii/cryptoKeys/k%02u", tenant, key);
}

static const char *version_name(struct life *f, const char *tenant, unsigned key, unsigned version)
{
    return arena_printf(&f->a, "%s/cryptoKeyVersions/%u", key_name(f, tenant, key), version);
}

static void add_version(struct life *f, const char *tenant, unsigned key)
{
    const struct name n = life_name(key_name(f, tenant, key), NAME_CRYPTOKEY);
    struct keyring_key m = life_read(f, key_name(f, tenant, key));
    struct keyring_version v;
    struct store_txn *txn = store_txn_new(f->s.store);
    assert_ok(keyring_key_rotate(f->s.keyring, &n, &m, txn, &f->a, &v, &f->e));
    life_commit(f, txn);
    keyring_changed(f->s.keyring, &n);
}

static void fill(struct life *f, unsigned versions)
{
    make_tenant(f, tenants[1]);
    make_tenant(f, tenants[2]);
    for (unsigned t = 0; t < TENANTS; t++)
        for (unsigned k = 0; k < KEYS; k++) {
            life_key(f, key_name(f, tenants[t], k), 0, 0);
            for (unsigned v = 1; v < versions; v++)
                add_version(f, tenants[t], k);
        }
}

static void set_state(struct life *f, const char *name, enum version_state to)
{
    struct keyring_version v;
    const struct name n = life_name(name, NAME_VERSION);
    struct store_txn *txn = store_txn_new(f->s.store);
    assert_ok(keyring_version_get(f->s.keyring, &n, &f->a, &v, &f->e));
    const enum version_state from = v.state;
    v.state = to;
    v.destroy_ns = to == VERSION_DESTROY_SCHEDULED ? T0 + 400 * DAY : 0;
    assert_ok(keyring_version_put(f->s.keyring, &n, &v, from, txn, &f->e));
    life_commit(f, txn);
    keyring_changed(f->s.keyring, &n);
}

/* ---- what keys are, told by what they seal: the same before and after ---- */
struct seal {
    const char *key;
    uint8_t kvid[FORMAT_KVID_BYTES], sealed[FORMAT_OVERHEAD + 4];
};

static struct seal seal_with(struct life *f, const char *key, unsigned version)
{
    struct seal s = {.key = key};
    struct key_handle *h;
    struct key_view v;
    struct name n = life_name(key, NAME_CRYPTOKEY);
    n.kind = NAME_VERSION;
    n.version = version;
    assert_ok(keyring_use_encrypt(f->s.keyring, &n, KEY_USE_ENCRYPT, true, &h, &v, &f->e));
    memcpy(s.kvid, v.kvid, sizeof s.kvid);
    envelope_seal(v.aead, FORMAT_ENCRYPTED, v.kvid, NULL, BYTES_LIT("aad1"), BYTES_LIT("jane"), s.sealed);
    key_handle_unref(h);
    return s;
}

static struct result open_with(struct life *f, const struct seal *s, struct err *e)
{
    struct key_handle *h;
    struct key_view v;
    uint8_t out[4];
    const struct name n = life_name(s->key, NAME_CRYPTOKEY);
    TRY(keyring_use_decrypt(f->s.keyring, &n, KEY_USE_ENCRYPT, s->kvid, true, &h, &v, e));
    struct result r = envelope_open(v.aead, FORMAT_ENCRYPTED, s->kvid, BYTES_LIT("aad1"), BYTES(s->sealed, sizeof s->sealed), out, e);
    key_handle_unref(h);
    if (!r.failed)
        assert_memory_equal(out, "jane", 4);
    return r;
}

static struct seal *seal_all(struct life *f, unsigned versions)
{
    struct seal *all = arena_zalloc(&f->a, TENANTS * KEYS * versions * sizeof *all), *at = all;
    for (unsigned t = 0; t < TENANTS; t++)
        for (unsigned k = 0; k < KEYS; k++)
            for (unsigned v = 1; v <= versions; v++)
                *at++ = seal_with(f, key_name(f, tenants[t], k), v);
    return all;
}

static void open_all(struct life *f, const struct seal *all, unsigned versions)
{
    for (size_t i = 0; i < (size_t)TENANTS * KEYS * versions; i++)
        assert_ok(open_with(f, &all[i], &f->e));
}

/* ---- the rotation ---- */
static void ask(struct life *f, uint32_t to)
{
    struct moving v;
    struct store_txn *txn = store_txn_new(f->s.store);
    assert_ok(moving_read(f->s.store, &v, &f->e));
    v = (struct moving){.state = v.state, .to = to, .started_ns = clock_wall_ns(&f->clock.c), .by = "admin", .revision = v.revision};
    assert_ok(moving_to(&v, MOVING_MAKING, v.started_ns, &f->e));
    moving_put(txn, &v);
    life_commit(f, txn);
}

static struct moving moving_of(struct life *f)
{
    struct moving v;
    assert_ok(moving_read(f->s.store, &v, &f->e));
    return v;
}

static struct master master_of(struct life *f, uint32_t version)
{
    struct masters all;
    assert_ok(masters_read(f->s.store, &all, &f->e));
    const struct master *m = masters_find(&all, version);
    assert_non_null(m);
    return *m;
}

/* Steps until it rests; returns how many. at_most 0: all. */
static unsigned run(struct life *f, unsigned at_most)
{
    const struct mover_options o = {.s = &f->s, .pace = 1000000000};
    struct mover *m = mover_new(&o);
    enum mover_next next = MOVER_AGAIN;
    unsigned n = 0;
    while (next != MOVER_REST && (at_most == 0 || n < at_most)) {
        next = mover_step(m);
        fake_clock_advance(&f->clock, SECOND / 100);
        n++;
        assert_true(n < STEPS_MAX);
    }
    mover_free(m);
    return n;
}

static void reopen(struct life *f)
{
    life_close(f);
    life_open(f);
}

static uint64_t left_under(struct life *f, uint32_t version, uint64_t *ret_versions)
{
    struct rekey_proof p;
    assert_ok(keyring_rekey_prove(f->s.keyring, version, NULL, NULL, &p, &f->e));
    if (ret_versions != NULL)
        *ret_versions = p.versions;
    return p.left;
}

static void doom(struct life *f, uint32_t version)
{
    struct masters all;
    struct store_txn *txn = store_txn_new(f->s.store);
    assert_ok(masters_read(f->s.store, &all, &f->e));
    struct master *m = masters_find(&all, version);
    assert_ok(sm_move(&master_machine, &m->state, MASTER_DESTROYING, &f->e));
    master_put(txn, m);
    life_commit(f, txn);
}

static void tables(void **state)
{
    (void)state;
    static const unsigned moves[][2] = {{MOVING_IDLE, MOVING_MAKING},    {MOVING_MAKING, MOVING_SAVING},  {MOVING_SAVING, MOVING_MOVING},
                                        {MOVING_MOVING, MOVING_PAUSED},  {MOVING_PAUSED, MOVING_MOVING},  {MOVING_MOVING, MOVING_PROVING},
                                        {MOVING_PROVING, MOVING_MOVING}, {MOVING_PROVING, MOVING_IDLE}};
    static const unsigned lives[][2] = {{MASTER_BORN, MASTER_CURRENT},    {MASTER_CURRENT, MASTER_RETIRING},  {MASTER_RETIRING, MASTER_RETIRED},
                                        {MASTER_RETIRED, MASTER_DESTROYING}, {MASTER_DESTROYING, MASTER_RETIRED}, {MASTER_DESTROYING, MASTER_DESTROYED}};
    struct err e;
    for (unsigned from = 0; from < 8; from++)
        for (unsigned to = 0; to < 8; to++) {
            bool can_move = false, can_live = false;
            for (size_t i = 0; i < sizeof moves / sizeof *moves; i++)
                can_move |= moves[i][0] == from && moves[i][1] == to;
            for (size_t i = 0; i < sizeof lives / sizeof *lives; i++)
                can_live |= lives[i][0] == from && lives[i][1] == to;
            struct moving v = {.state = from};
            unsigned m = from;
            e = (struct err){0};
            assert_true(moving_to(&v, (enum moving_state)to, 5, &e).failed == !can_move);
            assert_int_equal(v.state, can_move ? to : from);
            assert_true(can_move || (e.code == ERR_STATE && strcmp(e.reason, "ILLEGAL_TRANSITION") == 0 && v.since_ns == 0));
            assert_true(sm_move(&master_machine, &m, to, &e).failed == !can_live);
            assert_int_equal(m, can_live ? to : from);
        }
}

/* Three tenants, 450 versions; the record says how far it is; then the old master goes, and everything still opens. */
static void everything_moves(void **state)
{
    struct life *f = *state;
    struct audit_event ev = {0};
    uint64_t versions;
    fill(f, VERSIONS);
    struct seal *seals = seal_all(f, VERSIONS);
    struct seal before = seals[0];
    ask(f, 2);
    run(f, 0);
    assert_int_equal(moving_of(f).state, MOVING_IDLE);
    assert_int_equal(moving_of(f).done, TENANTS * KEYS * VERSIONS);
    assert_int_equal(moving_of(f).total, TENANTS * KEYS * VERSIONS);
    assert_int_equal(moving_of(f).tenants, TENANTS);
    assert_int_equal(keyring_master(f->s.keyring), 2);
    assert_int_equal(master_of(f, 1).state, MASTER_RETIRED);
    assert_int_equal(master_of(f, 2).state, MASTER_CURRENT);
    assert_true(master_of(f, 1).retired_ns > T0 && master_of(f, 1).saved_ns >= T0 && master_of(f, 2).made_ns >= T0);
    assert_int_equal(left_under(f, 1, &versions), 0);
    assert_int_equal(versions, TENANTS * KEYS * VERSIONS);
    assert_int_equal(left_under(f, 0, NULL), 0);
    open_all(f, seals, VERSIONS);
    assert_int_equal(f->hsm->generated, 1);
    assert_int_equal(f->hsm->backups, 1);
    const size_t events = life_events(f, "system:master", &ev);
    assert_true(bytes_equal(ev.action, BYTES_LIT("masters.retire")) && bytes_equal(ev.resource, BYTES_LIT("masters/1")));
    assert_non_null(memmem(ev.after.p, ev.after.n, "\"versions\":450,\"under_another_master\":0", 38));
    assert_true(events >= 4 + (TENANTS * KEYS * VERSIONS + REKEY_PAGE - 1) / REKEY_PAGE);
    doom(f, 1);
    run(f, 0);
    assert_int_equal(master_of(f, 1).state, MASTER_DESTROYED);
    assert_false(f->hsm->there[HSM_MASTER][1]);
    assert_int_equal(f->hsm->backups, 2);
    (void)life_events(f, "system:master", &ev);
    assert_true(bytes_equal(ev.action, BYTES_LIT("masters.destroy")));
    assert_non_null(memmem(ev.after.p, ev.after.n, "\"master\":\"DESTROYED\"", 20));
    reopen(f);
    open_all(f, seals, VERSIONS);
    before.sealed[sizeof before.sealed - 1] ^= 1; /* the twin: an opening that can fail */
    assert_fails(open_with(f, &before, &f->e), ERR_CIPHERTEXT, NULL);
    ask(f, 3); /* and once more */
    run(f, 0);
    assert_int_equal(keyring_master(f->s.keyring), 3);
    open_all(f, seals, VERSIONS);
    ask(f, 4);
    run(f, 0);
    const int64_t saved = master_of(f, 3).saved_ns;
    fake_clock_advance(&f->clock, DAY);
    doom(f, 2);
    run(f, 0);
    assert_int_equal(master_of(f, 2).state, MASTER_DESTROYED);
    assert_true(master_of(f, 3).saved_ns >= saved + DAY); /* what was backed up then names it, and must expire first */
    assert_true(master_of(f, 2).saved_ns < saved + DAY);
    assert_true(keyring_master_is(f->s.keyring, &(struct master){.version = 4, .revision = master_of(f, 4).revision}));
    make_tenant(f, "omega"); /* which relies on it */
    assert_int_equal(left_under(f, 0, NULL), 0);
}

/* The records name a current master that the keyring has not heard of: nothing is moved or proven before it has. */
static void a_keyring_that_has_not_heard(void **state)
{
    struct life *f = *state;
    struct masters all;
    fill(f, 2);
    ask(f, 2);
    (void)run(f, 1); /* on the token; then as if core's reading had failed after the commit that made it current */
    struct store_txn *txn = store_txn_new(f->s.store);
    struct moving v = moving_of(f);
    assert_ok(masters_read(f->s.store, &all, &f->e));
    masters_find(&all, 1)->state = MASTER_RETIRING;
    masters_find(&all, 2)->state = MASTER_CURRENT;
    master_put(txn, masters_find(&all, 1));
    master_put(txn, masters_find(&all, 2));
    assert_ok(moving_to(&v, MOVING_MOVING, 1, &f->e));
    moving_put(txn, &v);
    life_commit(f, txn);
    assert_int_equal(keyring_master(f->s.keyring), 1);
    run(f, 0);
    assert_int_equal(keyring_master(f->s.keyring), 2);
    assert_int_equal(moving_of(f).state, MOVING_IDLE);
    assert_int_equal(moving_of(f).done, TENANTS * KEYS * 2);
    assert_int_equal(left_under(f, 1, NULL), 0);
}

/* Killed after each single transaction. */
static void killed_after_each_step(void **state)
{
    struct life *f = *state;
    fill(f, 15);
    struct seal *seals = seal_all(f, 15);
    uint64_t done = 0;
    unsigned deaths = 0;
    ask(f, 2);
    while (moving_of(f).state != MOVING_IDLE) {
        (void)run(f, 1);
        reopen(f);
        deaths++;
        if (moving_of(f).state == MOVING_MOVING) {
            assert_true(moving_of(f).done >= done);
            done = moving_of(f).done;
        }
        open_all(f, seals, 15);
        assert_true(deaths < 100);
    }
    assert_true(deaths >= 8);
    assert_int_equal(left_under(f, 1, NULL), 0);
    assert_int_equal(moving_of(f).done, TENANTS * KEYS * 15);
    doom(f, 1);
    while (master_of(f, 1).state != MASTER_DESTROYED) {
        (void)run(f, 1);
        reopen(f);
    }
    open_all(f, seals, 15);
}

/* The token's answer is lost, its effect is not, at each call in turn; and core is killed there too. */
static void killed_at_each_token_call(void **state)
{
    struct life *f = *state;
    uint32_t to = 2;
    unsigned died = 0;
    fill(f, 3);
    struct seal *seals = seal_all(f, 3);
    reopen(f);
    for (unsigned n = 1; to < STAND_IN_VERSIONS - 1; n++, to++) {
        ask(f, to);
        f->hsm->dies_in = n;
        (void)run(f, 0);
        died += f->hsm->dies_in == 0;
        reopen(f);
        fake_clock_advance(&f->clock, MOVER_RETRY_MS * SECOND / 1000);
        f->hsm->dies_in = 0;
        (void)run(f, 0);
        assert_int_equal(moving_of(f).state, MOVING_IDLE);
        assert_int_equal(keyring_master(f->s.keyring), to);
        assert_int_equal(left_under(f, 0, NULL), 0);
        doom(f, to - 1);
        f->hsm->dies_in = n % 3;
        (void)run(f, 0);
        reopen(f);
        f->hsm->dies_in = 0;
        (void)run(f, 0);
        assert_int_equal(master_of(f, to - 1).state, MASTER_DESTROYED);
        assert_false(f->hsm->there[HSM_MASTER][to - 1]);
        open_all(f, seals, 3);
    }
    assert_true(died >= 10);
}

/* Versions are made, disabled and destroyed, and a tenant is made, between the steps: nothing is lost, nothing is left behind. */
static void what_changes_meanwhile(void **state)
{
    struct life *f = *state;
    struct keyring_version v;
    fill(f, VERSIONS);
    struct seal *seals = seal_all(f, VERSIONS);
    ask(f, 2);
    unsigned steps = 0;
    while (moving_of(f).state != MOVING_IDLE) {
        (void)run(f, 1);
        if (steps == 3)
            make_tenant(f, "delta");
        if (steps >= 3 && steps < 3 + VERSIONS - 2) {
            const unsigned n = steps - 2;
            add_version(f, tenants[steps % TENANTS], steps % KEYS);
            set_state(f, version_name(f, tenants[steps % TENANTS], 0, n), VERSION_DISABLED);
            set_state(f, version_name(f, tenants[(steps + 1) % TENANTS], 1, n), VERSION_DESTROY_SCHEDULED);
            if (steps % 2 == 0)
                set_state(f, version_name(f, tenants[(steps + 1) % TENANTS], 1, n), VERSION_DESTROYED);
        }
        steps++;
        assert_true(steps < 500);
    }
    assert_true(steps > 10);
    assert_int_equal(left_under(f, 0, NULL), 0);
    f->hsm->there[HSM_MASTER][1] = false;
    reopen(f);
    size_t opened = 0, refused = 0;
    for (size_t i = 0; i < (size_t)TENANTS * KEYS * VERSIONS; i++) {
        f->e = (struct err){0};
        if (!open_with(f, &seals[i], &f->e).failed)
            opened++;
        else
            refused += f->e.code == ERR_STATE;
    }
    assert_int_equal(opened + refused, TENANTS * KEYS * VERSIONS);
    assert_true(refused >= 10 && opened > 300);
    const struct name destroyed = life_name(version_name(f, tenants[(4 + 1) % TENANTS], 1, 2), NAME_VERSION);
    assert_ok(keyring_version_get(f->s.keyring, &destroyed, &f->a, &v, &f->e));
    assert_int_equal(v.state, VERSION_DESTROYED);
    assert_int_equal(v.wrapped.n, 0);
}

/* What began under the old master before a tenant moved, and commits after: refused, and right when it is done again. */
static void who_was_on_the_way(void **state)
{
    struct life *f = *state;
    const struct name key = life_name(key_name(f, "acme", 0), NAME_CRYPTOKEY), version = life_name(version_name(f, "acme", 0, 1), NAME_VERSION);
    struct keyring_key m;
    struct keyring_version v, late;
    struct tenant t;
    uint64_t seq;
    life_key(f, key_name(f, "acme", 0), 0, 0);
    struct store_txn *make = store_txn_new(f->s.store), *disable = store_txn_new(f->s.store), *tenant = store_txn_new(f->s.store);
    m = life_read(f, key_name(f, "acme", 0));
    assert_ok(keyring_key_rotate(f->s.keyring, &key, &m, make, &f->a, &v, &f->e));
    assert_ok(keyring_version_get(f->s.keyring, &version, &f->a, &late, &f->e));
    late.state = VERSION_DISABLED;
    assert_ok(keyring_version_put(f->s.keyring, &version, &late, VERSION_ENABLED, disable, &f->e));
    assert_ok(keyring_tenant_create(f->s.keyring, BYTES_LIT("epsilon"), BYTES_LIT("eu"), BYTES_LIT(""), tenant, &t, &f->e));
    ask(f, 2);
    run(f, 0);
    assert_int_equal(moving_of(f).state, MOVING_IDLE);
    assert_fails(store_txn_commit(make, &seq, &f->e), ERR_CONFLICT, NULL);
    assert_fails(store_txn_commit(disable, &seq, &f->e), ERR_CONFLICT, NULL);
    assert_fails(store_txn_commit(tenant, &seq, &f->e), ERR_CONFLICT, NULL);
    store_txn_free(make);
    store_txn_free(disable);
    store_txn_free(tenant);
    add_version(f, "acme", 0);
    make_tenant(f, "epsilon");
    set_state(f, version_name(f, "acme", 0, 1), VERSION_DISABLED);
    assert_int_equal(left_under(f, 0, NULL), 0);
}

/* A version that is made between the reading of a step and its commit is left behind by neither. */
static void what_is_made_in_between(void **state)
{
    struct life *f = *state;
    struct rekey r = {0};
    unsigned steps = 0;
    life_key(f, key_name(f, "acme", 0), 0, 0);
    ask(f, 2);
    (void)run(f, 2); /* made and current */
    assert_int_equal(keyring_master(f->s.keyring), 2);
    for (; !r.end; steps++) {
        struct store_txn *txn = store_txn_new(f->s.store);
        assert_ok(keyring_rekey(f->s.keyring, BYTES_LIT("acme"), &r, txn, &f->e));
        add_version(f, "acme", 0);
        life_commit(f, txn);
        keyring_rekeyed(f->s.keyring, BYTES_LIT("acme"));
    }
    rekey_release(&r);
    assert_int_equal(steps, 2);
    assert_int_equal(left_under(f, 1, NULL), 0);
    run(f, 0);
    assert_int_equal(moving_of(f).state, MOVING_IDLE);
    f->hsm->there[HSM_MASTER][1] = false;
    reopen(f);
    for (unsigned v = 1; v <= 3; v++)
        (void)seal_with(f, key_name(f, "acme", 0), v);
}

/* A cached key is not touched; a cached tenant from before leads nobody astray. */
static void who_holds_a_key(void **state)
{
    struct life *f = *state;
    struct tenant_ref *stale;
    fill(f, 2);
    struct seal seal = seal_with(f, key_name(f, "acme", 0), 1), cold = seal_with(f, key_name(f, "beta", 1), 2);
    struct key_handle *h;
    struct key_view v;
    const struct name n = life_name(seal.key, NAME_CRYPTOKEY);
    reopen(f);
    assert_ok(keyring_use_decrypt(f->s.keyring, &n, KEY_USE_ENCRYPT, seal.kvid, true, &h, &v, &f->e));
    assert_ok(keyring_tenant_hold(f->s.keyring, BYTES_LIT("beta"), true, &stale, &f->e));
    ask(f, 2);
    run(f, 0);
    const unsigned derived = f->hsm->derived;
    assert_ok(open_with(f, &seal, &f->e));
    assert_int_equal(f->hsm->derived, derived); /* it was still there */
    key_handle_unref(h);
    assert_ok(open_with(f, &cold, &f->e));
    tenant_ref_drop(stale);
}

/* Never used before it is backed up; a token that is no files waits for somebody's word. */
static void saved_before_use(void **state)
{
    struct life *f = *state;
    struct mover_status st;
    const struct mover_options o = {.s = &f->s, .pace = 1000};
    life_key(f, key_name(f, "acme", 0), 0, 0);
    f->hsm->no_files = true;
    ask(f, 2);
    struct mover *m = mover_new(&o);
    assert_int_equal(mover_step(m), MOVER_AGAIN);
    assert_int_equal(mover_step(m), MOVER_REST);
    mover_status(m, &st);
    assert_true(st.failing && strstr(st.why, "MASTER_NOT_CLONED") != NULL);
    assert_int_equal(master_of(f, 2).state, MASTER_BORN);
    assert_int_equal(keyring_master(f->s.keyring), 1);
    add_version(f, "acme", 0);
    assert_int_equal(left_under(f, 2, NULL), 0);
    assert_int_equal(mover_step(m), MOVER_REST); /* not before its time */
    struct moving v = moving_of(f);
    struct store_txn *txn = store_txn_new(f->s.store);
    v.cloned = true;
    moving_put(txn, &v);
    life_commit(f, txn);
    fake_clock_advance(&f->clock, MOVER_RETRY_MS * SECOND / 1000);
    while (mover_step(m) == MOVER_AGAIN)
        fake_clock_advance(&f->clock, SECOND);
    mover_status(m, &st);
    assert_false(st.failing);
    assert_int_equal(keyring_master(f->s.keyring), 2);
    assert_int_equal(moving_of(f).state, MOVING_IDLE);
    assert_false(moving_of(f).cloned);
    mover_free(m);
}

/* A token that is away, at every point, for as long as it likes. */
static void while_the_token_is_away(void **state)
{
    struct life *f = *state;
    fill(f, 10);
    struct seal *seals = seal_all(f, 10);
    ask(f, 2);
    unsigned rounds = 0;
    while (moving_of(f).state != MOVING_IDLE) {
        const unsigned was = moving_of(f).state;
        reopen(f);
        f->hsm->away = true;
        (void)run(f, 0);
        const unsigned now = moving_of(f).state;
        assert_true(now == was || was == MOVING_MOVING || was == MOVING_PROVING); /* what needs the token does not happen */
        f->hsm->away = false;
        fake_clock_advance(&f->clock, MOVER_RETRY_MS * SECOND / 1000);
        (void)run(f, 1);
        assert_true(rounds++ < 100);
    }
    reopen(f);
    open_all(f, seals, 10);
    assert_int_equal(left_under(f, 0, NULL), 0);
}

/* A version that does not unwrap holds up nothing but the retirement, which says what is left. */
static void one_that_is_broken(void **state)
{
    struct life *f = *state;
    struct mover_status st;
    struct record r;
    fill(f, 4);
    /* Its wrapped key becomes another's: behind a good seal, and of no use. */
    struct tenant t;
    assert_ok(keyring_tenant_get(f->s.keyring, BYTES_LIT("beta"), true, &t, &f->e));
    const struct store_scan q = {.kind = REC_VERSION, .limit = 2};
    struct store_scan beta = q;
    memcpy(beta.tenant, t.id, sizeof beta.tenant);
    struct record *rows;
    size_t n;
    assert_ok(store_scan(f->s.store, &beta, &f->a, &rows, &n, &f->e));
    r = rows[0];
    uint8_t *body = arena_dup(&f->a, r.body.p, r.body.n);
    memcpy(body + r.body.n - 20, rows[1].body.p + rows[1].body.n - 20, 20);
    r.body = BYTES(body, r.body.n);
    struct store_txn *txn = store_txn_new(f->s.store);
    store_txn_put(txn, &r, rows[0].revision);
    life_commit(f, txn);

    const struct mover_options o = {.s = &f->s, .pace = 1000000};
    struct mover *m = mover_new(&o);
    ask(f, 2);
    while (mover_step(m) == MOVER_AGAIN)
        fake_clock_advance(&f->clock, SECOND / 100);
    mover_status(m, &st);
    assert_true(st.failing && strstr(st.why, "MASTER_STILL_NEEDED") != NULL && strstr(st.why, "projects/beta") != NULL);
    assert_int_equal(moving_of(f).state, MOVING_MOVING);
    assert_int_equal(master_of(f, 1).state, MASTER_RETIRING);
    assert_int_equal(left_under(f, 1, NULL), 2); /* the version, and its tenant's check value */
    set_state(f, arena_strdup(&f->a, r.name), VERSION_DESTROY_SCHEDULED);
    set_state(f, arena_strdup(&f->a, r.name), VERSION_DESTROYED);
    fake_clock_advance(&f->clock, MOVER_PROVE_MS * SECOND / 1000);
    while (mover_step(m) == MOVER_AGAIN)
        fake_clock_advance(&f->clock, SECOND / 100);
    assert_int_equal(moving_of(f).state, MOVING_IDLE);
    assert_int_equal(master_of(f, 1).state, MASTER_RETIRED);
    mover_free(m);
}

/* Asked for and not possible: what is under it is named, and the secret stays. */
static void not_destroyed_while_needed(void **state)
{
    struct life *f = *state;
    struct audit_event ev = {0};
    struct masters all;
    fill(f, 2);
    ask(f, 2);
    run(f, 0);
    /* As an older store that was accepted would have it: its records say retired, and its versions are under it. */
    struct store_txn *txn = store_txn_new(f->s.store);
    assert_ok(masters_read(f->s.store, &all, &f->e));
    masters_find(&all, 1)->state = MASTER_CURRENT;
    masters_find(&all, 2)->state = MASTER_DESTROYING;
    master_put(txn, masters_find(&all, 1));
    master_put(txn, masters_find(&all, 2));
    life_commit(f, txn);
    reopen(f);
    (void)run(f, 0);
    assert_int_equal(master_of(f, 2).state, MASTER_RETIRED);
    assert_true(f->hsm->there[HSM_MASTER][2]);
    (void)life_events(f, "system:master", &ev);
    assert_non_null(memmem(ev.after.p, ev.after.n, "\"under_it\":33", 13)); /* 30 versions, 3 tenants */
}

/* So many a second, and a quarter of that while there is traffic. */
static void at_a_pace(void **state)
{
    struct life *f = *state;
    const struct mover_options o = {.s = &f->s, .pace = 64};
    fill(f, VERSIONS);
    ask(f, 2);
    struct mover *m = mover_new(&o);
    uint64_t passed[2];
    for (unsigned busy = 0; busy < 2; busy++) {
        atomic_store(&f->s.calls_in_flight, busy ? MOVER_BUSY : 0);
        const uint64_t before = moving_of(f).done;
        for (unsigned i = 0; i < (busy ? 100 : 20); i++) { /* two seconds, ten seconds */
            while (mover_step(m) == MOVER_AGAIN)
                continue;
            fake_clock_advance(&f->clock, SECOND / 10);
        }
        passed[busy] = moving_of(f).done - before;
    }
    assert_in_range(passed[0], 64, 4 * 64);  /* what it began with, and two seconds' worth */
    assert_in_range(passed[1], 64, 5 * 64);
    assert_int_equal(moving_of(f).state, MOVING_MOVING);
    struct moving v = moving_of(f);
    struct store_txn *txn = store_txn_new(f->s.store);
    assert_ok(moving_to(&v, MOVING_PAUSED, 1, &f->e));
    moving_put(txn, &v);
    life_commit(f, txn);
    atomic_store(&f->s.calls_in_flight, 0);
    fake_clock_advance(&f->clock, 1000 * SECOND);
    assert_int_equal(mover_step(m), MOVER_REST);
    assert_int_equal(moving_of(f).done, v.done);
    mover_free(m);
}

/* The thread, by the real clock, while others look at it and wake it, and keys are used. */
static void by_its_own_thread(void **state)
{
    struct life *f = *state;
    struct mover_status st;
    const struct timespec moment = {.tv_nsec = 1000000};
    fill(f, 4);
    struct seal *seals = seal_all(f, 4);
    f->s.clock = &clock_system;
    const struct mover_options o = {.s = &f->s, .pace = 100000};
    struct mover *m = mover_new(&o);
    const int64_t end_ms = clock_boot_ms(&clock_system) + 60000;
    mover_start(m);
    ask(f, 2);
    mover_wake(m);
    while (moving_of(f).state != MOVING_IDLE || keyring_master(f->s.keyring) != 2) {
        assert_true(clock_boot_ms(&clock_system) < end_ms);
        mover_status(m, &st);
        assert_false(st.failing);
        open_all(f, seals, 4);
        nanosleep(&moment, NULL);
    }
    assert_true(mover_steady(m)); /* it has looked at the clock by now */
    mover_free(m);
    assert_int_equal(left_under(f, 0, NULL), 0);
}

/* A store from before masters had records goes on as it is. */
static void records(void **state)
{
    struct life *f = *state;
    struct masters all;
    struct record r = {.kind = REC_META, .id = BYTES_LIT("master-1"), .body = BYTES_LIT("token")};
    struct store_txn *txn = store_txn_new(f->s.store);
    store_txn_put(txn, &r, STORE_ANY);
    life_commit(f, txn);
    reopen(f);
    assert_int_equal(keyring_master(f->s.keyring), 1);
    life_key(f, key_name(f, "acme", 0), 0, 0);
    ask(f, 2);
    run(f, 0);
    assert_int_equal(keyring_master(f->s.keyring), 2);
    assert_ok(masters_read(f->s.store, &all, &f->e));
    assert_int_equal(all.n, 2);
    static const char *const bad[] = {"", "\1", "\1\2\1", "tokens", "\2\2\1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        r.body = bytes_str(bad[i]);
        txn = store_txn_new(f->s.store);
        store_txn_put(txn, &r, STORE_ANY);
        life_commit(f, txn);
        assert_fails(masters_read(f->s.store, &all, &f->e), ERR_DATA_LOSS, "RECORD_MALFORMED");
    }
    r.id = BYTES_LIT("moving-master");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct moving v;
        r.body = bytes_str(bad[i]);
        txn = store_txn_new(f->s.store);
        store_txn_put(txn, &r, STORE_ANY);
        life_commit(f, txn);
        assert_fails(moving_read(f->s.store, &v, &f->e), ERR_DATA_LOSS, "RECORD_MALFORMED");
    }
}

#define LIFE(test) cmocka_unit_test_setup_teardown(test, life_start, life_stop)
int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables),        LIFE(everything_moves),   LIFE(killed_after_each_step),
        LIFE(killed_at_each_token_call), LIFE(what_changes_meanwhile), LIFE(who_was_on_the_way), LIFE(what_is_made_in_between), LIFE(a_keyring_that_has_not_heard),
        LIFE(who_holds_a_key),           LIFE(saved_before_use),   LIFE(while_the_token_is_away),
        LIFE(one_that_is_broken),        LIFE(not_destroyed_while_needed), LIFE(at_a_pace),
        LIFE(by_its_own_thread),         LIFE(records),
    };
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
