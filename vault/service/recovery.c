#include "vault/service/recovery.h"

#include "base/text.h"
#include "kms/audit/event.h"
#include "kms/crypto/kdf.h"
#include "vault/service/admin.h"
#include "vault/service/review.h"

#include <stdio.h>
#include <string.h>

static const uint8_t no_tenant[STORE_TENANT_BYTES], no_boot[BOOT_ID_BYTES];

/* Areas, not actions: what joins one of them later administers too. tests/unit/vault/service/test_recovery.c holds them against
 * the table. */
struct policy_decision recovery_decide(const char *action)
{
    static const char *const areas[] = {"tenants.", "identity.", "policy.", "audit.", "system."};
    for (size_t i = 0; i < sizeof areas / sizeof areas[0]; i++)
        if (strncmp(action, areas[i], strlen(areas[i])) == 0)
            return (struct policy_decision){true, "recovery.administer"};
    return (struct policy_decision){false, "recovery.no-keys"};
}

/* ---- making one ---- */
static RESULT check_nobody_is(struct store *s, const struct recovery_request *q, struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    struct record r;
    struct err why = {0};
    uint8_t id[32];
    arena_init(&a, 65536);
    sha256(&q->san, 1, id);
    if (store_get(s, REC_PRINCIPAL, no_tenant, q->name, &a, &r, &why).failed && why.code == ERR_NOT_FOUND &&
        store_get(s, REC_SAN, no_tenant, BYTES(id, sizeof id), &a, &r, &why).failed && why.code == ERR_NOT_FOUND)
        return ok();
    if (why.code != ERR_NONE && why.code != ERR_NOT_FOUND) {
        *e = why;
        return (struct result){1};
    }
    FAIL(e, ERR_EXISTS, "RECOVERY_NAME", "a principal has this name or this certificate name already: a recovery administrator needs its"
         " own, so that the record tells the two apart");
}

static RESULT check_reviewed(struct store *s, uint64_t *ret_revision, struct err *e)
{
    struct review_note n;
    struct err why = {0};
    char until[TEXT_RFC3339_BYTES];
    *ret_revision = STORE_ABSENT;
    if (review_note_get(s, REVIEW_RECOVERY, &n, ret_revision, &why).failed) {
        if (why.code == ERR_NOT_FOUND)
            return ok();
        *e = why;
        return (struct result){1};
    }
    text_format_rfc3339(n.until_unix_ns, until);
    if (!n.reviewed)
        FAIL(e, ERR_EXISTS, "RECOVERY_UNREVIEWED", "recovery administrator %s, until %s, was not reviewed: kmsctl review recovery, or kmsd"
             " review-recovery, first", n.principal, until);
    return ok();
}

static void put_json_text(struct buf *out, struct bytes text)
{
    for (size_t i = 0; i < text.n; i++) {
        if (text.p[i] == '"' || text.p[i] == '\\')
            buf_put_u8(out, '\\');
        buf_put_u8(out, text.p[i]);
    }
}

static void put_event(struct store_txn *t, const struct admin_principal *p, const struct recovery_request *q)
{
    CLEANUP(buf_release) struct buf event;
    CLEANUP(buf_release) struct buf after;
    char resource[AUTHN_PRINCIPAL_MAX + 16], until[TEXT_RFC3339_BYTES];
    buf_init(&event, EVENT_MAX_BYTES);
    buf_init(&after, 4096);
    text_format_rfc3339(p->p.until_unix_ns, until);
    snprintf(resource, sizeof resource, "principals/%s", p->p.name);
    buf_putf(&after, "{\"principal\":\"%s\",\"san\":\"%s\",\"until\":\"%s\",\"reason\":\"", p->p.name, p->p.san, until);
    put_json_text(&after, q->reason);
    buf_put_str(&after, "\"}");
    struct audit_event ev = {.time_unix_ns = p->created_ns, .principal = BYTES_LIT("system:offline"),
                             .action = BYTES_LIT("system.recovery.make"), .resource = bytes_str(resource), .outcome = BYTES_LIT("ok"),
                             .code = BYTES_LIT("OK"), .reason = BYTES_LIT("RECOVERY_MADE"), .after = buf_bytes(&after)};
    event_encode(&ev, &event);
    store_txn_event(t, no_tenant, buf_bytes(&event));
}

