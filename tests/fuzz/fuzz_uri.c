/* Target functions: hsm_uri_parse, hsm_uri_matches. Whatever is accepted names a token by attributes of the closed list, and no
 * accepted text speaks of a PIN or a module. */
#include "hsm/uri.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool begins_attribute(const char *text, const char *at, const char *query)
{
    if (at == NULL)
        return false;
    if (query != NULL && at > query)
        return at == query + 1 || at[-1] == '&';
    return at == text + 7 || at[-1] == ';';
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const never[] = {"pin-value=", "pin-source=", "module-path=", "module-name=", "object=", "library-version="};
    struct hsm_uri *u = NULL;
    struct err e = {0};
    char *text = malloc(size + 1);
    INVARIANT(text != NULL);
    memcpy(text, data, size);
    text[size] = '\0';
    if (hsm_uri_parse(text, &u, &e).failed) {
        INVARIANT(e.code == ERR_INVALID && e.reason != NULL && strncmp(e.reason, "HSM_URI_", 8) == 0 && u == NULL);
    } else {
        CK_SLOT_INFO slot;
        CK_TOKEN_INFO token;
        memset(&slot, ' ', sizeof slot);
        memset(&token, ' ', sizeof token);
        memcpy(token.label, "claviger", 8);
        INVARIANT(strlen(text) <= HSM_URI_MAX && strncmp(text, "pkcs11:", 7) == 0);
        const char *query = strchr(text, '?');
        for (size_t i = 0; i < sizeof never / sizeof never[0]; i++)
            INVARIANT(!begins_attribute(text, strstr(text, never[i]), query));
        (void)hsm_uri_matches(u, 0, &slot, &token);
    }
    hsm_uri_free(u);
    free(text);
    return 0;
}
