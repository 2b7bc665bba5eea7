/*
 * Purpose: what kmsctl's files share: the table of subcommands, parsed arguments, the connection, exit codes.
 * Owns:    struct ctl owns the client it opened. Threads: one.
 * Errors:  struct claviger_error, as the client library; reason "USAGE" marks a mistake on the command line. exit_code maps.
 * Limits:  ARGS_MAX positional arguments, REPEAT_MAX repetitions of one option.
 * Secrets: plaintext and keys come from stdin or a file, never from argv; buffers that held them are wiped.
 */
#ifndef VAULT_CMD_KMSCTL_KMSCTL_H
#define VAULT_CMD_KMSCTL_KMSCTL_H

#include "vault/client/internal.h"

#include <jansson.h>

enum { ARGS_MAX = 4, REPEAT_MAX = 64 };

/* X(id, name, metavar or NULL for a switch, help). One table: parser and --help. */
#define OPTIONS(X)                                                                                                        \
    X(OPT_ENDPOINT, "endpoint", "HOST:PORT", "server; else $KMS_ENDPOINT")                                                \
    X(OPT_CA, "ca", "FILE", "CA of the server's certificate; else $KMS_CA")                                               \
    X(OPT_CERT, "cert", "FILE", "client certificate; else $KMS_CERT, else the verb's role variable")                      \
    X(OPT_KEYFILE, "cert-key", "FILE", "its private key; else $KMS_KEY, else the verb's role variable")                   \
    X(OPT_SERVER_NAME, "server-name", "NAME", "name the server's certificate must bear; else the endpoint's host")        \
    X(OPT_CONFIG, "config", "FILE", "configuration file; else ~/.config/claviger/kmsctl.conf")                            \
    X(OPT_TIMEOUT, "timeout", "DURATION", "deadline of one call, e.g. 500ms or 10s (default 10s)")                        \
    X(OPT_OUTPUT, "output", "text|json", "how answers are printed (default text)")                                        \
    X(OPT_HELP, "help", NULL, "this page")                                                                                \
    X(OPT_IDEMPOTENCY, "idempotency-key", "ID", "makes repeating this very change harmless")                              \
    X(OPT_AAD, "aad", "TEXT", "additional authenticated data; public, the same is needed to decrypt")                     \
    X(OPT_AAD_FILE, "aad-file", "FILE", "the same from a file")                                                           \
    X(OPT_CONTEXT, "context", "NAME=VALUE", "bind to this pair (repeat for more); public, needed again to decrypt")       \
    X(OPT_IN, "in", "FILE", "read this file in place of stdin")                                                           \
    X(OPT_BYTES, "bytes", "N", "length of the data key: 16, 24, 32 (default), 48 or 64")                                  \
    X(OPT_WRAPPED_ONLY, "wrapped-only", NULL, "do not return the plaintext key")                                          \
    X(OPT_COLUMNS, "columns", "A,B", "columns to work on, by their names in the first row")                               \
    X(OPT_KEY, "key", "NAME", "key, e.g. acme/eu/pii/email")                                                              \
    X(OPT_ID_COLUMN, "id-column", "NAME", "also bind each field to its row's value in this column")                       \
    X(OPT_PROGRESS, "progress", NULL, "progress bar on stderr even when that is no terminal")                             \
    X(OPT_BATCH, "batch", "N", "fields in one batch, at most 1,000 (default 1,000)")                                      \
    X(OPT_IN_FLIGHT, "in-flight", "N", "batches on their way at a time, 1 to 32 (default 4)")                             \
    X(OPT_ENCRYPT_EMPTY, "encrypt-empty", NULL, "also encrypt empty fields; else they stay empty")                        \
    X(OPT_AGAIN, "again", NULL, "also encrypt fields that look encrypted already")                                        \
    X(OPT_OUT, "out", "FILE", "write this file in place of stdout, whole or not at all; it must not be there yet")        \
    X(OPT_RESUME, "resume", NULL, "go on where an interrupted run with the same --out was, if there was one")             \
    X(OPT_KEEP_BAD, "keep-bad", NULL, "leave fields that cannot be decrypted as they are, and name them; exit 7 at the end")  \
    X(OPT_LABEL, "label", "K=V", "label (repeat for more); update: K= removes it")                                        \
    X(OPT_ROTATION, "rotation-period", "DURATION", "e.g. 90d; update: none turns rotation off")                           \
    X(OPT_PROTECTION, "protection-level", "software|hsm", "hsm: made on the token and used there; never changes")             \
    X(OPT_NO_VERSION, "no-version", NULL, "create the key without a first version")                                       \
    X(OPT_PRIMARY, "primary", NULL, "also make the new version primary")                                                  \
    X(OPT_FILTER, "filter", "EXPR", "e.g. state=ENABLED, name:mail, labels.team=x")                                       \
    X(OPT_ORDER_BY, "order-by", "EXPR", "name or \"name desc\"")                                                          \
    X(OPT_CONFIRM, "confirm", "NAME", "must repeat the name: this cannot always be undone")                               \
    X(OPT_DISPLAY_NAME, "display-name", "TEXT", "name for people")                                                        \
    X(OPT_RETENTION, "retention", "30d|90d", "how long the tenant can be restored")                                       \
    X(OPT_LOCATION, "location", "NAME", "where the tenant's data must stay")                                              \
    X(OPT_TENANT, "tenant", "NAME", "the tenant; none: a platform principal / everything you may see")                    \
    X(OPT_SAN, "san", "SAN", "spiffe://domain/path or dns:host, exactly as in the certificate")                           \
    X(OPT_WATCH, "watch", NULL, "stay until it is done; a bar on stderr when that is a terminal")                         \
    X(OPT_TOKEN_CLONED, "token-cloned", NULL, "the vendor's tool has cloned the token, with the new secret on it")        \
    X(OPT_CLONED, "cloned", NULL, "the vendor's tool has cloned the token, with every key made so far on it")            \
    X(OPT_FORFEIT, "forfeit-backups", NULL, "give up the backups that need it; another administrator must ask too")       \
    X(OPT_DRY_RUN, "dry-run", NULL, "check only")                                                                         \
    X(OPT_WITHIN, "within", "DURATION", "how far to look ahead, e.g. 7d (default 30d)")                                   \
    X(OPT_EXPECTED, "expected-version", "N", "apply only on top of this version (default: the present one)")              \
    X(OPT_DIR, "dir", "DIR", "documents in this folder in place of those in force")                                       \
    X(OPT_OUT_DIR, "out-dir", "DIR", "write the documents into this folder")                                              \
    X(OPT_FOLLOW, "follow", NULL, "wait for new events until interrupted")                                                \
    X(OPT_LINES, "lines", "N", "last N events first (default 20)")                                                        \
    X(OPT_AUDIT_KEY, "audit-key", "NAME+ID+KEY", "the public key that must have signed it")                               \
    X(OPT_REASON, "reason", "TEXT", "what was found; it goes on the record")                                              \
    X(OPT_FROM, "from", "INDEX", "from this index on, in place of the last --lines")

