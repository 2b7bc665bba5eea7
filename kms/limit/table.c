#include "kms/limit/table.h"

#include "base/rng.h"

#include <sodium.h>
#include <string.h>

RESULT table_init(struct table *t, size_t keys, struct err *e)
{
    if (keys < 1 || keys > LIMIT_KEYS_MAX)
        FAIL(e, ERR_INVALID, NULL, "a limit table of %zu keys; at most %d", keys, LIMIT_KEYS_MAX);
    t->sets = 1;
    while (table_slots(t) < keys * 2)
        t->sets *= 2;
    rng_fill(&rng_system, t->hash_key, sizeof t->hash_key);
    for (size_t i = 0; i < LIMIT_LOCKS; i++)
        INVARIANT(pthread_mutex_init(&t->locks[i], NULL) == 0);
    return ok();
}

void table_release(struct table *t)
{
    for (size_t i = 0; i < LIMIT_LOCKS; i++)
        pthread_mutex_destroy(&t->locks[i]);
}

struct tag table_tag(const struct table *t, struct bytes key)
{
    struct tag tag;
    uint8_t out[crypto_shorthash_siphashx24_BYTES];
    _Static_assert(sizeof tag == sizeof out, "a tag is one SipHash-2-4-128");
    crypto_shorthash_siphashx24(out, key.p, key.n, t->hash_key);
    memcpy(&tag, out, sizeof tag);
    if (tag.a == 0 && tag.b == 0)
        tag.b = 1; /* all zeros marks an empty slot */
    return tag;
}

struct place table_place(struct table *t, struct tag tag)
{
    size_t set = (size_t)(tag.a & (t->sets - 1));
    return (struct place){.tag = tag, .first = set * LIMIT_WAYS, .lock = &t->locks[set % LIMIT_LOCKS]};
}
