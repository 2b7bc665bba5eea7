/* Nonces never come twice: not in one thread, over threads, over forks, nor from two copies of one state (a cloned machine). */
#include "vectors.h"

#include "kms/crypto/lockmem.h"
#include "kms/crypto/nonce.h"
#include "kms/crypto/nonce_state.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

enum { EACH = 2000, NONCE = 24 };
typedef uint8_t nonce_list[EACH][NONCE];

static int compare(const void *a, const void *b)
{
    return memcmp(a, b, NONCE);
}

static size_t repeats(uint8_t (*list)[NONCE], size_t n)
{
    size_t found = 0;
    qsort(list, n, NONCE, compare);
    for (size_t i = 0; i + 1 < n; i++)
        found += memcmp(list[i], list[i + 1], NONCE) == 0;
    return found;
}

static void fill_list(nonce_list list)
{
    for (size_t i = 0; i < EACH; i++)
        nonce_fill(list[i], NONCE);
}

/* The test of the test: it does see a repeat. */
static void repeats_are_found(void **state)
{
    (void)state;
    nonce_list list;
    fill_list(list);
    memcpy(list[EACH - 1], list[3], NONCE);
    assert_int_equal(repeats(list, EACH), 1);
}

static void *thread_main(void *arg)
{
    fill_list(*(nonce_list *)arg);
    return NULL;
}

static void threads_do_not_share(void **state)
{
    (void)state;
    static nonce_list lists[4];
    pthread_t t[4];
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&t[i], NULL, thread_main, &lists[i]), 0);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_join(t[i], NULL), 0);
    assert_int_equal(repeats(lists[0], 4 * (size_t)EACH), 0);
}

static void a_state_goes_with_its_thread(void **state)
{
    (void)state;
    static nonce_list list;
    pthread_t t;
    uint8_t mine[NONCE];
    nonce_fill(mine, sizeof mine);
    size_t before = lockmem_used();
    assert_true(before >= 1);
    assert_int_equal(pthread_create(&t, NULL, thread_main, &list), 0);
    assert_int_equal(pthread_join(t, NULL), 0);
    assert_int_equal(lockmem_used(), before); /* given back, and so wiped (test_lockmem) */
}

static void read_all(int fd, void *to, size_t n)
{
    for (uint8_t *p = to; n > 0;) {
        ssize_t got = read(fd, p, n);
        assert_true(got > 0);
        p += got;
        n -= (size_t)got;
    }
}

static void two_forks_do_not_share(void **state)
{
    (void)state;
    static nonce_list lists[3]; /* parent and two children, from the middle of one batch */
    uint8_t warm[NONCE];
    nonce_fill(warm, sizeof warm);
    for (size_t i = 1; i < 3; i++) {
        int ends[2];
        assert_int_equal(pipe(ends), 0);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            fill_list(lists[0]);
            for (size_t done = 0; done < sizeof lists[0];) {
                ssize_t n = write(ends[1], (uint8_t *)lists[0] + done, sizeof lists[0] - done);
                if (n <= 0)
                    _exit(1);
                done += (size_t)n;
            }
            _exit(0);
        }
        close(ends[1]);
        read_all(ends[0], lists[i], sizeof lists[i]);
        close(ends[0]);
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    fill_list(lists[0]);
    assert_int_equal(repeats(lists[0], 3 * (size_t)EACH), 0);
}

struct world {
    struct fake_rng rng;
    struct fake_clock clock;
    struct nonce_sources src;
    struct nonce_state state;
};

static void world_init(struct world *w, uint64_t seed)
{
    memset(w, 0, sizeof *w);
    fake_rng_init(&w->rng, seed);
    fake_clock_init(&w->clock, 1700000000000000000, 5000000000);
    w->src = (struct nonce_sources){.rng = &w->rng.r, .clock = &w->clock.c};
    memcpy(w->src.boot_id, "boot id of 16 by", 16);
}

static void take(struct world *w, uint8_t out[NONCE])
{
    nonce_state_fill(&w->state, &w->src, out, NONCE);
}

/* A snapshot copies the state in the middle of a batch; one copy's clock reads a nanosecond later: nothing is shared. The
 * twin pins what the clock is for: at the very same nanosecond the rest of a batch is the same, until fresh randomness. */
static void two_clones_do_not_share(void **state)
{
    (void)state;
    static uint8_t all[4 * NONCE_BATCH][NONCE];
    static struct world one, two;
    uint8_t a[NONCE], b[NONCE];
    world_init(&one, 1);
    take(&one, a);

    world_init(&two, 2);
    two.state = one.state;
    fake_clock_advance(&two.clock, 1);
    for (size_t i = 0; i < 2 * NONCE_BATCH; i++) {
        take(&one, all[2 * i]);
        take(&two, all[2 * i + 1]);
    }
    assert_int_equal(repeats(all, sizeof all / NONCE), 0);

    world_init(&one, 1);
    world_init(&two, 2);
    take(&one, a);
    two.state = one.state;
    size_t same = 0;
    for (size_t i = 0; i < 2 * NONCE_BATCH; i++) {
        take(&one, a);
        take(&two, b);
        same += memcmp(a, b, NONCE) == 0;
    }
    assert_int_equal(same, NONCE_BATCH - 1);
}

