/* claviger.policy.v1: the documents in force, a new version of them, and what a decision would be. */
#include "vault/service/admin.h"
#include "vault/service/fields.h"
#include "vault/service/recovery.h"
#include "vault/service/rows.h"

#include "claviger/policy/v1/policy.pb-c.h"

#include <string.h>

typedef Claviger__Policy__V1__PolicySet PolicySet;
typedef Claviger__Policy__V1__Document Document;
typedef Claviger__Policy__V1__ApplyPolicyRequest ApplyRequest;
typedef Claviger__Policy__V1__TestPolicyRequest TestRequest;
typedef Claviger__Policy__V1__TestPolicyResponse TestResponse;

static struct result instance_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    (void)req;
    return field_instance(c, e);
}

static void view(struct call *c, const struct admin_policy_version *v, PolicySet *r)
{
    r->version = v->version;
    r->create_time = field_time(c, v->created_ns);
    r->creator = pb_view(v->creator);
    r->digest = (ProtobufCBinaryData){sizeof v->digest, arena_dup(&c->arena, v->digest, sizeof v->digest)};
    r->documents = arena_alloc(&c->arena, (v->ndocs + 1) * sizeof *r->documents);
    INVARIANT(r->documents != NULL && r->digest.data != NULL);
    for (; r->n_documents < v->ndocs; r->n_documents++) {
        Document *d = call_new_message(c, &claviger__policy__v1__document__descriptor);
        INVARIANT(d != NULL);
        d->name = pb_view(bytes_str(v->docs[r->n_documents].name));
        d->yaml = pb_view(v->docs[r->n_documents].yaml);
        r->documents[r->n_documents] = d;
    }
}

static struct result get(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    (void)req;
    PolicySet *r = call_response(c);
    struct admin_policy_version v;
    TRY(admin_policy_get(c->svc->admin, &c->arena, &v, e));
    view(c, &v, r);
    *resp = &r->base;
    return ok();
}

static RESULT take_documents(struct call *c, Document *const *in, size_t n, struct policy_doc **ret, struct err *e)
{
    if (n == 0 || n > ADMIN_DOCS_MAX)
        return err_field(e, "documents", "1 to 16 documents");
    struct policy_doc *docs = arena_zalloc(&c->arena, n * sizeof *docs);
    INVARIANT(docs != NULL);
    for (size_t i = 0; i < n; i++) {
        if (in[i]->name.len == 0 || in[i]->name.len > 128)
            return err_field(e, "documents.name", "1 to 128 bytes");
        docs[i] = (struct policy_doc){arena_strdup(&c->arena, pb_bytes(in[i]->name)), pb_bytes(in[i]->yaml)};
        INVARIANT(docs[i].name != NULL);
    }
    *ret = docs;
    return ok();
}

/* The compiler's explanation goes back to whoever sent the documents: it speaks of nothing else. */
static RESULT compile(struct call *c, const struct policy_doc *docs, size_t n, struct policy_set **ret, struct err *e)
{
    CLEANUP(buf_release) struct buf text;
    buf_init(&text, 4096);
    if (!admin_policy_check(docs, n, ret, &text, e).failed)
        return ok();
    if (e->code == ERR_INVALID) {
        e->reason = "POLICY_INVALID";
        e->field = "documents";
        e->hint = arena_strdup(&c->arena, bytes_str(buf_cstr(&text))); /* lives until the answer is sent */
    }
    return (struct result){1};
}

static RESULT commit(struct call *c, struct policy_set *set, const struct policy_doc *docs, const ApplyRequest *q, PolicySet *r,
                     struct err *e)
{
    struct admin_policy_version v;
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(c->svc->store);
    TRY(admin_policy_put(c->svc->admin, docs, q->n_documents, q->expected_version, bytes_str(c->id.principal->name), txn, &c->arena, &v, e));
    policy_digest(set, v.digest);
    view(c, &v, r);
    char hex[65];
    hex_encode(v.digest, sizeof v.digest, hex);
    c->ev.before = bytes_str(arena_printf(&c->arena, "{\"version\":%llu}", (unsigned long long)q->expected_version));
    c->ev.after = bytes_str(arena_printf(&c->arena, "{\"version\":%llu,\"digest\":\"%s\"}", (unsigned long long)v.version, hex));
    store_txn_urgent(txn); /* a right that was taken away must not come back with an older copy of the store */
    struct err why = {0};
    if (call_commit(c, txn, &r->base, &why).failed) {
        if (why.code == ERR_EXISTS) /* somebody else's next version came first */
            FAIL(e, ERR_CONFLICT, "POLICY_CHANGED", "version %llu was made meanwhile", (unsigned long long)v.version);
        *e = why;
        return (struct result){1};
    }
    admin_refresh(c->svc->admin);
    return ok();
}

