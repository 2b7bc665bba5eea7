/* claviger.audit.v1: the journal, read by those who may: a tenant's auditors see their tenant's events, the platform's all. */
#include "vault/service/fields.h"
#include "vault/service/rows.h"

#include "claviger/audit/v1/audit.pb-c.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef Claviger__Audit__V1__TailRequest TailRequest;
typedef Claviger__Audit__V1__TailResponse TailResponse;
typedef Claviger__Audit__V1__LogStatus LogStatus;

enum { NONCE_BYTES = 32, READ_CHUNK = 64, LEAF_TIME_AT = 1 + 16, LEAF_TAG_AT = LEAF_TIME_AT + 8 };

struct tail {
    bool started;
    uint64_t next, end, sent; /* end: who does not follow gets what was there when it asked, however fast more comes */
};

static struct result tail_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    const TailRequest *q = (const TailRequest *)req;
    if (q->tenant.len == 0)
        return field_instance(c, e);
    return field_resource(c, q->tenant, 1u << NAME_TENANT, "tenant", e);
}

static struct result tail_open(struct call *c, struct err *e)
{
    (void)e;
    c->stream = calloc(1, sizeof(struct tail));
    INVARIANT(c->stream != NULL);
    return ok();
}

static void tail_close(struct call *c)
{
    free(c->stream);
    c->stream = NULL;
}

static void find_place(struct call *c, const TailRequest *q, struct tail *t)
{
    struct journal_status st;
    journal_status(c->svc->journal, &st);
    t->end = q->follow ? UINT64_MAX : st.next_index;
    t->next = q->from_index;
    if (q->from_end)
        t->next = st.next_index > q->limit ? st.next_index - q->limit : 0;
}

/* Whose it is: the system's, or the tenant with that tag. *ret_hold is NULL for the system. ERR_NOT_FOUND: a tenant that is
 * gone: its events can no longer be read by anyone, and the tree still verifies. */
static RESULT owner_of(struct call *c, const uint8_t *leaf, struct tenant_ref **ret_hold, const struct audit_tenant **ret, struct err *e)
{
    const struct audit_tenant *system = keyring_system_audit(c->svc->keyring);
    *ret_hold = NULL;
    *ret = system;
    if (bytes_ct_equal(leaf + LEAF_TAG_AT, system->tag, sizeof system->tag))
        return ok();
    TRY(keyring_tenant_hold_by_tag(c->svc->keyring, leaf + LEAF_TAG_AT, ret_hold, e));
    *ret = tenant_ref_audit(*ret_hold);
    return ok();
}

static RESULT open_record(struct call *c, const struct journal_record *rec, const struct audit_tenant *owner,
                          const struct tenant_ref *tenant, TailResponse *r, struct err *e)
{
    if (rec->sealed_body.n < AEAD_OVERHEAD + NONCE_BYTES)
        FAIL(e, ERR_DATA_LOSS, "JOURNAL_DAMAGED", "record %llu is too short", (unsigned long long)rec->index);
    size_t n = rec->sealed_body.n - AEAD_OVERHEAD;
    uint8_t *plain = arena_alloc(&c->arena, n);
    uint8_t *leaf = arena_dup(&c->arena, rec->leaf, sizeof rec->leaf);
    INVARIANT(plain != NULL && leaf != NULL);
    struct err why = {0};
    if (aead_open(owner->key, 0, BYTES(rec->leaf, sizeof rec->leaf), rec->sealed_body, plain, &why).failed)
        FAIL(e, ERR_DATA_LOSS, "JOURNAL_DAMAGED", "record %llu does not open", (unsigned long long)rec->index);
    r->index = rec->index;
    r->leaf = (ProtobufCBinaryData){sizeof rec->leaf, leaf};
    r->nonce = (ProtobufCBinaryData){NONCE_BYTES, plain};
    r->event = (ProtobufCBinaryData){n - NONCE_BYTES, plain + NONCE_BYTES};
    if (tenant != NULL)
        r->tenant = pb_view(bytes_str(arena_printf(&c->arena, "projects/%s", tenant_ref_info(tenant)->name)));
    return ok();
}

