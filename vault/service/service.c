#include "vault/service/service.h"

#include "base/log.h"
#include "base/text.h"
#include "vault/service/admin.h"
#include "vault/service/certificate.h"
#include "vault/service/destruction.h"
#include "vault/service/instance.h"
#include "vault/service/keeper.h"
#include "vault/service/lanes.h"
#include "vault/service/mover.h"
#include "vault/service/metering.h"
#include "vault/service/pipeline.h"
#include "vault/service/review.h"
#include "vault/service/rotation.h"
#include "vault/service/sweep.h"
#include "vault/service/tenant_life.h"
#include "vault/service/token_keys.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STORE_READERS = 4, LIMITER_KEYS = 65536, REFUSAL_SOURCES = 4096, REFUSALS_FULL_PER_MINUTE = 10, RECOVERY_WAIT_MS = 2000 };

/* Relay thread only: the tenant of the event under way stays held until the next one. */
static const struct audit_tenant *relay_tenant(void *user, const uint8_t tenant_id[16])
{
    struct service *s = user;
    static const uint8_t none[16];
    struct tenant_ref *t = NULL;
    if (memcmp(tenant_id, none, sizeof none) == 0) {
        tenant_ref_drop(s->relay_tenant); /* it may have been purged: nothing of it is kept for want of another */
        s->relay_tenant = NULL;
        return keyring_system_audit(s->keyring);
    }
    struct err e = {0};
    if (keyring_tenant_hold_by_id(s->keyring, tenant_id, &t, &e).failed) {
        log_event(LOG_ERROR, "an outbox event names a tenant that cannot be read", LF_ERR(&e));
        return NULL;
    }
    tenant_ref_drop(s->relay_tenant);
    s->relay_tenant = t;
    return tenant_ref_audit(t);
}

static uint64_t journal_end(void *user)
{
    struct journal_status js;
    journal_status(user, &js);
    return js.next_index;
}

static RESULT check_journal_floor(struct service *s, struct err *e)
{
    struct store_anchor_status a;
    store_anchor_status(s->store, &a);
    uint64_t now = journal_end(s->journal);
    if (now < a.floor_journal)
        FAIL(e, ERR_STATE, "STORE_ROLLED_BACK",
             "the journal has %llu records, the anchor saw %llu: it is an older copy; to go on with it knowingly: kmsd accept-rollback "
             "--reason TEXT",
             (unsigned long long)now, (unsigned long long)a.floor_journal);
    store_anchor_journal(s->store, journal_end, s->journal);
    return ok();
}

static RESULT start_storage(struct service *s, const struct instance *in, struct err *e)
{
    struct store_options so = instance_store_options(in, s->config, s->clock);
    so.readers = STORE_READERS;
    so.anchor = &s->floor.io;
    TRY(store_open(&so, &s->store, e));
    const struct journal_options jo = instance_journal_options(in, s->config, s->clock);
    TRY(journal_open(&jo, &s->journal, e));
    TRY(check_journal_floor(s, e));
    struct keyring_options ko = instance_keyring_options(in, s->config, s->clock, s->store);
    return keyring_new(&ko, &s->keyring, e);
}

static RESULT start_gates(struct service *s, const struct service_options *o, struct err *e)
{
    struct authn_options ao = {.clock = s->clock, .ca_pem = o->ca_pem, .crl_pem = o->crl_pem, .trust_domain = s->config->trust_domain};
    struct err why = {0};
    if (authn_new(&ao, &s->authn, &why).failed)
        FAIL(e, why.code, "CLIENT_CA", "client_ca_file %s%s%s: %s", s->config->client_ca_file,
             s->config->client_crl_file[0] != 0 ? " or client_crl_file " : "", s->config->client_crl_file, why.detail);
    struct admin_options mo = {.store = s->store, .authn = s->authn, .clock = s->clock, .trust_domain = s->config->trust_domain};
    memcpy(mo.boot_id, o->boot_id, sizeof mo.boot_id);
    TRY(admin_open(&mo, &s->admin, e));
    uint64_t rate = s->config->rate_per_principal;
    s->budgets = budgets_new(s->clock, s->config->items_per_tenant_day, s->config->items_per_tenant_month);
    TRY(sweep_load_budgets(s, e));
    TRY(limiter_new(s->clock, LIMITER_KEYS, rate, rate, &s->limiter, e));
    return refusals_new(s->clock, REFUSAL_SOURCES, REFUSALS_FULL_PER_MINUTE, &s->refusals, e);
}

