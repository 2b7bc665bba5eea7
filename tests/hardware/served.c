/* What a token can do through the real kmsd-hsm, confined as ever: served MODULE URI CONFIG FOLDER [LINES]. hsm/hsm.h's operations, asked over
 * its channel as core and `kmsd init` ask them, in the groups of capable.c; then the process is killed, and another one finds all of it again.
 * LINES: more lines of kmsd's configuration. The token is there; FOLDER is where hsm counts, and gets the file pin. */
#include "tests/unit/hsm/monitor.h"

#include "tests/hardware/checks.h"

static const uint8_t kvid[HSM_KVID_BYTES] = {7, 7}, aad[HSM_AAD_HASH_BYTES] = {9}, other[HSM_AAD_HASH_BYTES] = {8};
static struct monitor process;

static _Noreturn void give_up(void)
{
    if (process.pid > 0)
        (void)kill(process.pid, SIGKILL);
    (void)fflush(NULL);
    _exit(1);
}

/* What a group made, for the process that comes after. */
struct kept {
    bool kdf, sign, gcm, anchor;
    struct secret *key;
    uint8_t pub[HSM_PUBKEY_MAX], check[HSM_CHECK_BYTES], sealed[64 + HSM_SEALED_OVERHEAD];
    size_t pub_n;
};

static bool group_kdf(struct hsm *h, struct kept *k)
{
    CLEANUP(buf_release) struct buf in = {0}, seal_in = {0};
    CLEANUP(secret_freep) struct secret *seal = NULL, *again = NULL;
    struct secret *none = NULL;
    uint8_t a[32], b[32];
    struct err why = {0};
    tenant_kek_input(&in);
    store_key_input(&seal_in);
    if (!begins("kdf", hsm_generate(h, HSM_MASTER, 1, &why), &why))
        return false;
    WORKS(hsm_generate(h, HSM_SEAL, 1, &e));
    DENIES(ERR_EXISTS, "HSM_OBJECT_EXISTS", hsm_generate(h, HSM_MASTER, 1, &e));
    WORKS(hsm_derive(h, HSM_MASTER, 1, buf_bytes(&in), &k->key, &e));
    WORKS(hsm_derive(h, HSM_MASTER, 1, buf_bytes(&in), &again, &e));
    WORKS(hsm_derive(h, HSM_SEAL, 1, buf_bytes(&seal_in), &seal, &e));
    MUST(secret_equal(k->key, again) && !secret_equal(k->key, seal));
    DENIES(ERR_DENIED, "HSM_REFUSED", hsm_derive(h, HSM_MASTER, 1, buf_bytes(&seal_in), &none, &e));
    DENIES(ERR_DENIED, "HSM_REFUSED", hsm_derive(h, HSM_SEAL, 1, BYTES_LIT("anything"), &none, &e));
    WORKS(hsm_random(h, a, sizeof a, &e));
    WORKS(hsm_random(h, b, sizeof b, &e));
    MUST(memcmp(a, b, sizeof a) != 0);
    WORKS(hsm_destroy(h, HSM_SEAL, 1, &e));
    DENIES(ERR_NOT_FOUND, "HSM_OBJECT_ABSENT", hsm_derive(h, HSM_SEAL, 1, buf_bytes(&seal_in), &none, &e));
    return ran("kdf");
}

static bool group_sign(struct hsm *h, struct kept *k)
{
    const struct bytes note = BYTES_LIT(ORIGIN "\n12\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n");
    uint8_t sig[HSM_SIG_MAX];
    size_t n;
    bool ed;
    struct err why = {0};
    if (!begins("sign", hsm_generate(h, HSM_AUDIT, 1, &why), &why))
        return false;
    WORKS(hsm_audit_pubkey(h, 1, k->pub, &k->pub_n, &ed, &e));
    printf("audit key: %s\n", ed ? "Ed25519" : "P-256");
    WORKS(hsm_sign_checkpoint(h, 1, note, sig, &n, &e)); /* verified by OpenSSL before it is given out (hsm/sign.c) */
    WORKS(hsm_sign_certificate(h, 1, BYTES_LIT(CERTIFICATE), sig, &n, &e));
    DENIES(ERR_DENIED, "HSM_REFUSED", hsm_sign_checkpoint(h, 1, BYTES_LIT(CERTIFICATE), sig, &n, &e));
    DENIES(ERR_DENIED, "HSM_REFUSED", hsm_sign_certificate(h, 1, note, sig, &n, &e));
    return ran("sign");
}

