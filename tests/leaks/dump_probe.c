/*
 * Dies with a core dump on purpose, key memory full: dump_probe ORDINARY [careless] < 32 bytes of key. It is what core is without
 * its two other lines of defence (the limit, and not being dumpable), so that the third can be seen: the kernel's own dump leaves
 * out what is marked. "careless" also keeps a copy of the key in ordinary memory, where ORDINARY always is.
 */
#include "kms/crypto/cipher.h"
#include "kms/crypto/hierarchy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static void need(struct result r)
{
    INVARIANT(!r.failed);
}

int main(int argc, char **argv)
{
    struct rlimit core;
    struct err e;
    struct secret *key;
    struct aead_key *kek;
    uint8_t sealed[AEAD_OVERHEAD + 1];
    if (argc < 2 || getrlimit(RLIMIT_CORE, &core) != 0)
        return 2;
    core.rlim_cur = core.rlim_max;
    INVARIANT(setrlimit(RLIMIT_CORE, &core) == 0);
    need(cipher_memory_init(2, &e));
    need(secret_slab_init(16, &e));
    need(secret_new(SECRET_KEY_BYTES, &key, &e));
    INVARIANT(read(STDIN_FILENO, secret_borrow_mut(key), SECRET_KEY_BYTES) == SECRET_KEY_BYTES);
    need(hierarchy_kek(key, &kek, &e));
    aead_seal(kek, BYTES_LIT("h"), BYTES_LIT(""), BYTES_LIT(""), sealed); /* leaves a key schedule in its thread's context */
    char *ordinary = strdup(argv[1]), *copy = malloc(SECRET_KEY_BYTES);
    INVARIANT(ordinary != NULL && copy != NULL);
    if (argc > 2)
        memcpy(copy, secret_borrow(key), SECRET_KEY_BYTES);
    __asm__ volatile("" : : "r"(ordinary), "r"(copy) : "memory"); /* somebody might read them: they are written */
    if (write(STDOUT_FILENO, sealed, sizeof sealed) != (ssize_t)sizeof sealed)
        return 2;
    abort();
}
