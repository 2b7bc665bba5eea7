/*
 * Purpose: the durable audit journal: group commit with fdatasync into preallocated segments. The fail-closed gate: no
 *          durable event, no answer. First form of the transparency log: records have the leaf shape of DESIGN section 9.
 * Owns:    segment files in journal_dir (0600), the audit thread, the queue of entries not yet durable.
 * Threads: journal_submit from any thread, never blocks on the disk (bounded queue: ERR_EXHAUSTED). `done` runs on the
 *          audit thread, in index order, after fdatasync; it must not block.
 * Errors:  open: ERR_DATA_LOSS "JOURNAL_DAMAGED" (a durable record does not check; file and offset in detail), ERR_STATE
 *          "JOURNAL_FOREIGN" (other instance or origin), "JOURNAL_BUSY", "JOURNAL_PERMISSIONS".
 *          done gets ERR_UNAVAILABLE "AUDIT_UNAVAILABLE" when the write failed: the caller withholds and wipes its answer.
 *          journal_admits false: no new work. Recovery when space returns is automatic.
 * Limits:  JOURNAL_ENTRY_MAX a record; journal_segment_bytes a file; a reserve for lifecycle and recovery events.
 * Secrets: body = nonce[32] and event bytes, sealed under the tenant's audit key; the leaf is only a commitment.
 *
 * Leaf, 89 bytes: u8 version 1 | event id[16] | u64 time_unix_ns | tenant tag[32] = HMAC(tag key, tenant id)
 *          | SHA-256(nonce[32] || event)[32].  Merkle leaf hash = SHA-256(0x00 || leaf) (RFC 6962).
 */
#ifndef KMS_AUDIT_JOURNAL_H
#define KMS_AUDIT_JOURNAL_H

#include "base/arena.h"
#include "base/clock.h"
#include "base/secret.h"
#include "kms/crypto/aead.h"

#include <sys/types.h>

enum { JOURNAL_ENTRY_MAX = 65535, JOURNAL_LEAF_BYTES = 89, JOURNAL_QUEUE_MAX = 65536,
       JOURNAL_QUEUE_MAX_BYTES = 67108864, JOURNAL_ORIGIN_MAX = 127, JOURNAL_STALL_MS = 2000 };

struct journal;
struct audit_tenant { /* what a tenant's events are sealed and tagged with; read-only, outlives its submits */
    uint8_t id[16];
    uint8_t tag[32];
    const struct aead_key *key; /* KDF_AUDIT from the tenant audit key */
};
struct journal_options {
    const char *dir;
    const char *origin;       /* "cluster/node" */
    uint64_t segment_bytes, reserve_bytes;
    const struct clock *clock;
    uint8_t instance[16];
    const struct journal_io *io; /* NULL: the system's calls; tests put faults here */
};
/* What the journal does to the disk; each returns as the system call does, with errno. */
struct journal_io {
    int (*open)(void *user, const char *path, int flags, mode_t mode);
    ssize_t (*pwrite)(void *user, int fd, const void *p, size_t n, off_t at);
    int (*fdatasync)(void *user, int fd);
    void *user;
};
RESULT journal_open(const struct journal_options *o, struct journal **ret, struct err *e); /* creates when empty; recovers a torn tail */
void journal_close(struct journal *j); /* drains, stops the thread; NULL accepted */

struct receipt {
    uint64_t index;       /* in the log (0-based) */
    uint8_t leaf_hash[32];
};
/* A request to make one event durable; embedded in its caller, untouched by it until done. */
struct journal_entry {
    struct journal_entry *next;
    void (*done)(struct journal_entry *en, const struct err *failed /* NULL: durable */);
    struct receipt receipt; /* set before done */
    bool reserve;           /* may use the reserve: lifecycle, recovery */
    /* private: */
    uint8_t *record;
    size_t record_n;
    uint64_t outbox_seq;
};
/* Builds leaf and sealed body on the calling thread (about 1 us), then queues. The event must carry its id and time.
 * event bytes up to EVENT_LONGEST. On failure done is not called. */
