/*
 * Purpose: Claviger's client library: encrypt, decrypt, wrap, data keys, batches and campaigns over mutual TLS, for C and C++.
 * Owns:    a struct claviger_buffer owns its bytes (claviger_buffer_free wipes them); every other pointer is borrowed for the call.
 * Threads: one struct claviger serves any number of threads; open one per process. Not usable across fork().
 * Errors:  0, or an enum claviger_code (the numbers of google.rpc.Code); struct claviger_error says why. Outputs are written
 *          only on success. Decrypt failures of every cause are CLAVIGER_INVALID_ARGUMENT with reason "CIPHERTEXT".
 * Limits:  CLAVIGER_PLAINTEXT_MAX a message, CLAVIGER_BATCH_MAX items and CLAVIGER_BATCH_BYTES_MAX bytes a batch.
 * Secrets: cached data keys live in locked, wiped memory; plaintext passes through gRPC's heap on its way (docs/CLIENT.md).
 */
#ifndef CLAVIGER_H
#define CLAVIGER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CLAVIGER_PLAINTEXT_MAX 65536
#define CLAVIGER_BATCH_MAX 1000
#define CLAVIGER_BATCH_BYTES_MAX 196608 /* plaintext, AAD and context of one batch together */
#define CLAVIGER_CONTEXT_PAIRS_MAX 32
#define CLAVIGER_LOCAL_PLAINTEXT_MAX (16 * 1024 * 1024)

enum claviger_code { /* google.rpc.Code */
    CLAVIGER_OK = 0,
    CLAVIGER_CANCELLED = 1,
    CLAVIGER_UNKNOWN = 2,
    CLAVIGER_INVALID_ARGUMENT = 3, /* also: the ciphertext cannot be decrypted */
    CLAVIGER_DEADLINE_EXCEEDED = 4,
    CLAVIGER_NOT_FOUND = 5,
    CLAVIGER_ALREADY_EXISTS = 6,
    CLAVIGER_PERMISSION_DENIED = 7,
    CLAVIGER_RESOURCE_EXHAUSTED = 8,
    CLAVIGER_FAILED_PRECONDITION = 9,
    CLAVIGER_ABORTED = 10,
    CLAVIGER_OUT_OF_RANGE = 11,
    CLAVIGER_UNIMPLEMENTED = 12,
    CLAVIGER_INTERNAL = 13,
    CLAVIGER_UNAVAILABLE = 14,
    CLAVIGER_DATA_LOSS = 15, /* a checksum did not match: the bytes were damaged on the way */
    CLAVIGER_UNAUTHENTICATED = 16
};

struct claviger_error {
    int code;                /* enum claviger_code */
    char reason[64];         /* UPPER_SNAKE, stable: google.rpc.ErrorInfo.reason; "" when the server sent none */
    char field[96];          /* request field at fault, or "" */
    char message[512];       /* for people; never parse it */
    char request_id[40];     /* as sent in x-request-id: the audit trail has it; "" before anything was sent */
    uint64_t retry_after_ms; /* > 0: the server asks to wait this long */
};
const char *claviger_code_name(int code); /* "PERMISSION_DENIED" */

struct claviger; /* opaque */

/* Zero-initialise, set size = sizeof, and what you need: a 0 or NULL takes the default. */
struct claviger_options {
    size_t size;
    const char *endpoint;         /* host:port; NULL: environment KMS_ENDPOINT */
    const char *ca_file;          /* PEM; NULL: KMS_CA */
    const char *cert_file;        /* client certificate chain, PEM; NULL: KMS_CERT, else KMS_SERVICE_CERT */
    const char *key_file;         /* its private key, PEM; NULL: KMS_KEY, else KMS_SERVICE_KEY */
    const char *server_name;      /* name the server's certificate must bear; NULL: the endpoint's host */
    uint32_t timeout_ms;          /* deadline of one call, its retries included; default 10,000 */
    uint32_t max_attempts;        /* calls without side effects are tried again on UNAVAILABLE; default 5, 1 turns it off */
    uint32_t cache_max_keys;      /* data keys kept for claviger_local_*; default 128, at most 4,096 */
    uint32_t cache_max_age_ms;    /* a cached data key is forgotten after this; default 300,000 */
    uint64_t cache_max_uses;      /* messages encrypted under one data key; default 1,000,000 */
};
/* Reads the files; the connection itself is made by the first call, and again whenever it is lost. */
int claviger_connect(const struct claviger_options *options, struct claviger **ret, struct claviger_error *error);
void claviger_free(struct claviger *c); /* after the last call returned; NULL accepted */

struct claviger_buffer {
    uint8_t *data;
    size_t len;
};
void claviger_buffer_free(struct claviger_buffer *b); /* wipes, frees, zeroes; {0} accepted */

/* What a ciphertext is bound to: either name/value pairs (order does not matter) or bytes, never both. The same binding must
 * be given to decrypt. NULL: none. Neither is secret: pairs may show up in audit logs as hashes. */
struct claviger_pair {
    const char *key;
    const char *value;
};
struct claviger_binding {
    const struct claviger_pair *context;
    size_t context_len;
    const void *aad;
    size_t aad_len;
};

