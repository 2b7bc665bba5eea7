#include "kms/limit/limit.h"

#include "kms/limit/table.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { MINUTE_MS = 60000, OTHERS = 32 };

/* How many of (source, code) went through in full in the minute that began at start_ms. */
struct allowance {
    struct tag tag;
    int64_t start_ms;
    unsigned used;
};
/* Repeats of (source, action, code, reason) waiting to be emitted. */
struct counted {
    struct tag tag;
    int64_t start_ms;
    struct refusal_count row;
};
struct refusals {
    const struct clock *clock;
    unsigned full_per_minute;
    struct table allowance_table, count_table;
    struct allowance *allowances;
    struct counted *counts;
    atomic_size_t waiting; /* counts in use: an idle drain looks at nothing */
    pthread_mutex_t others_lock;
    struct counted others[OTHERS]; /* one a code; the last takes every further code */
};

RESULT refusals_new(const struct clock *c, size_t max_sources, unsigned full_per_minute, struct refusals **ret, struct err *e)
{
    struct refusals *r = calloc(1, sizeof *r);
    INVARIANT(r);
    if (table_init(&r->allowance_table, max_sources, e).failed) {
        free(r);
        return (struct result){1};
    }
    struct err impossible;
    INVARIANT(!table_init(&r->count_table, max_sources, &impossible).failed);
    r->allowances = calloc(table_slots(&r->allowance_table), sizeof *r->allowances);
    r->counts = calloc(table_slots(&r->count_table), sizeof *r->counts);
    INVARIANT(r->allowances && r->counts && pthread_mutex_init(&r->others_lock, NULL) == 0);
    r->clock = c;
    r->full_per_minute = full_per_minute;
    *ret = r;
    return ok();
}

void refusals_free(struct refusals *r)
{
    if (!r)
        return;
    table_release(&r->allowance_table);
    table_release(&r->count_table);
    pthread_mutex_destroy(&r->others_lock);
    free(r->allowances);
    free(r->counts);
    free(r);
}

/* Fields are length-prefixed in what is hashed, so that no two tuples read the same. */
static struct tag tag_of(const struct table *t, struct bytes source, const char *const *words, size_t n)
{
    struct tag first = table_tag(t, source);
    uint8_t block[16 + 3 * 66];
    size_t at = 16;
    memcpy(block, &first, 16);
    for (size_t i = 0; i < n; i++) {
        size_t len = strnlen(words[i], 64);
        put_be16(block + at, (uint16_t)len);
        memcpy(block + at + 2, words[i], len);
        at += 2 + len;
    }
    return table_tag(t, BYTES(block, at));
}

static void copy_text(char *out, size_t size, struct bytes text)
{
    size_t n = text.n < size - 1 ? text.n : size - 1;
    if (n)
        memcpy(out, text.p, n);
    out[n] = '\0';
}

static bool take_allowance(struct refusals *r, struct tag tag, int64_t now_ms)
{
    struct place p = table_place(&r->allowance_table, tag);
    struct allowance *found = NULL, *usable = NULL;
    bool full = false;
    pthread_mutex_lock(p.lock);
    for (struct allowance *a = &r->allowances[p.first], *end = a + LIMIT_WAYS; a < end && !found; a++) {
        bool over = (a->tag.a == 0 && a->tag.b == 0) || now_ms - a->start_ms >= MINUTE_MS;
        if (tag_equal(a->tag, p.tag))
            found = a;
        if (over && !usable)
            usable = a;
    }
    if (found && now_ms - found->start_ms >= MINUTE_MS)
        *found = (struct allowance){.tag = p.tag, .start_ms = now_ms};
    if (!found && usable) {
        *usable = (struct allowance){.tag = p.tag, .start_ms = now_ms};
        found = usable;
    }
    if (found && found->used < r->full_per_minute) {
        found->used++;
        full = true;
    }
    pthread_mutex_unlock(p.lock);
    return full;
}

