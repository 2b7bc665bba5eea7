#include "base/kdfenc.h"

#include <stdlib.h>
#include <string.h>

struct label {
    const char *text;
    bool in_hsm;
    const char *fields; /* "name:min-max ..." */
};

static const struct label labels[KDF_LABEL_COUNT] = {
#define X(id, label, in_hsm, fields) [id] = {label, (in_hsm) != 0, fields},
    KDF_LABELS(X)
#undef X
};

/* Takes the next "name:min-max " of a field list; false at its end. The lists are literals above: a bad one is a bug. */
static bool next_field(const char **list, size_t *ret_min, size_t *ret_max)
{
    const char *p = *list;
    char *end;

    if (*p == '\0')
        return false;
    p = strchr(p, ':');
    INVARIANT(p != NULL);
    *ret_min = strtoul(p + 1, &end, 10);
    INVARIANT(*end == '-');
    *ret_max = strtoul(end + 1, &end, 10);
    INVARIANT(*ret_min <= *ret_max && *ret_max <= KDFENC_NAME_MAX && (*end == ' ' || *end == '\0'));
    *list = *end == ' ' ? end + 1 : end;
    return true;
}

static bool fields_fit(const struct label *l, const struct bytes *fields, size_t nfields)
{
    const char *list = l->fields;
    size_t min, max, i = 0;

    while (next_field(&list, &min, &max)) {
        if (i >= nfields || fields[i].n < min || fields[i].n > max)
            return false;
        i++;
    }
    return i == nfields;
}

bool kdfenc_build(enum kdf_label label, const struct bytes *fields, size_t nfields, struct buf *out)
{
    if ((unsigned)label >= KDF_LABEL_COUNT || !fields_fit(&labels[label], fields, nfields))
        return false;
    buf_put_u32(out, 1);
    buf_put_str(out, labels[label].text);
    buf_put_u8(out, 0);
    for (size_t i = 0; i < nfields; i++)
        buf_put_v16(out, fields[i]);
    buf_put_u32(out, 256);
    return !out->overflow;
}

static bool is_encoding_of(const struct label *l, struct bytes input)
{
    struct reader r = reader_of(input);
    size_t label_bytes = strlen(l->text) + 1, min, max;
    const char *list = l->fields;

    if (reader_u32(&r) != 1 || !bytes_equal(reader_take(&r, label_bytes), BYTES(l->text, label_bytes)))
        return false;
    while (next_field(&list, &min, &max)) {
        struct bytes f = reader_v16(&r);
        if (r.bad || f.n < min || f.n > max)
            return false;
    }
    return reader_u32(&r) == 256 && reader_done(&r);
}

bool kdfenc_is_hsm_input(struct bytes input, enum kdf_label *ret)
{
    if (input.n > KDFENC_MAX_BYTES)
        return false;
    for (unsigned i = 0; i < KDF_LABEL_COUNT; i++) {
        if (!labels[i].in_hsm || !is_encoding_of(&labels[i], input))
            continue;
        if (ret != NULL)
            *ret = (enum kdf_label)i;
        return true;
    }
    return false;
}

const char *kdfenc_label_text(enum kdf_label label)
{
    return (unsigned)label < KDF_LABEL_COUNT ? labels[label].text : "?";
}
