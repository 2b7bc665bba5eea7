#include "vault/cmd/kmsctl/csv_job.h"

#include "base/text.h"

#include <string.h>

enum { CHUNK_ARENA_MAX = 16 << 20, CHUNK_TEXT_MAX = 1 << 20 };

static struct result bad_row(const struct job *j, struct claviger_error *e, const char *what)
{
    return client_fail(e, CLAVIGER_INVALID_ARGUMENT, "BAD_CSV", "record %llu: %s", (unsigned long long)j->in.records, what);
}

/* ---- header ---------------------------------------------------------------------------------------------------------------- */

RESULT job_columns(struct job *j, const char *list, struct claviger_error *e)
{
    for (const char *p = list; *p;) {
        size_t n = strcspn(p, ",");
        if (n == 0)
            return usage(e, "--columns has an empty name");
        if (j->ncolumns == CSV_COLUMNS_MAX)
            return usage(e, "--columns names more than %d columns", CSV_COLUMNS_MAX);
        j->column[j->ncolumns++] = arena_strdup(&j->c->arena, BYTES(p, n));
        p += n + (p[n] == ',');
    }
    if (j->ncolumns == 0)
        return usage(e, "--columns is empty");
    return ok();
}

static struct result find_column(const struct job *j, const struct bytes *names, size_t n, const char *want, size_t *ret,
                                 struct claviger_error *e)
{
    size_t found = 0;
    for (size_t i = 0; i < n; i++) {
        if (bytes_equal(names[i], bytes_str(want))) {
            *ret = i;
            found++;
        }
    }
    (void)j;
    if (found == 0)
        return usage(e, "the first row has no column \"%s\"", want);
    if (found > 1)
        return usage(e, "the first row has %zu columns \"%s\"", found, want);
    return ok();
}

static struct result map_columns(struct job *j, const struct bytes *names, size_t n, struct claviger_error *e)
{
    j->width = n;
    for (size_t i = 0; i < j->ncolumns; i++) {
        TRY(find_column(j, names, n, j->column[i], &j->index[i], e));
        for (size_t k = 0; k < i; k++) {
            if (j->index[k] == j->index[i])
                return usage(e, "--columns names \"%s\" twice", j->column[i]);
        }
    }
    if (!j->id_column)
        return ok();
    TRY(find_column(j, names, n, j->id_column, &j->id_index, e));
    for (size_t i = 0; i < j->ncolumns; i++) {
        if (j->index[i] == j->id_index)
            return usage(e, "the id column must stay readable: it cannot be among --columns");
    }
    return ok();
}

RESULT job_header(struct job *j, struct claviger_error *e)
{
    bool more;
    TRY(csv_next(&j->in, &j->record, &more, e));
    if (!more)
        return client_fail(e, CLAVIGER_INVALID_ARGUMENT, "BAD_CSV", "the input is empty: the first row must name the columns");
    struct bytes *names = arena_alloc(&j->c->arena, j->record.n * sizeof *names);
    for (size_t i = 0; i < j->record.n; i++)
        names[i] = csv_value(&j->record.field[i], &j->c->arena);
    if (names[0].n >= 3 && memcmp(names[0].p, "\xef\xbb\xbf", 3) == 0) /* a byte order mark is no part of the name */
        names[0] = BYTES(names[0].p + 3, names[0].n - 3);
    TRY(map_columns(j, names, j->record.n, e));
    buf_put_bytes(&j->out, j->record.text);
    buf_put_bytes(&j->out, j->record.eol);
    j->taken_bytes = j->in.bytes;
    j->taken_records = j->in.records;
    return ok();
}

/* ---- from rows to items ------------------------------------------------------------------------------------------------------ */

static struct result take_binding(struct job *j, struct chunk *k, struct claviger_item *item, const char *column, const char *id)
{
    struct claviger_pair *pairs = arena_alloc(&k->arena, 2 * sizeof *pairs);
    INVARIANT(pairs);
    pairs[0] = (struct claviger_pair){"column", column};
    pairs[1] = (struct claviger_pair){"row", id};
    item->binding = (struct claviger_binding){.context = pairs, .context_len = j->id_column ? 2 : 1};
    return ok();
}

static bool has_prefix(struct bytes v)
{
    return v.n >= sizeof CSV_PREFIX - 1 && memcmp(v.p, CSV_PREFIX, sizeof CSV_PREFIX - 1) == 0;
}

