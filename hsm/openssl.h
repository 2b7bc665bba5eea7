/*
 * Purpose: OpenSSL's headers with its type ERR_STATE out of the way of our error code of that name.
 * Owns: nothing. Threads: none. Errors: none. Limits: none. Secrets: none.
 */
#ifndef HSM_OPENSSL_H
#define HSM_OPENSSL_H

#define ERR_STATE OPENSSL_ERR_STATE
#include <openssl/core_names.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#undef ERR_STATE

#endif
