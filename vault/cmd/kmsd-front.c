#include "base/child.h"
#include "base/log.h"
#include "vault/front/front.h"

#include <string.h>

/* The front process; only the monitor starts it (base/child.h). */
int main(void)
{
    struct child c;
    struct err e;
    if (child_start("front", &c, &e).failed)
        return child_start_failed("front", &e);
    if (front_serve(&c, &e).failed) {
        /* What a person must mend: files, and memory that cannot be locked. The rest the monitor tries again. */
        if (e.code == ERR_INVALID || (e.reason != NULL && strcmp(e.reason, "SECRET_MEMORY") == 0))
            child_fatal(&c, &e);
        char text[512];
        log_event(LOG_ERROR, "front ends", LF_STR("error", err_log_text(&e, text, sizeof text)));
        child_release(&c);
        return 1;
    }
    child_release(&c);
    return 0;
}
