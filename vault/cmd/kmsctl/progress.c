#include "vault/cmd/kmsctl/progress.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BAR = 30, REDRAW_MS = 100 };

void group_digits(uint64_t v, char out[32])
{
    char plain[24];
    int n = snprintf(plain, sizeof plain, "%llu", (unsigned long long)v), at = 0;
    for (int i = 0; i < n; i++) {
        if (i > 0 && (n - i) % 3 == 0)
            out[at++] = ',';
        out[at++] = plain[i];
    }
    out[at] = 0;
}

void progress_start(struct progress *p, bool force, const char *what, int fd)
{
    struct stat st;
    *p = (struct progress){.shown = force || isatty(STDERR_FILENO), .what = what, .start_ms = clock_boot_ms(&clock_system)};
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0)
        p->total_bytes = (uint64_t)st.st_size;
}

double progress_seconds(const struct progress *p)
{
    int64_t ms = clock_boot_ms(&clock_system) - p->start_ms;
    return ms > 0 ? (double)ms / 1000 : 0.001;
}

static void fill_bar(char bar[BAR + 1], uint64_t done, uint64_t total)
{
    memset(bar, '.', BAR);
    memset(bar, '#', (size_t)((double)done / (double)total * BAR));
    bar[BAR] = 0;
}

/* 1 h 05 min, 5 min 09 s, 42 s */
static void left_text(uint64_t s, char out[40])
{
    if (s >= 3600)
        (void)snprintf(out, 40, ", %llu h %02u min left", (unsigned long long)(s / 3600), (unsigned)(s / 60 % 60));
    else if (s >= 60)
        (void)snprintf(out, 40, ", %u min %02u s left", (unsigned)(s / 60), (unsigned)(s % 60));
    else
        (void)snprintf(out, 40, ", %u s left", (unsigned)s);
}

void progress_far(struct progress *p, const struct progress_far *f, bool last)
{
    char done[32], total[32], rate[40] = "", left[40] = "", bar[BAR + 1], line[200];
    const uint64_t so_far = f->done < f->total ? f->done : f->total;
    if (!p->shown)
        return;
    group_digits(so_far, done);
    group_digits(f->total, total);
    if (f->per_second > 0) {
        group_digits(f->per_second, rate);
        (void)snprintf(rate + strlen(rate), sizeof rate - strlen(rate), "/s");
        left_text(f->left_s, left);
    }
    if (f->total > 0)
        fill_bar(bar, so_far, f->total);
    int n = f->total == 0 ? snprintf(line, sizeof line, "%s", f->what)
                          : snprintf(line, sizeof line, "[%s] %3u%%  %s: %s of %s %s%s%s%s", bar, (unsigned)(so_far * 100 / f->total),
                                     f->what, done, total, f->rows, f->per_second > 0 ? ", " : "", rate, left);
    fprintf(stderr, "\r%-*s", p->drawn_width, line); /* over all of the line before */
    p->drawn_width = n;
    if (last)
        fputc('\n', stderr);
}

void progress_update(struct progress *p, uint64_t bytes, uint64_t fields, bool last)
{
    int64_t now = clock_boot_ms(&clock_system);
    if (!p->shown || (!last && now - p->drawn_ms < REDRAW_MS))
        return;
    p->drawn_ms = now;
    char count[32], rate[32], bar[BAR + 1];
    group_digits(fields, count);
    group_digits((uint64_t)((double)fields / progress_seconds(p)), rate);
    if (p->total_bytes == 0) {
        fprintf(stderr, "\r%s %s fields, %s fields/s ", p->what, count, rate);
    } else {
        uint64_t done = bytes < p->total_bytes ? bytes : p->total_bytes;
        size_t filled = (size_t)(done * BAR / p->total_bytes);
        memset(bar, '.', BAR);
        memset(bar, '#', filled);
        bar[BAR] = 0;
        fprintf(stderr, "\r[%s] %3u%%  %s fields, %s fields/s ", bar, (unsigned)(done * 100 / p->total_bytes), count, rate);
    }
    if (last)
        fputc('\n', stderr);
}