static bool group_gcm(struct hsm *h, struct kept *k)
{
    static uint8_t plain[HSM_PLAIN_MAX] = "card", out[HSM_PLAIN_MAX], big[HSM_PLAIN_MAX + HSM_SEALED_OVERHEAD];
    const size_t n = sizeof k->sealed;
    struct err why = {0};
    if (!begins("gcm", hsm_key_generate(h, kvid, aad, k->check, &why), &why))
        return false;
    DENIES(ERR_EXISTS, "HSM_OBJECT_EXISTS", hsm_key_generate(h, kvid, aad, k->check, &e));
    WORKS(hsm_key_seal(h, kvid, HSM_SEALED_DATA, aad, BYTES(plain, 64), k->sealed, &e));
    WORKS(hsm_key_open(h, kvid, HSM_SEALED_DATA, aad, BYTES(k->sealed, n), out, &e));
    MUST(memcmp(plain, out, 64) == 0);
    for (size_t i = 0; i < n; i += 5) {
        k->sealed[i] ^= 0x20;
        DENIES(ERR_CIPHERTEXT, "", hsm_key_open(h, kvid, HSM_SEALED_DATA, aad, BYTES(k->sealed, n), out, &e));
        k->sealed[i] ^= 0x20;
    }
    DENIES(ERR_CIPHERTEXT, "", hsm_key_open(h, kvid, HSM_SEALED_DATA, other, BYTES(k->sealed, n), out, &e));
    DENIES(ERR_CIPHERTEXT, "", hsm_key_open(h, kvid, HSM_SEALED_KEY, aad, BYTES(k->sealed, n), out, &e));
    WORKS(hsm_key_seal(h, kvid, HSM_SEALED_KEY, aad, BYTES(plain, sizeof plain), big, &e));
    WORKS(hsm_key_open(h, kvid, HSM_SEALED_KEY, aad, BYTES(big, sizeof big), out, &e));
    MUST(memcmp(plain, out, sizeof plain) == 0);
    return ran("gcm");
}

static bool group_anchor(struct hsm *h, struct kept *k)
{
    static uint8_t value[HSM_ANCHOR_MAX];
    uint8_t out[HSM_ANCHOR_MAX];
    size_t n = 0;
    struct err why = {0};
    (void)k;
    if (!begins("anchor", hsm_anchor_try(h, &why), &why))
        return false;
    DENIES(ERR_NOT_FOUND, "HSM_OBJECT_ABSENT", hsm_anchor_get(h, out, &n, &e));
    for (uint8_t i = 0; i < 5; i++) {
        value[0] = i;
        WORKS(hsm_anchor_put(h, BYTES(value, HSM_ANCHOR_MAX - i), &e));
        WORKS(hsm_anchor_get(h, out, &n, &e));
        MUST(n == (size_t)HSM_ANCHOR_MAX - i && memcmp(out, value, n) == 0);
    }
    return ran("anchor");
}

