/* `kmsd init`: objects on the token, the instance id, a backup of the token, the store with policy version 1 and one
 * administrator. Everything that can be checked is checked before anything is created; nothing that exists is overwritten. */
#include "vault/service/service.h"

#include "base/log.h"
#include "base/text.h"
#include "kms/audit/event.h"
#include "vault/service/admin.h"
#include "vault/service/table.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static const uint8_t no_tenant[16];

static RESULT check_documents(const struct policy_doc *docs, size_t n, struct buf *ret_text, struct err *e)
{
    struct policy_set *set = NULL;
    struct err why = {0};
    if (n == 0)
        FAIL(e, ERR_INVALID, "NO_POLICY", "no policy document was given");
    if (admin_policy_check(docs, n, &set, ret_text, &why).failed)
        FAIL(e, ERR_INVALID, "POLICY_INVALID", "%s", buf_cstr(ret_text));
    policy_unref(set);
    return ok();
}

/* ---- what an earlier run left ---------------------------------------------------------------------------------------- */

enum store_found { STORE_NONE, STORE_EMPTY, STORE_FULL, STORE_CLOSED };
static const char *const store_words[] = {"no", "empty", "yes", "yes, but this token does not open it"};
struct found {
    struct hsm_status token;
    bool instance, served;
    enum store_found store;
};

static bool exists_in(const char *dir, const char *name)
{
    char path[4096 + 16];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return lstat(path, &st) == 0;
}

/* The first transaction writes all that init writes: a store without any record of this kind was never used. */
static enum store_found look_into_store(const struct service_options *o)
{
    struct err why = {0};
    struct instance in;
    struct store *s;
    uint64_t facts = 0;
    if (!exists_in(o->config->state_dir, "store.db"))
        return STORE_NONE;
    if (instance_load(o->config, o->hsm, &in, &why).failed)
        return STORE_CLOSED;
    struct store_options so = instance_store_options(&in, o->config, o->clock);
    if (store_open(&so, &s, &why).failed)
        return STORE_CLOSED;
    bool counted = !store_count(s, REC_META, no_tenant, (struct bytes){0}, &facts, &why).failed;
    store_close(s);
    return !counted ? STORE_CLOSED : facts > 0 ? STORE_FULL : STORE_EMPTY;
}

/* Whoever served wrote events: then a missing store is a lost store. */
static bool has_journal(const struct config *c)
{
    char path[4096 + 16];
    bool found = false;
    snprintf(path, sizeof path, "%s%s", c->journal_dir[0] != 0 ? c->journal_dir : c->state_dir, c->journal_dir[0] != 0 ? "" : "/journal");
    DIR *d = opendir(path);
    for (const struct dirent *entry; d != NULL && (entry = readdir(d)) != NULL;)
        found |= strncmp(entry->d_name, "journal-", 8) == 0;
    if (d != NULL)
        closedir(d);
    return found;
}

static RESULT look(const struct service_options *o, struct found *f, struct err *e)
{
    *f = (struct found){0};
    TRY(hsm_probe(o->hsm, &f->token, e));
    f->instance = exists_in(o->config->state_dir, "instance");
    f->store = look_into_store(o);
    f->served = has_journal(o->config);
    return ok();
}

static const char *word(bool there)
{
    return there ? "yes" : "no";
}

static const char *advice(const struct found *f)
{
    if (f->store == STORE_CLOSED || f->store == STORE_FULL)
        return "correct hsm_token or state_dir, or restore the token; remove nothing";
    if (f->served)
        return "kmsd has served here and its store is lost: restore it; remove nothing";
    if (f->instance)
        return "an init was interrupted, nothing was encrypted: see docs/OPERATIONS.md, \"An interrupted init\"";
    return "this token is another instance's: name another in hsm_token";
}

/* Says what there is in the log, with places, and in one line to the operator, with what to do: a wrong token looks much like
 * an interrupted init, and must not be answered with "remove it". */
