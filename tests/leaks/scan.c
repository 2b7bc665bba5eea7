/*
 * Looks for byte strings in files and in the memory of running processes: scan [-p PID] [-f FILE] ... < needles
 *
 * One needle a line: NAME, a blank, its bytes in hexadecimal (8 to 4096). Every hit is one line of five fields with tabs between:
 * where (p:PID or f:FILE), the address or offset, the flags of the memory ("lo" locked, "dd" kept out of core dumps), what is
 * mapped there, the needle's name. Of a process all is read that is present and not a file's unchanged contents. The last line is
 * "scanned N", the bytes that were looked at: a scan that saw nothing has found nothing.
 *
 * Exit 0: done, 1: something could not be read (said on stderr), 2: usage. A process that ends meanwhile is no error.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NEEDLE_MIN = 8, NEEDLE_MAX = 4096, CHUNK = 1 << 20, GRAM_BITS = 18, BUCKETS = 1 << 12, LINE_MAX_BYTES = 2 * NEEDLE_MAX + 300 };

struct needle {
    struct needle *next; /* of the same bucket */
    uint32_t head;       /* its first four bytes */
    size_t n;
    char name[160];
    uint8_t bytes[];
};

static struct needle *bucket[BUCKETS];
static uint8_t seen_gram[(1 << GRAM_BITS) / 8]; /* which first three bytes occur, by a hash of 18 bits */
static size_t longest;
static uint64_t scanned;
static uint8_t window[CHUNK + NEEDLE_MAX];

struct place {
    const char *where;
    char flags[16];
    char mapped[256];
};

