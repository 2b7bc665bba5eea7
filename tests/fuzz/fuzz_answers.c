/* Target function: answer_lines, the file of stored known answers of a token that keeps no data objects (hsm/answer_file.h). What is taken is
 * what a slow reader takes, and nothing of it is lost or made up: what was found and what was not are the text again. */
#include "hsm/answer_file.h"

#include <ctype.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LINE_TAIL = 1 + 2 * ANSWER_NONCE_BYTES + 1 + 2 * ANSWER_BYTES };
static const char name[] = "master-1";

/* "x 64 64": one field, a blank, and so on; no field is empty or has a blank. */
static bool is_line(const char *p, size_t n)
{
    static const size_t want[] = {0, 2 * ANSWER_NONCE_BYTES, 2 * ANSWER_BYTES};
    size_t field = 0, length = 0;
    for (size_t i = 0; i <= n; i++) {
        if (i < n && p[i] != ' ') {
            length++;
            if (field > 0 && !isxdigit((unsigned char)p[i]))
                return false;
            continue;
        }
        if (field > 2 || length == 0 || (want[field] != 0 && length != want[field]))
            return false;
        field++;
        length = 0;
    }
    return field == 3;
}

static bool slow_reader(const char *text, size_t size, unsigned *ret_named)
{
    *ret_named = 0;
    for (size_t at = 0; at < size;) {
        size_t n = 0;
        while (at + n < size && text[at + n] != '\n')
            n++;
        if (at + n == size || !is_line(text + at, n))
            return false;
        *ret_named += n == strlen(name) + LINE_TAIL && memcmp(text + at, name, strlen(name)) == 0;
        at += n + 1;
    }
    return *ret_named <= 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(buf_release) struct buf others = {0}, none = {0};
    struct answer_line line = {.name = name};
    struct err e = {0};
    bool found = false, again = false;
    unsigned named;
    buf_init(&others, ANSWER_FILE_MAX);
    buf_init(&none, ANSWER_FILE_MAX);
    if (size > ANSWER_FILE_MAX)
        return 0;
    const bool taken = !answer_lines(BYTES(data, size), name, &line, &found, &others, &e).failed;
    INVARIANT(taken == slow_reader((const char *)data, size, &named));
    if (!taken) {
        INVARIANT(e.code == ERR_STATE);
        return 0;
    }
    INVARIANT(found == (named == 1) && !others.overflow);
    INVARIANT(others.n + (found ? strlen(name) + LINE_TAIL + 1 : 0) == size);
    INVARIANT(!answer_lines(buf_bytes(&others), name, NULL, &again, &none, &e).failed && !again);
    INVARIANT(bytes_equal(buf_bytes(&others), buf_bytes(&none)));
    return 0;
}