static RESULT refuse(const struct service_options *o, const struct found *f, struct err *e)
{
    const struct hsm_status *t = &f->token;
    const bool keys = t->master_newest != 0 && t->seal_newest != 0 && t->audit_newest != 0;
    log_event(LOG_ERROR, "init found something", LF_STR("state_dir", o->config->state_dir), LF_STR("token", t->token_label),
              LF_STR("serial", t->serial), LF_STR("instance_file", word(f->instance)), LF_STR("master", word(t->master_newest != 0)),
              LF_STR("seal", word(t->seal_newest != 0)), LF_STR("audit_key", word(t->audit_newest != 0)),
              LF_STR("token_backup", word(t->backups != 0)), LF_STR("store", store_words[f->store]));
    if (f->store == STORE_FULL && keys)
        FAIL(e, ERR_EXISTS, "ALREADY_INITIALISED", "this instance is initialised already: start kmsd. Nothing was changed");
    FAIL(e, ERR_STATE, "INIT_UNFINISHED",
         "there is: instance file %s, master %s, seal %s, audit key %s, token backup %s, store %s. Nothing was changed; %s",
         word(f->instance), word(t->master_newest != 0), word(t->seal_newest != 0), word(t->audit_newest != 0),
         word(t->backups != 0), store_words[f->store], advice(f));
}

/* Before anything is made: what a daemon needs of its token, group by group (docs/OPERATIONS.md). */
static RESULT check_token(const struct service_options *o, const struct hsm_status *t, struct err *e)
{
    struct err why = {0};
    if (t->cannot[0] != 0)
        FAIL(e, ERR_UNIMPLEMENTED, "TOKEN_LACKS", "token \"%s\" cannot do %s: a daemon needs another", t->token_label, t->cannot);
    if (o->config->anchor_file[0] != 0 || !hsm_anchor_try(o->hsm, &why).failed)
        return ok();
    if (why.code == ERR_UNIMPLEMENTED)
        FAIL(e, ERR_UNIMPLEMENTED, "TOKEN_LACKS", "token \"%s\": %.160s: name a file for it in anchor_file", t->token_label, why.detail);
    *e = why;
    return (struct result){1};
}

static RESULT check_nothing_there(const struct service_options *o, struct err *e)
{
    struct found f;
    TRY(look(o, &f, e));
    const struct hsm_status *t = &f.token;
    if (f.instance || f.served || f.store != STORE_NONE || t->master_newest != 0 || t->seal_newest != 0 || t->audit_newest != 0)
        return refuse(o, &f, e);
    TRY(check_token(o, t, e));
    if (!t->copyable && !o->vendor_clone)
        FAIL(e, ERR_STATE, "TOKEN_BACKUP", "token \"%s\" is no files that init could back up: clone it by its vendor's tool, and say so "
             "with --token-backup vendor-clone", t->token_label);
    if (t->copyable && o->vendor_clone)
        FAIL(e, ERR_STATE, "TOKEN_BACKUP", "token \"%s\" is files: init makes and verifies its backup itself; leave out --token-backup",
             t->token_label);
    return ok();
}

/* ---- the token's backup ---------------------------------------------------------------------------------------------- */

static RESULT make_backup(const struct service_options *o, struct hsm_backup *ret, struct err *e)
{
    struct err why = {0};
    struct hsm_status st;
    if (!o->vendor_clone) {
        if (!hsm_backup(o->hsm, ret, &why).failed)
            return ok();
        FAIL(e, why.code, why.reason, "the backup of the token failed, so init stops before first use: %.160s", why.detail);
    }
    TRY(hsm_probe(o->hsm, &st, e));
    *ret = (struct hsm_backup){.made_unix_s = clock_unix_s(o->clock)};
    snprintf(ret->serial, sizeof ret->serial, "%s", st.serial);
    return ok();
}

/* ---- the first records ----------------------------------------------------------------------------------------------- */

static RESULT fill_principal(const struct service_options *o, struct bytes name, struct bytes san, struct admin_principal *p,
                             struct err *e)
{
    *p = (struct admin_principal){.created_ns = clock_wall_ns(o->clock), .p.state = PRINCIPAL_ACTIVE};
    if (!text_copy(name, p->p.name, sizeof p->p.name) || !text_copy(san, p->p.san, sizeof p->p.san))
        FAIL(e, ERR_INVALID, "ADMIN_INVALID", "the administrator's name or SAN is too long");
    return authn_principal_check(&p->p, o->config->trust_domain, e);
}

