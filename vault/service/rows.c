/* The one table, in one array of pointers; made on first use, constant afterwards. */
#include "vault/service/rows.h"

#include <pthread.h>

static const struct rpc_row *all_rows[RPC_ROWS_MAX];
static size_t all_n;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void assemble(void)
{
    static const struct row_list *const lists[] = {
#define X(name) &name,
        ROWS_SERVICES(X)
#undef X
    };
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++)
        for (size_t j = 0; j < lists[i]->n; j++) {
            INVARIANT(all_n < RPC_ROWS_MAX);
            all_rows[all_n++] = &lists[i]->rows[j];
        }
}

const struct rpc_row *const *table_rows(size_t *ret_n)
{
    pthread_once(&once, assemble);
    *ret_n = all_n;
    return all_rows;
}
