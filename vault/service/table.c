#include "vault/service/table.h"

#include "vault/service/rows.h"

#include <string.h>

enum { HOT_ROWS_MAX = 10 };

RESULT table_check_row(const struct rpc_row *r, struct err *e)
{
    const char *what = NULL;
    bool public = r->plane == PLANE_PUBLIC;
    if (r->path == NULL || r->path[0] != '/')
        FAIL(e, ERR_INTERNAL, NULL, "a row of the table has no path");
    if (r->kind < RPC_UNARY || r->kind > RPC_BIDI || r->request == NULL || r->response == NULL)
        what = "kind or messages";
    else if (r->plane == 0 || r->audit == 0 || r->limit == 0 || r->lane == 0)
        what = "plane, audit, limit or lane";
    else if (public != (r->action == NULL) || public != (r->audit == AUDIT_NONE) || public != (r->limit == LIMIT_PUBLIC))
        what = "action, audit and limits (only public rows have none)";
    else if (!public && r->resources == NULL)
        what = "resource extractor";
    else if (r->kind == RPC_UNARY ? r->handle == NULL || r->stream != NULL : r->stream == NULL || r->stream->close == NULL)
        what = "handler";
    else if (r->kind == RPC_BIDI ? r->stream->message == NULL : r->kind == RPC_SERVER_STREAM && r->stream->ready == NULL)
        what = "stream step";
    else if (r->mutation && (r->audit != AUDIT_CHANGE || r->lane != LANE_SLOW))
        what = "audit class or lane of a mutation";
    else if (r->destructive && !r->mutation)
        what = "mutation flag of a destructive call";
    else if (r->reaches_closed && r->plane != PLANE_CONTROL)
        what = "reach into closed tenants (nobody uses their keys)";
    else if (r->hot && (r->kind != RPC_UNARY || r->lane != LANE_FAST))
        what = "lane of a hot row";
    if (what != NULL)
        FAIL(e, ERR_INTERNAL, NULL, "row %s lacks or contradicts: %s", r->path, what);
    return ok();
}

RESULT table_check(struct err *e)
{
    size_t n, hot = 0;
    const struct rpc_row *const *rows = table_rows(&n);
    for (size_t i = 0; i < n; i++) {
        TRY(table_check_row(rows[i], e));
        hot += rows[i]->hot;
        for (size_t j = 0; j < i; j++)
            if (strcmp(rows[i]->path, rows[j]->path) == 0)
                FAIL(e, ERR_INTERNAL, NULL, "row %s stands twice", rows[i]->path);
    }
    if (hot > HOT_ROWS_MAX || n > RPC_ROWS_MAX)
        FAIL(e, ERR_INTERNAL, NULL, "%zu rows, %zu hot: over the limit", n, hot);
    return ok();
}

const struct rpc_row *table_find(const char *path)
{
    size_t n;
    const struct rpc_row *const *rows = table_rows(&n);
    for (size_t i = 0; i < n; i++)
        if (strcmp(rows[i]->path, path) == 0)
            return rows[i];
    return NULL;
}
