#include "vault/cmd/kmsctl/csv.h"
#include "vault/cmd/kmsctl/kmsctl.h"
#include "vault/cmd/kmsctl/progress.h"

#include "base/text.h"
#include "kms/name/name.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Rows are collected into chunks; the chosen fields of a chunk are one batch. Several chunks are on their way at a time, in a
 * ring, and are written in the order in which they were read. */
enum { COLUMNS_MAX = 64, IN_FLIGHT_MAX = 32, CHUNK_ARENA_MAX = 16 << 20, CHUNK_TEXT_MAX = 1 << 20, OUT_BLOCK = 1 << 16,
       FAILED_SHOWN = 5 };
#define PREFIX "clv1:"

struct row {
    struct row *next;
    struct bytes text, eol;
    struct csv_field *field; /* copies of the chosen columns' fields, views into text */
    size_t nfields;
    size_t first_item;       /* items of this row follow each other */
    size_t nitems;
    size_t *item_field;      /* which of `field` each item is */
    uint64_t number;
};

struct chunk {
    struct arena arena;
    struct row *rows, **tail;
    struct claviger_item *items;
    size_t nitems, item_bytes, text_bytes;
    struct batch *batch;     /* NULL: nothing to ask */
    uint64_t input_bytes;
};

struct job {
    struct ctl *c;
    const char *key;
    bool encrypt, encrypt_empty, again;
    size_t batch_max, in_flight;
    const char *column[COLUMNS_MAX];
    size_t index[COLUMNS_MAX], ncolumns;
    size_t width;            /* fields of the header */
    const char *id_column;
    size_t id_index;
    struct csv_reader in;
    struct csv_record record;
    struct buf out;
    struct chunk ring[IN_FLIGHT_MAX];
    size_t head, filled;     /* oldest chunk, and how many are in the ring */
    struct progress progress;
    uint64_t fields_done;
};

static struct result bad_row(const struct job *j, struct claviger_error *e, const char *what)
{
    return client_fail(e, CLAVIGER_INVALID_ARGUMENT, "BAD_CSV", "record %llu: %s", (unsigned long long)j->in.records, what);
}

/* ---- header ---------------------------------------------------------------------------------------------------------------- */

