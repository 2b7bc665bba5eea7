/*
 * Purpose: one client connection: TLS on one side, a unix connection to core on the other, the policer between.
 * Owns:    both descriptors, the SSL, what could not be passed on yet, its place among its address's connections.
 * Threads: its loop's; while shaking is set, tls is with one of shake.h.
 * Errors:  none returned: what fails ends this connection, with one log line (budgeted).
 * Limits:  the enum below; at most LOOP_TURN_BYTES wait in each direction; idle it holds struct conn (about 3 KB) and a bare SSL.
 * Secrets: what waits is plaintext: wiped when passed on and when the connection ends.
 *
 *   IN_LINE --> HANDSHAKE --> REGISTER --> WAIT_ACK --> CONNECT --> OPEN --> LINGER --> DONE
 *                                ^-- new core --'          '-- retry
 *   every state may go to LINGER (said good-bye, waits for the client's FIN) and to DONE (gone)
 */
#ifndef FRONT_CONN_H
#define FRONT_CONN_H

#include "base/ipc.h"
#include "vault/front/loop.h"
#include "vault/front/policer.h"

#include <stddef.h>

enum {
    CONN_STALL_MS = 10000,     /* the client takes nothing of what is ready for it */
    CONN_CORE_STALL_MS = 30000,/* the core takes nothing of what was passed on */
    CONN_HALF_CLOSED_MS = 2000,/* after the client's end: for the core to finish */
    CONN_CORE_GONE_MS = 1000,  /* after the core's end: for its last answers to leave */
    CONN_IDLE_MS = 100,        /* after it OpenSSL's buffers are given back */
    CONN_LINGER_MS = 500,      /* after ours: for the client's */
    CONN_ROOM_MS = 20,         /* a client that waits for room is looked at again: it may come from other connections */
    CONN_LINGER_BYTES = 262144,
    CONN_KEEPALIVE_S = 60,
};

enum conn_state { CONN_IN_LINE, CONN_HANDSHAKE, CONN_REGISTER, CONN_WAIT_ACK, CONN_CONNECT, CONN_OPEN, CONN_LINGER, CONN_DONE };
enum conn_drain { DRAIN_NO, DRAIN_WARN_DUE, DRAIN_WARNED, DRAIN_LAST_DUE, DRAIN_LAST };

struct residue { /* p[off..ok) passed the policer, p[ok..n) has not yet */
    uint8_t *p;
    size_t off, ok, n, cap;
};

struct conn {
    struct conn *next, **at;                 /* all connections */
    struct conn *run_next, *outbox_next, *id_next;
    struct loop *loop;
    struct source client_source, core_source;
    struct timer timer;
    unsigned state;
    enum conn_drain drain;
    struct tls tls;
    struct peer *peer;
    struct turn turn;       /* until the core knows who it is, or for good if it does not */
    struct holding holding; /* from the end of the handshake on */
    struct shake_job job;
    int client_fd, core_fd;
    bool left /* core, and its streams are off its peer's account */, shaking /* another thread has tls */, doomed /* to be closed when it is back */;
    bool queued, in_outbox, core_told /* of its end */, hashed;
    bool core_readable, core_writable, core_hup, core_eof, client_eof, core_shut;
    uint64_t generation; /* of the channel the core knows it by; 0: unknown to it */
    uint8_t id[IPC_CONN_ID_BYTES];
    char address[IPC_ADDR_MAX]; /* of the peer, numeric, without port: it names a source */
    const char *listener;
    /* deadlines in ms, 0: none */
    int64_t state_due, core_due, idle_at, resume_at, in_stalled, out_stalled, age_due, drain_at, drain_due;
    size_t lingered;
    uint32_t streams, completed, undone, unfinished; /* of its streams and messages, as its peer has counted them */
    struct residue in, out;
    uint8_t in_tail[FRAME_HEADER_BYTES], out_tail[FRAME_HEADER_BYTES]; /* of an unfinished frame header */
    uint8_t in_tail_n, out_tail_n;
    struct policer policer;
};

struct arrival { /* accepted, and admitted by its address */
    int fd;
    struct peer *peer; /* one place of it (peers_join) */
    const struct sockaddr_storage *addr;
    const char *address;
    const struct listener *from;
};
/* conn_greet.c, until the core has said who it is. conn_start takes descriptor and place. False: everybody waits already. */
bool conn_start(struct loop *l, const struct arrival *take);
void conn_shake(struct conn *c);  /* its turn has come */
void conn_shaken(struct conn *c); /* and the handshake is over, one way or the other */
bool conn_is_slow(const struct conn *c); /* shaking hands, and it is the client we wait for */
void conn_vouched(struct conn *c, bool trusted); /* the core's word on its certificate */
void conn_step(struct conn *c);  /* whatever can be done now */
void conn_timer(struct conn *c); /* its timer fired */
void conn_opened(struct conn *c, int take_core_fd);
void conn_set_state(struct conn *c, enum conn_state next, int64_t due_ms /* 0: none */);
/* Good-bye: flush what can be, close_notify, FIN, linger. why: literal for the log, NULL: nothing worth a line. */
void conn_finish(struct conn *c, const char *why);
void conn_close(struct conn *c, const char *why); /* at once, or as soon as no thread has it */
void conn_log_end(struct conn *c, const char *why);
void conn_free(struct conn *c);                   /* loop.c, of DONE connections only */

void conn_count_streams(struct conn *c); /* conn_pump.c: tells its peer what became of its streams since the last time */
/* conn_pump.c: both directions while OPEN. True: more could be done at once. */
bool conn_pump(struct conn *c);
void conn_put_out(struct conn *c, const uint8_t *p, size_t n); /* to the client, behind what waits already */
void conn_flush_out(struct conn *c);
void residue_release(struct residue *r); /* wipes */
void conn_rearm(struct conn *c);

#endif
