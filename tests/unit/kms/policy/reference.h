/* Random policies, kept as plain texts, and a slow reference that answers by walking them, segment text by segment text: it shares
 * nothing with kms/policy but the question. For test_differential.c and tests/fuzz/fuzz_decide.c, each with its own source of
 * choices: `pick` gives a number below n. */
#ifndef TESTS_UNIT_KMS_POLICY_REFERENCE_H
#define TESTS_UNIT_KMS_POLICY_REFERENCE_H

#include "kms/policy/policy.h"
#include "tests/unit/kms/policy/actions.h"

#include <stdio.h>
#include <string.h>

enum { ROLES = 5, RULES = 4, WORDS = 3, BINDINGS = 8 };

static unsigned pick(unsigned n);

struct model_rule {
    bool deny;
    unsigned nactions, nresources;
    char actions[WORDS][64], resources[WORDS][200];
};
struct model_binding {
    unsigned role;
    const char *tenant;
    unsigned nprincipals;
    const char *principals[WORDS];
};
struct model {
    bool platform[ROLES];
    unsigned nrules[ROLES];
    struct model_rule rules[ROLES][RULES];
    unsigned nbindings;
    struct model_binding bindings[BINDINGS];
};

#define PICK(list) ((list)[pick(sizeof(list) / sizeof((list)[0]))])

static const char *const TENANTS[] = {"acme", "globex", "initech"};
static const char *const PRINCIPALS[] = {"alice", "bob", "carol"};
static const char *const LOCATIONS[] = {"eu", "us"};
/* Words of the grammar and of other levels are good ids: a matcher that splits a text twice would trip over them. */
static const char *const IDS[] = {"pii", "Pay", "x_1", "cryptoKeys", "acme", "1"};
static const char *const VERSIONS[] = {"1", "2", "10"};
static const char *const COLLECTIONS[] = {"projects", "locations", "keyRings", "cryptoKeys", "cryptoKeyVersions"};

static const char *id_at(unsigned level)
{
    switch (level) {
    case 0:
        return PICK(TENANTS);
    case 1:
        return PICK(LOCATIONS);
    case 4:
        return PICK(VERSIONS);
    default:
        return PICK(IDS);
    }
}

static void random_pattern(bool platform, char out[200])
{
    if (platform && pick(6) == 0) {
        strcpy(out, pick(2) ? "instance" : "**");
        return;
    }
    unsigned depth = 1 + pick(5);
    out[0] = '\0';
    for (unsigned i = 0; i < depth; i++) {
        const char *id = pick(3) ? id_at(i) : "*";
        if (i == 0 && !platform)
            id = "{tenant}";
        if (i > 0 && i + 1 == depth && pick(4) == 0)
            id = "**";
        sprintf(out + strlen(out), "%s%s/%s", i ? "/" : "", COLLECTIONS[i], id);
    }
    if (strcmp(out + strlen(out) - 2, "**") != 0 && pick(3) == 0)
        strcat(out, "/**");
}

static void random_action(bool data_plane_too, char out[64])
{
    size_t i;
    do {
        i = pick(NACTIONS);
    } while (ACTIONS[i].data_plane && !data_plane_too);
    strcpy(out, ACTIONS[i].name);
    if (pick(3) == 0 && data_plane_too) {
        char *dot = pick(2) ? strrchr(out, '.') : strchr(out, '.');
        strcpy(dot, ".*");
        if (pick(8) == 0)
            strcpy(out, "*");
    }
}

static void random_model(struct model *m)
{
    memset(m, 0, sizeof *m);
    for (unsigned i = 0; i < ROLES; i++) {
        m->platform[i] = pick(3) == 0;
        m->nrules[i] = 1 + pick(RULES);
        for (unsigned j = 0; j < m->nrules[i]; j++) {
            struct model_rule *r = &m->rules[i][j];
            r->deny = pick(4) == 0;
            r->nactions = 1 + pick(WORDS);
            r->nresources = 1 + pick(WORDS);
            for (unsigned k = 0; k < r->nactions; k++)
                random_action(!m->platform[i] || r->deny, r->actions[k]);
            for (unsigned k = 0; k < r->nresources; k++)
                random_pattern(m->platform[i], r->resources[k]);
        }
    }
    for (unsigned i = 0; i < BINDINGS; i++) {
        struct model_binding *b = &m->bindings[m->nbindings];
        b->role = pick(ROLES);
        b->tenant = m->platform[b->role] ? "platform" : pick(4) ? PICK(TENANTS) : "*";
        b->nprincipals = 1;
        b->principals[0] = m->platform[b->role] || pick(4) ? PICK(PRINCIPALS) : "*";
        bool twice = false; /* the compiler refuses saying the same thing twice */
        for (unsigned j = 0; j < m->nbindings; j++)
            twice = twice || (m->bindings[j].role == b->role && strcmp(m->bindings[j].tenant, b->tenant) == 0 &&
                              strcmp(m->bindings[j].principals[0], b->principals[0]) == 0);
        m->nbindings += twice ? 0 : 1;
    }
}

static void write_yaml(const struct model *m, struct buf *out)
{
    buf_put_str(out, "version: 1\nroles:\n");
    for (unsigned i = 0; i < ROLES; i++) {
        buf_putf(out, "  - name: role%u\n    rules:\n", i);
        for (unsigned j = 0; j < m->nrules[i]; j++) {
            const struct model_rule *r = &m->rules[i][j];
            buf_putf(out, "      - id: r%u.%u\n        effect: %s\n        actions:\n", i, j, r->deny ? "deny" : "allow");
            for (unsigned k = 0; k < r->nactions; k++)
                buf_putf(out, "          - \"%s\"\n", r->actions[k]);
            buf_put_str(out, "        resources:\n");
            for (unsigned k = 0; k < r->nresources; k++)
                buf_putf(out, "          - \"%s\"\n", r->resources[k]);
        }
    }
    if (m->nbindings)
        buf_put_str(out, "bindings:\n");
    for (unsigned i = 0; i < m->nbindings; i++)
        buf_putf(out, "  - {role: role%u, tenant: \"%s\", principals: [\"%s\"]}\n", m->bindings[i].role, m->bindings[i].tenant, m->bindings[i].principals[0]);
}

