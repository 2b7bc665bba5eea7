#include "base/clock.h"

#include "base/bytes.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

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

bool clock_boot_id(uint8_t out[BOOT_ID_BYTES])
{
    enum { TEXT_BYTES = 36 };
    char text[TEXT_BYTES], hex[TEXT_BYTES];
    size_t n = 0;
    memset(out, 0, BOOT_ID_BYTES);
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text);
    if (fd >= 0)
        close(fd);
    for (ssize_t i = 0; i < got; i++)
        if (text[i] != '-')
            hex[n++] = text[i];
    return hex_decode(BYTES(hex, n), out, BOOT_ID_BYTES);
}

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
