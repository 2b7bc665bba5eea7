/*
 * Purpose: OpenSSL's headers beside ours: both say ERR_STATE, OpenSSL for a type that nothing here uses.
 * Owns:    nothing. Threads: none.
 * Errors:  none.
 * Limits:  include it in place of openssl/ *.h, in .c files only.
 * Secrets: none.
 */
#ifndef FRONT_OPENSSL_H
#define FRONT_OPENSSL_H

#define ERR_STATE OPENSSL_ERR_STATE
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#undef ERR_STATE

#endif
