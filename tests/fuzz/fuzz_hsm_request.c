/* Target functions: service_answer and all behind it: what a core that was taken over can make the hsm process do. Under it lies a
 * token of our own that watches: the master and the seal secret sign nothing but our KDF encoding under the label meant for them,
 * the audit key signs nothing but a checkpoint of this log or a certificate of it, and every packet that has a header has exactly one answer, which the
 * client's own reader accepts. A key of level HSM computes over nothing but our own messages, and opens none that it did not seal. A channel is given up for a bad packet only.
 *
 * Input: packets, each u8 how, u8 length, bytes. how 0..9: that operation with the bytes as its body; 10: a derivation whose
 * input is built by kdfenc from the bytes; 11: a checkpoint built around them; 12: a certificate; 13: a request about a key of level HSM (key_request);
 * else the bytes are the packet as it is. */
#include "base/chan.h"
#include "hsm/seal.h"
#include "hsm/service.h"

#include <poll.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char origin[] = "fuzz/node";
enum handle { H_MASTER = 1, H_SEAL, H_PRIVATE, H_PUBLIC, H_ANCHOR_A, H_ANCHOR_B, H_AES, H_COMMIT };
static const uint8_t kvid[HSM_KVID_BYTES] = "a key on a token", aad_hash[HSM_AAD_HASH_BYTES] = "of its check";
enum { ANCHORS = 2, ANCHOR_RECORD_MAX = HSM_ANCHOR_MAX + 64, ANCHOR_NAME = 18, CHECK_HASH_BYTES = 44 };

/* ---- the token ---- */
static struct fake {
    CK_OBJECT_HANDLE signing, finding;
    struct {
        bool there;
        uint8_t value[ANCHOR_RECORD_MAX], label[ANCHOR_NAME + 2 * ANCHOR_RECORD_MAX];
        size_t label_n;
        size_t n;
    } anchor[ANCHORS];
    CK_OBJECT_HANDLE ciphering;
    uint8_t gcm_aad[108], gcm_iv[HSM_NONCE_BYTES];
    uint8_t pk[crypto_sign_PUBLICKEYBYTES], sk[crypto_sign_SECRETKEYBYTES];
} fake;

static CK_RV sign_init(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE key)
{
    (void)s;
    INVARIANT((key >= H_MASTER && key <= H_PRIVATE) || key == H_COMMIT);
    INVARIANT(m->mechanism == (key == H_PRIVATE ? CKM_EDDSA : CKM_SHA256_HMAC));
    fake.signing = key;
    return CKR_OK;
}

static void check_kdf_input(struct bytes in)
{
    enum kdf_label label;
    INVARIANT(kdfenc_is_hsm_input(in, &label));
    INVARIANT(label == KDF_CHALLENGE || label == (fake.signing == H_MASTER ? KDF_TENANT_KEK : KDF_STORE_KEY));
}

/* What follows the magic is read here as the page of formats says it, not as hsm reads it. */
static bool is_certificate(struct bytes in)
{
    static const char magic[] = "claviger.certificate/v1\nfuzz/node\nkind: ";
    unsigned lines = 0;
    if (in.n < sizeof magic || memcmp(in.p, magic, sizeof magic - 1) != 0)
        return false;
    for (size_t i = 0; i < in.n; i++) {
        lines += in.p[i] == '\n';
        INVARIANT(in.p[i] != 0 && (in.p[i] != '\n' || i + 1 == in.n || in.p[i + 1] != '\n'));
    }
    INVARIANT(in.p[in.n - 1] == '\n' && lines == (in.p[sizeof magic - 1] == 'v' ? 16 : 19));
    return true;
}

static void check_checkpoint(struct bytes in)
{
    unsigned lines = 0;
    for (size_t i = 0; i < in.n; i++)
        lines += in.p[i] == '\n';
    INVARIANT(in.n > sizeof origin && in.n <= HSM_MESSAGE_MAX && memcmp(in.p, origin, sizeof origin - 1) == 0);
    INVARIANT(in.p[sizeof origin - 1] == '\n' && lines >= 3 && memchr(in.p, 0, in.n) == NULL && in.p[in.n - 1] == '\n');
}

