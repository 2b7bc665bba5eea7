/*
 * Purpose: the listening socket, opened once by the monitor and handed to every front that follows; and the file that tells
 *          local tools where it is.
 * Owns:    nothing: descriptors are the caller's.
 * Threads: the monitor's one.
 * Errors:  ERR_INVALID "LISTEN_ADDRESS" (configuration), ERR_EXISTS "PORT_IN_USE", ERR_DENIED "PORT_DENIED" (below 1024).
 * Limits:  numeric addresses only: a name could resolve to something else tomorrow.
 * Secrets: none.
 */
#ifndef VAULT_OPS_LISTEN_H
#define VAULT_OPS_LISTEN_H

#include "base/bytes.h"

#include <sys/socket.h>

enum { LISTEN_TEXT_BYTES = 64 };

struct listen_address {
    struct sockaddr_storage sa;
    socklen_t n;
};
/* "127.0.0.1:7443" or "[::1]:7443"; port 0 lets the kernel choose. */
RESULT listen_parse(const char *text, struct listen_address *ret, struct err *e);
/* Non-blocking, CLOEXEC, listening. ret_text gets the bound address in the same form. */
RESULT listen_open(const char *text, int *ret_fd, char ret_text[LISTEN_TEXT_BYTES], struct err *e);

/* run_dir/endpoint: one line, the bound address; its presence means "serving". Replaced atomically. */
RESULT endpoint_write(const char *run_dir, const char *address, struct err *e);
void endpoint_remove(const char *run_dir);

#endif