RESULT journal_submit(struct journal *j, struct journal_entry *en, const struct audit_tenant *t, const uint8_t event_id[16],
                      int64_t time_unix_ns, struct bytes event, struct err *e);
/* Runs done on the audit thread between two groups, once: of every event before receipt.index done has been called, of none from
 * there on. Nothing is written. It waits as long as the disk takes; not after journal_close has begun. */
void journal_visit(struct journal *j, struct journal_entry *en);
bool journal_admits(struct journal *j);  /* false: full, failing, or one write under way for
                                            JOURNAL_STALL_MS; new work is refused with AUDIT_UNAVAILABLE */
bool journal_admits_reserve(struct journal *j); /* the same for events that may use the reserve */
struct journal_status {
    bool ok;
    char reason[128];     /* why not, in words */
    uint64_t first_index, next_index; /* first: of what is here */
    uint64_t outbox_seq, syncs, entries;
    uint64_t free_bytes;
    uint64_t cut_bytes;   /* bytes of a torn, never acknowledged group that recovery removed */
    bool was_closed;      /* the last run ended in order */
};
void journal_status(struct journal *j, struct journal_status *ret);
/* Highest outbox sequence in the journal: where the relay resumes (exactly once). */
uint64_t journal_outbox_seq(struct journal *j);
/* Next id for an event that is not in the outbox: unique over restarts (boot-random source, counter). */
void journal_next_event_id(struct journal *j, uint8_t out[16]);

/* Reading (kmsctl audit tail, tests): durable records only, from index on. */
struct journal_record {
    uint64_t index;
    uint8_t leaf[JOURNAL_LEAF_BYTES];
    struct bytes sealed_body; /* open with aead_open(tenant key, header 0, aad = leaf): nonce[32] || event */
};
RESULT journal_read(struct journal *j, uint64_t from, size_t max_records, struct arena *a, struct journal_record **ret,
                    size_t *ret_n, struct err *e);
/* Waits until next_index > index or the timeout (ms): tail. */
bool journal_wait(struct journal *j, uint64_t index, int timeout_ms);

/* `kmsd fsck`: every file, read only: headers, CRCs, order, leaf hashes, and that each body opens. key: of the tenant with this
 * tag, good until the next call; NULL with *e. What was being written when the power went is told as torn_bytes, not as a
 * finding: the next open cuts it. */
#define JOURNAL_CHECK_NO_TENANT "of a tenant that is not in the store"
#define JOURNAL_CHECK_ERASED "TENANT_PURGED" /* key's reason: the key was destroyed, and with it what the record says: no finding */
struct audit_event;
struct journal_checking {
    void (*report)(void *user, const char *text);
    void (*event)(void *user, const struct audit_event *ev); /* each that opens, in order; NULL accepted */
    const struct aead_key *(*key)(void *user, const uint8_t tag[32], struct err *e);
    void *user;
    uint64_t files, records, next_index, outbox_seq, torn_bytes; /* out */
    uint64_t erased; /* out: records of tenants that were purged: there, in their place, and unreadable for ever */
};
RESULT journal_check(const struct journal_options *o, struct journal_checking *c, struct err *e);

/* The relay: one thread that copies the store's outbox to the journal in sequence. Started after both are open. */
struct store;
struct relay;
struct relay_hooks {
    const struct audit_tenant *(*tenant)(void *user, const uint8_t tenant_id[16]); /* zero id: the system's */
    void *user;
};
RESULT relay_start(struct journal *j, struct store *s, const struct relay_hooks *h, struct relay **ret, struct err *e);
void relay_stop(struct relay *r);
/* Calls done on the audit thread when the event with this outbox seq is durable in the journal (or failed: the event is still
 * in the outbox and will be copied later). receipt.index is UINT64_MAX when it was durable so long ago that its receipt is gone.
 * relay_start: ERR_DATA_LOSS "STORE_BEHIND" or "JOURNAL_BEHIND" when one of the two lost what the other has seen. */
void relay_when_durable(struct relay *r, uint64_t seq, struct journal_entry *waiter);

#endif
