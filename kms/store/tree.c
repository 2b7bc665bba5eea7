#include "kms/store/tree.h"

#include "kms/crypto/kdf.h"

#include <stdlib.h>
#include <string.h>

/* A heap-shaped array: node i has the children TREE_FAN * i + 1 to TREE_FAN * i + TREE_FAN; the leaves are its last level.
 * calloc: pages of a small store's empty regions are never touched. */
enum { INNER = 1 + 16 + 256 + 4096, NODES = INNER + TREE_LEAVES };
_Static_assert(TREE_FAN * INNER + 1 == NODES, "the last inner node has the last leaves");
struct tree {
    pthread_mutex_t mu; /* the leaves: readers look while the writer sets them */
    uint8_t node[NODES][TREE_DIGEST_BYTES];
};

struct tree *tree_new(void)
{
    struct tree *t = calloc(1, sizeof *t);
    INVARIANT(t && pthread_mutex_init(&t->mu, NULL) == 0);
    return t;
}

void tree_free(struct tree *t)
{
    if (!t)
        return;
    pthread_mutex_destroy(&t->mu);
    free(t);
}

static bool are_empty(const uint8_t *children)
{
    static const uint8_t zeros[TREE_FAN * TREE_DIGEST_BYTES];
    return memcmp(children, zeros, sizeof zeros) == 0;
}

static void recompute(struct tree *t, uint32_t i)
{
    static const uint8_t inner = 1;
    const uint8_t *children = t->node[TREE_FAN * i + 1];
    if (are_empty(children)) {
        memset(t->node[i], 0, TREE_DIGEST_BYTES);
        return;
    }
    struct bytes parts[] = {BYTES(&inner, 1), BYTES(children, TREE_FAN * TREE_DIGEST_BYTES)};
    sha256(parts, 2, t->node[i]);
}

void tree_load(struct tree *t, uint32_t leaf, const uint8_t digest[TREE_DIGEST_BYTES])
{
    memcpy(t->node[INNER + leaf], digest, TREE_DIGEST_BYTES);
}

void tree_rebuild(struct tree *t)
{
    for (uint32_t i = INNER; i-- > 0;)
        recompute(t, i);
}

static int by_leaf(const void *a, const void *b)
{
    uint32_t x = ((const struct tree_change *)a)->leaf, y = ((const struct tree_change *)b)->leaf;
    return x < y ? -1 : x > y;
}

/* Level by level, so that a node above several changed leaves is computed once: the leaves are sorted, so its copies in
 * `up` stand beside each other. */
static void climb(struct tree *t, const struct tree_change *c, size_t n)
{
    uint32_t *up = reallocarray(NULL, n, sizeof *up);
    INVARIANT(up);
    for (size_t i = 0; i < n; i++)
        up[i] = INNER + c[i].leaf;
    while (n && up[0] > 0) {
        size_t kept = 0;
        for (size_t i = 0; i < n; i++) {
            uint32_t parent = (up[i] - 1) / TREE_FAN;
            if (kept && up[kept - 1] == parent)
                continue;
            recompute(t, parent);
            up[kept++] = parent;
        }
        n = kept;
    }
    free(up);
}

static void set_leaves(struct tree *t, struct tree_change *c, size_t n, bool undo)
{
    pthread_mutex_lock(&t->mu);
    for (size_t i = 0; i < n; i++) {
        uint8_t *leaf = t->node[INNER + c[i].leaf];
        if (!undo)
            memcpy(c[i].before, leaf, TREE_DIGEST_BYTES);
        memcpy(leaf, undo ? c[i].before : c[i].after, TREE_DIGEST_BYTES);
    }
    pthread_mutex_unlock(&t->mu);
}

void tree_apply(struct tree *t, struct tree_change *c, size_t n)
{
    if (n == 0)
        return;
    qsort(c, n, sizeof *c, by_leaf);
    set_leaves(t, c, n, false);
    climb(t, c, n);
}

void tree_undo(struct tree *t, struct tree_change *c, size_t n)
{
    if (n == 0)
        return;
    set_leaves(t, c, n, true);
    climb(t, c, n);
}

void tree_root(struct tree *t, uint8_t out[TREE_DIGEST_BYTES])
{
    memcpy(out, t->node[0], TREE_DIGEST_BYTES);
}

bool tree_leaf_is(struct tree *t, uint32_t leaf, const uint8_t digest[TREE_DIGEST_BYTES])
{
    pthread_mutex_lock(&t->mu);
    bool same = bytes_ct_equal(t->node[INNER + leaf], digest, TREE_DIGEST_BYTES);
    pthread_mutex_unlock(&t->mu);
    return same;
}
