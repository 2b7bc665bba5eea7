#include "hsm/meanwhile.h"

#include "base/clock.h"
#include "hsm/wire.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool only_uses_keys(uint16_t op)
{
    return op == WIRE_PROBE || op == WIRE_DERIVE || op == WIRE_RANDOM || op == WIRE_SIGN_CHECKPOINT || op == WIRE_SIGN_CERTIFICATE ||
           op == WIRE_AUDIT_PUBKEY || op == WIRE_KEY_CHECK || op == WIRE_KEY_SEAL || op == WIRE_KEY_OPEN || op == WIRE_KEY_LIST;
}

static void hold(struct meanwhile *m, const struct chan_msg *msg)
{
    struct meanwhile_held *h = &m->held[m->n++];
    *h = (struct meanwhile_held){.type = msg->type, .seq = msg->seq, .body = malloc(msg->body.n + 1), .n = msg->body.n};
    INVARIANT(h->body != NULL);
    if (h->n > 0)
        memcpy(h->body, msg->body.p, h->n);
}

static void wipe_packet(uint8_t (*p)[WIRE_MAX])
{
    wipe(*p, sizeof *p); /* it may have brought somebody's plaintext */
}

static void one(struct meanwhile *m)
{
    CLEANUP(wipe_packet) uint8_t buf[WIRE_MAX];
    struct chan_msg msg;
    struct err why = {0};
    m->lost = chan_recv(m->begun_on, 0, buf, sizeof buf, &msg, &why).failed;
    if (m->lost)
        return;
    for (size_t i = 0; i < msg.nfds; i++)
        (void)close(msg.fds[i]);
    if (only_uses_keys(msg.type))
        m->lost = m->answer(m->user, &msg, &why).failed;
    else
        hold(m, &msg);
}

static bool may_read(const struct meanwhile *m)
{
    return !m->lost && m->n < MEANWHILE_HELD && *m->core == m->begun_on;
}

void meanwhile_serve(void *user, int fd, uint64_t ms)
{
    struct meanwhile *m = user;
    const int64_t until = clock_boot_ms(&clock_system) + (int64_t)ms;
    for (unsigned served = 0; fd >= 0 || served < MEANWHILE_AT_ONCE; served++) {
        const int64_t left = fd >= 0 ? until - clock_boot_ms(&clock_system) : 0;
        struct pollfd p[2] = {{.fd = fd, .events = POLLIN}, {.fd = may_read(m) ? m->begun_on : -1, .events = POLLIN}};
        if (poll(p, 2, left > 0 ? (int)left : 0) <= 0)
            return;
        if (p[1].revents != 0)
            one(m);
        if (p[0].revents != 0)
            return;
    }
}

bool meanwhile_take(struct meanwhile *m, struct chan_msg *ret)
{
    if (m->n == 0)
        return false;
    *ret = (struct chan_msg){.type = m->held[0].type, .seq = m->held[0].seq, .body = BYTES(m->held[0].body, m->held[0].n)};
    memmove(&m->held[0], &m->held[1], --m->n * sizeof m->held[0]);
    return true;
}

void meanwhile_clear(struct meanwhile *m)
{
    while (m->n > 0)
        free(m->held[--m->n].body);
}
