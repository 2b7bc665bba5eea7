#include "vault/cmd/kmsctl/kmsctl.h"

#include "kms/name/name.h"

enum { CIPHERTEXT_MAX = 2 * CLAVIGER_PLAINTEXT_MAX };

typedef int one_fn(struct claviger *c, const char *key, const void *in, size_t n, const struct claviger_binding *b,
                   struct claviger_buffer *ret, struct claviger_error *e);

static struct result answer(struct ctl *c, const char *field, const struct claviger_buffer *out, struct claviger_error *e)
{
    struct bytes b = BYTES(out->data, out->len);
    if (!c->json)
        return write_all(b, e);
    json_t *j = json_object();
    json_object_set_new(j, field, json_of_bytes(b));
    json_object_set_new(j, "bytes", json_integer((json_int_t)b.n));
    print_json(j);
    json_decref(j);
    return ok();
}

/* stdin (or --in) through one call to stdout. */
static struct result pass(struct ctl *c, one_fn *fn, unsigned kinds, size_t max, bool aad_allowed, const char *field,
                          struct claviger_error *e)
{
    ProtobufCBinaryData key;
    TRY(name_full(c, c->args.pos[0], kinds, &key, e));
    struct claviger_binding b;
    TRY(args_binding(c, aad_allowed, &b, e));
    TRY(ctl_connect(c, e));
    CLEANUP(buf_release) struct buf in;
    buf_init(&in, max + 65536);
    TRY(read_all(c->args.value[OPT_IN], max, &in, e));
    CLEANUP(claviger_buffer_free) struct claviger_buffer out = {0};
    if (fn(c->client, (const char *)key.data, in.p, in.n, &b, &out, e) != CLAVIGER_OK)
        return (struct result){1};
    return answer(c, field, &out, e);
}

enum { KEY_ONLY = 1u << NAME_CRYPTOKEY, KEY_OR_VERSION = 1u << NAME_CRYPTOKEY | 1u << NAME_VERSION };

static struct result encrypt(struct ctl *c, struct claviger_error *e)
{
    return pass(c, claviger_encrypt, KEY_OR_VERSION, CLAVIGER_PLAINTEXT_MAX, true, "ciphertext", e);
}

static struct result decrypt(struct ctl *c, struct claviger_error *e)
{
    return pass(c, claviger_decrypt, KEY_ONLY, CIPHERTEXT_MAX, true, "plaintext", e);
}

static struct result wrap(struct ctl *c, struct claviger_error *e)
{
    return pass(c, claviger_wrap, KEY_OR_VERSION, CLAVIGER_PLAINTEXT_MAX, false, "wrapped_key", e);
}

static struct result unwrap(struct ctl *c, struct claviger_error *e)
{
    return pass(c, claviger_unwrap, KEY_ONLY, CIPHERTEXT_MAX, false, "plaintext_key", e);
}

static struct result rewrap(struct ctl *c, struct claviger_error *e)
{
    return pass(c, claviger_rewrap, KEY_ONLY, CIPHERTEXT_MAX, true, "ciphertext", e);
}

static struct result datakey(struct ctl *c, struct claviger_error *e)
{
    ProtobufCBinaryData key;
    TRY(name_full(c, c->args.pos[0], KEY_OR_VERSION, &key, e));
    struct claviger_binding b;
    TRY(args_binding(c, false, &b, e));
    uint64_t bytes;
    TRY(args_u64(&c->args, OPT_BYTES, 16, 64, 32, &bytes, e));
    bool wrapped_only = c->args.value[OPT_WRAPPED_ONLY] != NULL;
    if (!c->json && !wrapped_only)
        return usage(e, "two values come back: use --output json, or --wrapped-only and kmsctl unwrap later");
    TRY(ctl_connect(c, e));
    CLEANUP(claviger_buffer_free) struct claviger_buffer plain = {0}, wrapped = {0};
    if (claviger_generate_data_key(c->client, (const char *)key.data, (uint32_t)bytes, &b, wrapped_only ? NULL : &plain, &wrapped,
                                   e) != CLAVIGER_OK)
        return (struct result){1};
    if (!c->json)
        return write_all(BYTES(wrapped.data, wrapped.len), e);
    json_t *j = json_object();
    if (!wrapped_only)
        json_object_set_new(j, "plaintext_key", json_of_bytes(BYTES(plain.data, plain.len)));
    json_object_set_new(j, "wrapped_key", json_of_bytes(BYTES(wrapped.data, wrapped.len)));
    print_json(j);
    json_decref(j);
    return ok();
}

#define BIND (O(OPT_AAD) | O(OPT_AAD_FILE) | O(OPT_CONTEXT) | O(OPT_IN))
static const struct command rows[] = {
    {"encrypt", NULL, "KEY", 1, 1, BIND, ROLE_SERVICE, encrypt, "stdin to stdout, at most 64 KiB",
     "printf %s \"$EMAIL\" | kmsctl encrypt acme/eu/pii/email --context column=email > email.clv"},
    {"decrypt", NULL, "KEY", 1, 1, BIND, ROLE_SERVICE, decrypt, "stdin to stdout; the version is in the ciphertext",
     "kmsctl decrypt acme/eu/pii/email --context column=email < email.clv"},
    {"wrap", NULL, "KEY", 1, 1, O(OPT_CONTEXT) | O(OPT_IN), ROLE_SERVICE, wrap, "a key from stdin, wrapped, to stdout",
     "head -c 32 /dev/urandom | kmsctl wrap acme/eu/pii/email --context disk=sda > disk.key.clv"},
    {"unwrap", NULL, "KEY", 1, 1, O(OPT_CONTEXT) | O(OPT_IN), ROLE_SERVICE, unwrap, "the wrapped key's plaintext to stdout",
     "kmsctl unwrap acme/eu/pii/email --context disk=sda < disk.key.clv | cryptsetup open --key-file - /dev/sda2 data"},
    {"rewrap", NULL, "KEY", 1, 1, BIND, ROLE_SERVICE, rewrap, "the same data under the newest version, without seeing it",
     "kmsctl rewrap acme/eu/pii/email --context column=email < email.clv > email.new"},
    {"datakey", NULL, "KEY", 1, 1, O(OPT_CONTEXT) | O(OPT_BYTES) | O(OPT_WRAPPED_ONLY), ROLE_SERVICE, datakey,
     "a new data key, in the clear and wrapped (or only wrapped)",
     "kmsctl datakey acme/eu/pii/email --wrapped-only --context file=backup-7 > backup-7.key.clv"},
};
const struct command_rows rows_data = {rows, sizeof rows / sizeof *rows};
