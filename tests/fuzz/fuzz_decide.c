/* Target functions: policy_compile, policy_decide, pattern_match: against the slow reference of tests/unit/kms/policy/reference.h.
 * The input makes the choices: first those of a policy, then those of the questions. When it runs out, the choices go on from a
 * hash of it, so that every input is a whole policy with QUESTIONS questions. */
#include "base/bytes.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { QUESTIONS = 400 };

static struct reader choices;
static uint64_t more; /* xorshift64 */

static unsigned pick(unsigned n);
#include "tests/unit/kms/policy/reference.h"

static unsigned pick(unsigned n)
{
    if (choices.n > 0)
        return reader_u8(&choices) % n;
    more ^= more << 13;
    more ^= more >> 7;
    more ^= more << 17;
    return (unsigned)(more >> 11) % n;
}

static void compare(const struct model *m, const struct policy_set *s)
{
    struct answer a;
    char said[NAME_MAX_BYTES + 256];
    if (both_agree(m, s, &a, said))
        return;
    fprintf(stderr, "%s\n", said);
    abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct model m;
    struct policy_set *s = NULL;
    struct err e = {0};
    struct buf yaml;
    choices = reader_of(BYTES(data, size));
    more = 0x9e3779b97f4a7c15u ^ crc32c(BYTES(data, size));
    random_model(&m);
    buf_init(&yaml, 65536);
    write_yaml(&m, &yaml);
    struct policy_doc doc = {.name = "fuzz.yaml", .yaml = buf_bytes(&yaml)};
    INVARIANT(!policy_compile(&doc, 1, ACTIONS, NACTIONS, &s, &e, NULL).failed);
    for (unsigned i = 0; i < QUESTIONS; i++)
        compare(&m, s);
    policy_unref(s);
    buf_release(&yaml);
    return 0;
}
