/*
 * A service that uses the client library: client_probe KEY < plaintext (one line). Encrypts it locally under a data key, prints the
 * message in hexadecimal, and waits for the next line; forgets its keys, says so, and waits again; disconnects, says so, and waits for
 * the end of stdin. Like kmsctl it is linked with base/wipefree.o. The connection comes from the environment (KMS_ENDPOINT ...).
 */
#include "base/bytes.h"
#include "vault/client/claviger.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int failed(const struct claviger_error *e)
{
    fprintf(stderr, "client_probe: %s %s\n", e->reason, e->message);
    return 1;
}

/* Unbuffered: stdio would keep the plaintext in a buffer of its own. */
static size_t read_line(char *out, size_t n)
{
    size_t got = 0;
    while (got < n && read(STDIN_FILENO, out + got, 1) == 1 && out[got] != '\n')
        got++;
    return got;
}

int main(int argc, char **argv)
{
    const struct claviger_options options = {.size = sizeof options};
    struct claviger_error e;
    struct claviger *c;
    struct claviger_buffer message;
    char line[256];
    size_t n = read_line(line, sizeof line);
    if (argc != 2 || n == 0)
        return 2;
    if (claviger_connect(&options, &c, &e) != 0 || claviger_local_encrypt(c, argv[1], line, n, NULL, &message, &e) != 0)
        return failed(&e);
    wipe(line, sizeof line);
    for (size_t i = 0; i < message.len; i++)
        printf("%02x", message.data[i]);
    printf("\n");
    fflush(stdout);
    (void)read_line(line, sizeof line);
    claviger_forget_keys(c);
    printf("forgotten\n");
    fflush(stdout);
    (void)read_line(line, sizeof line);
    claviger_buffer_free(&message);
    claviger_free(c);
    printf("disconnected\n");
    fflush(stdout);
    (void)read_line(line, sizeof line);
    return 0;
}