/* Of the whole of its header only the type is core's to choose. */
static void check_header(const uint8_t *p)
{
    static const uint8_t zeros[16];
    INVARIANT(memcmp(p, "\0\0\0\x28" "CLV", 7) == 0 && (p[7] == 'e' || p[7] == 'w' || p[7] == 'k') && memcmp(p + 8, "\1\0\0\0", 4) == 0);
    INVARIANT(memcmp(p + 12, kvid, sizeof kvid) == 0 && memcmp(p + 28, zeros, sizeof zeros) == 0);
}

/* ---- AES-GCM, as far as it matters here: what it was asked for, and a tag over all of it ---- */
static CK_RV cipher_init(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE key)
{
    const CK_GCM_PARAMS *p = m->pParameter;
    (void)s;
    INVARIANT(key == H_AES && m->mechanism == CKM_AES_GCM && m->ulParameterLen == sizeof *p);
    INVARIANT(p->iv_len == HSM_NONCE_BYTES && p->iv_bits == 96 && p->tag_bits == 128 && p->aad_len == sizeof fake.gcm_aad);
    check_header(p->aad_ptr);
    memcpy(fake.gcm_aad, p->aad_ptr, sizeof fake.gcm_aad);
    memcpy(fake.gcm_iv, p->iv_ptr, sizeof fake.gcm_iv);
    fake.ciphering = key;
    return CKR_OK;
}

static void cipher_tag(const uint8_t *body, size_t n, uint8_t out[crypto_hash_sha256_BYTES])
{
    crypto_hash_sha256_state st;
    crypto_hash_sha256_init(&st);
    crypto_hash_sha256_update(&st, fake.gcm_aad, sizeof fake.gcm_aad);
    crypto_hash_sha256_update(&st, fake.gcm_iv, sizeof fake.gcm_iv);
    crypto_hash_sha256_update(&st, body, n);
    crypto_hash_sha256_final(&st, out);
}

static CK_RV encrypt(CK_SESSION_HANDLE s, CK_BYTE_PTR in, CK_ULONG n, CK_BYTE_PTR out, CK_ULONG_PTR ret_n)
{
    uint8_t tag[crypto_hash_sha256_BYTES];
    (void)s;
    INVARIANT(fake.ciphering == H_AES && n <= HSM_PLAIN_MAX && *ret_n >= n + HSM_TAG_BYTES && in != NULL);
    for (CK_ULONG i = 0; i < n; i++)
        out[i] = in[i] ^ 0x5a;
    cipher_tag(out, n, tag);
    memcpy(out + n, tag, HSM_TAG_BYTES);
    *ret_n = n + HSM_TAG_BYTES;
    fake.ciphering = 0;
    return CKR_OK;
}

static CK_RV decrypt(CK_SESSION_HANDLE s, CK_BYTE_PTR in, CK_ULONG n, CK_BYTE_PTR out, CK_ULONG_PTR ret_n)
{
    uint8_t tag[crypto_hash_sha256_BYTES];
    (void)s;
    INVARIANT(fake.ciphering == H_AES && n >= HSM_TAG_BYTES && n <= HSM_PLAIN_MAX + HSM_TAG_BYTES && *ret_n >= n);
    fake.ciphering = 0;
    cipher_tag(in, n - HSM_TAG_BYTES, tag);
    if (memcmp(tag, in + n - HSM_TAG_BYTES, HSM_TAG_BYTES) != 0)
        return CKR_ENCRYPTED_DATA_INVALID;
    *ret_n = n - HSM_TAG_BYTES;
    for (CK_ULONG i = 0; i < *ret_n; i++)
        out[i] = in[i] ^ 0x5a;
    return CKR_OK;
}

static CK_RV sign(CK_SESSION_HANDLE s, CK_BYTE_PTR data, CK_ULONG n, CK_BYTE_PTR out, CK_ULONG_PTR ret_n)
{
    (void)s;
    INVARIANT(fake.signing != 0);
    if (fake.signing == H_PRIVATE) {
        if (!is_certificate(BYTES(data, n)))
            check_checkpoint(BYTES(data, n));
        INVARIANT(*ret_n >= 64 && crypto_sign_detached(out, NULL, data, n, fake.sk) == 0);
        *ret_n = 64;
    } else {
        if (fake.signing == H_COMMIT) {
            INVARIANT(n == 88);
            check_header(data);
        } else {
            check_kdf_input(BYTES(data, n));
        }
        INVARIANT(*ret_n >= 32);
        crypto_hash_sha256(out, data, n);
        *ret_n = 32;
    }
    fake.signing = 0;
    return CKR_OK;
}

