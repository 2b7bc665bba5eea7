/* `kmsd init`: objects on the token, the instance id, the store with policy version 1 and one administrator. Everything that
 * can be checked is checked before anything is created; nothing that exists is overwritten. */
#include "vault/service/service.h"

#include "kms/audit/event.h"
#include "vault/service/admin.h"
#include "vault/service/table.h"

#include <stdio.h>
#include <string.h>

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

static RESULT check_token(struct hsm *h, struct err *e)
{
    struct hsm_status st;
    TRY(hsm_probe(h, &st, e));
    if (st.master_newest != 0 || st.seal_newest != 0 || st.audit_newest != 0)
        FAIL(e, ERR_EXISTS, "ALREADY_INITIALISED", "token \"%s\" already holds Claviger objects; none is ever overwritten",
             st.token_label);
    if (st.missing[0] != 0)
        FAIL(e, ERR_UNIMPLEMENTED, "TOKEN_LACKS", "token \"%s\" lacks: %s", st.token_label, st.missing);
    return ok();
}

static RESULT fill_principal(const struct service_options *o, struct bytes name, struct bytes san, struct admin_principal *p,
                             struct err *e)
{
    *p = (struct admin_principal){.created_ns = clock_wall_ns(o->clock), .p.state = PRINCIPAL_ACTIVE};
    if (name.n >= sizeof p->p.name || san.n >= sizeof p->p.san)
        FAIL(e, ERR_INVALID, "ADMIN_INVALID", "the administrator's name or SAN is too long");
    memcpy(p->p.name, name.p, name.n);
    memcpy(p->p.san, san.p, san.n);
    return authn_principal_check(&p->p, o->config->trust_domain, e);
}

static RESULT first_records(struct store *s, const struct policy_doc *docs, size_t n, const struct admin_principal *admin,
                            struct err *e)
{
    static const uint8_t no_tenant[16];
    CLEANUP(store_txn_freep) struct store_txn *t = store_txn_new(s);
    TRY(keyring_init_records(t, e));
    admin_policy_first(docs, n, bytes_str(admin->p.name), admin->created_ns, t);
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

static RESULT create_store(const struct service_options *o, const struct instance *in, const struct policy_doc *docs, size_t n,
                           const struct admin_principal *admin, struct err *e)
{
    struct store_options so = instance_store_options(in, o->config, o->clock);
    TRY(store_create(&so, e));
    struct store *s;
    TRY(store_open(&so, &s, e));
    struct result done = first_records(s, docs, n, admin, e);
    store_close(s);
    return done;
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
    struct admin_principal admin;
    TRY(table_check(e));
    TRY(check_documents(list, ndocs, ret_text, e));
    TRY(fill_principal(o, admin_name, admin_san, &admin, e));
    TRY(check_token(o->hsm, e));
    struct instance in;
    TRY(instance_create(o->config, o->hsm, &in, e));
    TRY(hsm_generate(o->hsm, HSM_MASTER, 1, e));
    TRY(hsm_generate(o->hsm, HSM_SEAL, 1, e));
    TRY(hsm_generate(o->hsm, HSM_AUDIT, 1, e));
    TRY(create_store(o, &in, list, ndocs, &admin, e));
    char id[33];
    hex_encode(in.id, sizeof in.id, id);
    buf_reset(ret_text);
    buf_putf(ret_text, "initialised instance %s: master, seal and audit key on the token, policy version 1, administrator %s", id,
             admin.p.name);
    return ok();
}
