#include "vault/cmd/kmsctl/kmsctl.h"

#include "base/text.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CONF_MAX = 65536 };

/* The keys of the configuration file, in the order of struct conf's slots. */
static const char *const conf_keys[] = {"endpoint", "ca", "cert", "key", "server_name", "operator_cert", "operator_key",
                                        "keyadmin_cert", "keyadmin_key", "service_cert", "service_key"};
enum { CONF_ENDPOINT, CONF_CA, CONF_CERT, CONF_KEY, CONF_SERVER_NAME, CONF_ROLE_CERT, CONF_KEYS = 11 };
struct conf {
    const char *value[CONF_KEYS];
};

static struct bytes trim(struct bytes s)
{
    while (s.n && (s.p[0] == ' ' || s.p[0] == '\t'))
        s = BYTES(s.p + 1, s.n - 1);
    while (s.n && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t' || s.p[s.n - 1] == '\r'))
        s.n--;
    return s;
}

static struct result conf_line(struct bytes l, const char *path, unsigned nr, struct arena *mem, struct conf *ret,
                               struct claviger_error *e)
{
    l = trim(l);
    if (l.n == 0 || l.p[0] == '#')
        return ok();
    const uint8_t *eq = memchr(l.p, '=', l.n);
    struct bytes key = eq ? trim(BYTES(l.p, (size_t)(eq - l.p))) : l;
    for (int i = 0; eq && i < CONF_KEYS; i++) {
        if (!bytes_equal(key, bytes_str(conf_keys[i])))
            continue;
        if (ret->value[i])
            return usage(e, "%s:%u: %s is given twice", path, nr, conf_keys[i]);
        ret->value[i] = arena_strdup(mem, trim(BYTES(eq + 1, (size_t)(l.p + l.n - eq - 1))));
        return ok();
    }
    return usage(e, "%s:%u: not a line \"key = value\" with a known key", path, nr);
}

static struct result conf_read(const char *path, struct arena *mem, struct conf *ret, struct claviger_error *e)
{
    CLEANUP(buf_release) struct buf text;
    buf_init(&text, CONF_MAX + 1);
    TRY(read_all(path, CONF_MAX, &text, e));
    unsigned nr = 1;
    for (struct bytes rest = buf_bytes(&text); rest.n; nr++) {
        const uint8_t *nl = memchr(rest.p, '\n', rest.n);
        size_t n = nl ? (size_t)(nl - rest.p) : rest.n;
        TRY(conf_line(BYTES(rest.p, n), path, nr, mem, ret, e));
        rest = BYTES(rest.p + n + (nl != NULL), rest.n - n - (nl != NULL));
    }
    return ok();
}

static const char *first(const char *a, const char *b, const char *c, const char *d)
{
    return a && *a ? a : b && *b ? b : c && *c ? c : d && *d ? d : NULL;
}

static struct result conf_find(const struct args *a, struct arena *mem, struct conf *ret, struct claviger_error *e)
{
    if (a->value[OPT_CONFIG])
        return conf_read(a->value[OPT_CONFIG], mem, ret, e);
    const char *xdg = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    const char *path = xdg && *xdg      ? arena_printf(mem, "%s/claviger/kmsctl.conf", xdg)
                       : home && *home ? arena_printf(mem, "%s/.config/claviger/kmsctl.conf", home)
                                        : NULL;
    if (!path || access(path, F_OK) != 0)
        return ok();
    return conf_read(path, mem, ret, e);
}

RESULT settings_resolve(const struct args *a, enum role role, struct arena *mem, struct settings *ret, struct claviger_error *e)
{
    static const char *const role_cert[] = {"KMS_OPERATOR_CERT", "KMS_KEYADMIN_CERT", "KMS_SERVICE_CERT"};
    static const char *const role_key[] = {"KMS_OPERATOR_KEY", "KMS_KEYADMIN_KEY", "KMS_SERVICE_KEY"};
    struct conf f = {0};
    TRY(conf_find(a, mem, &f, e));
    size_t rc = (size_t)CONF_ROLE_CERT + 2 * (size_t)role;
    struct settings s = {
        .endpoint = first(a->value[OPT_ENDPOINT], getenv("KMS_ENDPOINT"), f.value[CONF_ENDPOINT], NULL),
        .ca = first(a->value[OPT_CA], getenv("KMS_CA"), f.value[CONF_CA], NULL),
        .cert = first(a->value[OPT_CERT], getenv("KMS_CERT"), getenv(role_cert[role]), first(f.value[rc], f.value[CONF_CERT], 0, 0)),
        .key = first(a->value[OPT_KEYFILE], getenv("KMS_KEY"), getenv(role_key[role]), first(f.value[rc + 1], f.value[CONF_KEY], 0, 0)),
        .server_name = first(a->value[OPT_SERVER_NAME], f.value[CONF_SERVER_NAME], NULL, NULL),
    };
    if (!s.endpoint || !s.ca || !s.cert || !s.key)
        return client_fail(e, CLAVIGER_INVALID_ARGUMENT, "NOT_CONFIGURED",
                           "no %s is known: give --%s, set %s, or write a configuration file (kmsctl --help)",
                           !s.endpoint ? "endpoint" : !s.ca ? "CA" : !s.cert ? "certificate" : "private key",
                           !s.endpoint ? "endpoint" : !s.ca ? "ca" : !s.cert ? "cert" : "cert-key",
                           !s.endpoint ? "KMS_ENDPOINT" : !s.ca ? "KMS_CA" : !s.cert ? role_cert[role] : role_key[role]);
    uint64_t timeout_ms = 10000;
    if (a->value[OPT_TIMEOUT] && (!text_parse_duration_ms(bytes_str(a->value[OPT_TIMEOUT]), &timeout_ms) || timeout_ms == 0 ||
                                  timeout_ms > 3600000))
        return usage(e, "--timeout is a duration like 500ms or 10s, at most 1h");
    s.timeout_ms = (uint32_t)timeout_ms;
    *ret = s;
    return ok();
}

RESULT ctl_connect(struct ctl *c, struct claviger_error *e)
{
    if (c->client)
        return ok();
    struct settings s;
    TRY(settings_resolve(&c->args, c->role, &c->arena, &s, e));
    struct claviger_options o = {.size = sizeof o, .endpoint = s.endpoint, .ca_file = s.ca, .cert_file = s.cert,
                                 .key_file = s.key, .server_name = s.server_name, .timeout_ms = s.timeout_ms};
    return (struct result){claviger_connect(&o, &c->client, e) != CLAVIGER_OK};
}

static struct result call(struct ctl *c, const struct rpc_options *o, const ProtobufCMessage *q,
                          const ProtobufCMessageDescriptor *d, void *ret, struct claviger_error *e)
{
    TRY(ctl_connect(c, e));
    ProtobufCMessage *m = NULL;
    TRY(rpc_unary(client_transport(c->client), o, q, d, &c->arena, &m, e));
    memcpy(ret, &m, sizeof m);
    return ok();
}

RESULT ctl_read(struct ctl *c, const char *path, const ProtobufCMessage *q, const ProtobufCMessageDescriptor *d, void *ret,
                struct claviger_error *e)
{
    return call(c, &(struct rpc_options){.path = path, .retry = true}, q, d, ret, e);
}

RESULT ctl_change(struct ctl *c, const char *path, const ProtobufCMessage *q, const ProtobufCMessageDescriptor *d, void *ret,
                  struct claviger_error *e)
{
    return call(c, &(struct rpc_options){.path = path, .idempotency_key = c->args.value[OPT_IDEMPOTENCY]}, q, d, ret, e);
}
