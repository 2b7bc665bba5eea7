#include "kms/authn/authn.h"

#include "kms/authn/conn.h"

#include <stdlib.h>
#include <string.h>

enum { SHARDS = 32, CHAINS = 1024 };

struct shard {
    pthread_mutex_t lock;
    struct authn_conn *chains[CHAINS];
};
struct authn {
    const struct clock *clock;
    char trust_domain[SAN_MAX_BYTES];
    /* `lock` guards the two pointers; a call takes it only when an epoch says that what its connection knows is old. */
    pthread_rwlock_t lock;
    struct trust *trust;
    struct registry *registry;
    _Atomic uint64_t trust_epoch, registry_epoch;
    atomic_size_t connections;
    struct shard shards[SHARDS];
};

static void authn_freep(struct authn **a)
{
    authn_free(*a);
}

RESULT authn_new(const struct authn_options *o, struct authn **ret, struct err *e)
{
    CLEANUP(authn_freep) struct authn *a = calloc(1, sizeof *a);
    INVARIANT(a && pthread_rwlock_init(&a->lock, NULL) == 0);
    for (size_t i = 0; i < SHARDS; i++)
        INVARIANT(pthread_mutex_init(&a->shards[i].lock, NULL) == 0);
    a->clock = o->clock;
    TRY(trust_new(o->ca_pem, o->crl_pem, o->trust_domain, &a->trust, e));
    memcpy(a->trust_domain, o->trust_domain, strlen(o->trust_domain) + 1); /* trust_new has checked its length */
    TRY(registry_new(NULL, 0, a->trust_domain, &a->registry, e));
    atomic_store(&a->trust_epoch, 1);
    atomic_store(&a->registry_epoch, 1);
    *ret = a;
    a = NULL;
    return ok();
}

void authn_free(struct authn *a)
{
    if (!a)
        return;
    for (size_t i = 0; i < SHARDS; i++) {
        for (size_t j = 0; j < CHAINS; j++)
            for (struct authn_conn *c = a->shards[i].chains[j], *next; c; c = next) {
                next = c->next;
                authn_conn_unref(c);
            }
        pthread_mutex_destroy(&a->shards[i].lock);
    }
    trust_unref(a->trust);
    registry_unref(a->registry);
    pthread_rwlock_destroy(&a->lock);
    free(a);
}

RESULT authn_reload_trust(struct authn *a, struct bytes ca_pem, struct bytes crl_pem, struct err *e)
{
    struct trust *fresh;
    TRY(trust_new(ca_pem, crl_pem, a->trust_domain, &fresh, e));
    pthread_rwlock_wrlock(&a->lock);
    struct trust *old = a->trust;
    a->trust = fresh;
    atomic_fetch_add(&a->trust_epoch, 1);
    pthread_rwlock_unlock(&a->lock);
    trust_unref(old);
    return ok();
}

RESULT authn_set_principals(struct authn *a, const struct principal *list, size_t n, struct err *e)
{
    struct registry *fresh;
    TRY(registry_new(list, n, a->trust_domain, &fresh, e));
    pthread_rwlock_wrlock(&a->lock);
    struct registry *old = a->registry;
    a->registry = fresh;
    atomic_fetch_add(&a->registry_epoch, 1);
    pthread_rwlock_unlock(&a->lock);
    registry_unref(old);
    return ok();
}

/* ---- connections by id: random, so any of its bits place it ---- */

static struct authn_conn **chain_of(struct authn *a, const uint8_t id[IPC_CONN_ID_BYTES], struct shard **ret_shard)
{
    *ret_shard = &a->shards[id[0] % SHARDS];
    return &(*ret_shard)->chains[get_be16(id + 1) % CHAINS];
}

static struct authn_conn **find(struct authn_conn **at, const uint8_t id[IPC_CONN_ID_BYTES])
{
    while (*at && memcmp((*at)->id, id, IPC_CONN_ID_BYTES) != 0)
        at = &(*at)->next;
    return at;
}

/* Caller holds c->lock or owns c alone. */
static void revalidate(struct authn *a, struct authn_conn *c, int64_t now_s)
{
    pthread_rwlock_rdlock(&a->lock);
    struct trust *t = trust_ref(a->trust);
    c->trust_epoch = atomic_load(&a->trust_epoch);
    pthread_rwlock_unlock(&a->lock);
    struct err why = {0};
    c->checked_boot_ms = clock_boot_ms(a->clock);
    c->valid = !trust_check(t, now_s, c->chain, c->chain_n, &c->verdict, &why).failed;
    if (!c->valid && (c->chain_n || c->cause[0] == '\0'))
        memcpy(c->cause, why.detail, sizeof c->cause);
    trust_unref(t);
}

