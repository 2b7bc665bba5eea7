/* master and seal: status, rotate, pause, resume, destroy. */
#include "vault/cmd/kmsctl/kmsctl.h"
#include "vault/cmd/kmsctl/progress.h"

#include "base/text.h"
#include "claviger/masters/v1/masters.pb-c.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#define SECRET_COLUMNS "VERSION version|STATE state|CREATED create_time|USED use_time|BACKUP backup_time|RETIRED retire_time|" \
                       "DESTROYABLE destroyable_time|DESTROYED destroy_event_time|FORFEIT_ASKED_BY forfeit_requested_by"
enum { POLL_MS = 500, LOST_MS = 60000, CALL_BYTES = 4 << 20 };

typedef Claviger__Masters__V1__TokenSecretStatus secret_status;
typedef Claviger__Masters__V1__TokenSecret token_secret;
typedef Claviger__Masters__V1__Rotation rotation;
#define STATE(s) CLAVIGER__MASTERS__V1__ROTATION__STATE__##s
static const ProtobufCMessageDescriptor *const status_d = &claviger__masters__v1__token_secret_status__descriptor;

struct kind {
    const char *noun, *rows; /* "master", "versions" */
    const char *get, *rotate, *pause, *resume, *destroy;
};
#define PATHS(service, one)                                                                                                              \
    .get = "/claviger.masters.v1." service "/Get" one "Status", .rotate = "/claviger.masters.v1." service "/Rotate" one,                 \
    .pause = "/claviger.masters.v1." service "/PauseRotation", .resume = "/claviger.masters.v1." service "/ResumeRotation",              \
    .destroy = "/claviger.masters.v1." service "/Destroy" one
static const struct kind master = {.noun = "master", .rows = "versions", PATHS("Masters", "Master")};
static const struct kind seal = {.noun = "seal", .rows = "rows", PATHS("Seals", "Seal")};

static struct result show_status(struct ctl *c, const secret_status *p, struct claviger_error *e)
{
    if (c->json)
        return show(c, &p->base, "", e);
    json_t *j = json_of(&p->base);
    print_record(j, "current current|next_rotation next_rotation_time|rotation rotation.state|to rotation.to|asked_by rotation.requested_by|"
                    "started rotation.start_time|done rotation.rows_done|of rotation.rows_total|per_second rotation.rows_per_second|"
                    "left rotation.time_left|trouble rotation.trouble");
    puts("");
    print_table(json_object_get(j, "versions"), SECRET_COLUMNS);
    json_decref(j);
    return ok();
}

static struct result read_status(struct ctl *c, const struct kind *k, const secret_status **ret, struct claviger_error *e)
{
    Claviger__Masters__V1__GetStatusRequest q = CLAVIGER__MASTERS__V1__GET_STATUS_REQUEST__INIT;
    return ctl_read(c, k->get, &q.base, status_d, ret, e);
}

static struct result status(struct ctl *c, const struct kind *k, struct claviger_error *e)
{
    const secret_status *p = NULL;
    TRY(read_status(c, k, &p, e));
    return show_status(c, p, e);
}

/* ---- watching ---- */
static void pause_ms(long ms)
{
    struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    while (nanosleep(&left, &left) != 0 && errno == EINTR)
        continue;
}

static void draw(struct progress *p, const struct kind *k, const rotation *r, bool last)
{
    static const char *const words[] = {[STATE(IDLE)] = "done", [STATE(MAKING)] = "making the secret", [STATE(SAVING)] = "backing up the token",
                                        [STATE(MOVING)] = "moving", [STATE(PAUSED)] = "paused", [STATE(PROVING)] = "proving"};
    const char *word = (size_t)r->state < sizeof words / sizeof *words && words[r->state] != NULL ? words[r->state] : "?";
    const struct progress_far far = {.what = r->trouble.len > 0 ? "in trouble, see its status" : word,
                                     .rows = k->rows,
                                     .done = r->rows_done,
                                     .total = r->rows_total,
                                     .per_second = r->rows_per_second,
                                     .left_s = r->time_left != NULL ? (uint64_t)r->time_left->seconds : 0};
    progress_far(p, &far, last);
}