static CK_RV random_bytes(CK_SESSION_HANDLE s, CK_BYTE_PTR out, CK_ULONG n)
{
    static uint64_t drawn; /* never the same twice: a generator that repeats itself is found out */
    (void)s;
    INVARIANT(n > 0 && n <= HSM_RANDOM_MAX);
    memset(out, 0x5a, n);
    drawn++;
    memcpy(out, &drawn, n < sizeof drawn ? n : sizeof drawn);
    return CKR_OK;
}

/* Only the anchors are found: a search for keys finds none, so that a reload leaves an empty table. */
static CK_RV find_init(CK_SESSION_HANDLE s, CK_ATTRIBUTE_PTR match, CK_ULONG n)
{
    (void)s;
    fake.finding = 0;
    for (CK_ULONG i = 0; i < n; i++)
        for (unsigned a = 0; a < ANCHORS && match[i].type == CKA_APPLICATION; a++)
            if (match[i].ulValueLen == ANCHOR_NAME && memcmp(match[i].pValue, a == 0 ? "claviger-anchor-a " : "claviger-anchor-b ", ANCHOR_NAME) == 0)
                fake.finding = fake.anchor[a].there ? H_ANCHOR_A + a : 0;
    return CKR_OK;
}

static CK_RV find(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE_PTR out, CK_ULONG max, CK_ULONG_PTR ret_n)
{
    (void)s;
    *ret_n = fake.finding != 0 && max > 0;
    *out = fake.finding;
    fake.finding = 0;
    return CKR_OK;
}

static CK_RV find_final(CK_SESSION_HANDLE s)
{
    (void)s;
    return CKR_OK;
}

static CK_RV give(CK_ATTRIBUTE_PTR a, const void *p, size_t n)
{
    if (a->ulValueLen < n) {
        a->ulValueLen = CK_UNAVAILABLE_INFORMATION;
        return CKR_BUFFER_TOO_SMALL;
    }
    memcpy(a->pValue, p, n);
    a->ulValueLen = n;
    return CKR_OK;
}

static CK_RV attribute(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE h, CK_ATTRIBUTE_PTR a, CK_ULONG n)
{
    static const CK_ULONG edwards = CKK_EC_EDWARDS;
    (void)s;
    INVARIANT(n == 1);
    if (a->type == CKA_VALUE) {
        INVARIANT(h == H_ANCHOR_A || h == H_ANCHOR_B); /* a key's value is never even asked for */
        return give(a, fake.anchor[h - H_ANCHOR_A].value, fake.anchor[h - H_ANCHOR_A].n);
    }
    if (a->type == CKA_LABEL && (h == H_ANCHOR_A || h == H_ANCHOR_B))
        return give(a, fake.anchor[h - H_ANCHOR_A].label, fake.anchor[h - H_ANCHOR_A].label_n);
    if (a->type == CKA_KEY_TYPE && (h == H_PRIVATE || h == H_PUBLIC))
        return give(a, &edwards, sizeof edwards);
    if (a->type == CKA_EC_POINT && h == H_PUBLIC)
        return give(a, fake.pk, sizeof fake.pk);
    a->ulValueLen = CK_UNAVAILABLE_INFORMATION;
    return CKR_ATTRIBUTE_TYPE_INVALID;
}

static CK_RV create(CK_SESSION_HANDLE s, CK_ATTRIBUTE_PTR a, CK_ULONG n, CK_OBJECT_HANDLE_PTR out)
{
    unsigned which = ANCHORS;
    (void)s;
    for (CK_ULONG i = 0; i < n; i++)
        if (a[i].type == CKA_APPLICATION)
            which = ((const char *)a[i].pValue)[a[i].ulValueLen - 2] == 'a' ? 0 : 1;
    INVARIANT(which < ANCHORS && !fake.anchor[which].there && a[n - 1].type == CKA_VALUE && a[n - 1].ulValueLen <= ANCHOR_RECORD_MAX);
    memcpy(fake.anchor[which].value, a[n - 1].pValue, a[n - 1].ulValueLen);
    fake.anchor[which].n = a[n - 1].ulValueLen;
    fake.anchor[which].label_n = 0;
    fake.anchor[which].there = true;
    *out = H_ANCHOR_A + which;
    return CKR_OK;
}

