#include "base/arena.h"

#include <stdalign.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ARENA_ALIGN = 16, ARENA_FIRST_BYTES = 4000, ARENA_BLOCK_MAX_BYTES = 65536 };

struct arena_block {
    struct arena_block *next; /* older */
    size_t cap, used;
    alignas(ARENA_ALIGN) uint8_t data[];
};

void arena_init(struct arena *a, size_t max)
{
    *a = (struct arena){.max = max};
}

static struct arena_block *block_new(size_t cap, struct arena_block *next)
{
    struct arena_block *b = malloc(sizeof(*b) + cap);

    if (b != NULL)
        *b = (struct arena_block){.next = next, .cap = cap};
    return b;
}

static void block_free(struct arena_block *b)
{
    wipe(b->data, b->used);
    free(b);
}

void arena_reset(struct arena *a)
{
    a->refused = false;
    while (a->head != NULL && a->head->next != NULL) {
        struct arena_block *b = a->head;
        a->head = b->next;
        block_free(b);
    }
    if (a->head != NULL) {
        wipe(a->head->data, a->head->used);
        a->head->used = 0;
    }
    a->used = 0;
}

void arena_release(struct arena *a)
{
    arena_reset(a);
    free(a->head);
    a->head = NULL;
}

static bool block_grow(struct arena *a, size_t n)
{
    size_t cap = a->head == NULL ? ARENA_FIRST_BYTES : a->head->cap * 2;
    struct arena_block *b;

    if (cap > ARENA_BLOCK_MAX_BYTES)
        cap = ARENA_BLOCK_MAX_BYTES;
    if (cap < n)
        cap = n;
    b = block_new(cap, a->head);
    if (b == NULL)
        return false;
    a->head = b;
    return true;
}

static void *take(struct arena *a, size_t n)
{
    struct arena_block *b;
    void *p;

    if (n == 0)
        n = 1;
    if (n > a->max)
        return NULL;
    n = (n + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
    if (n == 0 || a->used > a->max || n - (ARENA_ALIGN - 1) > a->max - a->used)
        return NULL;
    if ((a->head == NULL || n > a->head->cap - a->head->used) && !block_grow(a, n))
        return NULL;
    b = a->head;
    p = b->data + b->used;
    b->used += n;
    a->used += n;
    return p;
}

void *arena_alloc(struct arena *a, size_t n)
{
    void *p = take(a, n);

    if (p == NULL)
        a->refused = true;
    return p;
}

void *arena_zalloc(struct arena *a, size_t n)
{
    void *p = arena_alloc(a, n);

    if (p != NULL)
        memset(p, 0, n);
    return p;
}

void *arena_dup(struct arena *a, const void *src, size_t n)
{
    void *p = arena_alloc(a, n);

    if (p != NULL && n > 0)
        memcpy(p, src, n);
    return p;
}

char *arena_strdup(struct arena *a, struct bytes s)
{
    char *p = s.n < SIZE_MAX ? arena_alloc(a, s.n + 1) : NULL;

    if (p == NULL)
        return NULL;
    if (s.n > 0)
        memcpy(p, s.p, s.n);
    p[s.n] = '\0';
    return p;
}

char *arena_printf(struct arena *a, const char *fmt, ...)
{
    va_list ap;
    char *p;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    INVARIANT(n >= 0);
    p = arena_alloc(a, (size_t)n + 1);
    if (p == NULL)
        return NULL;
    va_start(ap, fmt);
    (void)vsnprintf(p, (size_t)n + 1, fmt, ap);
    va_end(ap);
    return p;
}
