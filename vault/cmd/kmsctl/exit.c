#include "vault/cmd/kmsctl/kmsctl.h"

#include <string.h>

/* The library's own refusals before anything was sent: the command line or the configuration is wrong. */
static bool is_usage(const struct claviger_error *e)
{
    static const char *const reasons[] = {"USAGE", "NOT_CONFIGURED", "BAD_OPTION", "BAD_CA_FILE", "BAD_CERT_FILE", "BAD_KEY_FILE",
                                          "KEY_MISMATCH", "BAD_BINDING"};
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++) {
        if (!*e->request_id && strcmp(e->reason, reasons[i]) == 0)
            return true;
    }
    return false;
}

int exit_code(const struct claviger_error *e)
{
    if (is_usage(e))
        return EXIT_USAGE;
    switch ((enum claviger_code)e->code) {
    case CLAVIGER_OK:
        return EXIT_FINE;
    case CLAVIGER_PERMISSION_DENIED:
    case CLAVIGER_UNAUTHENTICATED:
        return EXIT_DENIED;
    case CLAVIGER_NOT_FOUND:
        return EXIT_NOT_FOUND;
    case CLAVIGER_ALREADY_EXISTS:
    case CLAVIGER_FAILED_PRECONDITION:
    case CLAVIGER_ABORTED:
        return EXIT_CONFLICT;
    case CLAVIGER_UNAVAILABLE:
    case CLAVIGER_DEADLINE_EXCEEDED:
    case CLAVIGER_RESOURCE_EXHAUSTED:
        return EXIT_UNAVAILABLE;
    case CLAVIGER_INVALID_ARGUMENT:
    case CLAVIGER_OUT_OF_RANGE:
    case CLAVIGER_DATA_LOSS:
        return EXIT_INVALID;
    case CLAVIGER_CANCELLED:
    case CLAVIGER_UNKNOWN:
    case CLAVIGER_UNIMPLEMENTED:
    case CLAVIGER_INTERNAL:
        break;
    }
    return EXIT_FAILED;
}
