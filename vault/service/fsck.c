/* `kmsd fsck`: the store, the keys in it, the journal, and whether the three fit together. It changes nothing. */
#include "vault/service/offline.h"

#include <stdio.h>
#include <string.h>

struct fsck {
    const struct service_options *o;
    const struct instance *in;
    const struct offline_out *out;
    struct store *store;
    struct keyring *keyring;
    struct tenant_ref *held; /* whose key the last journal record was opened with */
    uint64_t findings;
    struct store_check sc;
    struct keyring_check kc;
    struct journal_checking jc;
};

static void finding(void *user, const char *text)
{
    struct fsck *f = user;
    f->findings++;
    f->out->line(f->out->user, text);
}

static void information(void *user, const char *text)
{
    struct fsck *f = user;
    f->out->line(f->out->user, text);
}

static void release(struct fsck *f)
{
    tenant_ref_drop(f->held);
    keyring_free(f->keyring);
    store_close(f->store);
}

static RESULT open_keyring(struct fsck *f, struct err *e)
{
    struct keyring_options ko = instance_keyring_options(f->in, f->o->config, f->o->clock, f->store);
    return keyring_new(&ko, &f->keyring, e);
}

static RESULT check_keys(struct fsck *f, struct err *e)
{
    struct err why = {0};
    char text[400];
    f->kc = (struct keyring_check){.report = finding, .user = f};
    if (!open_keyring(f, &why).failed && !keyring_check(f->keyring, &f->kc, &why).failed)
        return ok();
    if (why.code == ERR_UNAVAILABLE) {
        *e = why;
        return (struct result){1};
    }
    snprintf(text, sizeof text, "keys: cannot be examined further: %.200s [%s]", why.detail, why.reason ? why.reason : err_name(why.code));
    finding(f, text);
    return ok();
}

static const struct aead_key *journal_key(void *user, const uint8_t tag[32], struct err *e)
{
    struct fsck *f = user;
    return offline_journal_key(f->keyring, &f->held, tag, e);
}

/* Every event of the store is in the journal, or still in the outbox. */
static void check_meeting(struct fsck *f)
{
    char text[300];
    unsigned long long journal = f->jc.outbox_seq, last = f->sc.outbox_last, first = f->sc.outbox_first;
    if (journal > last) {
        snprintf(text, sizeof text, "outbox: the journal has event %llu, the store ends at %llu: the store is an older copy", journal, last);
        finding(f, text);
    }
    if (f->sc.events > 0 && first > journal + 1) {
        snprintf(text, sizeof text, "outbox: the journal ends at event %llu, the store has only %llu and later", journal, first);
        finding(f, text);
    }
}

static RESULT check_journal(struct fsck *f, struct err *e)
{
    const struct journal_options jo = instance_journal_options(f->in, f->o->config, f->o->clock);
    f->jc = (struct journal_checking){.report = finding, .key = journal_key, .user = f};
    TRY(journal_check(&jo, &f->jc, e));
    check_meeting(f);
    struct store_anchor_status a;
    store_anchor_status(f->store, &a);
    if (f->jc.next_index < a.floor_journal)
        finding(f, "journal: it has fewer records than the anchor saw: it is an older copy");
    return ok();
}

RESULT fsck_run(const struct service_options *o, const struct instance *in, const struct offline_out *out, struct buf *ret_text,
                struct err *e)
{
    CLEANUP(release) struct fsck f = {.o = o, .in = in, .out = out};
    struct floor floor;
    struct store_options so = instance_store_options(in, o->config, o->clock);
    floor_init(&floor, o->config, o->hsm);
    so.anchor = &floor.io;
    so.check_only = true;
    so.readers = 2; /* one for the check, one for the keyring */
    TRY(store_open(&so, &f.store, e));
    f.sc = (struct store_check){.report = finding, .inform = information, .user = &f};
    TRY(store_fsck(f.store, &f.sc, e));
    TRY(check_keys(&f, e));
    if (f.keyring != NULL)
        TRY(check_journal(&f, e));
    buf_putf(ret_text, "examined %llu rows, %llu buckets, epoch %llu, seal epoch %u; %llu tenants, %llu keys, %llu versions; %llu journal records in "
             "%llu files, %llu torn bytes, %llu of purged tenants; %llu events in the outbox: %llu findings",
             (unsigned long long)f.sc.rows, (unsigned long long)f.sc.buckets, (unsigned long long)f.sc.epoch, f.sc.seal_epoch,
             (unsigned long long)f.kc.tenants, (unsigned long long)f.kc.keys, (unsigned long long)f.kc.versions,
             (unsigned long long)f.jc.records, (unsigned long long)f.jc.files, (unsigned long long)f.jc.torn_bytes,
             (unsigned long long)f.jc.erased, (unsigned long long)f.sc.events, (unsigned long long)f.findings);
    if (f.findings == 0)
        return ok();
    FAIL(e, ERR_DATA_LOSS, "FSCK_FINDINGS", "%s", buf_cstr(ret_text));
}
