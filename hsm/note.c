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
