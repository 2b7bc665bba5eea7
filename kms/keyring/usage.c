/* The table of what is new: rows in chunks that never move, found by open addressing over (kvid, principal, primary). */
#include "kms/keyring/usage_rows.h"

#include <stdlib.h>
#include <string.h>

enum { CHUNKS_KEPT = 2, SWEEP_ALL_BELOW = 16 };

struct usage_table *usage_table_new(size_t rows_max)
{
    struct usage_table *t = calloc(1, sizeof *t);
    size_t slots = 64;
    INVARIANT(t != NULL && rows_max > 0 && rows_max <= USAGE_ROWS_MAX);
    while (slots < rows_max * 2)
        slots *= 2;
    t->rows_max = rows_max;
    t->mask = slots - 1;
    t->slots = calloc(slots, sizeof *t->slots);
    t->chunks = calloc((rows_max + USAGE_CHUNK - 1) / USAGE_CHUNK, sizeof *t->chunks);
    INVARIANT(t->slots != NULL && t->chunks != NULL);
    buf_init(&t->names, rows_max * USAGE_NAME_MAX);
    return t;
}

static void free_chunks(struct usage_table *t, size_t keep)
{
    for (; t->nchunks > keep; t->nchunks--)
        free(t->chunks[t->nchunks - 1]);
}

void usage_table_free(struct usage_table *t)
{
    if (t == NULL)
        return;
    free_chunks(t, 0);
    buf_release(&t->names);
    free(t->chunks);
    free(t->slots);
    free(t);
}

size_t usage_table_rows(const struct usage_table *t)
{
    return t->nrows;
}

/* Few rows in a large table: only their slots are touched. */
void usage_table_clear(struct usage_table *t)
{
    if (t->nrows > t->mask / SWEEP_ALL_BELOW)
        memset(t->slots, 0, (t->mask + 1) * sizeof *t->slots);
    else
        for (size_t i = 0; i < t->nrows; i++)
            t->slots[usage_row(t, i)->slot] = 0;
    t->nrows = 0;
    t->names.n = 0;
    free_chunks(t, CHUNKS_KEPT);
}

/* The kvid is random; the name is an administrator's. */
static uint64_t hash_of(const struct event_use *use, struct bytes name)
{
    const uint64_t k = 0x9e3779b97f4a7c15u;
    uint64_t h, word;
    memcpy(&h, use->kvid, sizeof h);
    h ^= (uint64_t)use->primary << 32 | name.n;
    for (; name.n >= sizeof word; name = BYTES(name.p + sizeof word, name.n - sizeof word)) {
        memcpy(&word, name.p, sizeof word);
        h = (h ^ word) * k;
        h ^= h >> 29;
    }
    word = 0;
    if (name.n > 0)
        memcpy(&word, name.p, name.n);
    h = (h ^ word) * k;
    return h ^ h >> 32;
}

static bool is_row(const struct usage_table *t, const struct usage_row *r, uint64_t hash, const struct usage_use *u)
{
    return r->hash == hash && memcmp(r->kvid, u->use->kvid, sizeof r->kvid) == 0 && r->primary == u->use->primary &&
           bytes_equal(usage_row_name(t, r), u->principal) && memcmp(r->tenant, u->tenant, sizeof r->tenant) == 0;
}

static struct usage_row *new_row(struct usage_table *t, size_t slot, uint64_t hash, const struct usage_use *u)
{
    INVARIANT(t->nrows < t->rows_max);
    if (t->nrows == t->nchunks * USAGE_CHUNK)
        INVARIANT((t->chunks[t->nchunks++] = malloc(USAGE_CHUNK * sizeof(struct usage_row))) != NULL);
    struct usage_row *r = usage_row(t, t->nrows);
    *r = (struct usage_row){.hash = hash, .slot = (uint32_t)slot, .primary = u->use->primary, .name_at = (uint32_t)t->names.n,
                            .name_n = (uint8_t)u->principal.n};
    memcpy(r->kvid, u->use->kvid, sizeof r->kvid);
    memcpy(r->tenant, u->tenant, sizeof r->tenant);
    buf_put_bytes(&t->names, u->principal);
    INVARIANT(!t->names.overflow);
    t->slots[slot] = (uint32_t)++t->nrows;
    return r;
}

bool usage_table_room(const struct usage_table *t, size_t n)
{
    return t->rows_max - t->nrows >= n;
}

void usage_table_add(struct usage_table *t, const struct usage_use *u)
{
    INVARIANT(u->principal.n <= USAGE_NAME_MAX);
    const uint64_t hash = hash_of(u->use, u->principal);
    struct usage_row *r = NULL;
    size_t slot = hash & t->mask;
    for (; t->slots[slot] != 0; slot = (slot + 1) & t->mask) {
        r = usage_row(t, t->slots[slot] - 1);
        if (is_row(t, r, hash, u))
            break;
        r = NULL;
    }
    if (r == NULL)
        r = new_row(t, slot, hash, u);
    r->items[u->use->what] += u->use->items;
    if (u->at_ns > r->last_ns)
        r->last_ns = u->at_ns;
}