static void put_note(struct store_txn *t, const struct admin_principal *p, const struct recovery_request *q, uint64_t revision)
{
    CLEANUP(buf_release) struct buf body;
    struct review_note n = {.made_unix_ns = p->created_ns, .until_unix_ns = p->p.until_unix_ns};
    memcpy(n.reason, q->reason.p, q->reason.n);
    memcpy(n.principal, p->p.name, sizeof n.principal);
    buf_init(&body, sizeof n + 64);
    review_note_put(&n, &body);
    struct record r = {.kind = REC_META, .id = bytes_str(review_id(REVIEW_RECOVERY)), .time_unix_ns = n.made_unix_ns, .body = buf_bytes(&body)};
    store_txn_put(t, &r, revision);
}

static RESULT principal_of(const struct recovery_request *q, const char *trust_domain, const struct clock *clock,
                           const uint8_t boot_id[BOOT_ID_BYTES], struct admin_principal *ret, struct err *e)
{
    struct err why = {0};
    struct admin_principal p = {.created_ns = clock_wall_ns(clock), .p = {.state = PRINCIPAL_ACTIVE, .recovery = true}};
    const int64_t ns = q->seconds * 1000000000;
    if (q->seconds < 1 || q->seconds > RECOVERY_MAX_S)
        FAIL(e, ERR_INVALID, "RECOVERY_TIME", "--for must be 1s to 24h");
    if (memcmp(boot_id, no_boot, sizeof no_boot) == 0)
        FAIL(e, ERR_STATE, "BOOT_ID", "the kernel's boot id cannot be read: the administrator's time could not be kept");
    if (q->name.n == 0 || q->san.n == 0 || !text_copy(q->name, p.p.name, sizeof p.p.name) ||
        !text_copy(q->san, p.p.san, sizeof p.p.san))
        FAIL(e, ERR_INVALID, "ADMIN_INVALID", "the administrator's name or SAN is empty or too long");
    if (authn_principal_check(&p.p, trust_domain, &why).failed)
        FAIL(e, ERR_INVALID, "ADMIN_INVALID", "the administrator's %s %s", why.field != NULL ? why.field : "name",
             why.hint != NULL ? why.hint : why.detail);
    p.p.from_unix_ns = p.created_ns;
    p.p.until_unix_ns = p.created_ns + ns;
    p.p.until_boot_ns = clock_boot_ns(clock) + ns;
    memcpy(p.boot_id, boot_id, sizeof p.boot_id);
    *ret = p;
    return ok();
}

RESULT recovery_make(struct store *s, const struct recovery_request *q, const char *trust_domain, const struct clock *clock,
                     const uint8_t boot_id[BOOT_ID_BYTES], struct buf *ret_text, struct err *e)
{
    CLEANUP(store_txn_freep) struct store_txn *t = store_txn_new(s);
    struct admin_principal p;
    uint64_t revision;
    char until[TEXT_RFC3339_BYTES];
    INVARIANT(q->reason.n > 0 && q->reason.n <= REVIEW_REASON_MAX);
    TRY(principal_of(q, trust_domain, clock, boot_id, &p, e));
    TRY(check_reviewed(s, &revision, e));
    TRY(check_nobody_is(s, q, e));
    admin_principal_first(&p, t);
    put_note(t, &p, q, revision);
    put_event(t, &p, q);
    TRY(store_txn_commit(t, NULL, e));
    text_format_rfc3339(p.p.until_unix_ns, until);
    buf_putf(ret_text, "recovery administrator %s (%s) until %s, or the next boot. It administers and uses no key; it is on the record, and"
             " in the health until somebody reviews it: kmsctl review recovery", p.p.name, p.p.san, until);
    return ok();
}
