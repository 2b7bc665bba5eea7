/*
 * Purpose: who says what between monitor, front, core and hsm (chan.h packets), in one place. Every child gets its
 *          control channel as descriptor IPC_CONTROL_FD and nothing else but stdio.
 * Owns: nothing. Threads: see chan.h. Errors: an unknown type or a short body ends the process that received it.
 * Limits: IPC_CHAIN_MAX_BYTES of certificates a connection. Secrets: PIN and keys only on the channels that name them.
 *
 * Start of a child: monitor forks, execs libexec/kmsd-<role>, sends CONFIG first. Then, per role:
 *   front: TLS_FILES (fds cert, key), LISTENER (1 fd each), CORE_CHANNEL (1 fd)   -> front answers READY
 *   core:  HSM_CHANNEL (1 fd), FRONT_CHANNEL (1 fd)                               -> core answers READY
 *   core --init: HSM_CHANNEL (1 fd), INIT                                         -> core answers READY, then DRAIN, exits
 *   hsm:   CORE_CHANNEL (1 fd); on WANT_PIN the monitor answers PIN_FILE (1 fd, opened anew)  -> hsm answers READY
 *   core --offline: HSM_CHANNEL (1 fd), OFFLINE                                   -> core answers READY, then DRAIN, exits
 * kmsd init: both children get the argument --init: hsm then accepts a token without our objects.
 * When one of front, core, hsm dies the monitor makes new socketpairs and sends both sides the new channel of that edge.
 */
#ifndef BASE_IPC_H
#define BASE_IPC_H

#include "base/chan.h"

enum { IPC_CONTROL_FD = 3, IPC_CHAIN_MAX_BYTES = 32768, IPC_CONN_ID_BYTES = 16, IPC_ADDR_MAX = 64 };

enum ipc_control { /* monitor <-> child */
    IPC_CONFIG = 1,    /* m>c  body: config_dump text */
    IPC_TLS_FILES,     /* m>front fds: certificate chain, private key (read-only) */
    IPC_LISTENER,      /* m>front fd: listening TCP socket; body: its name */
    IPC_CORE_CHANNEL,  /* m>front, m>hsm fd: one end of the channel to core; replaces an earlier one */
    IPC_FRONT_CHANNEL, /* m>core fd */
    IPC_HSM_CHANNEL,   /* m>core fd */
    IPC_WANT_PIN,      /* hsm>m */
    IPC_PIN_FILE,      /* m>hsm fd: PIN file, or no fd and the reason as text */
    IPC_RELOAD,        /* m>core fds: client CAs and, when configured, CRLs, opened anew: a file that was replaced by
                          rename is out of reach for a confined core (front gets new TLS_FILES) */
    IPC_DRAIN,         /* m>c finish what is in flight, then exit 0 */
    IPC_READY,         /* c>m serving; body: text, e.g. "listening on 127.0.0.1:7443" */
    IPC_FATAL,         /* c>m body: what is wrong and what to do; restarting will not help: monitor stops with exit 1 */
    IPC_INIT,          /* m>core (kmsd-core --init only, after HSM_CHANNEL) body: v16 admin name, v16 admin SAN, u16 n,
                          n x {v16 file name, v32 policy document}, u8 token backup: 0 a verified copy, 1 the operator's
                          word for the vendor's clone. Core answers READY (done; its text is printed) or FATAL */
    IPC_OFFLINE,       /* m>core (kmsd-core --offline only, after HSM_CHANNEL) body: u8 of enum ipc_task, v16 reason,
                          v16 administrator's name, v16 SAN, u32 seconds (recover-admin; else empty). Core
                          prints its findings, then answers READY (its text is printed) or FATAL */
    IPC_STOPPING,      /* m>core the front is draining: let open streams end, go on serving */
};

/* What IPC_OFFLINE asks for. */
enum ipc_task { IPC_ACCEPT_ROLLBACK = 1, IPC_REVIEW_ROLLBACK = 2, IPC_FSCK = 3, IPC_RECOVER_ADMIN = 4, IPC_REVIEW_RECOVERY = 5 };

enum ipc_conn { /* front <-> core. A connection: CONN_NEW, wait CONN_ACK, bind abstract "clv-<id hex>", connect, ... CONN_CLOSED */
    IPC_CONN_NEW = 1, /* front>core seq; id[16], v16 listener, v16 peer address text, u8 n, n x v32 DER, leaf first */
    IPC_CONN_ACK,     /* core>front seq; id[16], u8 of enum ipc_ack */
    IPC_CONN_CLOSED,  /* front>core id[16]: the last byte went or came */
    IPC_CONN_KILL,    /* core>front id[16]: cut it off (revoked) */
    IPC_FRONT_STATS,  /* front>core each second: u32 open, u64 accepted, u64 refused, u64 policed */
};
enum ipc_ack { IPC_ACK_NO /* close */, IPC_ACK_GO_ON, IPC_ACK_STRANGER /* go on: its calls will be told that its chain is not trusted */ };
/* core listens on run_dir/IPC_CORE_SOCKET (directory 0700, or 0710 with the front's group where users differ) */
#define IPC_CORE_SOCKET "core.sock"
#define IPC_CONN_PREFIX "clv-"

#endif
