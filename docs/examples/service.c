/* An example service: turns names on stdin into rows that may be stored anywhere, and reads them back. Build and run:
 *
 *     cc -o service service.c $(pkg-config --cflags --libs claviger)
 *     . var/dev.env; printf 'jane@example.com\njoe@example.org\n' | ./service acme/eu/pii/email
 *
 * KMS_ENDPOINT, KMS_CA, KMS_SERVICE_CERT and KMS_SERVICE_KEY say where the daemon is and who we are. The server is asked once,
 * for a data key; every field is then encrypted in this process, bound to its column and row. */
#include <claviger.h>
#include <stdio.h>
#include <string.h>

static int complain(const char *what, const struct claviger_error *e)
{
    fprintf(stderr, "%s: %s %s: %s\n", what, claviger_code_name(e->code), e->reason, e->message);
    return 1;
}

static int store_and_load(struct claviger *kms, const char *key, const char *email, int row)
{
    char id[16];
    snprintf(id, sizeof id, "%d", row);
    const struct claviger_pair pairs[] = {{"column", "email"}, {"row", id}};
    const struct claviger_binding bound = {.context = pairs, .context_len = 2};
    struct claviger_buffer stored = {0}, loaded = {0};
    struct claviger_error e;
    if (claviger_local_encrypt(kms, key, email, strlen(email), &bound, &stored, &e) != CLAVIGER_OK)
        return complain("encrypt", &e);
    int rc = claviger_local_decrypt(kms, key, stored.data, stored.len, &bound, &loaded, &e);
    if (rc == CLAVIGER_OK)
        printf("row %d: %zu bytes stored, read back: %.*s\n", row, stored.len, (int)loaded.len, (const char *)loaded.data);
    else
        complain("decrypt", &e);
    claviger_buffer_free(&stored);
    claviger_buffer_free(&loaded);
    return rc;
}

int main(int argc, char **argv)
{
    char tenant[64], location[64], ring[64], name[64], key[320], line[256];
    if (argc != 2 || sscanf(argv[1], "%63[^/]/%63[^/]/%63[^/]/%63s", tenant, location, ring, name) != 4)
        return fprintf(stderr, "usage: service TENANT/LOCATION/RING/KEY < lines\n"), 2;
    snprintf(key, sizeof key, "projects/%s/locations/%s/keyRings/%s/cryptoKeys/%s", tenant, location, ring, name);
    struct claviger_options options = {.size = sizeof options};
    struct claviger_error e;
    struct claviger *kms = NULL;
    if (claviger_connect(&options, &kms, &e) != CLAVIGER_OK)
        return complain("connect", &e);
    int rc = 0;
    for (int row = 1; rc == 0 && fgets(line, sizeof line, stdin); row++) {
        line[strcspn(line, "\n")] = 0;
        rc = store_and_load(kms, key, line, row);
    }
    claviger_free(kms);
    return rc != 0;
}