static struct result split_columns(struct job *j, const char *list, struct claviger_error *e)
{
    for (const char *p = list; *p;) {
        size_t n = strcspn(p, ",");
        if (n == 0)
            return usage(e, "--columns has an empty name");
        if (j->ncolumns == COLUMNS_MAX)
            return usage(e, "--columns names more than %d columns", COLUMNS_MAX);
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

static struct result header(struct job *j, struct claviger_error *e)
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
    return v.n >= sizeof PREFIX - 1 && memcmp(v.p, PREFIX, sizeof PREFIX - 1) == 0;
}

/* The bytes to send for one field. *ret_skip: the field stays as it is. */
static struct result field_input(struct job *j, struct chunk *k, const struct csv_field *f, struct bytes *ret, bool *ret_skip,
                                 struct claviger_error *e)
{
    struct bytes v = csv_value(f, &k->arena);
    *ret_skip = v.n == 0 && !(j->encrypt && j->encrypt_empty);
    *ret = v;
    if (*ret_skip)
        return ok();
    if (j->encrypt) {
        if (has_prefix(v) && !j->again)
            return bad_row(j, e, "a field begins with clv1: and is encrypted already (--again encrypts it once more)");
        return v.n <= CLAVIGER_PLAINTEXT_MAX ? ok() : bad_row(j, e, "a field is longer than 64 KiB");
    }
    CLEANUP(buf_release) struct buf decoded;
    buf_init(&decoded, v.n + 1);
    if (!has_prefix(v) || !base64_decode(BYTES(v.p + sizeof PREFIX - 1, v.n - (sizeof PREFIX - 1)), false, &decoded))
        return bad_row(j, e, "a field is not of the form clv1:base64");
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
    return blank ? ok() : add_items(j, k, r, e);
}

static size_t row_bytes(const struct job *j)
{
    size_t n = 0;
    for (size_t i = 0; i < j->ncolumns && j->record.n == j->width; i++)
        n += j->record.field[j->index[i]].raw.n + strlen(j->column[i]) + 64;
    return n + (j->id_column && j->record.n == j->width ? j->ncolumns * j->record.field[j->id_index].raw.n : 0);
}

/* Fills a chunk from rows; *more false: the file has ended. The row that does not fit any more is kept in j->record. */
static struct result fill_chunk(struct job *j, struct chunk *k, bool *pending, bool *more, struct claviger_error *e)
{
    arena_init(&k->arena, CHUNK_ARENA_MAX);
    k->tail = &k->rows;
    k->items = arena_alloc(&k->arena, j->batch_max * sizeof *k->items);
    INVARIANT(k->items);
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
    k->input_bytes = j->in.bytes;
    return ok();
}

/* ---- from answers to rows ----------------------------------------------------------------------------------------------------- */

static struct result flush_out(struct job *j, size_t keep, struct claviger_error *e)
{
    if (j->out.n <= keep)
        return ok();
    TRY(write_all(buf_bytes(&j->out), e));
    buf_reset(&j->out);
    return ok();
}

static void put_item(struct job *j, const struct csv_field *f, const struct claviger_item *item)
{
    struct bytes v = BYTES(item->out.data, item->out.len);
    if (!j->encrypt) {
        csv_put(&j->out, v, f->quoted);
        return;
    }
    if (f->quoted)
        buf_put_u8(&j->out, '"');
    buf_put_str(&j->out, PREFIX);
    base64_encode(v, false, &j->out);
    if (f->quoted)
        buf_put_u8(&j->out, '"');
}

/* Columns may be named in any order: the next field of the text is the item whose place comes first. */
static void put_row(struct job *j, const struct chunk *k, const struct row *r)
{
    const uint8_t *at = r->text.p, *end = r->text.p + r->text.n;
    for (size_t done = 0; done < r->nitems; done++) {
        const struct csv_field *next = NULL;
        size_t item = 0;
        for (size_t i = 0; i < r->nitems; i++) {
            const struct csv_field *f = &r->field[r->item_field[i]];
            if (f->raw.p >= at && (done == 0 || f->raw.p > at) && (!next || f->raw.p < next->raw.p)) {
                next = f;
                item = r->first_item + i;
            }
        }
        INVARIANT(next);
        buf_put(&j->out, at, (size_t)(next->raw.p - at));
        put_item(j, next, &k->items[item]);
        at = next->raw.p + next->raw.n;
    }
    buf_put(&j->out, at, (size_t)(end - at));
    buf_put_bytes(&j->out, r->eol);
}

static struct result items_failed(const struct job *j, const struct chunk *k, struct claviger_error *e)
{
    size_t failed = 0;
    struct claviger_error first = *e;
    for (const struct row *r = k->rows; r; r = r->next) {
        for (size_t i = 0; i < r->nitems; i++) {
            const struct claviger_item *item = &k->items[r->first_item + i];
            if (item->code == CLAVIGER_OK)
                continue;
            if (failed == 0) {
                first.code = item->code;
                memcpy(first.reason, item->reason, sizeof first.reason);
            }
            if (failed++ < FAILED_SHOWN)
                fprintf(stderr, "kmsctl: record %llu, column %s: %s %s\n", (unsigned long long)r->number,
                        j->column[r->item_field[i]], claviger_code_name(item->code), item->reason);
        }
    }
    snprintf(first.message, sizeof first.message, "%zu of %zu fields of a batch could not be %s; output ends before record %llu",
             failed, k->nitems, j->encrypt ? "encrypted" : "decrypted", k->rows ? (unsigned long long)k->rows->number : 0ULL);
    *e = first;
    return (struct result){1};
}

static void drop_chunk(struct chunk *k)
{
    claviger_items_free(k->items, k->items ? k->nitems : 0);
    arena_release(&k->arena);
    *k = (struct chunk){0};
}

static struct result finish_oldest(struct job *j, struct claviger_error *e)
{
    struct chunk *k = &j->ring[j->head];
    struct batch *b = k->batch;
    k->batch = NULL;
    struct result r = b ? batch_finish(b, e) : ok();
    if (r.failed && strcmp(e->reason, "ITEMS_FAILED") == 0)
        r = items_failed(j, k, e);
    for (const struct row *row = k->rows; row && !r.failed; row = row->next) {
        put_row(j, k, row);
        r = flush_out(j, OUT_BLOCK, e);
    }
    j->fields_done += r.failed ? 0 : k->nitems;
    if (!r.failed)
        progress_update(&j->progress, k->input_bytes, j->fields_done, false);
    drop_chunk(k);
    j->head = (j->head + 1) % j->in_flight;
    j->filled--;
    return r;
}

static struct result send_chunk(struct job *j, struct chunk *k, struct claviger_error *e)
{
    if (k->nitems == 0)
        return ok();
    return batch_start(client_transport(j->c->client), j->key, j->encrypt, k->items, k->nitems, &k->batch, e);
}

static struct result stream_rows(struct job *j, struct claviger_error *e)
{
    bool more = true, pending = false;
    while (more) {
        if (j->filled == j->in_flight)
            TRY(finish_oldest(j, e));
        struct chunk *k = &j->ring[(j->head + j->filled++) % j->in_flight];
        *k = (struct chunk){0};
        TRY(fill_chunk(j, k, &pending, &more, e));
        TRY(send_chunk(j, k, e));
    }
    while (j->filled > 0)
        TRY(finish_oldest(j, e));
    return flush_out(j, 0, e);
}

static void job_release(struct job *j)
{
    struct claviger_error ignored;
    for (; j->filled > 0; j->filled--, j->head = (j->head + 1) % j->in_flight) {
        struct chunk *k = &j->ring[j->head];
        if (k->batch)
            (void)!batch_finish(k->batch, &ignored).failed;
        drop_chunk(k);
    }
    csv_reader_release(&j->in);
    buf_release(&j->out);
    if (j->in.fd > STDIN_FILENO)
        close(j->in.fd);
}

static void report(struct job *j)
{
    double s = progress_seconds(&j->progress);
    uint64_t rate = (uint64_t)((double)j->fields_done / s);
    progress_update(&j->progress, j->in.bytes, j->fields_done, true);
    char fields[32], rows[32], per_s[32];
    group_digits(j->fields_done, fields);
    group_digits(j->in.records - 1, rows);
    group_digits(rate, per_s);
    if (j->c->json)
        fprintf(stderr, "{\"fields\":%llu,\"rows\":%llu,\"seconds\":%.3f,\"fields_per_second\":%llu}\n",
                (unsigned long long)j->fields_done, (unsigned long long)j->in.records - 1, s, (unsigned long long)rate);
    else
        fprintf(stderr, "%s %s fields of %s rows in %.2f s: %s fields per second\n", j->progress.what, fields, rows, s, per_s);
}

static struct result job_options(struct job *j, struct claviger_error *e)
{
    const struct args *a = &j->c->args;
    uint64_t batch, in_flight;
    if (!a->value[OPT_COLUMNS] || !a->value[OPT_KEY])
        return usage(e, "--columns and --key are needed");
    TRY(split_columns(j, a->value[OPT_COLUMNS], e));
    ProtobufCBinaryData key;
    TRY(name_full(j->c, a->value[OPT_KEY], 1u << NAME_CRYPTOKEY, &key, e));
    j->key = (const char *)key.data;
    TRY(args_u64(a, OPT_BATCH, 1, CLAVIGER_BATCH_MAX, CLAVIGER_BATCH_MAX, &batch, e));
    TRY(args_u64(a, OPT_IN_FLIGHT, 1, IN_FLIGHT_MAX, 4, &in_flight, e));
    if (batch < j->ncolumns)
        batch = j->ncolumns; /* the fields of a row travel together */
    j->batch_max = (size_t)batch;
    j->in_flight = (size_t)in_flight;
    j->id_column = a->value[OPT_ID_COLUMN];
    j->encrypt_empty = a->value[OPT_ENCRYPT_EMPTY] != NULL;
    j->again = a->value[OPT_AGAIN] != NULL;
    return ok();
}

static struct result csv_run(struct ctl *c, bool encrypt, struct claviger_error *e)
{
    struct job *heap = arena_zalloc(&c->arena, sizeof *heap); /* records have many fields: too large for the stack */
    INVARIANT(heap);
    *heap = (struct job){.c = c, .encrypt = encrypt, .in_flight = 1};
    TRY(job_options(heap, e));
    TRY(ctl_connect(c, e));
    int fd = STDIN_FILENO;
    const char *path = c->args.value[OPT_IN];
    if (path && (fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
        return client_fail(e, CLAVIGER_UNKNOWN, "INPUT", "%s cannot be opened: %s", path, strerror(errno));
    csv_reader_init(&heap->in, fd);
    buf_init(&heap->out, 8 << 20);
    progress_start(&heap->progress, c->args.value[OPT_PROGRESS] != NULL, encrypt ? "encrypted" : "decrypted", fd);
    struct result r = header(heap, e);
    if (!r.failed)
        r = stream_rows(heap, e);
    if (!r.failed && heap->out.overflow)
        r = client_fail(e, CLAVIGER_INTERNAL, "OUTPUT", "a row did not fit the output buffer");
    if (!r.failed)
        report(heap);
    job_release(heap);
    return r;
}

static struct result csv_encrypt(struct ctl *c, struct claviger_error *e)
{
    return csv_run(c, true, e);
}

static struct result csv_decrypt(struct ctl *c, struct claviger_error *e)
{
    return csv_run(c, false, e);
}

#define CSV_OPTIONS (O(OPT_COLUMNS) | O(OPT_KEY) | O(OPT_ID_COLUMN) | O(OPT_PROGRESS) | O(OPT_BATCH) | O(OPT_IN_FLIGHT) | O(OPT_IN))
static const struct command rows[] = {
    {"csv", "encrypt", "", 0, 0, CSV_OPTIONS | O(OPT_ENCRYPT_EMPTY) | O(OPT_AGAIN), ROLE_SERVICE, csv_encrypt,
     "encrypt columns of a CSV file (RFC 4180); each field becomes clv1:base64",
     "kmsctl csv encrypt --columns email,tax_id --key acme/eu/pii/email --id-column id < people.csv > people.enc.csv"},
    {"csv", "decrypt", "", 0, 0, CSV_OPTIONS, ROLE_SERVICE, csv_decrypt, "the reverse, byte for byte",
     "kmsctl csv decrypt --columns email,tax_id --key acme/eu/pii/email --id-column id < people.enc.csv > people.csv"},
};
const struct command_rows rows_csv = {rows, sizeof rows / sizeof *rows};
