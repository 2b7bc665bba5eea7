/* Target: kms/policy from YAML bytes to decisions. A refusal names file and line; a policy that compiles still keeps platform
 * principals from data-plane actions and every tenant inside itself, whatever it says. */
#include "kms/policy/policy.h"
#include "tests/unit/kms/policy/actions.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool ask(const struct policy_set *s, const char *tenant, const char *principal, const char *action, const char *resource)
{
    struct name n = {0};
    struct err e;
    INVARIANT(resource[0] == '\0' || !name_parse_any(bytes_str(resource), ~0u, "name", &n, &e).failed);
    struct policy_question q = {.principal = bytes_str(principal), .principal_tenant = bytes_str(tenant), .action = action, .resource = &n};
    struct policy_decision d = policy_decide(s, &q);
    INVARIANT(d.rule && (!d.allowed || strcmp(d.rule, "default-deny") != 0));
    return d.allowed;
}

/* A guard that compiles wants some days, and has a name for them. */
static void check_guards(const struct policy_set *s)
{
    struct name n;
    struct err e;
    struct policy_guard g = {0};
    INVARIANT(!name_parse_any(BYTES_LIT("projects/acme/locations/eu/keyRings/pii/cryptoKeys/email/cryptoKeyVersions/3"), ~0u, "name", &n, &e).failed);
    if (policy_guard_of(s, &n, &g))
        INVARIANT(g.id && g.id[0] && g.unused_days >= 1 && g.unused_days <= POLICY_UNUSED_DAYS_MAX);
}

static void check_promises(const struct policy_set *s)
{
    static const char *const who[] = {"admin", "orders", "*", "a", ""};
    for (size_t i = 0; i < NACTIONS; i++)
        for (size_t w = 0; w < sizeof who / sizeof who[0]; w++) {
            const char *action = ACTIONS[i].name;
            bool platform = ask(s, "", who[w], action, "projects/acme/locations/eu/keyRings/pii/cryptoKeys/email") || ask(s, "", who[w], action, "");
            INVARIANT(!platform || !ACTIONS[i].data_plane);
            INVARIANT(!ask(s, "acme", who[w], action, "projects/globex/locations/eu/keyRings/pii"));
            INVARIANT(!ask(s, "acme", who[w], action, ""));
            (void)ask(s, "acme", who[w], action, "projects/acme/locations/eu/keyRings/pii/cryptoKeys/email/cryptoKeyVersions/3");
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct policy_doc doc = {.name = "fuzz.yaml", .yaml = {data, size}};
    struct policy_set *s = NULL;
    struct err e = {0};
    struct buf text;
    buf_init(&text, 4096);
    if (policy_compile(&doc, 1, ACTIONS, NACTIONS, &s, &e, &text).failed)
        INVARIANT(e.code == ERR_INVALID && strncmp(buf_cstr(&text), "fuzz.yaml:", 10) == 0 && buf_cstr(&text)[10] > '0' && !s);
    if (s) {
        check_promises(s);
        check_guards(s);
    }
    policy_unref(s);
    buf_release(&text);
    return 0;
}