static uint32_t head_of(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static uint32_t gram_of(uint32_t head)
{
    return (head * 2654435761u) >> (32 - GRAM_BITS);
}

static void die(const char *what)
{
    fprintf(stderr, "scan: %s\n", what);
    exit(2);
}

static void needle_add(const char *name, const char *hex)
{
    size_t n = strspn(hex, "0123456789abcdef");
    if (n % 2 != 0 || n / 2 < NEEDLE_MIN || n / 2 > NEEDLE_MAX || hex[n] != '\0' || strlen(name) >= sizeof((struct needle *)0)->name)
        die("a needle is NAME and 8 to 4096 bytes in lower case hexadecimal");
    struct needle *k = calloc(1, sizeof *k + n / 2);
    if (k == NULL)
        die("no memory");
    k->n = n / 2;
    memcpy(k->name, name, strlen(name));
    for (size_t i = 0; i < k->n; i++) {
        unsigned v;
        if (sscanf(hex + 2 * i, "%2x", &v) != 1)
            die("hexadecimal");
        k->bytes[i] = (uint8_t)v;
    }
    k->head = head_of(k->bytes);
    uint32_t g = gram_of(k->head);
    seen_gram[g / 8] = (uint8_t)(seen_gram[g / 8] | 1u << g % 8);
    k->next = bucket[g % BUCKETS];
    bucket[g % BUCKETS] = k;
    if (k->n > longest)
        longest = k->n;
}

static void needles_read(void)
{
    static char line[LINE_MAX_BYTES];
    while (fgets(line, sizeof line, stdin) != NULL) {
        char *end = strchr(line, '\n'), *hex = strrchr(line, ' ');
        if (end == NULL || hex == NULL)
            die("a needle's line is too long, or has no blank");
        *end = '\0';
        *hex++ = '\0';
        needle_add(line, hex);
    }
    if (longest == 0)
        die("no needles");
}

static void look(const struct place *at, const uint8_t *p, size_t n, size_t starts, uint64_t address)
{
    for (size_t i = 0; i < starts && i + NEEDLE_MIN <= n; i++) {
        uint32_t head = head_of(p + i), g = gram_of(head);
        if (!(seen_gram[g / 8] >> g % 8 & 1))
            continue;
        for (const struct needle *k = bucket[g % BUCKETS]; k != NULL; k = k->next)
            if (k->head == head && k->n <= n - i && memcmp(p + i, k->bytes, k->n) == 0)
                printf("%s\t%" PRIx64 "\t%s\t%s\t%s\n", at->where, address + i, at->flags, at->mapped, k->name);
    }
}

static bool only_zeros(const uint8_t *p, size_t n)
{
    return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

/* [from, to) of fd in windows that overlap by the longest needle; false when not even the first byte could be read. */
static bool scan_range(const struct place *at, int fd, uint64_t from, uint64_t to)
{
    bool any = false;
    for (uint64_t pos = from; pos < to; pos += CHUNK) {
        size_t want = sizeof window < to - pos ? sizeof window : (size_t)(to - pos), got = 0;
        while (got < want) {
            ssize_t k = pread(fd, window + got, want - got, (off_t)(pos + got));
            if (k < 0 && errno == EINTR)
                continue;
            if (k <= 0)
                break;
            got += (size_t)k;
        }
        any = any || got > 0;
        scanned += got < CHUNK ? got : CHUNK;
        if (!only_zeros(window, got))
            look(at, window, got, CHUNK, pos);
    }
    return any;
}

static bool scan_file(const char *path)
{
    struct place at = {.where = path, .flags = "-"};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        fprintf(stderr, "scan: %s: %s\n", path, strerror(errno));
        return false;
    }
    off_t end = lseek(fd, 0, SEEK_END);
    char name[4200];
    snprintf(name, sizeof name, "f:%s", path);
    at.where = name;
    /* A core dump is mostly holes. */
    for (off_t from = 0, to; end > 0 && (from = lseek(fd, from, SEEK_DATA)) >= 0; from = to) {
        to = lseek(fd, from, SEEK_HOLE);
        if (to < 0)
            to = end;
        (void)scan_range(&at, fd, (uint64_t)from, (uint64_t)to);
    }
    close(fd);
    return true;
}

struct region {
    uint64_t from, to;
    bool present;
    struct place at;
};

static void region_done(const struct region *r, const char *vm_flags, int mem)
{
    bool file = r->at.mapped[0] == '/', kernels = strcmp(r->at.mapped, "[vvar]") == 0 || strcmp(r->at.mapped, "[vsyscall]") == 0;
    bool readable = strstr(vm_flags, " rd") != NULL, writable = strstr(vm_flags, " wr") != NULL;
    if (!r->present || !readable || kernels || (file && !writable))
        return;
    struct place at = r->at;
    snprintf(at.flags, sizeof at.flags, "%s%s%s", strstr(vm_flags, " lo") ? "lo" : "", strstr(vm_flags, " dd") ? "dd" : "",
             strstr(vm_flags, " lo") || strstr(vm_flags, " dd") ? "" : "-");
    (void)scan_range(&at, mem, r->from, r->to); /* unmapped meanwhile: nothing is there */
}

static bool scan_process(const char *pid)
{
    char path[64], where[32], line[4600];
    snprintf(path, sizeof path, "/proc/%s/smaps", pid);
    FILE *maps = fopen(path, "re");
    snprintf(path, sizeof path, "/proc/%s/mem", pid);
    int mem = open(path, O_RDONLY | O_CLOEXEC);
    if (maps == NULL || mem < 0) {
        fprintf(stderr, "scan: process %s: %s\n", pid, strerror(errno));
        return false;
    }
    snprintf(where, sizeof where, "p:%s", pid);
    struct region r = {0};
    while (fgets(line, sizeof line, maps) != NULL) {
        uint64_t from, to;
        unsigned long kb;
        int name_at = 0;
        line[strcspn(line, "\n")] = '\0';
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %*s %*s %*s %*s %n", &from, &to, &name_at) == 2 && name_at > 0) {
            r = (struct region){.from = from, .to = to, .at = {.where = where}};
            snprintf(r.at.mapped, sizeof r.at.mapped, "%.200s", line[name_at] ? line + name_at : "anonymous");
        } else if (sscanf(line, "Rss: %lu", &kb) == 1) {
            r.present = kb > 0;
        } else if (sscanf(line, "Swap: %lu", &kb) == 1) {
            r.present = r.present || kb > 0;
        } else if (strncmp(line, "VmFlags:", 8) == 0) {
            region_done(&r, line + 8, mem);
        }
    }
    fclose(maps);
    close(mem);
    return true;
}

int main(int argc, char **argv)
{
    bool good = true;
    int option;
    needles_read();
    while ((option = getopt(argc, argv, "p:f:")) != -1) {
        if (option == '?')
            return 2;
        good = (option == 'p' ? scan_process(optarg) : scan_file(optarg)) && good;
    }
    printf("scanned %" PRIu64 "\n", scanned);
    return good ? 0 : 1;
}