/* key: projects/{tenant}/locations/{location}/keyRings/{ring}/cryptoKeys/{key}. CRC32C is sent, and verified on the answer. */
int claviger_encrypt(struct claviger *c, const char *key, const void *plaintext, size_t plaintext_len,
                     const struct claviger_binding *binding, struct claviger_buffer *ret, struct claviger_error *error);
int claviger_decrypt(struct claviger *c, const char *key, const void *ciphertext, size_t ciphertext_len,
                     const struct claviger_binding *binding, struct claviger_buffer *ret, struct claviger_error *error);
/* The same plaintext under the key's newest version; the plaintext never leaves the server. */
int claviger_rewrap(struct claviger *c, const char *key, const void *ciphertext, size_t ciphertext_len,
                    const struct claviger_binding *binding, struct claviger_buffer *ret, struct claviger_error *error);

/* Keys wrapped for storage beside the data. Only binding->context applies (aad is refused). */
int claviger_wrap(struct claviger *c, const char *key, const void *data_key, size_t data_key_len,
                  const struct claviger_binding *binding, struct claviger_buffer *ret_wrapped, struct claviger_error *error);
int claviger_unwrap(struct claviger *c, const char *key, const void *wrapped, size_t wrapped_len,
                    const struct claviger_binding *binding, struct claviger_buffer *ret_data_key, struct claviger_error *error);
/* key_bytes: 16, 24, 32, 48 or 64. ret_plaintext NULL: the wrapped form only. */
int claviger_generate_data_key(struct claviger *c, const char *key, uint32_t key_bytes, const struct claviger_binding *binding,
                               struct claviger_buffer *ret_plaintext, struct claviger_buffer *ret_wrapped,
                               struct claviger_error *error);

/* Many fields in one round trip. Each item has its own binding and its own outcome: one bad item never fails the rest. */
struct claviger_item {
    const void *in; /* plaintext, or ciphertext */
    size_t in_len;
    struct claviger_binding binding;
    struct claviger_buffer out; /* yours to free; empty when code is not 0 */
    int code;                   /* this item's outcome */
    char reason[64];
    uint32_t version, source_version; /* rewrapped: the key version it is under now, and was; equal: out is in, as it was */
};
/* 0: every item succeeded. CLAVIGER_ABORTED with reason "ITEMS_FAILED": look at each item's code. Else: nothing was done. */
int claviger_encrypt_batch(struct claviger *c, const char *key, struct claviger_item *items, size_t items_len,
                           struct claviger_error *error);
int claviger_decrypt_batch(struct claviger *c, const char *key, struct claviger_item *items, size_t items_len,
                           struct claviger_error *error);
/* claviger_rewrap for many: `in` is a ciphertext of whichever version, data or a wrapped key; `out` is under the key's newest one. */
int claviger_rewrap_batch(struct claviger *c, const char *key, struct claviger_item *items, size_t items_len,
                          struct claviger_error *error);
void claviger_items_free(struct claviger_item *items, size_t items_len); /* frees every out */

/* A campaign: batch after batch through one stream, answered in order. Send two, receive one, send the next, and so on: at most
 * CLAVIGER_REWRAP_WINDOW are unanswered, and the server reads none before it has answered the one before. Nothing here has a side
 * effect, so when the stream breaks it is opened again and what is unanswered sent again, as often and for as long as a single call
 * would be tried. One thread at a time. */
#define CLAVIGER_REWRAP_WINDOW 2
struct claviger_rewrap_stream; /* opaque */
int claviger_rewrap_stream_open(struct claviger *c, const char *key, struct claviger_rewrap_stream **ret,
                                struct claviger_error *error);
/* The items, and what they point at, stay until they were received. */
int claviger_rewrap_stream_send(struct claviger_rewrap_stream *s, struct claviger_item *items, size_t items_len,
                                struct claviger_error *error);
/* Waits for the oldest unanswered batch. Its outcome is claviger_rewrap_batch's; after any failure but CLAVIGER_ABORTED it is still
 * the oldest, and this may be called again. */
int claviger_rewrap_stream_receive(struct claviger_rewrap_stream *s, struct claviger_error *error);
void claviger_rewrap_stream_close(struct claviger_rewrap_stream *s); /* before claviger_free; NULL accepted */

/* Local encryption: this process encrypts with AES-256-GCM under a cached data key, whose wrapped form travels inside each
 * message (docs/CLIENT.md has the bytes). The server is asked once per data key, not once per field: microseconds, not round
 * trips; in return the audit trail shows data keys, not fields, and a revoked key keeps working here until cache_max_age_ms. */
int claviger_local_encrypt(struct claviger *c, const char *key, const void *plaintext, size_t plaintext_len,
                           const struct claviger_binding *binding, struct claviger_buffer *ret, struct claviger_error *error);
int claviger_local_decrypt(struct claviger *c, const char *key, const void *message, size_t message_len,
                           const struct claviger_binding *binding, struct claviger_buffer *ret, struct claviger_error *error);
void claviger_forget_keys(struct claviger *c); /* wipes every cached data key now */
struct claviger_cache_stats {
    uint64_t keys, hits, misses, evicted;
};
void claviger_cache_stats(struct claviger *c, struct claviger_cache_stats *ret);

#ifdef __cplusplus
}
#endif
#endif
