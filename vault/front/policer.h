/*
 * Purpose: the HTTP/2 frame policer: follows both directions of one connection by frame headers and gRPC message
 *          prefixes, and answers for each piece of client bytes: pass, wait (pacing), or cut. Pure: no I/O, no clock.
 * Owns:    struct policer, about 2 KB, embedded in its connection. Threads: the connection's.
 * Errors:  a verdict, with `why` (literal) and the HTTP/2 error code for GOAWAY; a policer that has cut stays cut.
 * Limits:  the enum and the table below, all of them. How bytes are split over calls never changes a verdict.
 * Secrets: passes plaintext through, keeps none of it but message lengths.
 */
#ifndef FRONT_POLICER_H
#define FRONT_POLICER_H

#include "vault/front/bucket.h"
#include "vault/front/frame.h"

enum {
    POLICER_MAX_FRAME_BYTES = 16384,          /* of the client's frames; the SETTINGS_MAX_FRAME_SIZE the core announces */
    POLICER_MAX_BLOCK_BYTES = 32768,          /* HEADERS and its CONTINUATIONs, payload */
    POLICER_MAX_CONTINUATIONS = 8,            /* of one header block */
    POLICER_MAX_SETTINGS_BYTES = 192,         /* 32 settings in one frame */
    POLICER_STREAMS = 128,                    /* open streams that can be followed: the most a limit may be */
    POLICER_STREAMS_BEFORE_ACK = 9,           /* the 10th needs the client's SETTINGS ACK */
    POLICER_ACK_MS = 1000,                    /* the core's SETTINGS acknowledged within */
    POLICER_MAX_MESSAGE_BYTES = 320 * 1024,   /* 256 KiB, which gRPC refuses kindly, and slack; beyond: cut */
    POLICER_FRAME_COST = 64,                  /* bytes of core's memory for each DATA frame of an unfinished message, beside its payload */
    POLICER_TINY_BYTES = 16,                  /* DATA or messages shorter than this are control traffic */
    POLICER_EXCESS_MS = 5000,                 /* a budget dry for so long is an attack: cut */
};
/* Budgets: frames at once, frames a second, and thousandths given back by a completed stream and by a DATA frame of the
 * server, so that what a client may send follows the work that is really being done for it. */
#define POLICER_BUDGETS(X)                                                                                             \
    X(HEADERS,  1000,  200, 1000,    0) /* new streams and trailers */                                                 \
    X(RESET,     400,  200,  500,    0) /* RST_STREAM of an open stream */                                             \
    X(SETTINGS,   20,    5,    0,    0)                                                                                \
    X(PING,      100,   20, 1000, 1000)                                                                                \
    X(CONTROL,  2000,  500, 4000, 3000) /* WINDOW_UPDATE, PRIORITY, CONTINUATION, unknown, tiny, padded, late frames */

enum policer_budget {
#define X(name, burst, per_s, stream, data) POLICER_##name,
    POLICER_BUDGETS(X)
#undef X
    POLICER_BUDGET_COUNT
};

enum policer_verdict { POLICER_PASS, POLICER_WAIT, POLICER_CUT };

struct policer_stream {
    uint32_t id;   /* 0: free slot */
    uint32_t left; /* bytes of the message in progress, or its length so far while the prefix is read */
    uint32_t have; /* bytes of it that were passed on, and what their frames cost: core keeps them until it is whole */
    uint8_t prefix; /* bytes of the 5-byte prefix read */
    uint8_t ended;  /* who has sent END_STREAM */
};

struct policer {
    struct policer_stream streams[POLICER_STREAMS];
    struct bucket budget[POLICER_BUDGET_COUNT];
    struct bucket full, stuffed; /* only their dry_ms: since when a client has pressed against max_streams, max_unfinished */
    int64_t ack_due_ms; /* 0: nothing to acknowledge */
    const char *why;    /* literal, once cut */
    uint32_t max_streams, may_open, open, opened, last_id; /* may_open: as many as its address has left for it */
    uint32_t unfinished, max_unfinished; /* sum of have */
    uint32_t completed, undone; /* streams so far that were answered; and that the client reset, or made core reset */
    uint32_t acks_owed, pings_owed;
    /* client direction */
    uint32_t left;         /* payload bytes of the frame in progress */
    uint32_t pad;          /* of them padding, at its end */
    uint32_t block_stream; /* header block in progress; 0: none */
    uint32_t block_bytes;
    uint32_t goaway_last;  /* streams above it are dropped: the client was told they did not happen */
    enum frame_error code;
    int16_t data;          /* index of the stream whose DATA is in progress; -1: payload is only counted */
    uint8_t block_continuations, preface;
    bool pad_next, settings_seen, acked, dropping /* this frame */, block_dropped, dropped, goaway, cut;
    bool mistake; /* of cut: as easily made as meant, and not worth more than this connection */
    /* server direction */
    bool server_seen, server_block;
    uint32_t server_left;
};

struct policer_span {
    size_t used; /* bytes consumed; offer the rest again, with more behind it */
    size_t keep; /* of them to be passed on: data[0..keep), moved together where frames were dropped */
    int64_t wait_ms; /* POLICER_WAIT: no sooner, unless the server's direction moved meanwhile */
};

/* max_streams 1..POLICER_STREAMS */
void policer_init(struct policer *p, uint32_t max_streams, int64_t now_ms);
/* What its address has left, beyond what this connection has: anew before each policer_client. */
void policer_set_room(struct policer *p, uint32_t streams, uint32_t unfinished_bytes);
/* Bytes from the client. POLICER_PASS consumes all but at most 8 bytes (an unfinished frame header). On POLICER_CUT
 * what was kept before the breach may still be passed on. */
enum policer_verdict policer_client(struct policer *p, int64_t now_ms, uint8_t *data, size_t n, struct policer_span *ret);
/* Bytes from the core: followed, never judged. Returns how many may be passed on: all but an unfinished frame header, or,
 * with stop, up to and including the first place where a frame may be put in between (possibly 0). */
size_t policer_server(struct policer *p, int64_t now_ms, const uint8_t *data, size_t n, bool stop);
/* True where a frame of ours may go to the client now: between frames, outside a header block, after the core's SETTINGS. */
bool policer_at_boundary(const struct policer *p);
/* The deadline (ms; 0 none) of what the client owes, and the verdict when it has passed. */
int64_t policer_deadline(const struct policer *p);
enum policer_verdict policer_tick(struct policer *p, int64_t now_ms);
/* From now on drop streams newer than those seen; returns the last id for GOAWAY. Idempotent. */
uint32_t policer_goaway(struct policer *p);
/* The preface and the client's first SETTINGS have come. */
bool policer_started(const struct policer *p);
static inline uint32_t policer_open_streams(const struct policer *p)
{
    return p->open;
}
/* For policer_streams.c and its callers in policer.c; not for others. */
struct policer_stream *policer_find(struct policer *p, uint32_t id);
struct policer_stream *policer_open_stream(struct policer *p, uint32_t id);
void policer_end(struct policer *p, struct policer_stream *s, uint8_t side);
void policer_close(struct policer *p, struct policer_stream *s);
void policer_message_gone(struct policer *p, struct policer_stream *s); /* whole, or given up with its stream */
void policer_refund(struct policer *p, bool stream /* else a DATA frame */);
extern const struct bucket_limit policer_limits[POLICER_BUDGET_COUNT];
enum { POLICER_CLIENT_ENDED = 1, POLICER_SERVER_ENDED = 2 };

#endif