/* One lets its label be set, the other has to be made anew. */
static CK_RV set_attribute(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE h, CK_ATTRIBUTE_PTR a, CK_ULONG n)
{
    (void)s;
    INVARIANT((h == H_ANCHOR_A || h == H_ANCHOR_B) && n == 1 && a->type == CKA_LABEL && a->ulValueLen <= sizeof fake.anchor[0].label);
    if (h == H_ANCHOR_B)
        return CKR_ATTRIBUTE_READ_ONLY;
    memcpy(fake.anchor[0].label, a->pValue, a->ulValueLen);
    fake.anchor[0].label_n = a->ulValueLen;
    return CKR_OK;
}

static CK_RV destroy(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE h)
{
    (void)s;
    INVARIANT(h == H_ANCHOR_A || h == H_ANCHOR_B);
    fake.anchor[h - H_ANCHOR_A].there = false;
    return CKR_OK;
}

static CK_RV generate(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_ATTRIBUTE_PTR a, CK_ULONG n, CK_OBJECT_HANDLE_PTR out)
{
    (void)s, (void)m, (void)a, (void)n, (void)out;
    return CKR_FUNCTION_NOT_SUPPORTED; /* what follows is a fresh process: not here */
}

/* All else fails: recovery, which begins from nothing, ends at once. */
static CK_RV absent(void)
{
    return CKR_DEVICE_ERROR;
}

static CK_FUNCTION_LIST functions = {
    .C_Initialize = (CK_C_Initialize)(void (*)(void))absent, .C_Finalize = (CK_C_Finalize)(void (*)(void))absent,
    .C_CloseSession = (CK_C_CloseSession)(void (*)(void))absent, .C_CloseAllSessions = (CK_C_CloseAllSessions)(void (*)(void))absent,
    .C_Logout = (CK_C_Logout)(void (*)(void))absent, .C_GetSlotList = (CK_C_GetSlotList)(void (*)(void))absent,
    .C_OpenSession = (CK_C_OpenSession)(void (*)(void))absent, .C_GetSessionInfo = (CK_C_GetSessionInfo)(void (*)(void))absent,
    .C_GetTokenInfo = (CK_C_GetTokenInfo)(void (*)(void))absent, .C_GetSlotInfo = (CK_C_GetSlotInfo)(void (*)(void))absent,
    .C_GetInfo = (CK_C_GetInfo)(void (*)(void))absent, .C_Login = (CK_C_Login)(void (*)(void))absent,
    .C_GetMechanismList = (CK_C_GetMechanismList)(void (*)(void))absent, .C_GenerateKeyPair = (CK_C_GenerateKeyPair)(void (*)(void))absent,
    .C_SignInit = sign_init, .C_Sign = sign, .C_GenerateRandom = random_bytes, .C_FindObjectsInit = find_init, .C_FindObjects = find,
    .C_FindObjectsFinal = find_final, .C_GetAttributeValue = attribute, .C_SetAttributeValue = set_attribute, .C_CreateObject = create, .C_DestroyObject = destroy,
    .C_GenerateKey = generate, .C_EncryptInit = cipher_init, .C_Encrypt = encrypt, .C_DecryptInit = cipher_init, .C_Decrypt = decrypt,
};

/* ---- the hsm process ---- */
static struct token token;
static struct service service;

static void prepare(void)
{
    static const struct object objects[] = {
        {.kind = HSM_MASTER, .version = 1, .class = CKO_SECRET_KEY, .handle = H_MASTER},
        {.kind = HSM_SEAL, .version = 1, .class = CKO_SECRET_KEY, .handle = H_SEAL},
        {.kind = HSM_AUDIT, .version = 1, .class = CKO_PRIVATE_KEY, .handle = H_PRIVATE},
        {.kind = HSM_AUDIT, .version = 1, .class = CKO_PUBLIC_KEY, .handle = H_PUBLIC},
    };
    static bool once;
    struct err e = {0};
    if (!once) {
        static const uint8_t seed[crypto_sign_SEEDBYTES] = "no secret";
        INVARIANT(sodium_init() >= 0 && !secret_slab_init(16, &e).failed && crypto_sign_seed_keypair(fake.pk, fake.sk, seed) == 0);
        token.storage.fd = -1;
        once = true;
    }
    token.setup = (struct token_setup){.origin = origin, .state_dir = "/nowhere", .clock = &clock_system};
    token.m.f = &functions;
    token.session = 1;
    token.ready = true;
    for (enum mechanism i = MECH_HMAC; i < MECH_N; i++)
        token.can.has[i] = i < MECH_EDDSA || i > MECH_ECDSA_GEN; /* no key pair is made */
    memcpy(token.objects.all, objects, sizeof objects);
    token.objects.n = sizeof objects / sizeof objects[0];
    (void)snprintf(token.objects.weaknesses, sizeof token.objects.weaknesses, "none");
}