RESULT authn_conn_add(struct authn *a, struct bytes untrusted_conn_new, uint8_t ret_id[IPC_CONN_ID_BYTES], struct err *e)
{
    struct authn_conn *c;
    TRY(conn_parse(untrusted_conn_new, &c, e));
    if (atomic_fetch_add(&a->connections, 1) >= AUTHN_CONNECTIONS_MAX) {
        atomic_fetch_sub(&a->connections, 1);
        authn_conn_unref(c);
        FAIL(e, ERR_EXHAUSTED, NULL, "%d connections are known", AUTHN_CONNECTIONS_MAX);
    }
    revalidate(a, c, clock_unix_s(a->clock));
    struct shard *s;
    struct authn_conn **head = chain_of(a, c->id, &s);
    pthread_mutex_lock(&s->lock);
    bool known = *find(head, c->id) != NULL;
    if (!known) {
        memcpy(ret_id, c->id, IPC_CONN_ID_BYTES);
        c->next = *head;
        *head = c;
    }
    pthread_mutex_unlock(&s->lock);
    if (known) {
        atomic_fetch_sub(&a->connections, 1);
        authn_conn_unref(c);
        FAIL(e, ERR_EXISTS, NULL, "a connection of this id is known");
    }
    return ok();
}

void authn_conn_closed(struct authn *a, const uint8_t id[IPC_CONN_ID_BYTES])
{
    struct shard *s;
    struct authn_conn **head = chain_of(a, id, &s);
    pthread_mutex_lock(&s->lock);
    struct authn_conn **at = find(head, id), *c = *at;
    if (c)
        *at = c->next;
    pthread_mutex_unlock(&s->lock);
    if (!c)
        return;
    atomic_fetch_sub(&a->connections, 1);
    authn_conn_unref(c);
}

struct authn_conn *authn_conn_by_peer(struct authn *a, const char *peer)
{
    static const char *const FORMS[] = {"unix-abstract:" IPC_CONN_PREFIX, "unix:%00" IPC_CONN_PREFIX, "unix:@" IPC_CONN_PREFIX};
    uint8_t id[IPC_CONN_ID_BYTES];
    bool known = false;
    for (size_t i = 0; peer && i < sizeof FORMS / sizeof FORMS[0] && !known; i++) {
        size_t n = strlen(FORMS[i]);
        known = strncmp(peer, FORMS[i], n) == 0 && hex_decode(bytes_str(peer + n), id, sizeof id);
    }
    if (!known)
        return NULL;
    struct shard *s;
    struct authn_conn **head = chain_of(a, id, &s);
    pthread_mutex_lock(&s->lock);
    struct authn_conn *c = *find(head, id);
    if (c)
        authn_conn_ref(c);
    pthread_mutex_unlock(&s->lock);
    return c;
}

/* ---- each call ---- */

static void resolve(struct authn *a, struct authn_conn *c)
{
    pthread_rwlock_rdlock(&a->lock);
    struct registry *r = registry_ref(a->registry);
    c->registry_epoch = atomic_load(&a->registry_epoch);
    pthread_rwlock_unlock(&a->lock);
    principal_unref(c->principal);
    c->principal = registry_find(r, c->verdict.san);
    registry_unref(r);
}

static bool in_time(const struct authn *a, const struct principal *p)
{
    int64_t now_ns = clock_wall_ns(a->clock);
    return !p->recovery || (now_ns >= p->from_unix_ns && now_ns < p->until_unix_ns && clock_boot_ns(a->clock) < p->until_boot_ns);
}

/* Caller holds c->lock. NULL: c's certificate speaks for an active principal now; otherwise the cause. */
static const char *refusal(struct authn *a, struct authn_conn *c, int64_t now_s)
{
    bool changed = c->trust_epoch != atomic_load_explicit(&a->trust_epoch, memory_order_acquire);
    /* A chain that was refused is looked at again, once a second: what was wrong may have been the clock. */
    if (changed || (!c->valid && clock_boot_ms(a->clock) - c->checked_boot_ms >= AUTHN_RECHECK_MS))
        revalidate(a, c, now_s);
    if (!c->valid)
        return c->cause;
    if (now_s < c->verdict.not_before_s || now_s >= c->verdict.not_after_s)
        return "a certificate or revocation list of the chain is not valid at this time";
    if (c->registry_epoch != atomic_load_explicit(&a->registry_epoch, memory_order_acquire))
        resolve(a, c);
    if (!c->principal)
        return "no principal is registered under the certificate's name";
    if (c->principal->state != PRINCIPAL_ACTIVE)
        return "the principal is disabled";
    return in_time(a, c->principal) ? NULL : "the recovery administrator's time has ended, or the clock was set back";
}

static RESULT refuse(const struct authn_conn *c, const char *cause, struct err *e)
{
    FAIL(e, ERR_UNAUTHENTICATED, NULL, "%s%s%s", cause, c->valid ? ": " : "", c->valid ? c->verdict.san : "");
}

RESULT authn_call(struct authn *a, struct authn_conn *c, struct identity *ret, struct err *e)
{
    int64_t now_s = clock_unix_s(a->clock);
    pthread_mutex_lock(&c->lock);
    const char *cause = refusal(a, c, now_s);
    if (cause) {
        struct result r = refuse(c, cause, e);
        pthread_mutex_unlock(&c->lock);
        return r;
    }
    const struct principal *p = principal_ref(c->principal);
    pthread_mutex_unlock(&c->lock);
    *ret = (struct identity){
        .principal = p,
        .auth_method = "mtls",
        .address = authn_conn_address(c),
        .listener = authn_conn_listener(c),
        .conn = authn_conn_ref(c),
    };
    memcpy(ret->cert_sha256, c->cert_sha256, sizeof ret->cert_sha256);
    return ok();
}

void authn_identity_release(struct identity *id)
{
    principal_unref(id->principal);
    authn_conn_unref(id->conn);
    *id = (struct identity){0};
}