/* Another process, after a death: what each group made is what it was, and what was destroyed is gone. */
static void found_again(struct hsm *h, struct kept *k)
{
    CLEANUP(buf_release) struct buf in = {0};
    CLEANUP(secret_freep) struct secret *key = NULL;
    uint8_t pub[HSM_PUBKEY_MAX], out[HSM_ANCHOR_MAX];
    size_t n;
    bool ed;
    checks = 0;
    tenant_kek_input(&in);
    if (k->kdf) {
        WORKS(hsm_derive(h, HSM_MASTER, 1, buf_bytes(&in), &key, &e));
        MUST(secret_equal(key, k->key));
    }
    if (k->sign) {
        WORKS(hsm_audit_pubkey(h, 1, pub, &n, &ed, &e));
        MUST(n == k->pub_n && memcmp(pub, k->pub, n) == 0);
    }
    if (k->gcm) {
        DENIES(ERR_STATE, "HSM_KEY_UNCHECKED", hsm_key_open(h, kvid, HSM_SEALED_DATA, aad, BYTES(k->sealed, sizeof k->sealed), out, &e));
        WORKS(hsm_key_check(h, kvid, aad, k->check, &e));
        WORKS(hsm_key_open(h, kvid, HSM_SEALED_DATA, aad, BYTES(k->sealed, sizeof k->sealed), out, &e));
        MUST(memcmp(out, "card", 5) == 0);
        WORKS(hsm_key_destroy(h, kvid, &e));
        DENIES(ERR_NOT_FOUND, "HSM_OBJECT_ABSENT", hsm_key_open(h, kvid, HSM_SEALED_DATA, aad, BYTES(k->sealed, sizeof k->sealed), out, &e));
    }
    if (k->anchor) {
        WORKS(hsm_anchor_get(h, out, &n, &e));
        MUST(n == HSM_ANCHOR_MAX - 4 && out[0] == 4);
    }
    (void)ran("another process");
}

/* kmsd-hsm as `kmsd init` has it: what the token lacks is for init to judge. */
static struct hsm *begin(struct fixture *f, char **argv)
{
    int fds[2];
    struct hsm *h = NULL;
    WORKS(chan_pair(fds, &e));
    monitor_start(&process, f, argv[1], argv[2], true, fds[1]);
    (void)close(fds[1]);
    WORKS(hsm_client_new(fds[0], (uint64_t)f->timeout_ms, &h, &e));
    if (!monitor_ready(&process)) {
        printf("BROKEN no kmsd-hsm: %s\n", process.fatal);
        give_up();
    }
    return h;
}

static void say_status(struct hsm *h)
{
    struct hsm_status st;
    char path[64], line[256];
    WORKS(hsm_probe(h, &st, &e));
    printf("cannot: %s\n", st.cannot);
    (void)snprintf(path, sizeof path, "/proc/%d/status", (int)process.pid);
    FILE *s = fopen(path, "re");
    MUST(s != NULL);
    while (fgets(line, sizeof line, s) != NULL)
        if (strncmp(line, "Seccomp:", 8) == 0 || strncmp(line, "NoNewPrivs:", 11) == 0)
            printf("%s", line);
    (void)fclose(s);
}

int main(int argc, char **argv)
{
    static struct fixture f;
    static struct kept k;
    struct err e = {0};
    if ((argc != 5 && argc != 6) || secret_slab_init(16, &e).failed)
        return 2;
    f.timeout_ms = slower(10 * TIMEOUT_MS);
    f.more = argc == 6 ? argv[5] : NULL;
    (void)snprintf(f.dir, sizeof f.dir, "%s", argv[4]);
    (void)snprintf(f.state, sizeof f.state, "%s", argv[4]);
    (void)snprintf(f.conf, sizeof f.conf, "%s", argv[3]);
    (void)snprintf(f.pin, sizeof f.pin, "%s/pin", argv[4]);
    write_file(f.pin, RIGHT_PIN "\n");
    struct hsm *h = begin(&f, argv);
    say_status(h);
    k.kdf = group_kdf(h, &k);
    k.sign = group_sign(h, &k);
    k.gcm = group_gcm(h, &k);
    k.anchor = group_anchor(h, &k);
    (void)kill(process.pid, SIGKILL);
    (void)monitor_join(&process);
    hsm_free(h);
    h = begin(&f, argv);
    found_again(h, &k);
    MUST(monitor_drain(&process) == 0);
    hsm_free(h);
    secret_free(k.key);
    (void)fflush(NULL);
    _exit(0);
}
