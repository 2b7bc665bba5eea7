/*
 * Purpose: the daemon's configuration: one table makes the struct, the parser, the defaults, --dump-config and the manual.
 *          File format: `key = value` lines, # comments; unknown or repeated keys are errors with their line.
 * Owns:    its strings. Threads: read-only after load.
 * Errors:  ERR_INVALID with file:line in detail; hint says what to do. A file that others may write is refused.
 * Limits:  CONFIG_MAX_BYTES. Secrets: none in it: it names files that hold them.
 */
#ifndef BASE_CONFIG_H
#define BASE_CONFIG_H

#include "base/bytes.h"

enum { CONFIG_MAX_BYTES = 65536 };

/* X(TYPE, name, default text, min, max, help): STR (min/max length), INT, MS (duration), BOOL.
 * A default of NULL must be given in the file. Relative paths are relative to the config file's folder. */
#define CONFIG_TABLE(X)                                                                                                    \
    X(STR,  listen,                 "127.0.0.1:7443", 3, 255, "address:port the front listens on; port 0 picks a free one")  \
    X(PATH, state_dir,              NULL, 1, 4000, "folder of the store, the journal and small state; 0700")                 \
    X(PATH, journal_dir,            "", 0, 4000,  "folder of the audit journal (own device is faster); empty: state_dir/journal") \
    X(PATH, run_dir,                NULL, 1, 90,  "folder of the core's unix socket and the port file; short path")          \
    X(STR,  cluster_name,           "claviger", 1, 63, "first part of the audit log's origin")                               \
    X(STR,  node_name,              "node1", 1, 63, "second part of the audit log's origin")                                 \
    X(STR,  locations,              NULL, 1, 1024, "locations this daemon serves, comma separated")                          \
    X(STR,  trust_domain,           NULL, 1, 255, "SPIFFE trust domain of client certificates")                              \
    X(PATH, tls_cert_file,          NULL, 1, 4000, "server certificate chain, PEM")                                          \
    X(PATH, tls_key_file,           NULL, 1, 4000, "server private key, PEM, not readable by others")                        \
    X(PATH, client_ca_file,         NULL, 1, 4000, "CAs of client certificates, PEM")                                        \
    X(PATH, client_crl_file,        "", 0, 4000,  "certificate revocation lists, PEM; empty: principals are revoked by state") \
    X(PATH, hsm_module,             "/usr/lib/softhsm/libsofthsm2.so", 1, 4000, "PKCS#11 module")                            \
    X(STR,  hsm_token,              NULL, 8, 1024, "token as RFC 7512 URI, e.g. pkcs11:token=claviger; no pin-value")        \
    X(PATH, hsm_pin_file,           NULL, 1, 4000, "file with the user PIN, 0600; or a systemd credential path")             \
    X(PATH, hsm_config_file,        "", 0, 4000,  "vendor configuration, exported to the module (SOFTHSM2_CONF)")            \
    X(STR,  hsm_read_paths,         "", 0, 2048,  "what else the PKCS#11 module reads, beside its own file, its configuration and the token's folder: absolute paths, comma separated") \
    X(STR,  hsm_write_paths,        "", 0, 2048,  "what else it reads and writes")                                           \
    X(MS,   hsm_timeout,            "2s", 10, 60000, "longest wait for one HSM operation")                                   \
    X(PATH, anchor_file,            "", 0, 4000,  "file on another device that remembers how far the store had come; empty: an object on the token") \
    X(STR,  user_front,             "", 0, 32,    "user of the front process; empty: unchanged")                             \
    X(STR,  user_core,              "", 0, 32,    "user of the core process")                                                \
    X(STR,  user_hsm,               "", 0, 32,    "user of the hsm process")                                                 \
    X(INT,  max_connections,        "4096", 1, 100000, "client connections in total; one certificate gets a quarter")        \
    X(INT,  max_connections_per_peer, "512", 1, 100000, "client connections of one address")                                 \
    X(INT,  max_streams_per_connection, "100", 1, 128, "open HTTP/2 streams of one connection")                              \
    X(INT,  max_calls_in_flight,    "4096", 1, 65536, "calls in flight in total; more get RESOURCE_EXHAUSTED")               \
    X(MS,   handshake_timeout,      "5s", 100, 60000, "TLS handshake and HTTP/2 preface")                                    \
    X(MS,   max_connection_age,     "1h", 1000, 86400000, "after it the front drains a connection (GOAWAY)")                 \
    X(MS,   drain_timeout,          "10s", 0, 600000, "longest wait for calls in flight at shutdown")                        \
    X(INT,  fast_workers,           "2", 1, 64,   "threads of the fast lane")                                                \
    X(INT,  slow_workers,           "4", 1, 64,   "threads of the slow lane (HSM, store)")                                   \
    X(INT,  slow_queue_max,         "1024", 1, 65536, "calls waiting for the slow lane")                                     \
    X(INT,  key_cache_max,          "16384", 64, 4000000, "key versions kept ready in locked memory")                        \
    X(MS,   key_cache_ttl,          "1h", 1000, 86400000, "absolute age after which a cached key is derived again")          \
    X(INT,  due_per_second,         "20", 1, 10000, "keys and versions that rotate or end by themselves, in a second, when many are due") \
    X(MS,   clock_settle,           "10m", 0, 86400000, "how long the clock must have gone steadily before anything rotates or ends by itself") \
    X(INT,  master_versions_per_second, "2000", 1, 1000000, "key versions wrapped again in a second while the master rotates; under load a quarter of it") \
    X(MS,   seal_period,            "30d", 0, 2592000000, "how long a seal secret of the store is used before it is replaced by itself, and destroyed when no backup needs it; from 1d on; 0s: both only by hand") \
    X(INT,  seal_rows_per_second,   "5000", 1, 1000000, "rows sealed again in a second while the seal secret rotates; under load a quarter of it") \
    X(MS,   backup_retention,       "35d", 0, 315360000000, "how long a backup may still be restored: no master or seal secret that the last one needs is destroyed before it is older") \
    X(INT,  token_keys_per_tenant,  "1000", 1, 16384, "versions of level HSM that one tenant may have on the token, which all share") \
    X(INT,  rate_per_principal,     "1000000", 1, 100000000, "items per second of one principal, when its tenant sets none") \
    X(INT,  items_per_tenant_day,   "0", 0, 1000000000000, "data-plane items a tenant may use in a day (UTC); 0: no budget")  \
    X(INT,  items_per_tenant_month, "0", 0, 100000000000000, "the same in a calendar month")                                 \
    X(INT,  journal_reserve_bytes,  "1048576", 65536, 1073741824, "journal space kept for lifecycle and recovery")           \
    X(INT,  journal_segment_bytes,  "67108864", 1048576, 4294967296, "size of one preallocated journal file")                \
    X(BOOL, reflection,             "true", 0, 0, "serve grpc.reflection")                                                   \
    X(STR,  log_level,              "info", 1, 8, "error, warn, info or debug")

struct config {
#define CONFIG_T_STR char *
#define CONFIG_T_PATH char *
#define CONFIG_T_INT uint64_t
#define CONFIG_T_MS uint64_t /* milliseconds */
#define CONFIG_T_BOOL bool
#define X(type, name, def, min, max, help) CONFIG_T_##type name;
    CONFIG_TABLE(X)
#undef X
};

/* Reads and checks the file: owner root or us, not group/world writable, regular, within limits. */
RESULT config_load(const char *path, struct config **ret, struct err *e);
RESULT config_parse(struct bytes text, const char *base_dir, const char *what, struct config **ret, struct err *e);
void config_free(struct config *c); /* NULL accepted */
void config_freep(struct config **c);
void config_dump(const struct config *c, struct buf *out);        /* re-readable by config_parse; absolute paths */
void config_manual(struct buf *out);                              /* Markdown table for docs/OPERATIONS.md */

#endif