static struct result apply(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    const ApplyRequest *q = (const ApplyRequest *)req;
    PolicySet *r = call_response(c);
    struct policy_doc *docs;
    struct policy_set *set;
    TRY(take_documents(c, q->documents, q->n_documents, &docs, e));
    TRY(compile(c, docs, q->n_documents, &set, e));
    struct result done = ok();
    if (q->dry_run) {
        struct admin_policy_version v = {.docs = docs, .ndocs = q->n_documents};
        policy_digest(set, v.digest);
        view(c, &v, r);
    } else {
        done = commit(c, set, docs, q, r, e);
    }
    policy_unref(set);
    *resp = &r->base;
    return done;
}

static bool known_action(struct bytes action)
{
    size_t n;
    const struct rpc_row *const *rows = table_rows(&n);
    for (size_t i = 0; i < n; i++)
        if (rows[i]->action != NULL && bytes_equal(action, bytes_str(rows[i]->action)))
            return true;
    return false;
}

static RESULT test_with(struct call *c, const TestRequest *q, struct policy_set *set, TestResponse *r, struct err *e)
{
    static const char prefix[] = "principals/";
    struct bytes who = pb_bytes(q->principal);
    if (who.n <= sizeof prefix - 1 || memcmp(who.p, prefix, sizeof prefix - 1) != 0)
        return err_field(e, "principal", "principals/{principal}");
    who = BYTES(who.p + sizeof prefix - 1, who.n - (sizeof prefix - 1));
    struct admin_principal p;
    TRY(admin_principal_get(c->svc->admin, who, &c->arena, &p, e));
    if (!known_action(pb_bytes(q->action))) /* "denied" would hide a slip of the pen */
        return err_field(e, "action", "there is no such action: policies/ACTIONS.md lists them");
    struct name resource = {.kind = NAME_NONE};
    unsigned any = 1u << NAME_TENANT | 1u << NAME_LOCATION | 1u << NAME_KEYRING | 1u << NAME_CRYPTOKEY | 1u << NAME_VERSION;
    if (q->resource.len > 0)
        TRY(name_parse_any(pb_bytes(q->resource), any, "resource", &resource, e));
    char *action = arena_strdup(&c->arena, pb_bytes(q->action));
    INVARIANT(action != NULL);
    struct bytes tenant = bytes_str(p.p.tenant);
    if (tenant.n > 0 && resource.kind != NAME_NONE && !bytes_equal(tenant, resource.tenant)) {
        r->rule = call_text(c, "tenant-boundary"); /* the pipeline's own refusal comes before any rule */
        return ok();
    }
    struct policy_question ask = {.principal = who, .principal_tenant = tenant, .action = action, .resource = &resource};
    struct policy_decision d = p.p.recovery ? recovery_decide(action) : policy_decide(set, &ask);
    r->allowed = d.allowed;
    r->rule = call_text(c, d.rule);
    return ok();
}

static struct result test(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    const TestRequest *q = (const TestRequest *)req;
    TestResponse *r = call_response(c);
    struct policy_set *set;
    struct policy_doc *docs;
    if (q->n_documents > 0) {
        TRY(take_documents(c, q->documents, q->n_documents, &docs, e));
        TRY(compile(c, docs, q->n_documents, &set, e));
    } else {
        set = admin_policy(c->svc->admin);
    }
    struct result done = test_with(c, q, set, r, e);
    policy_unref(set);
    *resp = &r->base;
    return done;
}

#define SERVICE "/claviger.policy.v1.Policy/"
#define M(q, r) .request = &claviger__policy__v1__##q##__descriptor, .response = &claviger__policy__v1__##r##__descriptor
#define CONTROL .kind = RPC_UNARY, .plane = PLANE_CONTROL, .limit = LIMIT_CONTROL, .lane = LANE_SLOW, .resources = instance_resources
static const struct rpc_row rows[] = {
    {CONTROL, .path = SERVICE "GetPolicy", M(get_policy_request, policy_set), .action = "policy.get", .audit = AUDIT_READ, .handle = get},
    {CONTROL, .path = SERVICE "ApplyPolicy", M(apply_policy_request, policy_set), .action = "policy.apply", .audit = AUDIT_CHANGE,
     .mutation = true, .handle = apply},
    {CONTROL, .path = SERVICE "TestPolicy", M(test_policy_request, test_policy_response), .action = "policy.test",
     .audit = AUDIT_READ, .handle = test},
};
const struct row_list rows_policy = {rows, sizeof rows / sizeof rows[0]};
