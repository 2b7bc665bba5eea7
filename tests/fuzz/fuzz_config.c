/* Target functions: config_parse, config_dump. A refusal names the line; what is accepted is dumped to a text that reads back
 * to the same dump, with every number inside its table's limits. */
#include "base/config.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_ranges(const struct config *c)
{
#define CHECK_STR(name, min, max) INVARIANT(c->name != NULL && strlen(c->name) + 1 > (min) && strlen(c->name) <= (max))
#define CHECK_PATH(name, min, max) INVARIANT(c->name != NULL && (c->name[0] == '\0' ? (min) == 0 : c->name[0] == '/'))
#define CHECK_INT(name, min, max) INVARIANT((uint64_t)c->name - (min) <= (uint64_t)(max) - (min))
#define CHECK_MS(name, min, max) CHECK_INT(name, (uint64_t)(min), max)
#define CHECK_BOOL(name, min, max) (void)c->name
#define X(type, name, def, min, max, help) CHECK_##type(name, min, max);
    CONFIG_TABLE(X)
#undef X
}

/* Everything that has no default, so that the input's lines are what decides; a repeated key is refused. */
static const char needed[] = "state_dir = s\nrun_dir = r\nlocations = eu\ntrust_domain = d\ntls_cert_file = c\ntls_key_file = k\n"
                             "client_ca_file = a\nhsm_token = pkcs11:token=t\nhsm_pin_file = p\n";

static void check(struct bytes text)
{
    struct config *c = NULL, *again = NULL;
    CLEANUP(buf_release) struct buf first = {0}, second = {0};
    struct err e = {0};
    if (config_parse(text, "/base", "fuzz.conf", &c, &e).failed) {
        INVARIANT(e.code == ERR_INVALID && strncmp(e.detail, "fuzz.conf", 9) == 0 && c == NULL);
        return;
    }
    check_ranges(c);
    buf_init(&first, CONFIG_MAX_BYTES * 4);
    buf_init(&second, CONFIG_MAX_BYTES * 4);
    config_dump(c, &first);
    INVARIANT(!first.overflow && !config_parse(buf_bytes(&first), NULL, "dump", &again, &e).failed);
    config_dump(again, &second);
    INVARIANT(bytes_equal(buf_bytes(&first), buf_bytes(&second)));
    config_free(c);
    config_free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(buf_release) struct buf b = {0};
    if (size > CONFIG_MAX_BYTES / 2)
        return 0;
    check(BYTES(data, size));
    buf_init(&b, CONFIG_MAX_BYTES);
    buf_put_str(&b, needed);
    buf_put(&b, data, size);
    check(buf_bytes(&b));
    return 0;
}
