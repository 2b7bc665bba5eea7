/* Target functions: segment_header_parse, frame_at, journal_open (recovery) on a file as a crash or a thief may leave it.
 * The input is a script over a segment that begins well: frames that are right, damage at a place, raw bytes. Recovery opens it
 * or says that it is damaged; when it opens, a second opening finds the same end and cuts nothing more. */
#include "kms/audit/journal.h"
#include "kms/audit/segment.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FILE_BYTES = 1 << 18, BUILT_BYTES = 1 << 14, RESERVE_BYTES = 1 << 16 };
static char dir[] = "/dev/shm/clv-fuzz-XXXXXX", file[96];
static const char origin[] = "fuzz/node";

static void at_end(void)
{
    char lock[96];
    (void)snprintf(lock, sizeof lock, "%s/journal.lock", dir);
    (void)unlink(lock);
    (void)unlink(file);
    (void)rmdir(dir);
}

static void prepare(void)
{
    if (file[0] != '\0')
        return;
    INVARIANT(mkdtemp(dir) != NULL && atexit(at_end) == 0);
    (void)snprintf(file, sizeof file, "%s/journal-%020d.log", dir, 0);
}

/* op 0: a right frame of `arg` payload bytes; 1: the mark of a close; 2: raw bytes of the input; 3: skip 8 * arg bytes */
static void build(uint8_t *f, const uint8_t *data, size_t size)
{
    size_t at = SEGMENT_HEADER_BYTES;
    uint64_t index = 0;
    while (size >= 2 && at + 512 < BUILT_BYTES) {
        size_t n = data[1];
        unsigned op = data[0] % 4;
        uint32_t place = (uint32_t)(data[0] >> 4) % (uint32_t)(index + 1);
        data += 2;
        size -= 2;
        if (op <= 1) {
            n = op == 1 ? 0 : n + 1;
            memset(f + at + FRAME_HEADER_BYTES, (int)n, n);
            put_be32(f + at + FRAME_LENGTH_AT, (uint32_t)n);
            put_be32(f + at + FRAME_CRC_AT, crc32c(BYTES(f + at + FRAME_HEADER_BYTES, n)));
            frame_finish(f + at, index, index + 1, place);
            index += op == 0;
            at += op == 0 ? frame_size(n) : 0;
        } else if (op == 2) {
            n = n < size ? n : size;
            memcpy(f + at, data, n);
            data += n;
            size -= n;
            at += (n + 7) & ~(size_t)7;
        } else {
            at += 8 * (n % 32);
        }
    }
}

/* What recovery kept is read in order, each once; a frame that is whole and yet no record of ours is damage. */
static void read_all(struct journal *j, uint64_t next_index)
{
    struct arena a;
    uint64_t at = 0;
    size_t n = 1;
    arena_init(&a, 4u << 20);
    while (n > 0) {
        struct journal_record *recs;
        struct err e = {0};
        if (journal_read(j, at, 7, &a, &recs, &n, &e).failed) {
            INVARIANT(e.code == ERR_DATA_LOSS);
            break;
        }
        for (size_t i = 0; i < n; i++)
            INVARIANT(recs[i].index == at++ && at <= next_index);
        arena_reset(&a);
    }
    arena_release(&a);
}

static bool recover(struct journal_status *st)
{
    static const struct journal_options o = {.dir = dir, .origin = origin, .segment_bytes = FILE_BYTES, .reserve_bytes = RESERVE_BYTES,
                                             .clock = &clock_system};
    struct journal *j = NULL;
    struct err e = {0};
    if (journal_open(&o, &j, &e).failed) {
        if (e.code != ERR_DATA_LOSS)
            fprintf(stderr, "%s: %s\n", e.reason ? e.reason : "-", e.detail);
        INVARIANT(e.code == ERR_DATA_LOSS && strcmp(e.reason, "JOURNAL_DAMAGED") == 0);
        return false;
    }
    journal_status(j, st);
    read_all(j, st->next_index);
    journal_close(j);
    return true;
}

static void heard(void *user, const char *text)
{
    INVARIANT(text[0] != '\0');
    ++*(unsigned *)user;
}

static const struct aead_key *no_key(void *user, const uint8_t tag[32], struct err *e)
{
    (void)user, (void)tag;
    (void)err_set(e, ERR_NOT_FOUND, NULL, __FILE__, __LINE__, "%s", JOURNAL_CHECK_NO_TENANT);
    return NULL;
}

/* fsck changes nothing and says the same twice. */
static void check(void)
{
    static const struct journal_options o = {.dir = dir, .origin = origin, .segment_bytes = FILE_BYTES, .reserve_bytes = RESERVE_BYTES,
                                             .clock = &clock_system};
    unsigned said[2] = {0};
    struct journal_checking c[2];
    for (int i = 0; i < 2; i++) {
        struct err e = {0};
        c[i] = (struct journal_checking){.report = heard, .key = no_key, .user = &said[i]};
        if (journal_check(&o, &c[i], &e).failed)
            INVARIANT(e.code == ERR_DATA_LOSS || e.code == ERR_NOT_FOUND || e.code == ERR_STATE);
    }
    INVARIANT(said[0] == said[1] && c[0].records == c[1].records && c[0].next_index == c[1].next_index);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t f[FILE_BYTES + 1024];
    struct journal_status first, second;
    struct segment_header h = {.before_first = UINT64_MAX, .file_bytes = FILE_BYTES, .origin = bytes_str(origin)}, parsed;
    if (size >= SEGMENT_HEADER_BYTES && segment_header_parse(data, &parsed)) {
        uint8_t again[SEGMENT_HEADER_BYTES];
        segment_header_put(&parsed, again);
        INVARIANT(parsed.origin.n <= SEGMENT_ORIGIN_MAX);
    }
    prepare();
    memset(f, 0, sizeof f);
    segment_header_put(&h, f);
    build(f, data, size);
    int fd = open(file, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    INVARIANT(fd >= 0 && write(fd, f, FILE_BYTES) == FILE_BYTES && close(fd) == 0);
    check();
    if (recover(&first)) {
        INVARIANT(recover(&second));
        INVARIANT(second.next_index == first.next_index && second.outbox_seq == first.outbox_seq);
        INVARIANT(second.was_closed && second.cut_bytes == 0);
    }
    return 0;
}
