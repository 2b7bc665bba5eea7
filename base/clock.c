#include "base/clock.h"

#include "base/err.h"

#include <stdatomic.h>
#include <stddef.h>
#include <time.h>

static int64_t read_ns(clockid_t id)
{
    struct timespec t;

    INVARIANT(clock_gettime(id, &t) == 0);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int64_t system_wall(const struct clock *c)
{
    (void)c;
    return read_ns(CLOCK_REALTIME);
}

static int64_t system_boot(const struct clock *c)
{
    (void)c;
    return read_ns(CLOCK_BOOTTIME);
}

const struct clock clock_system = {.wall_ns = system_wall, .boot_ns = system_boot};

/* The clock is the first member. */
static int64_t fake_wall(const struct clock *c)
{
    return atomic_load(&((const struct fake_clock *)(const void *)c)->wall);
}

static int64_t fake_boot(const struct clock *c)
{
    return atomic_load(&((const struct fake_clock *)(const void *)c)->boot);
}

void fake_clock_init(struct fake_clock *f, int64_t wall_ns, int64_t boot_ns)
{
    _Static_assert(offsetof(struct fake_clock, c) == 0, "fake_wall casts");
    f->c = (struct clock){.wall_ns = fake_wall, .boot_ns = fake_boot};
    atomic_init(&f->wall, wall_ns);
    atomic_init(&f->boot, boot_ns);
}

void fake_clock_advance(struct fake_clock *f, int64_t ns)
{
    atomic_fetch_add(&f->wall, ns);
    atomic_fetch_add(&f->boot, ns);
}

void fake_clock_step_wall(struct fake_clock *f, int64_t ns)
{
    atomic_fetch_add(&f->wall, ns);
}