/* The bytes to send for one field. *ret_skip: the field stays as it is. */
static struct result field_input(struct job *j, struct chunk *k, const struct csv_field *f, struct bytes *ret, bool *ret_skip,
                                 struct claviger_error *e)
{
    struct bytes v = csv_value(f, &k->arena);
    *ret_skip = v.n == 0 && !(j->mode == JOB_ENCRYPT && j->encrypt_empty);
    *ret = v;
    if (!*ret_skip && j->mode == JOB_REWRAP && !has_prefix(v)) {
        k->kept++;
        *ret_skip = true;
    }
    if (*ret_skip)
        return ok();
    if (j->mode == JOB_ENCRYPT) {
        if (has_prefix(v) && !j->again)
            return bad_row(j, e, "a field begins with clv1: and is encrypted already (--again encrypts it once more)");
        return v.n <= CLAVIGER_PLAINTEXT_MAX ? ok() : bad_row(j, e, "a field is longer than 64 KiB");
    }
    CLEANUP(buf_release) struct buf decoded;
    buf_init(&decoded, v.n + 1);
    if (!has_prefix(v) || !base64_decode(BYTES(v.p + sizeof CSV_PREFIX - 1, v.n - (sizeof CSV_PREFIX - 1)), false, &decoded)) {
        if (!j->keep_bad)
            return bad_row(j, e, "a field is not of the form clv1:base64");
        fprintf(stderr, "kmsctl: record %llu: a field is not of the form clv1:base64\n", (unsigned long long)j->in.records);
        k->bad++;
        *ret_skip = true;
        return ok();
    }
    *ret = BYTES(arena_dup(&k->arena, decoded.p, decoded.n), decoded.n);
    return ok();
}

static struct result row_id(struct job *j, struct chunk *k, const char **ret, struct claviger_error *e)
{
    *ret = "";
    if (!j->id_column)
        return ok();
    struct bytes id = csv_value(&j->record.field[j->id_index], &k->arena);
    if (id.n == 0 || id.n > 1024 || !text_is_clean_utf8(id))
        return bad_row(j, e, "its id is empty, too long, or no clean UTF-8");
    *ret = arena_strdup(&k->arena, id);
    return ok();
}

static struct result add_items(struct job *j, struct chunk *k, struct row *r, struct claviger_error *e)
{
    const char *id;
    TRY(row_id(j, k, &id, e));
    r->first_item = k->nitems;
    for (size_t i = 0; i < j->ncolumns; i++) {
        struct bytes input;
        bool skip;
        TRY(field_input(j, k, &r->field[i], &input, &skip, e));
        if (skip)
            continue;
        struct claviger_item *item = &k->items[k->nitems];
        *item = (struct claviger_item){.in = input.p, .in_len = input.n};
        TRY(take_binding(j, k, item, j->column[i], id));
        k->item_bytes += input.n + strlen(j->column[i]) + strlen(id) + sizeof "columnrow";
        r->item_field[r->nitems++] = i;
        k->nitems++;
    }
    return ok();
}

static struct result add_row(struct job *j, struct chunk *k, struct claviger_error *e)
{
    const struct csv_record *rec = &j->record;
    bool blank = rec->n == 1 && rec->text.n == 0;
    if (rec->n != j->width && !blank)
        return bad_row(j, e, "it has another number of fields than the first row");
    struct row *r = arena_zalloc(&k->arena, sizeof *r);
    INVARIANT(r);
    uint8_t *text = arena_dup(&k->arena, rec->text.p, rec->text.n + rec->eol.n); /* the line end follows the text */
    r->field = arena_alloc(&k->arena, (j->ncolumns + 1) * sizeof *r->field);
    r->item_field = arena_alloc(&k->arena, (j->ncolumns + 1) * sizeof *r->item_field);
    INVARIANT(text && r->field && r->item_field);
    r->text = BYTES(text, rec->text.n);
    r->eol = BYTES(text + rec->text.n, rec->eol.n);
    r->number = j->in.records;
    for (size_t i = 0; i < j->ncolumns && !blank; i++) {
        const struct csv_field *f = &rec->field[j->index[i]];
        r->field[i] = (struct csv_field){BYTES(text + (f->raw.p - rec->text.p), f->raw.n), f->quoted};
    }
    *k->tail = r;
    k->tail = &r->next;
    k->text_bytes += rec->text.n;
    k->input_bytes = j->taken_bytes = j->in.bytes;
    k->records = j->taken_records = j->in.records;
    return blank ? ok() : add_items(j, k, r, e);
}

static size_t row_bytes(const struct job *j)
{
    size_t n = 0;
    for (size_t i = 0; i < j->ncolumns && j->record.n == j->width; i++)
        n += j->record.field[j->index[i]].raw.n + strlen(j->column[i]) + 64;
    return n + (j->id_column && j->record.n == j->width ? j->ncolumns * j->record.field[j->id_index].raw.n : 0);
}

RESULT job_fill(struct job *j, struct chunk *k, bool *pending, bool *more, struct claviger_error *e)
{
    arena_init(&k->arena, CHUNK_ARENA_MAX);
    k->tail = &k->rows;
    k->items = arena_alloc(&k->arena, j->batch_max * sizeof *k->items);
    INVARIANT(k->items);
    k->input_bytes = j->taken_bytes;
    k->records = j->taken_records;
    while (true) {
        if (!*pending)
            TRY(csv_next(&j->in, &j->record, more, e));
        *pending = *more;
        if (!*more)
            break;
        size_t n = row_bytes(j);
        if (n > CLAVIGER_BATCH_BYTES_MAX)
            return bad_row(j, e, "its fields together are longer than one batch may be (192 KiB)");
        if (k->nitems + j->ncolumns > j->batch_max || k->item_bytes + n > CLAVIGER_BATCH_BYTES_MAX || k->text_bytes > CHUNK_TEXT_MAX)
            break;
        TRY(add_row(j, k, e));
        *pending = false;
    }
    return ok();
}
