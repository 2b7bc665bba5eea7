/*
 * Purpose: the shapes of what the audit key signs. A checkpoint body (C2SP tlog-checkpoint): origin line, tree size, root hash in
 *          base64, then optional non-empty extension lines. A certificate of destruction (docs/FORMATS.md): its first line, origin, then
 *          facts in their order. Each line is ended by a newline; nothing is both, since no origin is a tree size.
 * Owns: nothing. Threads: pure. Errors: ERR_DENIED "HSM_REFUSED" with what is wrong.
 * Limits: HSM_MESSAGE_MAX bytes. Secrets: none.
 */
#ifndef HSM_NOTE_H
#define HSM_NOTE_H

#include "base/bytes.h"

/* origin: the exact first line that is allowed; NULL: any that is well-formed. */
RESULT note_check_checkpoint(struct bytes untrusted_body, const char *origin, struct err *e);
RESULT note_check_certificate(struct bytes untrusted_text, const char *origin, struct err *e);

#endif