/* A look at a time, in memory of its own: it may take hours. *ret_idle: the rotation is over. */
static struct result look(struct ctl *c, const struct kind *k, struct progress *p, bool *ret_idle, struct claviger_error *e)
{
    const struct arena mine = c->arena;
    const secret_status *s = NULL;
    arena_init(&c->arena, CALL_BYTES);
    struct result r = read_status(c, k, &s, e);
    if (!r.failed) {
        *ret_idle = s->rotation->state == STATE(IDLE);
        draw(p, k, s->rotation, *ret_idle);
    }
    arena_release(&c->arena);
    c->arena = mine;
    return r;
}

/* The daemon may die and come back meanwhile: that stops the rotation no more than it stops watching it. */
static struct result watch(struct ctl *c, const struct kind *k, struct claviger_error *e)
{
    struct progress p;
    bool idle = false;
    int64_t heard_ms = clock_boot_ms(&clock_system);
    progress_start(&p, c->args.value[OPT_PROGRESS] != NULL, "", -1);
    while (!idle) {
        struct claviger_error why = {0};
        if (!look(c, k, &p, &idle, &why).failed) {
            heard_ms = clock_boot_ms(&clock_system);
        } else if ((why.code != CLAVIGER_UNAVAILABLE && why.code != CLAVIGER_DEADLINE_EXCEEDED) ||
                   clock_boot_ms(&clock_system) - heard_ms > LOST_MS) {
            *e = why;
            return (struct result){1};
        }
        if (!idle)
            pause_ms(POLL_MS);
    }
    return status(c, k, e);
}

/* ---- changes ---- */
static struct result rotate(struct ctl *c, const struct kind *k, struct claviger_error *e)
{
    Claviger__Masters__V1__RotateRequest q = CLAVIGER__MASTERS__V1__ROTATE_REQUEST__INIT;
    const secret_status *p = NULL;
    struct claviger_error why = {0};
    const bool watching = c->args.value[OPT_WATCH] != NULL;
    q.token_cloned = c->args.value[OPT_TOKEN_CLONED] != NULL;
    if (ctl_change(c, k->rotate, &q.base, status_d, &p, &why).failed) {
        const bool under_way = why.code == CLAVIGER_FAILED_PRECONDITION && strcmp(why.reason, "ROTATION_STATE") == 0 && !q.token_cloned;
        if (!watching || !under_way) {
            *e = why;
            return (struct result){1};
        }
        fputs("kmsctl: a rotation is under way already: watching that one\n", stderr);
    }
    return watching ? watch(c, k, e) : show_status(c, p, e);
}

static struct result pause_rotation(struct ctl *c, const struct kind *k, struct claviger_error *e)
{
    Claviger__Masters__V1__PauseRotationRequest q = CLAVIGER__MASTERS__V1__PAUSE_ROTATION_REQUEST__INIT;
    const secret_status *p = NULL;
    TRY(ctl_change(c, k->pause, &q.base, status_d, &p, e));
    return show_status(c, p, e);
}

static struct result resume_rotation(struct ctl *c, const struct kind *k, struct claviger_error *e)
{
    Claviger__Masters__V1__ResumeRotationRequest q = CLAVIGER__MASTERS__V1__RESUME_ROTATION_REQUEST__INIT;
    const secret_status *p = NULL;
    TRY(ctl_change(c, k->resume, &q.base, status_d, &p, e));
    return show_status(c, p, e);
}

