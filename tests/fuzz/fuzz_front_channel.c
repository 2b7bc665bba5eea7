/* Target functions: front_channel (packets of the front, which strangers talk to), conn_parse, authn_conn_add, trust_check,
 * authn_call: what a front that was taken over can make core believe. Against a model of the open connections: an announcement is
 * answered once, with "go on" only for a whole body with an id that is not open; a packet out of order ends the channel; when
 * the channel ends nothing stays open; and nobody is anybody but with the one certificate that our authority has issued.
 *
 * Input: packets, u8 how, u8 length, bytes. how 0..2: CONN_NEW of id how>>4, with no certificate, with the right one, with the
 * right one damaged by pairs (place, mask); 3: CONN_CLOSED of id how>>4; 4: FRONT_STATS; 5: type and body as they are; 6: raw. */
#include "vault/rpc/front_channel.h"

#include "base/log.h"
#include "tests/fuzz/chain.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { IDS = 16, PACKETS_MAX = 24 };

static struct authn *authn(void)
{
    static struct authn *a;
    struct err e = {0};
    struct authn_options o = {.clock = &clock_system, .ca_pem = bytes_str(chain_ca_pem), .trust_domain = CHAIN_DOMAIN};
    struct principal p = {.name = "orders", .san = CHAIN_SAN, .tenant = "acme", .state = PRINCIPAL_ACTIVE, .revision = 1};
    if (a == NULL) {
        log_set_level(LOG_ERROR);
        INVARIANT(!authn_new(&o, &a, &e).failed && !authn_set_principals(a, &p, 1, &e).failed);
    }
    return a;
}

static void id_of(unsigned n, uint8_t id[IPC_CONN_ID_BYTES])
{
    memset(id, 0, IPC_CONN_ID_BYTES);
    id[IPC_CONN_ID_BYTES - 1] = (uint8_t)n; /* one run in the table of open ids: all share their first bytes */
}

struct model {
    bool open[IDS], genuine[IDS], dead;
};

/* Who calls on this connection: somebody only with the genuine certificate. */
static void check_caller(unsigned n, bool genuine)
{
    char peer[64] = "unix-abstract:" IPC_CONN_PREFIX;
    uint8_t id[IPC_CONN_ID_BYTES];
    struct identity who = {0};
    struct err e = {0};
    id_of(n, id);
    hex_encode(id, sizeof id, peer + strlen(peer));
    struct authn_conn *c = authn_conn_by_peer(authn(), peer);
    INVARIANT(c != NULL);
    if (authn_call(authn(), c, &who, &e).failed)
        INVARIANT(!genuine && e.code == ERR_UNAUTHENTICATED);
    else
        INVARIANT(genuine && strcmp(who.principal->name, "orders") == 0);
    authn_identity_release(&who);
    authn_conn_unref(c);
}

static bool answered(int fd, uint8_t *ret_go)
{
    uint8_t packet[256];
    struct chan_msg m;
    struct err e = {0};
    if (chan_recv(fd, 5000, packet, sizeof packet, &m, &e).failed) {
        INVARIANT(e.code == ERR_UNAVAILABLE); /* closed: no answer is ever late */
        return false;
    }
    INVARIANT(m.type == IPC_CONN_ACK && m.body.n == IPC_CONN_ID_BYTES + 1 && m.body.p[IPC_CONN_ID_BYTES] <= 2);
    *ret_go = m.body.p[IPC_CONN_ID_BYTES];
    return true;
}

static void put(int fd, uint16_t type, struct bytes body)
{
    const struct chan_msg m = {.type = type, .seq = 7, .body = body};
    struct err e = {0};
    INVARIANT(!chan_send(fd, &m, &e).failed);
}

static void announce(int fd, struct model *m, unsigned kind, unsigned n, struct bytes in)
{
    uint8_t id[IPC_CONN_ID_BYTES], leaf[sizeof chain_leaf_der], go = 0;
    CLEANUP(buf_release) struct buf body = {0};
    buf_init(&body, IPC_CHAIN_MAX_BYTES);
    id_of(n, id);
    memcpy(leaf, chain_leaf_der, sizeof leaf);
    for (size_t i = 0; kind == 2 && i + 2 < in.n; i += 3)
        leaf[get_be16(in.p + i) % sizeof leaf] ^= in.p[i + 2];
    buf_put(&body, id, sizeof id);
    buf_put_v16(&body, BYTES_LIT("public"));
    buf_put_v16(&body, BYTES_LIT("192.0.2.1"));
    buf_put_u8(&body, kind > 0);
    if (kind > 0)
        buf_put_v32(&body, BYTES(leaf, sizeof leaf));
    put(fd, IPC_CONN_NEW, buf_bytes(&body));
    INVARIANT(answered(fd, &go) && (go != 0) == !m->open[n]);
    if (go) {
        m->open[n] = true;
        m->genuine[n] = kind > 0 && memcmp(leaf, chain_leaf_der, sizeof leaf) == 0;
    }
    check_caller(n, m->genuine[n]);
}

/* What is no packet of ours may be answered when it happens to be an announcement; it may end the channel; and nothing else. */
static void other(int fd, struct model *m, uint8_t how, struct bytes in)
{
    uint8_t go = 0;
    if (how % 8 == 5 && in.n >= 2)
        put(fd, in.p[0] % 8, BYTES(in.p + 1, in.n - 1));
    else
        INVARIANT(send(fd, in.p, in.n, MSG_NOSIGNAL) == (ssize_t)in.n);
    INVARIANT(shutdown(fd, SHUT_WR) == 0);
    while (answered(fd, &go)) {
    }
    m->dead = true;
}

static void packet(int fd, struct model *m, uint8_t how, struct bytes in)
{
    uint8_t id[IPC_CONN_ID_BYTES], stats[28] = {0};
    unsigned n = how >> 4;
    switch (how % 8) {
    case 0:
    case 1:
    case 2:
        announce(fd, m, how % 8, n, in);
        break;
    case 3:
        id_of(n, id);
        put(fd, IPC_CONN_CLOSED, BYTES(id, sizeof id));
        m->open[n] = m->genuine[n] = false;
        break;
    case 4:
        memcpy(stats, in.p, in.n < sizeof stats ? in.n : sizeof stats);
        put(fd, IPC_FRONT_STATS, BYTES(stats, sizeof stats));
        break;
    default:
        other(fd, m, how, in);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct reader r = reader_of(BYTES(data, size));
    struct front_channel *f = NULL;
    struct model m = {0};
    struct err e = {0};
    int fds[2];
    INVARIANT(!chan_pair(fds, &e).failed && !front_channel_start(authn(), fds[0], &f, &e).failed);
    for (unsigned i = 0; i < PACKETS_MAX && r.n > 2 && !m.dead; i++) {
        uint8_t how = reader_u8(&r), n = reader_u8(&r);
        packet(fds[1], &m, how, reader_take(&r, n < r.n ? n : r.n));
    }
    front_channel_stop(f);
    (void)close(fds[1]);
    for (unsigned i = 0; i < IDS; i++) {
        char peer[64] = "unix-abstract:" IPC_CONN_PREFIX;
        uint8_t id[IPC_CONN_ID_BYTES];
        id_of(i, id);
        hex_encode(id, sizeof id, peer + strlen(peer));
        INVARIANT(authn_conn_by_peer(authn(), peer) == NULL);
    }
    return 0;
}
