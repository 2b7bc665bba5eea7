#include "vault/service/revoked.h"

#include "base/log.h"
#include "base/text.h"
#include "kms/audit/event.h"
#include "vault/service/admin.h"
#include "vault/service/offline.h"

#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct word {
    char *name; /* of a version, principals/... or tenant-ids/<hex> */
    unsigned state; /* enum version_state (a principal's: DISABLED), or tenant_state */
};
enum { NOT_REVOKED = 1 }; /* VERSION_ENABLED, and TENANT_ACTIVE */
_Static_assert((int)NOT_REVOKED == (int)VERSION_ENABLED && (int)NOT_REVOKED == (int)TENANT_ACTIVE, "one number for both");
#define TENANT_WORD "tenant-ids/"
struct revoked {
    void *tree; /* of struct word, by name: what is revoked by the last word on it */
    struct buf body;
    struct revoked_facts *facts;
    /* while reading */
    struct store *store;
    struct keyring *keyring;
    struct tenant_ref *held;
};

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct word *)a)->name, ((const struct word *)b)->name);
}

static void word_free(void *p)
{
    struct word *x = p;
    free(x->name);
    free(x);
}

static void done_reading(struct revoked *r)
{
    tenant_ref_drop(r->held);
    keyring_free(r->keyring);
    store_close(r->store);
    r->held = NULL;
    r->keyring = NULL;
    r->store = NULL;
}

void revoked_free(struct revoked *r)
{
    if (r == NULL)
        return;
    done_reading(r);
    tdestroy(r->tree, word_free);
    buf_release(&r->body);
    free(r);
}

static void set(struct revoked *r, const char *name, unsigned state)
{
    const struct word key = {.name = (char *)(uintptr_t)name};
    struct word **at = tfind(&key, &r->tree, by_name);
    if (state == NOT_REVOKED && at != NULL) {
        struct word *gone = *at;
        tdelete(&key, &r->tree, by_name);
        word_free(gone);
    } else if (state != NOT_REVOKED && at != NULL) {
        (*at)->state = state;
    } else if (state != NOT_REVOKED) {
        struct word *x = calloc(1, sizeof *x);
        INVARIANT(x != NULL && (x->name = strdup(name)) != NULL);
        x->state = state;
        INVARIANT(tsearch(x, &r->tree, by_name) != NULL);
    }
}

/* ---- what events say: the texts are this program's own (event_text in identity.c, view_version_json) ---- */
static bool field(struct bytes json, const char *label, char *out, size_t n)
{
    struct bytes want = bytes_str(label);
    for (size_t at = 0; at + want.n < json.n; at++) {
        if (memcmp(json.p + at, want.p, want.n) != 0)
            continue;
        const uint8_t *from = json.p + at + want.n, *to = memchr(from, '"', json.n - at - want.n);
        if (to == NULL || (size_t)(to - from) >= n)
            return false;
        memcpy(out, from, (size_t)(to - from));
        out[to - from] = 0;
        return true;
    }
    return false;
}

static void on_principal(struct revoked *r, const struct audit_event *ev)
{
    char name[AUTHN_PRINCIPAL_MAX + 1], state[32], key[AUTHN_PRINCIPAL_MAX + 16];
    if (!field(ev->after, "{\"principal\":\"", name, sizeof name) || !field(ev->after, "\"state\":\"", state, sizeof state))
        return;
    snprintf(key, sizeof key, "principals/%s", name);
    set(r, key, strcmp(state, "ACTIVE") == 0 ? VERSION_ENABLED : VERSION_DISABLED);
}

static void on_version(struct revoked *r, const struct audit_event *ev)
{
    char name[STORE_NAME_MAX + 1], state[32];
    struct bytes n = ev->key_version;
    if (!field(ev->after, "{\"state\":\"", state, sizeof state) || n.n == 0 || !text_copy(n, name, sizeof name))
        return;
    for (enum version_state s = VERSION_ENABLED; s <= VERSION_DESTROY_SCHEDULED; s++)
        if (strcmp(state, version_state_name(s)) == 0)
            set(r, name, s);
}

/* A key that is made has a first version, under a name that may have been another's in a future that was given up. */
static void on_key(struct revoked *r, const struct audit_event *ev)
{
    char name[STORE_NAME_MAX + 32];
    if (ev->resource.n > STORE_NAME_MAX)
        return;
    snprintf(name, sizeof name, "%.*s/cryptoKeyVersions/1", (int)ev->resource.n, (const char *)ev->resource.p);
    set(r, name, VERSION_ENABLED);
}

