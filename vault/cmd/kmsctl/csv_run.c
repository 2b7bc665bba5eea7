/* Chunks on their way, and answers back into their rows. */
#include "vault/cmd/kmsctl/csv_job.h"

#include "base/clock.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

enum { OUT_BLOCK = 1 << 16, FAILED_SHOWN = 5, RATE_TRIES = 60, AWAY_MS = 200 };

static struct result flush_out(struct job *j, size_t keep, struct claviger_error *e)
{
    if (j->out.n <= keep)
        return ok();
    TRY(j->file ? csv_out_write(j->file, buf_bytes(&j->out), e) : write_all(buf_bytes(&j->out), e));
    buf_reset(&j->out);
    return ok();
}

static void put_item(struct job *j, const struct csv_field *f, const struct claviger_item *item)
{
    struct bytes v = BYTES(item->out.data, item->out.len);
    if (item->code != CLAVIGER_OK) { /* with --keep-bad only */
        buf_put_bytes(&j->out, f->raw);
        return;
    }
    if (j->mode == JOB_DECRYPT) {
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

static const char *done_to_them(const struct job *j)
{
    return j->mode == JOB_ENCRYPT ? "encrypted" : j->mode == JOB_DECRYPT ? "decrypted" : "rewrapped";
}

/* Names them, of a batch that ends the run the first few. *ret_all_bad: all that is wrong with them is that they cannot be decrypted. */
static size_t name_failed(const struct job *j, const struct chunk *k, struct claviger_error *ret_first, bool *ret_all_bad)
{
    size_t failed = 0;
    *ret_all_bad = true;
    for (const struct row *r = k->rows; r; r = r->next) {
        for (size_t i = 0; i < r->nitems; i++) {
            const struct claviger_item *item = &k->items[r->first_item + i];
            if (item->code == CLAVIGER_OK)
                continue;
            if (failed == 0) {
                ret_first->code = item->code;
                memcpy(ret_first->reason, item->reason, sizeof ret_first->reason);
            }
            if (failed++ < FAILED_SHOWN || j->keep_bad)
                fprintf(stderr, "kmsctl: record %llu, column %s: %s %s\n", (unsigned long long)r->number,
                        j->column[r->item_field[i]], claviger_code_name(item->code), item->reason);
            *ret_all_bad = *ret_all_bad && strcmp(item->reason, "CIPHERTEXT") == 0;
        }
    }
    return failed;
}

static struct result items_failed(const struct job *j, struct chunk *k, struct claviger_error *e)
{
    struct claviger_error first = *e;
    bool all_bad;
    size_t failed = name_failed(j, k, &first, &all_bad);
    if (j->keep_bad && all_bad) {
        k->bad += failed;
        return ok();
    }
    snprintf(first.message, sizeof first.message, "%zu of %zu fields of a batch could not be %s; output ends before record %llu",
             failed, k->nitems, done_to_them(j), k->rows ? (unsigned long long)k->rows->number : 0ULL);
    *e = first;
    return (struct result){1};
}

static void drop_chunk(struct chunk *k)
{
    claviger_items_free(k->items, k->items ? k->nitems : 0);
    arena_release(&k->arena);
    *k = (struct chunk){0};
}

/* Who has hours of work waits for a daemon that restarts, for as long as one call may take, and when it is over the rate, as the
 * server asks. What is over a budget stays so. */
static struct result receive(struct job *j, struct claviger_error *e)
{
    int64_t give_up_ms = clock_boot_ms(&clock_system) + transport_timeout_ms(client_transport(j->c->client));
    unsigned throttled = 0;
    while (claviger_rewrap_stream_receive(j->stream, e) != CLAVIGER_OK) {
        bool rate = e->code == CLAVIGER_RESOURCE_EXHAUSTED && strcmp(e->reason, "RATE_LIMITED") == 0 && throttled++ < RATE_TRIES;
        bool away = e->code == CLAVIGER_UNAVAILABLE && clock_boot_ms(&clock_system) < give_up_ms;
        if (!rate && !away)
            return (struct result){1};
        uint64_t ms = e->retry_after_ms ? e->retry_after_ms : rate ? 1000 : AWAY_MS;
        (void)nanosleep(&(struct timespec){(time_t)(ms / 1000), (long)(ms % 1000) * 1000000}, NULL);
    }
    return ok();
}

static struct result take_answer(struct job *j, struct chunk *k, struct claviger_error *e)
{
    struct batch *b = k->batch;
    k->batch = NULL;
    struct result r = b ? batch_finish(b, e) : k->sent ? receive(j, e) : ok();
    return r.failed && strcmp(e->reason, "ITEMS_FAILED") == 0 ? items_failed(j, k, e) : r;
}

static struct result put_rows(struct job *j, const struct chunk *k, struct claviger_error *e)
{
    for (const struct row *row = k->rows; row; row = row->next) {
        put_row(j, k, row);
        if (!j->file)
            TRY(flush_out(j, OUT_BLOCK, e));
    }
    if (j->out.overflow)
        return client_fail(e, CLAVIGER_INTERNAL, "OUTPUT", "a row did not fit the output buffer");
    return j->file ? flush_out(j, 0, e) : ok();
}

/* Only when the chunk's rows are with the output, whole: what is written down later must not say more than is there. */
static void advance(struct job *j, const struct chunk *k)
{
    j->place.input_bytes = k->input_bytes;
    j->place.records = k->records;
    j->place.kept += k->kept;
    j->place.bad += k->bad;
    for (size_t i = 0; i < k->nitems && j->mode == JOB_REWRAP; i++)
        if (k->items[i].code == CLAVIGER_OK)
            *(k->items[i].version == k->items[i].source_version ? &j->place.newest : &j->place.moved) += 1;
    j->fields_done += k->nitems;
    progress_update(&j->progress, k->input_bytes, j->fields_done, false);
}

static struct result finish_oldest(struct job *j, struct claviger_error *e)
{
    struct chunk *k = &j->ring[j->head];
    struct result r = take_answer(j, k, e);
    if (!r.failed)
        r = put_rows(j, k, e);
    if (!r.failed)
        advance(j, k);
    if (!r.failed && j->file)
        r = csv_out_note(j->file, &j->place, false, e);
    drop_chunk(k);
    j->head = (j->head + 1) % j->in_flight;
    j->filled--;
    return r;
}

static struct result send_chunk(struct job *j, struct chunk *k, struct claviger_error *e)
{
    if (k->nitems == 0)
        return ok();
    if (j->mode != JOB_REWRAP)
        return batch_start(client_transport(j->c->client), j->key, j->mode == JOB_ENCRYPT, k->items, k->nitems, &k->batch, e);
    k->sent = claviger_rewrap_stream_send(j->stream, k->items, k->nitems, e) == CLAVIGER_OK;
    return (struct result){!k->sent};
}

static struct result all_rows(struct job *j, struct claviger_error *e)
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

/* It was read twice: for its sum, and row by row. */
static struct result input_is_the_same(const struct job *j, struct claviger_error *e)
{
    struct stat now;
    const struct stat *was = &j->input_was;
    if (fstat(j->in.fd, &now) != 0 || now.st_size != was->st_size || now.st_mtim.tv_sec != was->st_mtim.tv_sec ||
        now.st_mtim.tv_nsec != was->st_mtim.tv_nsec)
        return client_fail(e, CLAVIGER_FAILED_PRECONDITION, "INPUT_CHANGED", "the input was changed while it was read: begin again");
    return ok();
}

RESULT job_run(struct job *j, struct claviger_error *e)
{
    struct claviger_error ignored;
    struct result r = all_rows(j, e);
    if (!r.failed && j->file)
        r = input_is_the_same(j, e);
    if (!r.failed && j->file)
        return csv_out_finish(j->file, &j->place, e);
    if (r.failed && j->file && j->place.records > 0) /* the run ends here; the next need not do again what this one did */
        (void)!csv_out_note(j->file, &j->place, true, &ignored).failed;
    return r;
}

void job_release(struct job *j)
{
    struct claviger_error ignored;
    claviger_rewrap_stream_close(j->stream);
    for (; j->filled > 0; j->filled--, j->head = (j->head + 1) % j->in_flight) {
        struct chunk *k = &j->ring[j->head];
        if (k->batch)
            (void)!batch_finish(k->batch, &ignored).failed;
        drop_chunk(k);
    }
    csv_reader_release(&j->in);
    buf_release(&j->out);
    csv_out_free(j->file);
    if (j->in.fd > STDIN_FILENO)
        close(j->in.fd);
}
