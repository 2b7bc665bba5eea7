/*
 * Purpose: the server's side of TLS by OpenSSL 3.0: TLS 1.3 only, ALPN h2, a client certificate required. The chain is
 *          checked for its form only and handed on: the core validates it. No tickets, resumption, 0-RTT, renegotiation.
 * Owns:    struct tls_ctx: certificate and key. struct tls: one connection's SSL; the descriptor stays its owner's.
 * Threads: a ctx is read-only and counted; a tls belongs to one thread at a time (shake.h, then its loop).
 * Errors:  tls_ctx_new: ERR_INVALID "TLS_FILES" with what is wrong. I/O answers enum tls_io; `why` is a literal for the log.
 * Limits:  the enum below; descriptors with more than TLS_FILE_MAX_BYTES are refused.
 * Secrets: the private key lies in OpenSSL's secure heap (locked, kept out of core dumps) once tls_memory_init was called; of an RSA
 *          key OpenSSL keeps the primes in ordinary memory too, once it has signed. File copies are wiped; SSL buffers are cleansed
 *          where OpenSSL does so. Session keys lie in ordinary memory.
 */
#ifndef FRONT_TLS_H
#define FRONT_TLS_H

#include "base/bytes.h"

enum {
    TLS_FILE_MAX_BYTES = 65536,
    TLS_KEY_MEMORY_BYTES = 65536, /* locked: two dozen RSA keys of 4,096 bits, the old ones of running connections among them */
    TLS_CHAIN_MAX_CERTS = 10,
    TLS_RECORD_BYTES = 16384,
    TLS_DIGEST_BYTES = 32,
    TLS_POST_HANDSHAKE_MAX = 64,   /* messages of one connection after the handshake, KeyUpdates for the most part */
};

struct ssl_st; /* OpenSSL's SSL */
struct tls_ctx;
RESULT tls_memory_init(struct err *e); /* ERR_EXHAUSTED "SECRET_MEMORY"; before the first tls_ctx_new, before any thread; once is enough */
/* Reads both files from their start; the descriptors stay the caller's. */
RESULT tls_ctx_new(int cert_fd, int key_fd, struct tls_ctx **ret, struct err *e);
void tls_ctx_free(struct tls_ctx *c); /* running connections keep what they need; NULL accepted */

enum tls_io { TLS_OK, TLS_AGAIN, TLS_EOF, TLS_BROKEN };

struct tls {
    struct ssl_st *ssl;
    struct tls_ctx *ctx;
    int fd;
    bool readable, writable; /* set by the loop's events, cleared when the socket says no */
    bool hup;                /* the peer has closed its side: read until the end */
    bool established, broken;
    unsigned post_messages;
    const char *why; /* literal: what failed */
    uint8_t certificate[TLS_DIGEST_BYTES]; /* SHA-256 of the client's, once established: whose connection it is */
};
RESULT tls_open(struct tls *t, struct tls_ctx *c, int fd, struct err *e); /* t stays where it is until tls_close */
void tls_close(struct tls *t);                                                  /* frees the SSL; {0} accepted */
enum tls_io tls_handshake(struct tls *t); /* TLS_OK: established, with ALPN h2 and a certificate */
bool tls_wants_write(const struct tls *t); /* what the handshake waits for, after TLS_AGAIN */
enum tls_io tls_read(struct tls *t, void *out, size_t n, size_t *ret_n);
enum tls_io tls_write(struct tls *t, const void *p, size_t n, size_t *ret_n); /* after TLS_AGAIN offer the same bytes again */
bool tls_pending(const struct tls *t);  /* bytes wait inside, without the socket being readable */
bool tls_release_buffers(struct tls *t); /* 34 KB; false: not while something is pending in them */
void tls_close_notify(struct tls *t);   /* best effort, never after a failure */
/* u8 count, then v32 DER each, leaf first (base/ipc.h CONN_NEW). */
RESULT tls_peer_chain(const struct tls *t, struct buf *out, struct err *e);

#endif