/* So has a version that a rotation makes, by whomever: its number may have been another's in a future that was given up. */
static void on_rotation(struct revoked *r, const struct audit_event *ev)
{
    char name[STORE_NAME_MAX + 1];
    if (ev->key_version.n > 0 && text_copy(ev->key_version, name, sizeof name))
        set(r, name, VERSION_ENABLED);
}

/* By id, not by name: the name may have been given again. */
static void on_tenant(struct revoked *r, const struct audit_event *ev)
{
    char id[33], state[32], key[sizeof TENANT_WORD + sizeof id];
    if (!field(ev->after, "\"id\":\"", id, sizeof id) || !field(ev->after, "\"state\":\"", state, sizeof state))
        return;
    snprintf(key, sizeof key, TENANT_WORD "%s", id);
    for (unsigned s = TENANT_ACTIVE; s <= TENANT_PURGED; s++)
        if (strcmp(state, sm_name(&tenant_machine, s)) == 0) /* banned-ok: a state machine has no MAC */
            set(r, key, s);
}

static void on_policy(struct revoked *r, const struct audit_event *ev)
{
    static const char label[] = "{\"version\":";
    uint64_t version = 0;
    if (ev->after.n <= sizeof label - 1 || memcmp(ev->after.p, label, sizeof label - 1) != 0)
        return;
    for (size_t i = sizeof label - 1; i < ev->after.n && ev->after.p[i] >= '0' && ev->after.p[i] <= '9'; i++)
        version = version * 10 + (uint64_t)(ev->after.p[i] - '0');
    if (version > r->facts->policy_version)
        r->facts->policy_version = version;
}

static void on_event(void *user, const struct audit_event *ev)
{
    struct revoked *r = user;
    static const struct bytes principals = BYTES_LIT("identity.principals."), versions = BYTES_LIT("kms.cryptoKeyVersions."),
                              tenants = BYTES_LIT("tenants.");
    if (!bytes_equal(ev->outcome, BYTES_LIT("ok")) || ev->after.n == 0)
        return;
    if (ev->action.n > principals.n && memcmp(ev->action.p, principals.p, principals.n) == 0)
        on_principal(r, ev);
    else if (ev->action.n > versions.n && memcmp(ev->action.p, versions.p, versions.n) == 0)
        on_version(r, ev);
    else if (ev->action.n > tenants.n && memcmp(ev->action.p, tenants.p, tenants.n) == 0)
        on_tenant(r, ev);
    else if (bytes_equal(ev->action, BYTES_LIT("kms.cryptoKeys.create")))
        on_key(r, ev);
    else if (bytes_equal(ev->action, BYTES_LIT("kms.cryptoKeys.rotate")))
        on_rotation(r, ev);
    else if (bytes_equal(ev->action, BYTES_LIT("policy.apply")))
        on_policy(r, ev);
}

/* ---- reading ---- */
/* A tenant that the store does not know was made after the copy: its keys are gone with it. */
static const struct aead_key *key_of(void *user, const uint8_t tag[32], struct err *e)
{
    struct revoked *r = user;
    return offline_journal_key(r->keyring, &r->held, tag, e);
}

static void count(void *user, const char *text)
{
    struct revoked *r = user;
    if (strstr(text, JOURNAL_CHECK_NO_TENANT) == NULL)
        r->facts->unread++;
}

static RESULT newest_policy(struct store *s, uint64_t *ret, struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    struct store_scan q = {.kind = REC_POLICY, .limit = 1, .descending = true};
    struct record *rows;
    size_t n = 0;
    arena_init(&a, 4 << 20);
    TRY(store_scan(s, &q, &a, &rows, &n, e));
    *ret = n == 1 && rows[0].id.n == 8 ? get_be64(rows[0].id.p) : 0;
    return ok();
}

static RESULT open_all(struct revoked *r, const struct service_options *o, const struct instance *in, struct err *e)
{
    struct store_options so = instance_store_options(in, o->config, o->clock);
    so.check_only = true;
    so.readers = 2;
    TRY(store_open(&so, &r->store, e));
    struct keyring_options ko = instance_keyring_options(in, o->config, o->clock, r->store);
    return keyring_new(&ko, &r->keyring, e);
}

