#include "hsm/note.h"

#include "base/text.h"
#include "hsm/hsm.h"

#include <string.h>

enum { ROOT_HASH_BYTES = 32 };

/* Takes one line without its newline; false when there is no newline or nothing before it. */
static bool next_line(struct bytes *rest, struct bytes *ret)
{
    const uint8_t *end = rest->n > 0 ? memchr(rest->p, '\n', rest->n) : NULL;
    if (end == NULL || end == rest->p)
        return false;
    size_t n = (size_t)(end - rest->p);
    *ret = BYTES(rest->p, n);
    *rest = BYTES(rest->p + n + 1, rest->n - n - 1);
    /* Control characters could make two readers see two different notes. */
    return text_is_clean_utf8(*ret);
}

static bool is_root_hash(struct bytes line)
{
    CLEANUP(buf_release) struct buf hash = {0};
    buf_init(&hash, ROOT_HASH_BYTES);
    return base64_decode(line, false, &hash) && !hash.overflow && hash.n == ROOT_HASH_BYTES;
}

RESULT note_check_checkpoint(struct bytes untrusted_body, const char *origin, struct err *e)
{
    struct bytes rest = untrusted_body, first, size, hash, extension;
    uint64_t tree_size;
    if (rest.n > HSM_MESSAGE_MAX)
        FAIL(e, ERR_DENIED, "HSM_REFUSED", "a checkpoint of %zu bytes is too long", rest.n);
    if (!next_line(&rest, &first))
        FAIL(e, ERR_DENIED, "HSM_REFUSED", "the checkpoint has no origin line");
    if (origin != NULL && !bytes_equal(first, bytes_str(origin)))
        FAIL(e, ERR_DENIED, "HSM_REFUSED", "the checkpoint is for another log than %s", origin);
    if (!next_line(&rest, &size) || !text_parse_u64(size, UINT64_MAX, &tree_size))
        FAIL(e, ERR_DENIED, "HSM_REFUSED", "the checkpoint's second line is no tree size");
    if (!next_line(&rest, &hash) || !is_root_hash(hash))
        FAIL(e, ERR_DENIED, "HSM_REFUSED", "the checkpoint's third line is no root hash");
    while (rest.n > 0)
        if (!next_line(&rest, &extension))
            FAIL(e, ERR_DENIED, "HSM_REFUSED", "the checkpoint has an empty, unended or unclean extension line");
    return ok();
}

/* ---- certificates: a closed list of facts, all of a kind's, in this order ---- */
enum fact_type { FACT_TEXT, FACT_TIME, FACT_ID, FACT_NUMBER };
enum { OF_VERSION = 1, OF_TENANT = 2, OF_BOTH = 3, ID_HEX = 32 };
static const struct fact {
    const char *name;
    unsigned of;
    enum fact_type type;
} facts[] = {
    {"name", OF_BOTH, FACT_TEXT},          {"instance", OF_BOTH, FACT_ID},       {"tenant", OF_BOTH, FACT_ID},
    {"kvid", OF_VERSION, FACT_ID},         {"protection", OF_VERSION, FACT_TEXT}, {"key-rings", OF_TENANT, FACT_NUMBER},
    {"keys", OF_TENANT, FACT_NUMBER},      {"versions", OF_TENANT, FACT_NUMBER}, {"principals", OF_TENANT, FACT_NUMBER},
    {"token-objects", OF_TENANT, FACT_NUMBER}, {"created", OF_BOTH, FACT_TIME},  {"requested", OF_BOTH, FACT_TIME},
    {"requested-by", OF_BOTH, FACT_TEXT},  {"due", OF_BOTH, FACT_TIME},          {"destroyed", OF_BOTH, FACT_TIME},
    {"seal-epoch", OF_BOTH, FACT_NUMBER},  {"covers", OF_BOTH, FACT_TEXT},       {"remains", OF_BOTH, FACT_TEXT},
};

static bool is_value(struct bytes v, enum fact_type type)
{
    uint8_t id[ID_HEX / 2];
    uint64_t number;
    int64_t ns;
    switch (type) {
    case FACT_TEXT:
        return v.n > 0;
    case FACT_TIME:
        return bytes_equal(v, BYTES_LIT("-")) || text_parse_rfc3339(v, &ns);
    case FACT_ID:
        return v.n == ID_HEX && hex_decode(v, id, sizeof id);
    case FACT_NUMBER:
        return text_parse_u64(v, UINT64_MAX, &number);
    }
    return false;
}

static bool is_fact(struct bytes line, const struct fact *f)
{
    const size_t n = strlen(f->name);
    if (line.n < n + 2 || memcmp(line.p, f->name, n) != 0 || memcmp(line.p + n, ": ", 2) != 0)
        return false;
    return is_value(BYTES(line.p + n + 2, line.n - n - 2), f->type);
}

RESULT note_check_certificate(struct bytes untrusted_text, const char *origin, struct err *e)
{
    struct bytes rest = untrusted_text, line;
    if (rest.n > HSM_MESSAGE_MAX)
        FAIL(e, ERR_DENIED, "HSM_REFUSED", "a certificate of %zu bytes is too long", rest.n);
    if (!next_line(&rest, &line) || !bytes_equal(line, BYTES_LIT("claviger.certificate/v1")))
        FAIL(e, ERR_DENIED, "HSM_REFUSED", "the first line is not a certificate's");
    if (!next_line(&rest, &line) || (origin != NULL && !bytes_equal(line, bytes_str(origin))))
        FAIL(e, ERR_DENIED, "HSM_REFUSED", "the certificate is of another log than %s", origin != NULL ? origin : "any");
    if (!next_line(&rest, &line))
        FAIL(e, ERR_DENIED, "HSM_REFUSED", "the certificate does not say of what");
    const unsigned of = bytes_equal(line, BYTES_LIT("kind: version")) ? OF_VERSION : bytes_equal(line, BYTES_LIT("kind: tenant")) ? OF_TENANT : 0;
    if (of == 0)
        FAIL(e, ERR_DENIED, "HSM_REFUSED", "a certificate of an unknown kind");
    for (size_t i = 0; i < sizeof facts / sizeof facts[0]; i++)
        if ((facts[i].of & of) != 0 && (!next_line(&rest, &line) || !is_fact(line, &facts[i])))
            FAIL(e, ERR_DENIED, "HSM_REFUSED", "the certificate does not say \"%s\" in its place", facts[i].name);
    if (rest.n != 0)
        FAIL(e, ERR_DENIED, "HSM_REFUSED", "the certificate says more than it may");
    return ok();
}