struct first {
    const struct service_options *o;
    const struct policy_doc *docs;
    size_t ndocs;
    struct admin_principal admin;
    struct hsm_backup backup;
};

static RESULT first_records(struct store *s, const struct first *f, struct err *e)
{
    const struct admin_principal *admin = &f->admin;
    CLEANUP(store_txn_freep) struct store_txn *t = store_txn_new(s);
    bool any;
    TRY(keyring_init_records(t, admin->created_ns, e));
    TRY(instance_records(s, admin->created_ns, t, &any, e));
    instance_backup_put(t, f->o->vendor_clone ? INSTANCE_BACKUP_VENDOR_CLONE : INSTANCE_BACKUP_VERIFIED, &f->backup, STORE_ABSENT);
    admin_policy_first(f->docs, f->ndocs, bytes_str(admin->p.name), admin->created_ns, t);
    admin_principal_first(admin, t);
    struct audit_event ev = {.time_unix_ns = admin->created_ns, .principal = bytes_str("system:init"), .action = bytes_str("system.init"),
                             .outcome = bytes_str("ok"), .code = bytes_str("OK"), .after = bytes_str(admin->p.name)};
    CLEANUP(buf_release) struct buf event;
    buf_init(&event, EVENT_MAX_BYTES);
    event_encode(&ev, &event);
    store_txn_event(t, no_tenant, buf_bytes(&event));
    uint64_t seq;
    return store_txn_commit(t, &seq, e);
}

static RESULT create_store(const struct instance *in, const struct first *f, struct err *e)
{
    struct store_options so = instance_store_options(in, f->o->config, f->o->clock);
    TRY(store_create(&so, e));
    struct store *s;
    struct floor floor;
    floor_init(&floor, f->o->config, f->o->hsm);
    so.anchor = &floor.io; /* from the first record on */
    TRY(store_open(&so, &s, e));
    struct result done = first_records(s, f, e);
    store_close(s);
    return done;
}

static void say_done(const struct instance *in, const struct first *f, struct buf *out)
{
    char id[33];
    hex_encode(in->id, sizeof in->id, id);
    buf_reset(out);
    buf_putf(out, "initialised instance %s: master, seal and audit key on the token, policy version 1, administrator %s\n", id,
             f->admin.p.name);
    if (f->o->vendor_clone)
        buf_putf(out, "token backup: none was made or verified here; clone token %s by its vendor's tool before first use",
                 f->backup.serial);
    else
        buf_putf(out, "token backup: %s, verified; holds %s. Move a copy to another device, and keep the PIN elsewhere", f->backup.path,
                 f->backup.holds);
}

RESULT service_init(const struct service_options *o, struct bytes admin_name, struct bytes admin_san,
                    const struct init_document *docs, size_t ndocs, struct buf *ret_text, struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    arena_init(&a, 4 << 20);
    struct policy_doc list[ADMIN_DOCS_MAX];
    if (ndocs > ADMIN_DOCS_MAX)
        FAIL(e, ERR_INVALID, "POLICY_INVALID", "more than %d policy documents", ADMIN_DOCS_MAX);
    for (size_t i = 0; i < ndocs; i++)
        list[i] = (struct policy_doc){.name = arena_strdup(&a, docs[i].name), .yaml = docs[i].yaml};
    struct first first = {.o = o, .docs = list, .ndocs = ndocs};
    TRY(table_check(e));
    TRY(check_documents(list, ndocs, ret_text, e));
    TRY(fill_principal(o, admin_name, admin_san, &first.admin, e));
    TRY(check_nothing_there(o, e));
    struct instance in;
    TRY(instance_create(o->config, o->hsm, &in, e));
    TRY(hsm_generate(o->hsm, HSM_MASTER, 1, e));
    TRY(hsm_generate(o->hsm, HSM_SEAL, 1, e));
    TRY(hsm_generate(o->hsm, HSM_AUDIT, 1, e));
    TRY(make_backup(o, &first.backup, e));
    TRY(create_store(&in, &first, e));
    say_done(&in, &first, ret_text);
    return ok();
}