/* One record to one message; *ret stays NULL where the caller may not see it or nobody can. */
static RESULT show(struct call *c, const TailRequest *q, const struct journal_record *rec, ProtobufCMessage **ret, struct err *e)
{
    CLEANUP(tenant_ref_dropp) struct tenant_ref *tenant = NULL;
    const struct audit_tenant *owner;
    struct err why = {0};
    if (owner_of(c, rec->leaf, &tenant, &owner, &why).failed) {
        if (why.code == ERR_NOT_FOUND)
            return ok();
        *e = why;
        return (struct result){1};
    }
    const struct name *only = &c->resources[0].name;
    if (q->tenant.len > 0 && (tenant == NULL || !bytes_equal(only->tenant, bytes_str(tenant_ref_info(tenant)->name))))
        return ok();
    TailResponse *r = call_response(c);
    TRY(open_record(c, rec, owner, tenant, r, e));
    *ret = &r->base;
    return ok();
}

static struct result tail_ready(struct call *c, ProtobufCMessage **resp, bool *ret_more, struct err *e)
{
    const TailRequest *q = c->request;
    struct tail *t = c->stream;
    if (!t->started) {
        struct tenant there;
        t->started = true;
        if (q->tenant.len > 0) /* of a tenant that is not there there is no log, not an empty one */
            TRY(keyring_tenant_get(c->svc->keyring, c->resources[0].name.tenant, true, &there, e));
        find_place(c, q, t);
    }
    *ret_more = true;
    if ((q->limit > 0 && t->sent >= q->limit) || t->next >= t->end) {
        *ret_more = false;
        return ok();
    }
    CLEANUP(arena_release) struct arena a; /* the records; the call's own arena keeps the request */
    arena_init(&a, 16 << 20);
    struct journal_record *recs;
    size_t n;
    TRY(journal_read(c->svc->journal, t->next, READ_CHUNK, &a, &recs, &n, e));
    for (size_t i = 0; i < n && *resp == NULL && recs[i].index < t->end; i++) {
        TRY(show(c, q, &recs[i], resp, e));
        t->next = recs[i].index + 1;
    }
    if (*resp != NULL)
        t->sent++;
    else if (n == 0 && !q->follow)
        *ret_more = false;
    return ok();
}

static const struct rpc_stream tail_stream = {.open = tail_open, .ready = tail_ready, .close = tail_close};

static struct result status_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    (void)req;
    return field_instance(c, e);
}

/* Sizes of the files in the journal's folder. */
static uint64_t bytes_used(const char *dir)
{
    DIR *d = opendir(dir);
    uint64_t sum = 0;
    struct dirent *f;
    struct stat st;
    while (d != NULL && (f = readdir(d)) != NULL)
        if (fstatat(dirfd(d), f->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
            sum += (uint64_t)st.st_size;
    if (d != NULL)
        closedir(d);
    return sum;
}

static RESULT last_time(struct call *c, uint64_t next_index, Google__Protobuf__Timestamp **ret, struct err *e)
{
    struct journal_record *recs;
    size_t n = 0;
    if (next_index > 0)
        TRY(journal_read(c->svc->journal, next_index - 1, 1, &c->arena, &recs, &n, e));
    *ret = n > 0 ? field_time(c, (int64_t)get_be64(recs[0].leaf + LEAF_TIME_AT)) : NULL;
    return ok();
}

static struct result status(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    (void)req;
    LogStatus *r = call_response(c);
    struct journal_status st;
    char key[SIGNED_NOTE_KEY_TEXT_MAX];
    signed_note_key_text(&c->svc->audit_key, key);
    r->audit_key = call_text(c, key);
    journal_status(c->svc->journal, &st);
    r->origin = call_text(c, c->svc->instance.origin);
    r->entries = st.next_index;
    r->bytes_used = bytes_used(c->svc->instance.journal_dir);
    r->bytes_free = st.free_bytes;
    TRY(last_time(c, st.next_index, &r->last_time, e));
    r->admits = journal_admits(c->svc->journal);
    *resp = &r->base;
    return ok();
}

#define SERVICE "/claviger.audit.v1.Audit/"
#define M(q, r) .request = &claviger__audit__v1__##q##__descriptor, .response = &claviger__audit__v1__##r##__descriptor
#define CONTROL .plane = PLANE_CONTROL, .limit = LIMIT_CONTROL, .lane = LANE_SLOW, .audit = AUDIT_READ
static const struct rpc_row rows[] = {
    {CONTROL, .kind = RPC_SERVER_STREAM, .path = SERVICE "Tail", M(tail_request, tail_response), .action = "audit.tail",
     .reaches_closed = true, .resources = tail_resources, .stream = &tail_stream},
    {CONTROL, .kind = RPC_UNARY, .path = SERVICE "GetStatus", M(get_status_request, log_status), .action = "audit.tail",
     .resources = status_resources, .handle = status},
};
const struct row_list rows_audit = {rows, sizeof rows / sizeof rows[0]};