/* ---- the reference ---- */

static bool reference_segments(const char *pattern, const char *name, const char *tenant)
{
    if (strcmp(pattern, "**") == 0)
        return true;
    if (*pattern == '\0' || *name == '\0')
        return *pattern == *name;
    size_t p = strcspn(pattern, "/"), n = strcspn(name, "/");
    bool star = p == 1 && pattern[0] == '*', self = p == 8 && memcmp(pattern, "{tenant}", 8) == 0;
    if (self && (strlen(tenant) != n || memcmp(tenant, name, n) != 0))
        return false;
    if (!star && !self && (p != n || memcmp(pattern, name, n) != 0))
        return false;
    pattern += p + (pattern[p] == '/');
    name += n + (name[n] == '/');
    return reference_segments(pattern, name, tenant);
}

static bool reference_resource(const char *pattern, const char *name, const char *tenant)
{
    if (strcmp(pattern, "instance") == 0 || name[0] == '\0')
        return name[0] == '\0' && (strcmp(pattern, "instance") == 0 || strcmp(pattern, "**") == 0);
    return reference_segments(pattern, name, tenant);
}

static bool reference_action(const char *pattern, const char *action)
{
    size_t n = strlen(pattern);
    return pattern[n - 1] == '*' ? strncmp(pattern, action, n - 1) == 0 : strcmp(pattern, action) == 0;
}

static bool reference_bound(const struct model *m, unsigned role, const char *tenant, const char *principal)
{
    for (unsigned i = 0; i < m->nbindings; i++) {
        const struct model_binding *b = &m->bindings[i];
        bool there = tenant[0] == '\0' ? strcmp(b->tenant, "platform") == 0 : strcmp(b->tenant, "*") == 0 || strcmp(b->tenant, tenant) == 0;
        if (b->role == role && there && (strcmp(b->principals[0], "*") == 0 || strcmp(b->principals[0], principal) == 0))
            return true;
    }
    return false;
}

static bool reference_rule(const struct model_rule *r, const char *tenant, const char *action, const char *name)
{
    bool acts = false, there = false;
    for (unsigned k = 0; k < r->nactions; k++)
        acts = acts || reference_action(r->actions[k], action);
    for (unsigned k = 0; k < r->nresources; k++)
        there = there || reference_resource(r->resources[k], name, tenant);
    return acts && there;
}

static bool reference(const struct model *m, const char *tenant, const char *principal, const char *action, const char *name, char rule[32])
{
    for (int deny = 1; deny >= 0; deny--)
        for (unsigned i = 0; i < ROLES; i++)
            for (unsigned j = 0; j < m->nrules[i]; j++)
                if (m->rules[i][j].deny == deny && reference_bound(m, i, tenant, principal) &&
                    reference_rule(&m->rules[i][j], tenant, action, name)) {
                    sprintf(rule, "r%u.%u", i, j);
                    return !deny;
                }
    strcpy(rule, "default-deny");
    return false;
}

static void random_name(char out[NAME_MAX_BYTES], const char *tenant)
{
    unsigned depth = pick(6);
    out[0] = '\0';
    for (unsigned i = 0; i < depth; i++)
        sprintf(out + strlen(out), "%s%s/%s", i ? "/" : "", COLLECTIONS[i], i == 0 && tenant ? tenant : id_at(i));
}

struct question {
    char text[NAME_MAX_BYTES];
    const char *tenant, *principal, *action;
    struct name name;
};

/* Mostly about one's own tenant, or nearly all would be denied. */
static void random_question(struct question *q)
{
    struct err e;
    q->tenant = pick(4) ? PICK(TENANTS) : "";
    q->principal = PICK(PRINCIPALS);
    q->action = ACTIONS[pick(NACTIONS)].name;
    random_name(q->text, q->tenant[0] && pick(3) ? q->tenant : NULL);
    q->name = (struct name){0};
    INVARIANT(q->text[0] == '\0' || !name_parse_any(bytes_str(q->text), ~0u, "name", &q->name, &e).failed);
}

static struct policy_decision compiled(const struct policy_set *s, const struct question *q)
{
    struct policy_question p = {.principal = bytes_str(q->principal), .principal_tenant = bytes_str(q->tenant), .action = q->action, .resource = &q->name};
    return policy_decide(s, &p);
}

/* One question to both, for those who compare. False: they do not agree, as *ret_said says. */
struct answer {
    bool allowed;
    char rule[32];
};
static inline bool both_agree(const struct model *m, const struct policy_set *s, struct answer *ret, char ret_said[NAME_MAX_BYTES + 256])
{
    struct question q;
    random_question(&q);
    const struct policy_decision d = compiled(s, &q);
    ret->allowed = reference(m, q.tenant, q.principal, q.action, q.text, ret->rule);
    if (d.allowed == ret->allowed && strcmp(d.rule, ret->rule) == 0)
        return true;
    (void)snprintf(ret_said, NAME_MAX_BYTES + 256, "%s/%s %s %s: compiled says %d by %s, reference %d by %s", q.tenant, q.principal, q.action,
                   q.text, d.allowed, d.rule, ret->allowed, ret->rule);
    return false;
}

#endif