static RESULT read_all(struct revoked *r, const struct service_options *o, const struct instance *in, struct err *e)
{
    struct err why = {0};
    const struct journal_options jo = instance_journal_options(in, o->config, o->clock);
    struct journal_checking c = {.report = count, .key = key_of, .event = on_event, .user = r};
    TRY(open_all(r, o, in, e));
    TRY(journal_check(&jo, &c, e));
    r->facts->journal_next = c.next_index;
    r->facts->journal_seq = c.outbox_seq;
    if (newest_policy(r->store, &r->facts->store_policy, &why).failed && why.code == ERR_UNAVAILABLE) {
        *e = why;
        return (struct result){1};
    }
    return ok();
}

RESULT revoked_read(const struct service_options *o, const struct instance *in, struct revoked **ret, struct revoked_facts *facts,
                    struct err *e)
{
    struct revoked *r = calloc(1, sizeof *r);
    INVARIANT(r != NULL);
    *facts = (struct revoked_facts){.policy_version = 1};
    r->facts = facts;
    buf_init(&r->body, STORE_BODY_MAX);
    struct err why = {0};
    struct result done = read_all(r, o, in, &why);
    done_reading(r);
    if (done.failed && why.code == ERR_UNAVAILABLE) {
        revoked_free(r);
        *e = why;
        return done;
    }
    if (done.failed) { /* a store of an older schema, or one without its audit key: then there is no witness */
        log_event(LOG_WARN, "the journal cannot be read with the keys of this store", LF_ERR(&why));
        facts->unread++;
    }
    *ret = r;
    return ok();
}

/* What the tree calls the row; false: rows of that kind are not amended. */
static RESULT word_of(const struct record *row, char *out, size_t n, bool *ret, struct err *e)
{
    uint8_t id[16];
    char hex[33];
    struct bytes name = row->kind == REC_PRINCIPAL ? row->id : row->name;
    *ret = (row->kind == REC_PRINCIPAL || row->kind == REC_VERSION || row->kind == REC_TENANT) && name.n <= STORE_NAME_MAX;
    if (!*ret)
        return ok();
    if (row->kind != REC_TENANT) {
        snprintf(out, n, "%s%.*s", row->kind == REC_PRINCIPAL ? "principals/" : "", (int)name.n, (const char *)name.p);
        return ok();
    }
    TRY(keyring_tenant_row_id(row, id, e));
    hex_encode(id, sizeof id, hex);
    snprintf(out, n, TENANT_WORD "%s", hex);
    return ok();
}

RESULT revoked_amend(struct revoked *r, struct record *row, int64_t now_ns, bool *ret_changed, bool *ret_waits, struct buf *text, struct err *e)
{
    char name[STORE_NAME_MAX + 16];
    const uint32_t was = row->state;
    bool asked;
    *ret_changed = *ret_waits = false;
    if (row->kind == REC_GCM) { /* how many nonces were drawn since is no word of the journal's: failed calls draw some too */
        buf_reset(&r->body);
        return keyring_counter_as_unknown(row, &r->body, ret_changed, e);
    }
    TRY(word_of(row, name, sizeof name, &asked, e));
    if (!asked)
        return ok();
    const struct word key = {.name = name};
    struct word **at = tfind(&key, &r->tree, by_name);
    const unsigned last = at != NULL ? (*at)->state : NOT_REVOKED;
    const char *stays = "DISABLED";
    buf_reset(&r->body);
    if (row->kind == REC_PRINCIPAL) {
        TRY(admin_principal_as_disabled(row, last != NOT_REVOKED, &r->body, ret_changed, e));
    } else if (row->kind == REC_TENANT && (last != NOT_REVOKED || was == TENANT_DELETED)) {
        stays = sm_name(&tenant_machine, last);
        TRY(keyring_tenant_as_revoked(row, (enum tenant_state)last, now_ns, &r->body, ret_changed, e));
    } else if (row->kind == REC_VERSION && (last != NOT_REVOKED || was == VERSION_DESTROY_SCHEDULED)) {
        stays = version_state_name((enum version_state)last);
        TRY(keyring_version_as_revoked(row, (enum version_state)last, now_ns, &r->body, ret_changed, e));
    }
    *ret_waits = *ret_changed && row->state == was;
    if (*ret_waits)
        buf_putf(text, "may have been restored since, and can be for %s days from now: %.*s", row->kind == REC_TENANT ? "90" : "30", (int)row->name.n,
                 (const char *)row->name.p);
    else if (*ret_changed)
        buf_putf(text, "stays as it was last: %s%.*s %s", row->kind == REC_PRINCIPAL ? "principals/" : "",
                 (int)(row->kind == REC_PRINCIPAL ? row->id.n : row->name.n),
                 (const char *)(row->kind == REC_PRINCIPAL ? row->id.p : row->name.p), stays);
    return ok();
}
