/*
 * Purpose: everything that can be wrong with a running daemon, in one table: what is wrong, what callers see, what to do. Health,
 *          `kmsctl status` and docs/OPERATIONS.md say these words.
 * Owns:    nothing. Threads: service_health from any.
 * Errors:  none. Limits: CONDITION_DETAIL_MAX bytes of what is particular to the case. Secrets: none.
 */
#ifndef VAULT_SERVICE_CONDITION_H
#define VAULT_SERVICE_CONDITION_H

#include "base/bytes.h"

/* Closed to all; serving, with something wrong; serving as it should, with something to be done before it may go wrong. */
enum condition_level { CLOSES, DEGRADES, WARNS };

/* X(name, level, what is wrong, what callers see, what to do): most urgent first. */
#define CONDITIONS(X)                                                                                                              \
    X(AUDIT_UNAVAILABLE, CLOSES, "the audit journal takes no events",                                                               \
      "all work is refused with AUDIT_UNAVAILABLE; nothing is lost",                                                               \
      "make room on journal_dir's disk, or mend it; service returns by itself")                                                    \
    X(POLICY_STALE, CLOSES, "a committed change of policy or principals cannot be loaded",                                          \
      "all work is refused with POLICY_STALE",                                                                                     \
      "see the log for what does not load; it is tried each second. When the store was edited: stop, kmsd fsck, restore")          \
    X(ROLLBACK_CLOSED, CLOSES, "an older store was accepted, and nobody can say what was revoked since",                            \
      "all work is refused with ROLLBACK_UNREVIEWED; only a recovery administrator is let in",                                     \
      "kmsd recover-admin; as that administrator disable what must not be valid and apply the policy; then kmsctl review rollback") \
    X(HSM_PIN, DEGRADES, "the token refuses the PIN",                                                                                  \
      "keys in the cache go on working until key_cache_ttl; what needs the token fails with HSM_UNAVAILABLE",                      \
      "correct hsm_pin_file: it is tried once a minute, three times in all; after that remove hsm-pin-tries. No restart")          \
    X(HSM_AWAY, DEGRADES, "the token does not answer",                                                                                 \
      "keys in the cache go on working until key_cache_ttl; what needs the token fails with HSM_UNAVAILABLE",                      \
      "bring the token back; service returns by itself")                                                                           \
    X(MASTER_ABSENT, DEGRADES, "the token lacks the master secret that keys are under",                                                 \
      "keys in the cache go on working until key_cache_ttl; what needs the token fails with HSM_UNAVAILABLE",                      \
      "it is another token, or one put back from too old a backup: put back the newest")                                           \
    X(SEAL_ABSENT, DEGRADES, "the token lacks the seal secret that the store is under",                                                 \
      "nothing while kmsd runs: it could not be started again",                                                                    \
      "it is another token, or one put back from too old a backup: put back the newest before you stop kmsd")                      \
    X(STORE_FAILING, DEGRADES, "the store cannot be written",                                                                          \
      "changes fail with STORE_FULL or STORE_IO and have no effect; keys go on working",                                           \
      "make room on state_dir's disk, or mend it; it is tried each second, service returns by itself")                             \
    X(STORE_DAMAGED, DEGRADES, "stored data failed its integrity check",                                                               \
      "what is concerned is refused with DATA_LOSS, nothing else",                                                                 \
      "the log names kind and row. Stop, keep the files, kmsd fsck, restore; it is shown until kmsd is started again")             \
    X(ANCHOR_BEHIND, DEGRADES, "the anchor cannot be written",                                                                         \
      "nothing: all works",                                                                                                        \
      "mend the token or the folder of anchor_file; it is tried every 2 s. Until then an older copy of the store may pass unnoticed") \
    X(DUE_FAILING, DEGRADES, "what fell due by itself could not be done",                                                                \
      "nothing: keys go on working as they are",                                                                                   \
      "the log says why; it is tried again by itself, each minute in the end")                                                                                 \
    X(MASTER_FAILING, DEGRADES, "a step of the master's rotation or destruction fails",                                                \
      "nothing: keys go on working as they are",                                                                                   \
      "what is in brackets asks for; it is tried again by itself, from where it was")                                                  \
    X(SEAL_FAILING, DEGRADES, "a step of the seal secret's rotation or destruction fails",                                              \
      "nothing: all works; what was destroyed may be read in backups of the store for longer",                                     \
      "what is in brackets asks for; it is tried again by itself, from where it was")                                                  \
    X(TRUST_OLD, DEGRADES, "client_ca_file or client_crl_file could not be loaded again",                                              \
      "the CAs and revocation lists of before stay in force",                                                                      \
      "correct the files and send SIGHUP")                                                                                         \
    X(ROLLBACK_UNREVIEWED, DEGRADES, "an older store was accepted",                                                                    \
      "what the journal knows as revoked stays refused; what was made since is gone",                                              \
      "check principals, key versions and policy, then kmsctl review rollback")                                                    \
    X(RECOVERY_UNREVIEWED, DEGRADES, "a recovery administrator was made",                                                              \
      "nothing: all works",                                                                                                        \
      "check in the audit log what it did; kmsctl review recovery ends it")                                                        \
    X(TOKEN_BACKUP_STALE, WARNS, "keys of level HSM were made that no backup of the token has",                                    \
      "nothing: all works; but with the token, what these keys have sealed would be lost",                                         \
      "kmsctl token backup, and move the copy to another device; where the token is no files clone it by its vendor's tool, then kmsctl token backup --cloned")

enum condition {
#define X(name, level, wrong, callers, todo) CONDITION_##name,
    CONDITIONS(X)
#undef X
    CONDITION_COUNT
};
struct condition_row {
    const char *name;
    enum condition_level level;
    const char *wrong, *callers, *todo;
};
const struct condition_row *condition_row(enum condition c);

enum { CONDITION_DETAIL_MAX = 256, CONDITION_TEXT_MAX = 900 };
struct health {
    bool serving;         /* answers at all */
    bool degraded;        /* something is wrong, though it may serve; what only warns does not count */
    bool is[CONDITION_COUNT];
    char detail[CONDITION_COUNT][CONDITION_DETAIL_MAX]; /* what is particular to the case; "" */
};
void health_add(struct health *h, enum condition c, const char *detail);
/* "NAME: what is wrong (detail). Callers: what they see. Do: what to do." NUL-terminated. */
void health_text(const struct health *h, enum condition c, char out[CONDITION_TEXT_MAX]);

#endif
