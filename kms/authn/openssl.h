/*
 * Purpose: OpenSSL's X.509 headers. Its typedef ERR_STATE has the name of one of our error codes, so it gets another here.
 * Owns: nothing. Threads: none. Errors: none. Limits: include this instead of <openssl/...>. Secrets: none.
 */
#ifndef KMS_AUTHN_OPENSSL_H
#define KMS_AUTHN_OPENSSL_H

#define ERR_STATE OPENSSL_ERR_STATE
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>
#undef ERR_STATE

#endif
