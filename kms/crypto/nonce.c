#include "kms/crypto/nonce.h"

#include "kms/crypto/lockmem.h"
#include "kms/crypto/nonce_state.h"

#include <pthread.h>

static struct nonce_sources sources; /* written once, before the first use */
static pthread_key_t thread_key;
static pthread_once_t setup_once = PTHREAD_ONCE_INIT;
static __thread struct nonce_state *mine;

/* The boot id only tells machines apart once more. Where it cannot be read (a sandbox without /proc), random bytes of this
 * process do that too. */
static void mix_boot_id(uint8_t out[BOOT_ID_BYTES])
{
    uint8_t boot[BOOT_ID_BYTES];
    rng_fill(&rng_system, out, BOOT_ID_BYTES);
    (void)clock_boot_id(boot);
    for (size_t i = 0; i < BOOT_ID_BYTES; i++)
        out[i] ^= boot[i];
}

static void state_release(void *s)
{
    lockmem_give(s);
    mine = NULL;
}

static void setup(void)
{
    sources = (struct nonce_sources){.rng = &rng_system, .clock = &clock_system};
    mix_boot_id(sources.boot_id);
    INVARIANT(pthread_key_create(&thread_key, state_release) == 0);
}

void nonce_fill(void *out, size_t n)
{
    if (mine == NULL) {
        pthread_once(&setup_once, setup);
        struct nonce_state *s = lockmem_take(sizeof *s);
        INVARIANT(s != NULL && pthread_setspecific(thread_key, s) == 0);
        mine = s;
    }
    nonce_state_fill(mine, &sources, out, n);
}