static struct result destroy(struct ctl *c, const struct kind *k, struct claviger_error *e)
{
    Claviger__Masters__V1__DestroyRequest q = CLAVIGER__MASTERS__V1__DESTROY_REQUEST__INIT;
    const char *given = c->args.pos[0], *typed = c->args.value[OPT_CONFIRM];
    const token_secret *p = NULL;
    uint64_t version;
    if (!text_parse_u64(bytes_str(given), UINT32_MAX, &version) || version == 0)
        return usage(e, "%s is no %s's number: kmsctl %s status lists them", given, k->noun, k->noun);
    if (typed == NULL || strcmp(typed, given) != 0)
        return usage(e, "%s %s is gone for good after that, and no backup that needs it can be restored; repeat its number: --confirm %s", k->noun, given, given);
    q.version = (uint32_t)version;
    q.forfeit_backups = c->args.value[OPT_FORFEIT] != NULL;
    TRY(ctl_change(c, k->destroy, &q.base, &claviger__masters__v1__token_secret__descriptor, &p, e));
    TRY(show(c, &p->base, SECRET_COLUMNS, e));
    if (p->state == CLAVIGER__MASTERS__V1__TOKEN_SECRET__STATE__RETIRED)
        fputs("kmsctl: recorded; another administrator must ask for the same within a day, then it is destroyed\n", stderr);
    return ok();
}

/* ---- of each kind ---- */
#define BOTH(verb)                                                                                                                       \
    static struct result master_##verb(struct ctl *c, struct claviger_error *e)                                                          \
    {                                                                                                                                    \
        return verb(c, &master, e);                                                                                                      \
    }                                                                                                                                    \
    static struct result seal_##verb(struct ctl *c, struct claviger_error *e)                                                            \
    {                                                                                                                                    \
        return verb(c, &seal, e);                                                                                                        \
    }
BOTH(status)
BOTH(rotate)
BOTH(pause_rotation)
BOTH(resume_rotation)
BOTH(destroy)

#define ROTATING (O(OPT_WATCH) | O(OPT_PROGRESS) | O(OPT_TOKEN_CLONED) | O(OPT_IDEMPOTENCY))
#define ENDING (O(OPT_CONFIRM) | O(OPT_FORFEIT) | O(OPT_IDEMPOTENCY))
static const struct command rows[] = {
    {"master", "status", "", 0, 0, 0, ROLE_OPERATOR, master_status, "the master secrets, and how far a rotation is", "kmsctl master status"},
    {"master", "rotate", "", 0, 0, ROTATING, ROLE_OPERATOR, master_rotate, "a new master; all that is wrapped moves to it in the background",
     "kmsctl master rotate --watch"},
    {"master", "pause", "", 0, 0, O(OPT_IDEMPOTENCY), ROLE_OPERATOR, master_pause_rotation, "move nothing more until resume", "kmsctl master pause"},
    {"master", "resume", "", 0, 0, O(OPT_IDEMPOTENCY), ROLE_OPERATOR, master_resume_rotation, "go on with a paused rotation", "kmsctl master resume"},
    {"master", "destroy", "VERSION", 1, 1, ENDING, ROLE_OPERATOR, master_destroy, "remove a retired master from the token, for good",
     "kmsctl master destroy 1 --confirm 1"},
    {"seal", "status", "", 0, 0, 0, ROLE_OPERATOR, seal_status, "the seal secrets of the store, and how far a rotation is", "kmsctl seal status"},
    {"seal", "rotate", "", 0, 0, ROTATING, ROLE_OPERATOR, seal_rotate, "a new seal secret; the store is sealed under it in the background",
     "kmsctl seal rotate --watch"},
    {"seal", "pause", "", 0, 0, O(OPT_IDEMPOTENCY), ROLE_OPERATOR, seal_pause_rotation, "seal nothing more anew until resume", "kmsctl seal pause"},
    {"seal", "resume", "", 0, 0, O(OPT_IDEMPOTENCY), ROLE_OPERATOR, seal_resume_rotation, "go on with a paused rotation", "kmsctl seal resume"},
    {"seal", "destroy", "EPOCH", 1, 1, ENDING, ROLE_OPERATOR, seal_destroy, "remove a retired seal secret from the token, for good",
     "kmsctl seal destroy 1 --confirm 1"},
};
const struct command_rows rows_master = {rows, sizeof rows / sizeof *rows};