static void a_batch_ends_by_time_in_both_directions(void **state)
{
    (void)state;
    static struct world w;
    uint8_t before[HMAC_STATES_BYTES], out[NONCE];
    for (int direction = -1; direction <= 1; direction += 2) {
        world_init(&w, 1);
        take(&w, out);
        memcpy(before, w.state.states, sizeof before);
        take(&w, out);
        assert_memory_equal(before, w.state.states, sizeof before);
        fake_clock_step_wall(&w.clock, direction * ((int64_t)NONCE_AGE_NS + 1));
        take(&w, out);
        assert_memory_not_equal(before, w.state.states, sizeof before);
    }
}

/* What may become a key cannot be computed from the state before or after. */
static void long_requests_stand_alone(void **state)
{
    (void)state;
    static struct world w, later;
    uint8_t key[32], again[NONCE + 1];
    world_init(&w, 1);
    nonce_state_fill(&w.state, &w.src, key, sizeof key);
    later = w;
    later.src.rng = &later.rng.r;
    later.src.clock = &later.clock.c;
    later.state.counter = 0; /* roll back all that can be guessed */
    nonce_state_fill(&later.state, &later.src, again, NONCE);
    assert_memory_not_equal(key, again, NONCE);

    /* And who knew the state before, and the clock, does not know what fresh randomness made. */
    world_init(&w, 1);
    take(&w, again);
    later = w;
    later.src.clock = &later.clock.c;
    fake_rng_init(&later.rng, 2);
    later.src.rng = &later.rng.r;
    nonce_state_fill(&w.state, &w.src, key, sizeof key);
    nonce_state_fill(&later.state, &later.src, again, NONCE + 1);
    assert_memory_not_equal(key, again, NONCE);
}

static void every_length_is_filled_whole(void **state)
{
    (void)state;
    static uint8_t out[5000], zero[64];
    for (size_t n = 1; n < sizeof out; n = n * 3 + 1) {
        memset(out, 0, sizeof out);
        nonce_fill(out, n);
        assert_memory_equal(out + n, zero, sizeof out - n < sizeof zero ? sizeof out - n : sizeof zero);
        if (n >= 16)
            assert_memory_not_equal(out + n - 16, zero, 16);
    }
    nonce_fill(out, 0);
}

/* A mean of bits, seven standard deviations wide: says "not constant, not text", no more. */
static void bits_are_even(void **state)
{
    (void)state;
    static nonce_list list;
    size_t ones = 0, bits = sizeof list * 8;
    fill_list(list);
    for (size_t i = 0; i < sizeof list; i++)
        ones += (size_t)__builtin_popcount(((uint8_t *)list)[i]);
    assert_in_range(ones, bits / 2 - 2200, bits / 2 + 2200);
}

/* ---- a boot id that cannot be read: random bytes of the process stand in for it ------------------------------------------ */
int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
ssize_t __real_read(int fd, void *p, size_t n);
ssize_t __wrap_read(int fd, void *p, size_t n);
static bool no_open, short_read;
static unsigned faults;
int __wrap_open(const char *path, int flags, ...)
{
    faults += no_open;
    return no_open ? -1 : __real_open(path, flags);
}
ssize_t __wrap_read(int fd, void *p, size_t n)
{
    faults += short_read;
    return short_read ? 7 : __real_read(fd, p, n);
}

/* One nonce of a child for which that went wrong, made before this process has made one: it is read once. */
static bool nonce_without_boot_id(bool open_fails, uint8_t out[NONCE])
{
    int ends[2];
    if (pipe(ends) != 0)
        return false;
    pid_t child = fork();
    if (child == 0) {
        uint8_t made[NONCE];
        no_open = open_fails;
        short_read = !open_fails;
        nonce_fill(made, sizeof made);
        no_open = short_read = false;
        _exit(faults == 1 && write(ends[1], made, sizeof made) == sizeof made ? 0 : 1);
    }
    int status = -1;
    bool good = child > 0 && __real_read(ends[0], out, NONCE) == NONCE && waitpid(child, &status, 0) == child && status == 0;
    close(ends[0]);
    close(ends[1]);
    return good;
}

static uint8_t without[4][NONCE];
static bool made_without = true;
static void without_a_boot_id_nonces_are_still_apart(void **state)
{
    (void)state;
    assert_true(made_without);
    assert_int_equal(repeats(without, 4), 0);
}

int main(void)
{
    for (size_t i = 0; i < 4; i++)
        made_without = made_without && nonce_without_boot_id(i % 2, without[i]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_boot_id_nonces_are_still_apart),
        cmocka_unit_test(repeats_are_found),
        cmocka_unit_test(threads_do_not_share),
        cmocka_unit_test(a_state_goes_with_its_thread),
        cmocka_unit_test(two_forks_do_not_share),
        cmocka_unit_test(two_clones_do_not_share),
        cmocka_unit_test(a_batch_ends_by_time_in_both_directions),
        cmocka_unit_test(long_requests_stand_alone),
        cmocka_unit_test(every_length_is_filled_whole),
        cmocka_unit_test(bits_are_even),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