/* One key, which has shown its check message. */
static void prepare_key(void)
{
    static uint8_t check[HSM_CHECK_BYTES];
    struct key_pair pair = {.handle = {[KEY_AES] = H_AES, [KEY_COMMIT] = H_COMMIT}, .audited = {true, true}};
    struct err e = {0};
    memcpy(pair.kvid, kvid, sizeof kvid);
    keys_release(&token.keys);
    token.keys.all = calloc(1, sizeof pair);
    INVARIANT(token.keys.all != NULL);
    token.keys.all[0] = pair;
    token.keys.n = token.keys.cap = 1;
    if (check[0] == 0)
        INVARIANT(!seal_message(&token, &pair, HSM_SEALED_CHECK, aad_hash, BYTES(kvid, sizeof kvid), check, &e).failed);
    INVARIANT(!seal_check(&token, &token.keys.all[0], aad_hash, check, &e).failed);
}

/* u8 operation, u8 type (0: a good one), the rest; of a message to open, when its first byte is even, one that is genuine. */
static enum wire_op key_request(struct bytes in, struct buf *out)
{
    struct reader r = reader_of(in);
    const enum wire_op op = WIRE_KEY_GENERATE + reader_u8(&r) % (WIRE_KEY_LIST - WIRE_KEY_GENERATE + 1);
    const uint8_t type = reader_u8(&r);
    uint8_t sealed[HSM_SEALED_OVERHEAD + 256];
    struct err e = {0};
    if (op == WIRE_KEY_LIST) {
        buf_put_v16(out, BYTES(r.p, r.n));
        return op;
    }
    buf_put(out, kvid, sizeof kvid);
    if (op == WIRE_KEY_SEAL || op == WIRE_KEY_OPEN)
        buf_put_u8(out, type == 0 ? 'e' : type);
    if (op != WIRE_KEY_DESTROY)
        buf_put(out, aad_hash, sizeof aad_hash);
    if (op == WIRE_KEY_OPEN && r.n > 0 && r.p[0] % 2 == 0) {
        INVARIANT(!ops_key_seal(&token, kvid, HSM_SEALED_DATA, aad_hash, BYTES(r.p, r.n), sealed, &e).failed);
        sealed[r.p[0] % HSM_SEALED_OVERHEAD] ^= r.p[0] & 2;
        buf_put_v16(out, BYTES(sealed, HSM_SEALED_OVERHEAD + r.n));
    } else if (op == WIRE_KEY_SEAL || op == WIRE_KEY_OPEN) {
        buf_put_v16(out, BYTES(r.p, r.n));
    } else {
        buf_put(out, r.p, r.n);
    }
    return op;
}

static void derivation(struct bytes in, struct buf *out)
{
    struct reader r = reader_of(in);
    enum kdf_label label = (enum kdf_label)(reader_u8(&r) % KDF_LABEL_COUNT);
    uint8_t object = reader_u8(&r) % 4;
    struct bytes fields[KDFENC_FIELDS_MAX];
    struct buf input;
    size_t n = 0;
    while (r.n > 0 && n < KDFENC_FIELDS_MAX)
        fields[n++] = reader_take(&r, reader_u8(&r) % (r.n + 1));
    buf_init(&input, KDFENC_MAX_BYTES);
    if (!kdfenc_build(label, fields, n, &input))
        buf_reset(&input);
    buf_put_u8(out, object);
    buf_put_u32(out, 1);
    buf_put_v16(out, buf_bytes(&input));
    buf_release(&input);
}

