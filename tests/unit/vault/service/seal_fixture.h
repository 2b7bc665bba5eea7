/*
 * Purpose: what the tests of the seal secret's rotation share, beside moving_fixture.h: steps of it one at a time, whole rotations, and how
 *          many rows are left under an older secret.
 * Owns:    nothing. Threads: one. Errors: a failed step fails the test. Limits: STEPS_MAX. Secrets: none worth keeping.
 */
#ifndef TESTS_UNIT_VAULT_SERVICE_SEAL_FIXTURE_H
#define TESTS_UNIT_VAULT_SERVICE_SEAL_FIXTURE_H

#include "tests/unit/vault/service/moving_fixture.h"

/* As the relay would, once the journal has them: the newest stays. */
static inline void take_events(struct life *f)
{
    assert_ok(store_outbox_trim(f->s.store, store_outbox_last(f->s.store), &f->e));
}

/* A step at a time, each by a mover of its own. Ends where it rests; at_most 0: however many. */
static inline unsigned turn(struct life *f, unsigned at_most)
{
    unsigned n = 0;
    struct moving was, now = moving_of(f, HSM_SEAL);
    do {
        was = now;
        take_events(f);
        (void)run(f, 1);
        now = moving_of(f, HSM_SEAL);
        n++;
        assert_true(n < STEPS_MAX);
    } while ((was.revision != now.revision || now.state == MOVING_PROVING) && (at_most == 0 || n < at_most));
    return n;
}

static inline void rotate_to(struct life *f, uint32_t to)
{
    ask(f, HSM_SEAL, to);
    (void)turn(f, 0);
    assert_int_equal(moving_of(f, HSM_SEAL).state, MOVING_IDLE);
    assert_int_equal(store_seal_epoch(f->s.store), to);
}

static inline void end_of(struct life *f, uint32_t version)
{
    doom(f, HSM_SEAL, version);
    take_events(f);
    (void)run(f, 1);
}

static inline uint64_t left(struct life *f)
{
    struct store_seal_proof p;
    take_events(f);
    assert_ok(store_seal_prove(f->s.store, NULL, NULL, &p, &f->e));
    return p.left;
}

#define LIFE(test) cmocka_unit_test_setup_teardown(test, life_start, life_stop)

#endif