/* A store from before these records were kept gets them now. */
static RESULT complete(struct service *s, struct err *e)
{
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(s->store);
    bool any = false;
    uint64_t seq;
    TRY(instance_records(s->store, clock_wall_ns(s->clock), txn, &any, e));
    if (any)
        TRY(store_txn_commit(txn, &seq, e));
    return instance_token_key(s->store, &s->token_key, e);
}

/* A recovery administrator may act once the event of its making is in the journal: that takes a moment, unless the journal is in
 * trouble, which must not keep the service from starting and saying so. */
static void await_recovery(struct service *s)
{
    struct review_note n;
    struct journal_status js;
    const int64_t until = clock_boot_ms(s->clock) + RECOVERY_WAIT_MS;
    while (reviews_due(s->reviews, REVIEW_RECOVERY, &n) && journal_outbox_seq(s->journal) < s->outbox_at_start &&
           clock_boot_ms(s->clock) < until) {
        journal_status(s->journal, &js);
        (void)journal_wait(s->journal, js.next_index, RECOVERY_WAIT_MS / 100);
    }
}

static RESULT requeue(void *user, struct err *e)
{
    return keyring_requeue(((struct service *)user)->keyring, e);
}

static void start_keeper(struct service *s)
{
    static const struct keeper_task tasks[] = {{DUE_ROTATION, rotation_due}, {DUE_DESTRUCTION, destruction_due}, {DUE_CERTIFICATE, certificate_due},
                                                {DUE_PURGE, tenant_purge_due}, {DUE_RETURN, tenant_return_due},
                                                {DUE_EXHAUSTION, token_key_exhausted}, {DUE_HSM_UNFINISHED, token_key_unfinished},
                                                {DUE_HSM_REMOVAL, token_key_removal}};
    const struct keeper_options o = {.store = s->store,
                                     .clock = s->clock,
                                     .pace = s->config->due_per_second,
                                     .settle_ms = s->config->clock_settle,
                                     .prepare = requeue,
                                     .tasks = tasks,
                                     .ntasks = sizeof tasks / sizeof tasks[0],
                                     .user = s};
    s->keeper = keeper_new(&o);
    keeper_start(s->keeper);
}

static RESULT start_metering(struct service *s, struct err *e)
{
    const struct metering_options o = {.store = s->store, .journal = s->journal, .keyring = s->keyring, .clock = s->clock, .rows_max = USAGE_ROWS_MAX};
    return metering_new(&o, &s->metering, e);
}

static void start_mover(struct service *s)
{
    const struct mover_options o = {.s = s,
                                    .master_pace = s->config->master_versions_per_second,
                                    .seal_pace = s->config->seal_rows_per_second,
                                    .settle_ms = s->config->clock_settle};
    s->mover = mover_new(&o);
    mover_start(s->mover);
}

static RESULT start_all(struct service *s, const struct service_options *o, struct err *e)
{
    TRY(table_check(e));
    struct instance in;
    TRY(instance_load(s->config, s->hsm, &in, e));
    s->instance = in;
    TRY(certificate_key(s, e));
    TRY(start_storage(s, &s->instance, e));
    TRY(complete(s, e));
    TRY(reviews_load(s->store, &s->reviews, e));
    s->outbox_at_start = store_outbox_last(s->store);
    TRY(start_gates(s, o, e));
    s->waiters = waiters_new();
    s->lanes = lanes_new((unsigned)s->config->slow_workers, s->config->slow_queue_max);
    struct relay_hooks hooks = {.tenant = relay_tenant, .user = s};
    TRY(start_metering(s, e));
    TRY(relay_start(s->journal, s->store, &hooks, &s->relay, e));
    metering_start(s->metering);
    await_recovery(s);
    s->sweep = sweep_start(s);
    start_keeper(s);
    start_mover(s);
    return ok();
}

RESULT service_start(const struct service_options *o, struct service **ret, struct err *e)
{
    struct service *s = calloc(1, sizeof *s);
    INVARIANT(s != NULL);
    s->config = o->config;
    s->clock = o->clock;
    s->hsm = o->hsm;
    floor_init(&s->floor, o->config, o->hsm);
    snprintf(s->anchor_weakness, sizeof s->anchor_weakness, "%s", o->anchor_weakness != NULL ? o->anchor_weakness : "");
    s->started_unix_ns = clock_wall_ns(o->clock);
    if (start_all(s, o, e).failed) {
        service_stop(s);
        return (struct result){1};
    }
    *ret = s;
    return ok();
}