enum option {
#define X(id, name, metavar, help) id,
    OPTIONS(X)
#undef X
        OPT_COUNT
};
#define O(id) (UINT64_C(1) << (id))

struct args {
    const char *value[OPT_COUNT]; /* the last given; a switch: "" */
    const char *contexts[REPEAT_MAX], *labels[REPEAT_MAX];
    size_t ncontexts, nlabels;
    const char *pos[ARGS_MAX];
    size_t npos;
};

enum role { ROLE_OPERATOR, ROLE_KEYADMIN, ROLE_SERVICE }; /* whose environment variables are used */

struct ctl {
    struct args args;
    bool json;
    enum role role;
    struct claviger *client;
    struct arena arena; /* of the whole run */
    int exit_override;  /* 0: by the error */
};

struct command {
    const char *noun, *verb; /* verb NULL: none */
    const char *params;      /* positional, for the usage line */
    size_t min, max;         /* positional arguments */
    uint64_t options;        /* beside the connection's */
    enum role role;
    struct result (*run)(struct ctl *c, struct claviger_error *e);
    const char *summary;
    const char *example;     /* whole commands, one a line */
};
/* Each file of verbs has its rows; table.c joins them. */
struct command_rows {
    const struct command *rows;
    size_t n;
};
extern const struct command_rows rows_system, rows_tenants, rows_keys, rows_life, rows_certificates, rows_usage, rows_versions, rows_data, rows_csv, rows_policy, rows_audit, rows_master, rows_token;
const struct command *command_find(const char *noun, const char *verb);
bool command_has_verbs(const char *noun, bool *ret_known);
void help_all(FILE *f);
void help_noun(FILE *f, const char *noun);
void help_command(FILE *f, const struct command *cmd);

/* Exit codes: part of the interface (docs/CLIENT.md). */
enum exit_code { EXIT_FINE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_DENIED = 3, EXIT_NOT_FOUND = 4, EXIT_CONFLICT = 5,
                 EXIT_UNAVAILABLE = 6, EXIT_INVALID = 7 };
