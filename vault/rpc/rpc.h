/*
 * Purpose: the gRPC transport: serves table rows on the core's unix socket with gRPC core, and nothing else. Below it nobody
 *          knows that gRPC exists.
 * Owns:    the grpc_server, the fast and slow completion queues, their threads, every grpc_call.
 * Threads: fast_workers share the fast queue; one thread owns the generic queue; answers are started by whichever thread
 *          finished the step (audit thread included), one call owned by one thread at a time.
 * Errors:  start: ERR_UNAVAILABLE with the address. Limits: MEASURED points 1, 4, 5, 7 (named in server.c).
 * Secrets: request and answer bytes pass through gRPC's heap until the connection closes (docs/THREATS.md).
 */
#ifndef VAULT_RPC_RPC_H
#define VAULT_RPC_RPC_H

#include "vault/service/call.h"

struct rpc_server;
struct rpc_options {
    struct service *service;
    const char *socket_path;      /* run_dir/core.sock */
    unsigned fast_workers;
    uint64_t max_calls_in_flight, max_streams; /* of all connections together */
    uint64_t max_streams_per_connection;      /* announced to clients, the same as the front enforces; 0: 100 */
};
/* Before any thread and before gRPC is first used: clears GRPC_* from the environment (its tracing dumps plaintext) and
 * sends gRPC's own log through ours. */
void rpc_process_prepare(void);
RESULT rpc_server_start(const struct rpc_options *o, struct rpc_server **ret, struct err *e);
/* Stops accepting, waits for calls in flight up to timeout, then cancels the rest. False: some did not end even then, and
 * what they use (the service) must stay until the process ends. gRPC's own threads stay in any case. NULL accepted. */
bool rpc_server_stop(struct rpc_server *s, uint64_t timeout_ms);
/* The front's control channel: CONN_NEW and so on are answered by a thread of its own. Replaces an earlier fd. */
RESULT rpc_server_front_channel(struct rpc_server *s, int fd, struct err *e);
/* Calls and streams open now. */
void rpc_server_load(const struct rpc_server *s, uint64_t *ret_calls, uint64_t *ret_streams);

#endif
