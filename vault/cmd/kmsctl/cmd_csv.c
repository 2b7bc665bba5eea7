#include "vault/cmd/kmsctl/csv_job.h"

#include "kms/name/name.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum { OUT_BLOCK = 1 << 16, FAILED_SHOWN = 5 };

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
    buf_put_str(&j->out, CSV_PREFIX);
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
        TRY(job_fill(j, k, &pending, &more, e));
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
    TRY(job_columns(j, a->value[OPT_COLUMNS], e));
    ProtobufCBinaryData key;
    TRY(name_full(j->c, a->value[OPT_KEY], 1u << NAME_CRYPTOKEY, &key, e));
    j->key = (const char *)key.data;
    TRY(args_u64(a, OPT_BATCH, 1, CLAVIGER_BATCH_MAX, CLAVIGER_BATCH_MAX, &batch, e));
    TRY(args_u64(a, OPT_IN_FLIGHT, 1, CSV_IN_FLIGHT_MAX, 4, &in_flight, e));
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
    struct result r = job_header(heap, e);
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