int exit_code(const struct claviger_error *e);

/* args.c: the first words that are no option are noun and verb; "--" ends options. */
struct words {
    const char *noun, *verb;
};
RESULT args_parse(int argc, char **argv, struct words *ret_words, struct args *ret, struct claviger_error *e);
RESULT args_allowed(const struct args *a, const struct command *cmd, struct claviger_error *e);
RESULT args_u64(const struct args *a, enum option o, uint64_t min, uint64_t max, uint64_t fallback, uint64_t *ret,
                struct claviger_error *e);
RESULT args_pair(const char *text, struct arena *a, const char **ret_name, const char **ret_value, struct claviger_error *e);
/* --aad, --aad-file, --context; the result views the arena. */
RESULT args_binding(struct ctl *c, bool aad_allowed, struct claviger_binding *ret, struct claviger_error *e);
const char *option_name(enum option o);
#define usage(e, ...) client_fail((e), CLAVIGER_INVALID_ARGUMENT, "USAGE", __VA_ARGS__)

/* connect.c */
struct settings {
    const char *endpoint, *ca, *cert, *key, *server_name;
    uint32_t timeout_ms;
};
RESULT settings_resolve(const struct args *a, enum role role, struct arena *mem, struct settings *ret, struct claviger_error *e);
RESULT ctl_connect(struct ctl *c, struct claviger_error *e); /* once; later calls do nothing */
/* A call to the daemon; idempotent ones are retried. */
RESULT ctl_read(struct ctl *c, const char *path, const ProtobufCMessage *q, const ProtobufCMessageDescriptor *d, void *ret,
                struct claviger_error *e);
RESULT ctl_change(struct ctl *c, const char *path, const ProtobufCMessage *q, const ProtobufCMessageDescriptor *d, void *ret,
                  struct claviger_error *e);

/* names.c: short or full in, canonical full out (in the arena). kinds: bitmask of 1u << NAME_... */
RESULT name_full(struct ctl *c, const char *given, unsigned kinds, ProtobufCBinaryData *ret, struct claviger_error *e);
RESULT name_split(struct ctl *c, const char *given, unsigned kind, ProtobufCBinaryData *ret_parent, ProtobufCBinaryData *ret_id,
                  struct claviger_error *e);
const char *name_default(struct ctl *c, const char *given); /* NULL: $KMS_TENANT/$KMS_LOCATION */
ProtobufCBinaryData name_prefixed(struct ctl *c, const char *prefix, const char *given); /* "projects/" + "acme", once */

/* cmd_usage.c: what is known of how a version was used, to stderr; or that nothing is. */
void usage_tell(struct ctl *c, ProtobufCBinaryData version);

/* io.c */
RESULT read_all(const char *path /* NULL: stdin */, size_t max, struct buf *out, struct claviger_error *e);
RESULT read_fd_all(int fd, const char *what, size_t max, struct buf *out, struct claviger_error *e);
RESULT write_all(struct bytes b, struct claviger_error *e); /* stdout */
RESULT write_fd(int fd, const char *what, struct bytes b, struct claviger_error *e);

/* output.c: messages as JSON (field names as in the .proto), JSON as tables. */
json_t *json_of(const ProtobufCMessage *m);
json_t *json_of_bytes(struct bytes b); /* base64 */
void print_json(const json_t *j); /* one object, indented */
void print_json_line(const json_t *j);
/* columns: "NAME name|STATE state|CREATED create_time"; a path may have dots; names print short. */
void print_table(const json_t *array, const char *columns);
void print_record(const json_t *object, const char *columns);
RESULT show(struct ctl *c, const ProtobufCMessage *m, const char *columns, struct claviger_error *e);
RESULT show_list(struct ctl *c, json_t *take_array, const char *key, const char *columns, struct claviger_error *e);

/* ask.c: ctl_read and ctl_change with the answer printed; ask_list: every page of q, which has a page_token, as one list. `list` is the
 * field of the answer that has the rows, and their name in JSON. */
RESULT ask_read(struct ctl *c, const char *path, const ProtobufCMessage *q, const ProtobufCMessageDescriptor *d, const char *columns,
                struct claviger_error *e);
RESULT ask_change(struct ctl *c, const char *path, const ProtobufCMessage *q, const ProtobufCMessageDescriptor *d, const char *columns,
                  struct claviger_error *e);
RESULT ask_list(struct ctl *c, const char *path, ProtobufCMessage *q, const ProtobufCMessageDescriptor *d, const char *list,
                const char *columns, struct claviger_error *e);

#endif
