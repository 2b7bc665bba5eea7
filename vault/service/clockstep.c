#include "vault/service/clockstep.h"

enum { NS_PER_MS = 1000000, TORN_MS = 100, TRIES = 10 };

/* Both clocks at one moment. On a busy machine a thread may be put aside between two readings: such a pair says nothing. */
static bool read_both(const struct clock *c, int64_t *ret_boot_ns, int64_t *ret_offset_ns)
{
    int64_t before = clock_boot_ns(c), wall = clock_wall_ns(c), after = clock_boot_ns(c);
    *ret_boot_ns = after;
    *ret_offset_ns = wall - after;
    return after - before < (int64_t)TORN_MS * NS_PER_MS;
}

void clockstep_init(struct clockstep *s, const struct clock *c)
{
    int64_t boot, offset;
    for (int i = 0; i < TRIES && !read_both(c, &boot, &offset); i++)
        continue;
    *s = (struct clockstep){.offset_ns = offset, .looked_boot_ns = boot, .started_boot_ns = boot, .tokens = CLOCKSTEP_BURST,
                            .token_boot_ms = boot / NS_PER_MS};
}

static void refill(struct clockstep *s, int64_t boot_ms)
{
    int64_t earned = (boot_ms - s->token_boot_ms) / CLOCKSTEP_EVERY_MS;
    if (earned <= 0)
        return;
    s->token_boot_ms += earned * CLOCKSTEP_EVERY_MS;
    s->tokens = earned >= CLOCKSTEP_BURST - s->tokens ? CLOCKSTEP_BURST : s->tokens + (int)earned;
}

bool clockstep_look(struct clockstep *s, const struct clock *c, int64_t *ret_expected_ns)
{
    int64_t boot, offset;
    if (!read_both(c, &boot, &offset)) /* the next look sees what this one may have missed */
        return false;
    int64_t slew = (boot - s->looked_boot_ns) / 1000000 * CLOCKSTEP_SLEW_PPM, off = offset - s->offset_ns;
    s->looked_boot_ns = boot;
    refill(s, boot / NS_PER_MS);
    if (off > -(int64_t)CLOCKSTEP_MIN_MS * NS_PER_MS && off < (int64_t)CLOCKSTEP_MIN_MS * NS_PER_MS) {
        s->offset_ns += off > slew ? slew : off < -slew ? -slew : off; /* a time service at work: it is followed */
        return false;
    }
    *ret_expected_ns = boot + s->offset_ns;
    s->offset_ns = offset;
    s->stepped = true;
    s->stepped_boot_ms = boot / NS_PER_MS;
    if (s->tokens == 0)
        return false;
    s->tokens--;
    return true;
}

bool clockstep_settled(const struct clockstep *s, const struct clock *c, int64_t ms)
{
    return !s->stepped || clock_boot_ms(c) - s->stepped_boot_ms >= ms;
}

bool clockstep_steady(const struct clockstep *s, const struct clock *c, int64_t ms)
{
    return clock_boot_ms(c) - s->started_boot_ns / NS_PER_MS >= ms && clockstep_settled(s, c, ms);
}