/* In reverse: nothing that can still produce an event outlives what makes it durable. */
void service_stop(struct service *s)
{
    if (s == NULL)
        return;
    mover_free(s->mover);
    keeper_free(s->keeper);
    sweep_stop(s->sweep);
    lanes_free(s->lanes);
    metering_stop(s->metering);
    relay_stop(s->relay);
    if (s->store != NULL)
        store_anchor_journal(s->store, NULL, NULL);
    journal_close(s->journal);
    metering_free(s->metering);
    admin_free(s->admin);
    tenant_ref_drop(s->relay_tenant);
    keyring_free(s->keyring);
    store_close(s->store);
    authn_free(s->authn);
    limiter_free(s->limiter);
    budgets_free(s->budgets);
    refusals_free(s->refusals);
    waiters_free(s->waiters);
    aead_key_free(s->token_key);
    hsm_free(s->hsm);
    free(s->sweep);
    reviews_free(s->reviews);
    free(s);
}

/* The token, as it was last asked, and what was made on it since. */
static bool lacks(struct service *s, const struct hsm_status *hs, enum hsm_object kind, uint32_t version)
{
    return hs->logged_in && hsm_newest(hs, kind) < version && atomic_load(&s->made[kind]) < version;
}

static void hsm_health(struct service *s, struct health *h)
{
    struct hsm_status hs;
    char why[CONDITION_DETAIL_MAX];
    bool pin = false;
    if (!sweep_hsm_state(s->sweep, &hs, &pin, why, sizeof why))
        health_add(h, pin ? CONDITION_HSM_PIN : CONDITION_HSM_AWAY, why);
    else if (lacks(s, &hs, HSM_MASTER, keyring_master(s->keyring)))
        health_add(h, CONDITION_MASTER_ABSENT, "");
    if (lacks(s, &hs, HSM_SEAL, store_seal_epoch(s->store)))
        health_add(h, CONDITION_SEAL_ABSENT, "");
    const uint64_t unsaved = atomic_load(&s->keys_unsaved);
    if (unsaved > 0) {
        snprintf(why, sizeof why, "%llu", (unsigned long long)unsaved);
        health_add(h, CONDITION_TOKEN_BACKUP_STALE, why);
    }
}

static void storage_health(struct service *s, struct health *h)
{
    struct journal_status js;
    struct store_anchor_status a;
    char why[STORE_TROUBLE_MAX];
    journal_status(s->journal, &js);
    if (!journal_admits(s->journal))
        health_add(h, CONDITION_AUDIT_UNAVAILABLE, js.ok ? "one write is taking too long" : js.reason);
    if (store_trouble(s->store, why))
        health_add(h, CONDITION_STORE_FAILING, why);
    store_anchor_status(s->store, &a);
    if (a.failing)
        health_add(h, CONDITION_ANCHOR_BEHIND, a.why);
    uint64_t damaged = atomic_load(&s->damaged);
    if (damaged > 0) {
        snprintf(why, sizeof why, "%llu calls met it", (unsigned long long)damaged);
        health_add(h, CONDITION_STORE_DAMAGED, why);
    }
}

static void review_health(struct service *s, struct health *h)
{
    struct review_note n;
    char text[CONDITION_DETAIL_MAX], until[TEXT_RFC3339_BYTES];
    if (reviews_due(s->reviews, REVIEW_ROLLBACK, &n))
        health_add(h, n.closed ? CONDITION_ROLLBACK_CLOSED : CONDITION_ROLLBACK_UNREVIEWED, n.reason);
    if (!reviews_due(s->reviews, REVIEW_RECOVERY, &n))
        return;
    text_format_rfc3339(n.until_unix_ns, until);
    snprintf(text, sizeof text, "%s, until %s: %.60s", n.principal, until, n.reason);
    health_add(h, CONDITION_RECOVERY_UNREVIEWED, text);
}

static void keeper_health(struct service *s, struct health *h)
{
    struct keeper_status k;
    keeper_status(s->keeper, &k);
    if (k.failing)
        health_add(h, CONDITION_DUE_FAILING, k.why);
    struct mover_status m;
    mover_status(s->mover, HSM_MASTER, &m);
    if (m.failing)
        health_add(h, CONDITION_MASTER_FAILING, m.why);
    mover_status(s->mover, HSM_SEAL, &m);
    if (m.failing)
        health_add(h, CONDITION_SEAL_FAILING, m.why);
}

void service_health(struct service *s, struct health *ret)
{
    *ret = (struct health){.serving = true};
    hsm_health(s, ret);
    storage_health(s, ret);
    keeper_health(s, ret);
    if (!admin_current(s->admin))
        health_add(ret, CONDITION_POLICY_STALE, "");
    if (atomic_load(&s->trust_old))
        health_add(ret, CONDITION_TRUST_OLD, "");
    review_health(s, ret);
}