static void checkpoint(struct bytes in, struct buf *out)
{
    struct buf text;
    buf_init(&text, HSM_MESSAGE_MAX);
    buf_putf(&text, "%s\n12\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n", origin);
    buf_put_bytes(&text, in);
    if (in.n % 2 == 0)
        buf_put_str(&text, "\n");
    buf_put_u32(out, 1);
    buf_put_v16(out, buf_bytes(&text));
    buf_release(&text);
}

static void expect_answer(int fd, const struct chan_msg *asked)
{
    static uint8_t packet[WIRE_MAX + 16];
    struct chan_msg m;
    struct err e = {0};
    INVARIANT(!chan_recv(fd, 0, packet, sizeof packet, &m, &e).failed);
    INVARIANT(m.type == (asked->type | WIRE_REPLY) && m.seq == asked->seq && m.nfds == 0);
    struct reader r = reader_of(m.body);
    if (wire_get_result(&r, &e).failed)
        INVARIANT(strcmp(e.detail, "an answer of the hsm process cannot be read") != 0);
    struct pollfd more = {.fd = fd, .events = POLLIN};
    INVARIANT(poll(&more, 1, 0) == 0);
}

/* A whole one when the bytes are its first free text; else they end it, or stand in it. */
static void certificate(struct bytes in, struct buf *out)
{
    struct buf text;
    buf_init(&text, HSM_MESSAGE_MAX);
    buf_putf(&text, "claviger.certificate/v1\n%s\nkind: version\nname: ", origin);
    buf_put_bytes(&text, in);
    buf_put_str(&text, "\ninstance: 000102030405060708090a0b0c0d0e0f\ntenant: 000102030405060708090a0b0c0d0e0f\n"
                       "kvid: 000102030405060708090a0b0c0d0e0f\nprotection: SOFTWARE\ncreated: 2026-11-20T12:00:00Z\nrequested: -\n"
                       "requested-by: -\ndue: -\ndestroyed: 2026-11-20T12:00:00Z\nseal-epoch: 1\ncovers: x\nremains: y\n");
    buf_put_u32(out, 1);
    buf_put_v16(out, buf_bytes(&text));
    buf_release(&text);
}

static void ask(int fds[2], uint8_t how, struct bytes in)
{
    CLEANUP(buf_release) struct buf body = {0};
    struct chan_msg m = {.type = how, .seq = (uint32_t)in.n + 1, .body = in};
    struct err e = {0};
    buf_init(&body, WIRE_MAX * 2);
    if (how == 10) {
        derivation(in, &body);
        m.type = WIRE_DERIVE;
        m.body = buf_bytes(&body);
    } else if (how == 11) {
        checkpoint(in, &body);
        m.type = WIRE_SIGN_CHECKPOINT;
        m.body = buf_bytes(&body);
    } else if (how == 12) {
        certificate(in, &body);
        m.type = WIRE_SIGN_CERTIFICATE;
        m.body = buf_bytes(&body);
    } else if (how == 13) {
        prepare();
        prepare_key();
        m.type = (uint16_t)key_request(in, &body);
        m.body = buf_bytes(&body);
    } else if (how > 13) { /* as it is: mostly no packet of ours, and then the channel is given up */
        INVARIANT(send(fds[0], in.p, in.n, MSG_NOSIGNAL) == (ssize_t)in.n);
        if (service_answer(&service, &token, fds[1], &e).failed)
            INVARIANT(e.code == ERR_INVALID || (e.code == ERR_UNAVAILABLE && in.n == 0));
        return;
    }
    prepare();
    INVARIANT(!chan_send(fds[0], &m, &e).failed);
    INVARIANT(!service_answer(&service, &token, fds[1], &e).failed);
    expect_answer(fds[0], &m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int fds[2] = {-1, -1};
    struct reader r = reader_of(BYTES(data, size));
    struct err e = {0};
    INVARIANT(!chan_pair(fds, &e).failed);
    prepare();
    memset(fake.anchor, 0, sizeof fake.anchor);
    for (unsigned i = 0; i < 16 && r.n > 2; i++) {
        uint8_t how = reader_u8(&r), n = reader_u8(&r);
        struct bytes in = reader_take(&r, n < r.n ? n : r.n);
        ask(fds, how % 16, in);
        if (how % 16 > 13)
            break;
    }
    (void)close(fds[0]);
    (void)close(fds[1]);
    return 0;
}
