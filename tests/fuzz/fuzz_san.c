/* Target: kms/authn on bytes from a client: as a certificate's SAN extension, as a whole chain, and as the front's notice.
 * Whatever name comes out follows the grammar, has no NUL, and is one that a principal could be registered under. */
#include "kms/authn/authn.h"
#include "kms/authn/conn.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define DOMAIN "test.claviger"

static void check_names(const uint8_t *data, size_t size)
{
    const unsigned char *p = data;
    GENERAL_NAMES *names = d2i_GENERAL_NAMES(NULL, &p, (long)size);
    char san[SAN_MAX_BYTES];
    struct err e = {0};
    if (names && !san_from_names(names, DOMAIN, san, &e).failed) {
        size_t n = strlen(san);
        INVARIANT(n > 4 && n < SAN_MAX_BYTES && !san_check(BYTES(san, n), DOMAIN, &e).failed);
        INVARIANT(strncmp(san, "dns:", 4) == 0 || strncmp(san, "spiffe://" DOMAIN "/", sizeof "spiffe://" DOMAIN) == 0);
    }
    GENERAL_NAMES_free(names);
}

static void check_certificate(const uint8_t *data, size_t size)
{
    const unsigned char *p = data;
    X509 *cert = d2i_X509(NULL, &p, (long)size);
    char san[SAN_MAX_BYTES];
    struct err e = {0};
    if (cert && !san_from_certificate(cert, DOMAIN, san, &e).failed)
        INVARIANT(!san_check(bytes_str(san), DOMAIN, &e).failed);
    X509_free(cert);
}

static void check_notice(const uint8_t *data, size_t size)
{
    struct authn_conn *c = NULL;
    struct err e = {0};
    if (!conn_parse(BYTES(data, size), &c, &e).failed)
        INVARIANT(authn_conn_address(c).n <= IPC_ADDR_MAX && c->chain_n <= AUTHN_CHAIN_MAX);
    authn_conn_unref(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err e = {0};
    struct bytes text = {data, size};
    if (!san_check(text, DOMAIN, &e).failed)
        INVARIANT(memchr(data, 0, size) == NULL && size < SAN_MAX_BYTES);
    check_names(data, size);
    check_certificate(data, size);
    check_notice(data, size);
    ERR_clear_error();
    return 0;
}
