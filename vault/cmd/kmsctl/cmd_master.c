/* master status, rotate, pause, resume, destroy. */
#include "vault/cmd/kmsctl/kmsctl.h"
#include "vault/cmd/kmsctl/progress.h"

#include "base/text.h"
#include "claviger/masters/v1/masters.pb-c.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#define MASTERS "/claviger.masters.v1.Masters/"
#define MASTER_COLUMNS "MASTER version|STATE state|CREATED create_time|BACKUP backup_time|RETIRED retire_time|DESTROYABLE destroyable_time|" \
                       "DESTROYED destroy_event_time|FORFEIT_ASKED_BY forfeit_requested_by"
enum { POLL_MS = 500, LOST_MS = 60000, CALL_BYTES = 4 << 20 };

typedef Claviger__Masters__V1__MasterStatus master_status;
typedef Claviger__Masters__V1__Master master;
typedef Claviger__Masters__V1__Rotation rotation;
#define STATE(s) CLAVIGER__MASTERS__V1__ROTATION__STATE__##s
static const ProtobufCMessageDescriptor *const status_d = &claviger__masters__v1__master_status__descriptor;

static struct result show_status(struct ctl *c, const master_status *p, struct claviger_error *e)
{
    if (c->json)
        return show(c, &p->base, "", e);
    json_t *j = json_of(&p->base);
    print_record(j, "current current|rotation rotation.state|to rotation.to|asked_by rotation.requested_by|started rotation.start_time|"
                    "done rotation.versions_done|of rotation.versions_total|per_second rotation.versions_per_second|left rotation.time_left|"
                    "trouble rotation.trouble");
    puts("");
    print_table(json_object_get(j, "masters"), MASTER_COLUMNS);
    json_decref(j);
    return ok();
}

static struct result read_status(struct ctl *c, const master_status **ret, struct claviger_error *e)
{
    Claviger__Masters__V1__GetMasterStatusRequest q = CLAVIGER__MASTERS__V1__GET_MASTER_STATUS_REQUEST__INIT;
    return ctl_read(c, MASTERS "GetMasterStatus", &q.base, status_d, ret, e);
}

static struct result status(struct ctl *c, struct claviger_error *e)
{
    const master_status *p = NULL;
    TRY(read_status(c, &p, e));
    return show_status(c, p, e);
}

/* ---- watching ---- */
static void pause_ms(long ms)
{
    struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    while (nanosleep(&left, &left) != 0 && errno == EINTR)
        continue;
}

static void draw(struct progress *p, const rotation *r, bool last)
{
    static const char *const words[] = {[STATE(IDLE)] = "done", [STATE(MAKING)] = "making the master", [STATE(SAVING)] = "backing up the token",
                                        [STATE(MOVING)] = "moving", [STATE(PAUSED)] = "paused", [STATE(PROVING)] = "proving"};
    const char *word = (size_t)r->state < sizeof words / sizeof *words && words[r->state] != NULL ? words[r->state] : "?";
    const struct progress_far far = {.what = r->trouble.len > 0 ? "in trouble, see kmsctl master status" : word,
                                     .done = r->versions_done,
                                     .total = r->versions_total,
                                     .per_second = r->versions_per_second,
                                     .left_s = r->time_left != NULL ? (uint64_t)r->time_left->seconds : 0};
    progress_far(p, &far, last);
}

/* A look at a time, in memory of its own: it may take hours. *ret_idle: the rotation is over. */
static struct result look(struct ctl *c, struct progress *p, bool *ret_idle, struct claviger_error *e)
{
    const struct arena mine = c->arena;
    const master_status *s = NULL;
    arena_init(&c->arena, CALL_BYTES);
    struct result r = read_status(c, &s, e);
    if (!r.failed) {
        *ret_idle = s->rotation->state == STATE(IDLE);
        draw(p, s->rotation, *ret_idle);
    }
    arena_release(&c->arena);
    c->arena = mine;
    return r;
}

/* The daemon may die and come back meanwhile: that stops the rotation no more than it stops watching it. */
static struct result watch(struct ctl *c, struct claviger_error *e)
{
    struct progress p;
    bool idle = false;
    int64_t heard_ms = clock_boot_ms(&clock_system);
    progress_start(&p, c->args.value[OPT_PROGRESS] != NULL, "", -1);
    while (!idle) {
        struct claviger_error why = {0};
        if (!look(c, &p, &idle, &why).failed) {
            heard_ms = clock_boot_ms(&clock_system);
        } else if ((why.code != CLAVIGER_UNAVAILABLE && why.code != CLAVIGER_DEADLINE_EXCEEDED) ||
                   clock_boot_ms(&clock_system) - heard_ms > LOST_MS) {
            *e = why;
            return (struct result){1};
        }
        if (!idle)
            pause_ms(POLL_MS);
    }
    return status(c, e);
}

