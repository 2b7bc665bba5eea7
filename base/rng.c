#include "base/rng.h"

#include "base/err.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/random.h>

static void system_fill(const struct rng *r, void *out, size_t n)
{
    uint8_t *p = out;

    (void)r;
    while (n > 0) {
        ssize_t got = getrandom(p, n, 0);
        if (got < 0 && errno == EINTR)
            continue;
        INVARIANT(got > 0);
        p += got;
        n -= (size_t)got;
    }
}

const struct rng rng_system = {.fill = system_fill};

static uint64_t splitmix64(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static void fake_fill(const struct rng *r, void *out, size_t n)
{
    struct fake_rng *f = (struct fake_rng *)(uintptr_t)r; /* r is its first member, and never const in truth */
    uint8_t *p = out;

    while (n > 0) {
        uint64_t step = 0x9e3779b97f4a7c15;
        uint64_t v = splitmix64(atomic_fetch_add(&f->state, step) + step);
        size_t k = n < sizeof(v) ? n : sizeof(v);
        memcpy(p, &v, k);
        p += k;
        n -= k;
    }
}

void fake_rng_init(struct fake_rng *f, uint64_t seed)
{
    _Static_assert(offsetof(struct fake_rng, r) == 0, "fake_fill casts");
    f->r = (struct rng){.fill = fake_fill};
    atomic_init(&f->state, seed);
}
