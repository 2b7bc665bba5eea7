#include "kms/crypto/nonce_state.h"

#include <string.h>
#include <unistd.h>

enum { FRESH_BYTES = 32 };

static void refill(struct nonce_state *s, const struct nonce_sources *src, int64_t wall_ns)
{
    static const char domain[] = "clv-nonce-1";
    uint8_t fresh[FRESH_BYTES], rest[32], key[HMAC_BYTES];
    rng_fill(src->rng, fresh, sizeof fresh);
    put_be64(rest, (uint64_t)getpid());
    put_be64(rest + 8, (uint64_t)wall_ns);
    put_be64(rest + 16, (uint64_t)clock_boot_ns(src->clock));
    put_be64(rest + 24, s->counter);
    hmac_states_mac(s->states,
                    (struct bytes[]){BYTES(domain, sizeof domain - 1), BYTES(fresh, sizeof fresh),
                                     BYTES(src->boot_id, sizeof src->boot_id), BYTES(rest, sizeof rest)},
                    4, key);
    hmac_states_init(BYTES(key, sizeof key), s->states);
    s->filled_wall_ns = wall_ns;
    s->left = NONCE_BATCH;
    wipe(fresh, sizeof fresh);
    wipe(key, sizeof key);
}

static bool stale(const struct nonce_state *s, int64_t wall_ns)
{
    return wall_ns < s->filled_wall_ns || wall_ns - s->filled_wall_ns > NONCE_AGE_NS;
}

void nonce_state_fill(struct nonce_state *s, const struct nonce_sources *src, void *out, size_t n)
{
    int64_t wall_ns = clock_wall_ns(src->clock);
    bool fresh_only = n > NONCE_SHORT;
    if (s->left == 0 || stale(s, wall_ns) || fresh_only)
        refill(s, src, wall_ns);
    uint8_t input[20], block[HMAC_BYTES], *to = out;
    put_be64(input, s->counter++);
    put_be64(input + 8, (uint64_t)wall_ns);
    for (uint32_t i = 0; n > 0; i++) {
        if (s->left == 0)
            refill(s, src, wall_ns);
        size_t take = n < sizeof block ? n : sizeof block;
        put_be32(input + 16, i);
        hmac_states_mac(s->states, (struct bytes[]){BYTES(input, sizeof input)}, 1, block);
        memcpy(to, block, take);
        to += take;
        n -= take;
        s->left--;
    }
    if (fresh_only)
        refill(s, src, wall_ns);
    wipe(block, sizeof block);
}
