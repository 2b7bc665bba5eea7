#include "vault/cmd/kmsctl/csv_job.h"

#include "kms/name/name.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static void report_rewrap(const struct job *j, double s, uint64_t rate)
{
    const struct csv_place *at = &j->place;
    uint64_t records = at->records ? at->records - 1 : 0;
    char moved[32], rows[32], newest[32], kept[32], per_s[32];
    if (j->c->json) {
        fprintf(stderr, "{\"moved\":%llu,\"newest\":%llu,\"kept\":%llu,\"bad\":%llu,\"rows\":%llu,\"seconds\":%.3f,\"fields_per_second\":%llu}\n",
                (unsigned long long)at->moved, (unsigned long long)at->newest, (unsigned long long)at->kept, (unsigned long long)at->bad,
                (unsigned long long)records, s, (unsigned long long)rate);
        return;
    }
    group_digits(at->moved, moved);
    group_digits(records, rows);
    group_digits(at->newest, newest);
    group_digits(at->kept, kept);
    group_digits(rate, per_s);
    fprintf(stderr, "moved %s fields of %s rows to the newest version, %s were on it, %s are no ciphertext; %.2f s: %s fields per second\n",
            moved, rows, newest, kept, s, per_s);
}

static void report(struct job *j)
{
    double s = progress_seconds(&j->progress);
    uint64_t rate = (uint64_t)((double)j->fields_done / s);
    progress_update(&j->progress, j->in.bytes, j->fields_done, true);
    if (j->mode == JOB_REWRAP) {
        report_rewrap(j, s, rate);
        return;
    }
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
    j->in_flight = j->mode == JOB_REWRAP ? CLAVIGER_REWRAP_WINDOW : (size_t)in_flight;
    j->id_column = a->value[OPT_ID_COLUMN];
    j->encrypt_empty = a->value[OPT_ENCRYPT_EMPTY] != NULL;
    j->again = a->value[OPT_AGAIN] != NULL;
    j->keep_bad = a->value[OPT_KEEP_BAD] != NULL;
    return ok();
}

static struct result open_input(const struct ctl *c, int *ret, struct claviger_error *e)
{
    const char *path = c->args.value[OPT_IN];
    *ret = path ? open(path, O_RDONLY | O_CLOEXEC) : STDIN_FILENO;
    if (*ret < 0)
        return client_fail(e, CLAVIGER_UNKNOWN, "INPUT", "%s cannot be opened: %s", path, strerror(errno));
    return ok();
}

/* Reads the whole input once before anything is done: what an interrupted run is gone on with must be what it was of. */
static struct result open_file(struct job *j, bool *ret_complete, struct claviger_error *e)
{
    const struct args *a = &j->c->args;
    if (fstat(j->in.fd, &j->input_was) != 0 || !S_ISREG(j->input_was.st_mode) || lseek(j->in.fd, 0, SEEK_CUR) != 0)
        return usage(e, "--out keeps its place in the input, which must be a file: --in FILE");
    struct csv_work work = {.key = j->key, .columns = a->value[OPT_COLUMNS], .id_column = j->id_column ? j->id_column : "",
                            .input = &j->input_was};
    TRY(csv_sum_file(j->in.fd, "the input", work.input_sum, &work.input_bytes, e));
    TRY(csv_out_open(a->value[OPT_OUT], &work, a->value[OPT_RESUME] != NULL, &j->place, &j->file, e));
    *ret_complete = j->file == NULL;
    return ok();
}

/* The first row is read again, as it names the columns; it is in the output already. */
static struct result go_on(struct job *j, struct claviger_error *e)
{
    if (j->place.records == 0)
        return ok();
    buf_reset(&j->out);
    j->taken_bytes = j->place.input_bytes;
    j->taken_records = j->place.records;
    if (!j->c->json)
        fprintf(stderr, "kmsctl: going on after record %llu\n", (unsigned long long)j->place.records);
    return csv_reader_seek(&j->in, j->place.input_bytes, j->place.records, e);
}

