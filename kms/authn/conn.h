/*
 * Purpose: one client connection: what the front said of it, its chain's verdict, and the principal it resolved to.
 * Owns:    the chain's bytes, one principal reference.
 * Threads: counted; the fields below `lock` only under it, the rest is read-only after conn_parse.
 * Errors:  conn_parse: ERR_INVALID for a body that is not CONN_NEW's; a bad chain is no error but a cause.
 * Limits:  IPC_CHAIN_MAX_BYTES, AUTHN_CHAIN_MAX, IPC_ADDR_MAX.
 * Secrets: none.
 */
#ifndef KMS_AUTHN_CONN_H
#define KMS_AUTHN_CONN_H

#include "base/ref.h"
#include "kms/authn/chain.h"
#include "kms/authn/registry.h"

#include <pthread.h>

struct authn_conn {
    struct ref refs;
    struct authn_conn *next; /* in its table shard, under the shard's lock */
    uint8_t id[IPC_CONN_ID_BYTES];
    char address[IPC_ADDR_MAX + 1], listener[IPC_ADDR_MAX + 1];
    size_t address_n, listener_n;
    uint8_t cert_sha256[32]; /* zeros without a certificate */
    uint8_t *der;            /* all certificates, one after another */
    struct bytes chain[AUTHN_CHAIN_MAX];
    size_t chain_n;

    pthread_mutex_t lock;
    int64_t checked_boot_ms;              /* when the chain was last validated */
    uint64_t trust_epoch, registry_epoch; /* what the two below were computed under; 0: never */
    bool valid;
    struct verdict verdict;
    char cause[ERR_DETAIL_BYTES]; /* why not valid */
    const struct principal *principal;
};

RESULT conn_parse(struct bytes untrusted_conn_new, struct authn_conn **ret, struct err *e);

#endif
