/* What docs/API.md must say, printed by the code that serves it: the table of RPCs, the codes, the limits. tools/api-table
 * builds and runs it; tests/checks/test_docs.py compares. */
#include "kms/policy/set.h"
#include "vault/front/policer.h"
#include "vault/service/condition.h"
#include "vault/service/decode.h"
#include "vault/service/fields.h"
#include "vault/service/listing.h"
#include "vault/service/status_code.h"
#include "vault/service/sweep.h"
#include "vault/service/table.h"

#include <google/rpc/code.pb-c.h>
#include <stdio.h>
#include <string.h>

static void print_row(const struct rpc_row *r)
{
    static const char *const kinds[] = {[RPC_UNARY] = "unary", [RPC_SERVER_STREAM] = "server stream", [RPC_BIDI] = "both stream"};
    static const char *const planes[] = {[PLANE_PUBLIC] = "public", [PLANE_CONTROL] = "control", [PLANE_DATA] = "data"};
    const char *method = strrchr(r->path, '/') + 1;

    printf("| %s | %s |", method, kinds[r->kind]);
    if (r->action != NULL)
        printf(" `%s` |", r->action);
    else
        printf(" none |");
    printf(" %s%s%s%s |\n", planes[r->plane], r->mutation ? ", change" : "", r->destructive ? ", destructive" : "",
           r->per_item ? ", per item" : "");
}

static void print_rows(void)
{
    size_t n;
    const struct rpc_row *const *rows = table_rows(&n);
    const char *service = "";

    for (size_t i = 0; i < n; i++) {
        size_t len = (size_t)(strrchr(rows[i]->path, '/') - rows[i]->path);
        if (strncmp(service, rows[i]->path, len + 1) != 0)
            printf("\n### %.*s\n\n", (int)len - 1, rows[i]->path + 1);
        service = rows[i]->path;
        print_row(rows[i]);
    }
}

static void print_codes(void)
{
    static const struct {
        enum err_code code;
        const char *name, *phrase;
    } codes[] = {
#define X(c, p) {c, #c, p},
        ERR_CODES(X)
#undef X
    };

    printf("\n");
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        if (codes[i].code == ERR_NONE || codes[i].code == ERR_WOULD_BLOCK)
            continue;
        const ProtobufCEnumValue *v =
            protobuf_c_enum_descriptor_get_value(&google__rpc__code__descriptor, status_code(codes[i].code));
        printf("| %s | `%s` | %s |\n", v->name, codes[i].name + strlen("ERR_"), codes[i].phrase);
    }
}

static void print_limits(void)
{
    static const struct {
        const char *what;
        long long value;
    } limits[] = {
        {"bytes of one request message", CALL_REQUEST_MAX},
        {"bytes of one request message that cut the connection", POLICER_MAX_MESSAGE_BYTES},
        {"bytes of memory for one call, its answer included", CALL_ARENA_MAX},
        {"bytes of plaintext or additional authenticated data", FIELD_BYTES_MAX},
        {"bytes that a ciphertext is longer than its plaintext", FORMAT_OVERHEAD},
        {"level HSM: bytes of plaintext and additional data or context together", KEYRING_TOKEN_MAX},
        {"level HSM: bytes that a ciphertext is longer than its plaintext", FORMAT_TOKEN_OVERHEAD},
        {"level HSM: key versions on one token", HSM_KEYS_MAX},
        {"items of a batch or of one stream message", CALL_ITEMS_MAX},
        {"pairs of an encryption context", FORMAT_CONTEXT_PAIRS_MAX},
        {"bytes of all pairs of an encryption context", FORMAT_CONTEXT_MAX_BYTES},
        {"bytes of one segment of a name", NAME_SEGMENT_MAX},
        {"bytes of a principal's name", NAME_PRINCIPAL_MAX},
        {"versions of one key", KEYRING_VERSIONS_MAX},
        {"labels of one key", KEYRING_LABELS_MAX},
        {"characters of a label's key or value", KEYRING_LABEL_MAX},
        {"policy documents in force", SET_DOCS_MAX},
        {"rows of a page when page_size is 0", LISTING_PAGE_DEFAULT},
        {"rows of a page at most", LISTING_PAGE_MAX},
        {"rows looked at for one page", LISTING_SCAN_MAX},
        {"terms of a filter", LISTING_TERMS_MAX},
        {"bytes of each metadata value we read", CALL_META_MAX},
        {"seconds that an idempotency key is remembered", IDEMPOTENCY_KEEP_S},
        {"entries of a repeated field", DECODE_REPEATED_MAX},
        {"entries of a map field", DECODE_MAP_MAX},
        {"levels of nested messages", DECODE_DEPTH_MAX},
        {"unknown fields in one message", DECODE_UNKNOWN_MAX},
    };

    printf("\n");
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++)
        printf("| %s | %lld |\n", limits[i].what, limits[i].value);
}

static void print_conditions(void)
{
    static const char *const levels[] = {[CLOSES] = "not serving", [DEGRADES] = "degraded", [WARNS] = "healthy"};
    printf("\n");
    for (int i = 0; i < CONDITION_COUNT; i++) {
        const struct condition_row *r = condition_row((enum condition)i);
        printf("| `%s` | %s | %s | %s | %s |\n", r->name, levels[r->level], r->wrong, r->callers, r->todo);
    }
}

int main(int argc, char **argv)
{
    const char *what = argc == 2 ? argv[1] : "";

    if (strcmp(what, "rows") == 0)
        print_rows();
    else if (strcmp(what, "codes") == 0)
        print_codes();
    else if (strcmp(what, "limits") == 0)
        print_limits();
    else if (strcmp(what, "conditions") == 0)
        print_conditions();
    else
        return 2;
    return 0;
}
