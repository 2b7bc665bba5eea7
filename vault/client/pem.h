/*
 * Purpose: the three PEM files of a client, read and checked before gRPC sees them: gRPC would accept anything and fail later
 *          with a text nobody understands.
 * Owns:    struct pem_files owns its texts. Threads: pure.
 * Errors:  CLAVIGER_INVALID_ARGUMENT with reason BAD_CA_FILE, BAD_CERT_FILE, BAD_KEY_FILE or KEY_MISMATCH, and the path.
 * Limits:  PEM_MAX_BYTES a file. Secrets: the private key's text is wiped on release.
 */
#ifndef VAULT_CLIENT_PEM_H
#define VAULT_CLIENT_PEM_H

#include "vault/client/error.h"

enum { PEM_MAX_BYTES = 1 << 20 };
struct pem_files {
    char *ca, *cert, *key;
    size_t key_len;
};
RESULT pem_load(const char *ca_path, const char *cert_path, const char *key_path, struct pem_files *ret, struct claviger_error *e);
void pem_release(struct pem_files *p);

#endif