static struct result run_job(struct job *j, struct claviger_error *e)
{
    bool complete = false;
    if (j->c->args.value[OPT_OUT])
        TRY(open_file(j, &complete, e));
    if (!complete) {
        TRY(job_header(j, e));
        TRY(go_on(j, e));
        TRY(job_run(j, e));
    }
    report(j);
    if (j->place.bad > 0)
        return client_fail(e, CLAVIGER_INVALID_ARGUMENT, "CIPHERTEXT", "%llu fields cannot be decrypted, and are as they were",
                           (unsigned long long)j->place.bad);
    return ok();
}

static struct result csv_command(struct ctl *c, enum job_mode mode, const char *what, struct claviger_error *e)
{
    struct job *j = arena_zalloc(&c->arena, sizeof *j); /* records have many fields: too large for the stack */
    INVARIANT(j);
    *j = (struct job){.c = c, .mode = mode, .in_flight = 1};
    if (c->args.value[OPT_RESUME] && !c->args.value[OPT_OUT])
        return usage(e, "--resume goes on with the file that --out names");
    TRY(job_options(j, e));
    TRY(ctl_connect(c, e));
    int fd;
    TRY(open_input(c, &fd, e));
    csv_reader_init(&j->in, fd);
    buf_init(&j->out, 8 << 20);
    progress_start(&j->progress, c->args.value[OPT_PROGRESS] != NULL, what, fd);
    struct result r = ok();
    if (mode == JOB_REWRAP)
        r.failed = claviger_rewrap_stream_open(c->client, j->key, &j->stream, e) != CLAVIGER_OK;
    if (!r.failed)
        r = run_job(j, e);
    job_release(j);
    return r;
}

static struct result csv_encrypt(struct ctl *c, struct claviger_error *e)
{
    return csv_command(c, JOB_ENCRYPT, "encrypted", e);
}

static struct result csv_decrypt(struct ctl *c, struct claviger_error *e)
{
    return csv_command(c, JOB_DECRYPT, "decrypted", e);
}

static struct result csv_rewrap(struct ctl *c, struct claviger_error *e)
{
    return csv_command(c, JOB_REWRAP, "rewrapped", e);
}

#define CSV_OPTIONS (O(OPT_COLUMNS) | O(OPT_KEY) | O(OPT_ID_COLUMN) | O(OPT_PROGRESS) | O(OPT_BATCH) | O(OPT_IN))
static const struct command rows[] = {
    {"csv", "encrypt", "", 0, 0, CSV_OPTIONS | O(OPT_IN_FLIGHT) | O(OPT_ENCRYPT_EMPTY) | O(OPT_AGAIN), ROLE_SERVICE, csv_encrypt,
     "encrypt columns of a CSV file (RFC 4180); each field becomes clv1:base64",
     "kmsctl csv encrypt --columns email,tax_id --key acme/eu/pii/email --id-column id < people.csv > people.enc.csv"},
    {"csv", "decrypt", "", 0, 0, CSV_OPTIONS | O(OPT_IN_FLIGHT), ROLE_SERVICE, csv_decrypt, "the reverse, byte for byte",
     "kmsctl csv decrypt --columns email,tax_id --key acme/eu/pii/email --id-column id < people.enc.csv > people.csv"},
    {"csv", "rewrap", "", 0, 0, CSV_OPTIONS | O(OPT_OUT) | O(OPT_RESUME) | O(OPT_KEEP_BAD), ROLE_SERVICE, csv_rewrap,
     "what csv encrypt made, under the key's newest version",
     "kmsctl csv rewrap --columns email,tax_id --key acme/eu/pii/email --id-column id --in people.enc.csv --out people.new.csv --resume"},
};
const struct command_rows rows_csv = {rows, sizeof rows / sizeof *rows};