/* ---- changes ---- */
static struct result rotate(struct ctl *c, struct claviger_error *e)
{
    Claviger__Masters__V1__RotateMasterRequest q = CLAVIGER__MASTERS__V1__ROTATE_MASTER_REQUEST__INIT;
    const master_status *p = NULL;
    struct claviger_error why = {0};
    const bool watching = c->args.value[OPT_WATCH] != NULL;
    q.token_cloned = c->args.value[OPT_TOKEN_CLONED] != NULL;
    if (ctl_change(c, MASTERS "RotateMaster", &q.base, status_d, &p, &why).failed) {
        const bool under_way = why.code == CLAVIGER_FAILED_PRECONDITION && strcmp(why.reason, "MASTER_ROTATION") == 0 && !q.token_cloned;
        if (!watching || !under_way) {
            *e = why;
            return (struct result){1};
        }
        fputs("kmsctl: a rotation is under way already: watching that one\n", stderr);
    }
    return watching ? watch(c, e) : show_status(c, p, e);
}

static struct result pause_rotation(struct ctl *c, struct claviger_error *e)
{
    Claviger__Masters__V1__PauseRotationRequest q = CLAVIGER__MASTERS__V1__PAUSE_ROTATION_REQUEST__INIT;
    const master_status *p = NULL;
    TRY(ctl_change(c, MASTERS "PauseRotation", &q.base, status_d, &p, e));
    return show_status(c, p, e);
}

static struct result resume_rotation(struct ctl *c, struct claviger_error *e)
{
    Claviger__Masters__V1__ResumeRotationRequest q = CLAVIGER__MASTERS__V1__RESUME_ROTATION_REQUEST__INIT;
    const master_status *p = NULL;
    TRY(ctl_change(c, MASTERS "ResumeRotation", &q.base, status_d, &p, e));
    return show_status(c, p, e);
}

static struct result destroy(struct ctl *c, struct claviger_error *e)
{
    Claviger__Masters__V1__DestroyMasterRequest q = CLAVIGER__MASTERS__V1__DESTROY_MASTER_REQUEST__INIT;
    const char *given = c->args.pos[0], *typed = c->args.value[OPT_CONFIRM];
    const master *p = NULL;
    uint64_t version;
    if (!text_parse_u64(bytes_str(given), UINT32_MAX, &version) || version == 0)
        return usage(e, "%s is no master's number: kmsctl master status lists them", given);
    if (typed == NULL || strcmp(typed, given) != 0)
        return usage(e, "master %s is gone for good after that, and no backup that needs it can be restored; repeat its number: --confirm %s", given, given);
    q.version = (uint32_t)version;
    q.forfeit_backups = c->args.value[OPT_FORFEIT] != NULL;
    TRY(ctl_change(c, MASTERS "DestroyMaster", &q.base, &claviger__masters__v1__master__descriptor, &p, e));
    TRY(show(c, &p->base, MASTER_COLUMNS, e));
    if (p->state == CLAVIGER__MASTERS__V1__MASTER__STATE__RETIRED)
        fputs("kmsctl: recorded; another administrator must ask for the same within a day, then it is destroyed\n", stderr);
    return ok();
}

static const struct command rows[] = {
    {"master", "status", "", 0, 0, 0, ROLE_OPERATOR, status, "the master secrets, and how far a rotation is", "kmsctl master status"},
    {"master", "rotate", "", 0, 0, O(OPT_WATCH) | O(OPT_PROGRESS) | O(OPT_TOKEN_CLONED) | O(OPT_IDEMPOTENCY), ROLE_OPERATOR, rotate,
     "a new master; all that is wrapped moves to it in the background", "kmsctl master rotate --watch"},
    {"master", "pause", "", 0, 0, O(OPT_IDEMPOTENCY), ROLE_OPERATOR, pause_rotation, "move nothing more until resume", "kmsctl master pause"},
    {"master", "resume", "", 0, 0, O(OPT_IDEMPOTENCY), ROLE_OPERATOR, resume_rotation, "go on with a paused rotation", "kmsctl master resume"},
    {"master", "destroy", "VERSION", 1, 1, O(OPT_CONFIRM) | O(OPT_FORFEIT) | O(OPT_IDEMPOTENCY), ROLE_OPERATOR, destroy,
     "remove a retired master from the token, for good", "kmsctl master destroy 1 --confirm 1"},
};
const struct command_rows rows_master = {rows, sizeof rows / sizeof *rows};
