/*
 * Purpose: the one table of RPCs. Every RPC is one row; start-up refuses an incomplete row, so no RPC can exist without
 *          authentication, policy, limits and audit. Health and reflection are class `public`: the only exemption.
 * Owns: nothing (constant data). Threads: read-only. Errors: table_check names the row and what it lacks.
 * Limits: RPC_ROWS_MAX. Secrets: none.
 */
#ifndef VAULT_SERVICE_TABLE_H
#define VAULT_SERVICE_TABLE_H

#include "base/err.h"

#include <protobuf-c/protobuf-c.h>

enum { RPC_ROWS_MAX = 256 };
enum rpc_kind { RPC_UNARY = 1, RPC_SERVER_STREAM, RPC_BIDI };
enum rpc_audit { AUDIT_NONE = 1 /* public only */, AUDIT_READ, AUDIT_USE, AUDIT_CHANGE };
enum rpc_limit { LIMIT_PUBLIC = 1, LIMIT_DATA, LIMIT_CONTROL };
enum rpc_lane { LANE_FAST = 1, LANE_SLOW };
enum rpc_plane { PLANE_PUBLIC = 1, PLANE_CONTROL, PLANE_DATA };

struct call;
/* Fills c->resources from the request (names are parsed, nothing is looked up). */
typedef struct result rpc_resources_fn(struct call *c, const ProtobufCMessage *req, struct err *e);
/* Does the work. *resp is in c->arena. May return ERR_WOULD_BLOCK when !c->may_block: it is run again on the slow lane. */
typedef struct result rpc_handle_fn(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e);

/* A stream's four non-blocking steps. message: one inbound message to one outbound (NULL: none). ready: server streams,
 * next outbound message, NULL with *ret_more = false at the end, NULL with true: wait (call_stream_wake continues).
 * close: always called once; frees c->stream. */
struct rpc_stream {
    struct result (*open)(struct call *c, struct err *e);
    rpc_handle_fn *message;
    struct result (*ready)(struct call *c, ProtobufCMessage **resp, bool *ret_more, struct err *e);
    void (*close)(struct call *c);
};

struct rpc_row {
    enum rpc_kind kind;
    const char *path;   /* "/google.cloud.kms.v1.KeyManagementService/Encrypt" */
    const ProtobufCMessageDescriptor *request, *response;
    const char *action; /* "kms.cryptoKeys.encrypt"; NULL only for public rows */
    enum rpc_plane plane;
    rpc_resources_fn *resources;
    bool per_item;      /* resources are batch items, decided one by one */
    enum rpc_audit audit;
    enum rpc_limit limit;
    bool mutation, destructive;
    enum rpc_lane lane; /* where it starts; LANE_FAST rows move to the slow lane on ERR_WOULD_BLOCK */
    bool reaches_closed; /* operators may, in a tenant that is suspended, deleted, or in a location not served */
    bool says_why;      /* refused because the service is closed, it tells operators what is wrong and what to do */
    bool hot;           /* registered on the fast queue: at most 10 rows */
    rpc_handle_fn *handle;           /* unary */
    const struct rpc_stream *stream; /* streams */
};

const struct rpc_row *const *table_rows(size_t *ret_n); /* all rows, assembled from each service's file */
const struct rpc_row *table_find(const char *path);      /* NULL: UNIMPLEMENTED */
RESULT table_check_row(const struct rpc_row *r, struct err *e);
RESULT table_check(struct err *e);                       /* completeness, uniqueness; at start-up and in a test */

#endif