static void count_other(struct refusals *r, const char *code, int64_t now_ms)
{
    pthread_mutex_lock(&r->others_lock);
    struct counted *c = r->others;
    while (c < &r->others[OTHERS - 1] && c->row.repeats && strncmp(c->row.code, code, sizeof c->row.code - 1) != 0)
        c++;
    if (c->row.repeats == 0) {
        *c = (struct counted){.start_ms = now_ms};
        copy_text(c->row.source, sizeof c->row.source, BYTES_LIT("other"));
        copy_text(c->row.code, sizeof c->row.code, c == &r->others[OTHERS - 1] ? BYTES_LIT("OTHER") : bytes_str(code));
    }
    c->row.repeats++;
    pthread_mutex_unlock(&r->others_lock);
}

static bool count_named(struct refusals *r, struct tag tag, int64_t now_ms, struct bytes source, const char *const words[3])
{
    struct place p = table_place(&r->count_table, tag);
    struct counted *found = NULL, *empty = NULL;
    pthread_mutex_lock(p.lock);
    for (struct counted *c = &r->counts[p.first], *end = c + LIMIT_WAYS; c < end && !found; c++) {
        if (c->row.repeats == 0)
            empty = empty ? empty : c;
        if (c->row.repeats && tag_equal(c->tag, p.tag))
            found = c;
    }
    if (!found && empty) {
        found = empty;
        *found = (struct counted){.tag = p.tag, .start_ms = now_ms};
        copy_text(found->row.source, sizeof found->row.source, source);
        copy_text(found->row.action, sizeof found->row.action, bytes_str(words[0]));
        copy_text(found->row.code, sizeof found->row.code, bytes_str(words[1]));
        copy_text(found->row.reason, sizeof found->row.reason, bytes_str(words[2]));
        atomic_fetch_add_explicit(&r->waiting, 1, memory_order_relaxed);
    }
    if (found)
        found->row.repeats++;
    pthread_mutex_unlock(p.lock);
    return found != NULL;
}

bool refusals_full(struct refusals *r, struct bytes source, const char *action, const char *code, const char *reason)
{
    int64_t now_ms = clock_boot_ms(r->clock);
    const char *const words[3] = {action ? action : "", code ? code : "", reason ? reason : ""};
    if (take_allowance(r, tag_of(&r->allowance_table, source, &words[1], 1), now_ms))
        return true;
    if (!count_named(r, tag_of(&r->count_table, source, words, 3), now_ms, source, words))
        count_other(r, words[1], now_ms);
    return false;
}

static bool emit(struct counted *c, bool all, int64_t now_ms, struct refusal_count *out)
{
    if (c->row.repeats == 0 || (!all && now_ms - c->start_ms < MINUTE_MS))
        return false;
    *out = c->row;
    c->row.repeats = 0;
    return true;
}

size_t refusals_drain(struct refusals *r, bool all, struct refusal_count *out, size_t max)
{
    int64_t now_ms = clock_boot_ms(r->clock);
    size_t n = 0, slots = table_slots(&r->count_table);
    pthread_mutex_lock(&r->others_lock);
    for (size_t i = 0; i < OTHERS && n < max; i++)
        n += emit(&r->others[i], all, now_ms, &out[n]);
    pthread_mutex_unlock(&r->others_lock);
    if (atomic_load_explicit(&r->waiting, memory_order_relaxed) == 0)
        return n;
    for (size_t set = 0; set < slots && n < max; set += LIMIT_WAYS) {
        pthread_mutex_t *lock = &r->count_table.locks[set / LIMIT_WAYS % LIMIT_LOCKS];
        size_t before = n;
        pthread_mutex_lock(lock);
        for (size_t i = set; i < set + LIMIT_WAYS && n < max; i++)
            n += emit(&r->counts[i], all, now_ms, &out[n]);
        pthread_mutex_unlock(lock);
        if (n > before)
            atomic_fetch_sub_explicit(&r->waiting, n - before, memory_order_relaxed);
    }
    return n;
}
