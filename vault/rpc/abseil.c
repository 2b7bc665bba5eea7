/* Debian builds abseil, on whose mutexes gRPC stands, with its debugging on: each mutex that is taken while another is held becomes
 * a node of one graph for the whole process, under one lock, its edges in tables that only grow, and a cycle in it is abort(). With
 * each connection it kept about 60 bytes for ever. Switched off by abseil's own call, before gRPC has started. There is no C
 * declaration of it, and another build of abseil names it differently: looked up, and said when it is not there. */
#include "vault/rpc/abseil.h"

#include "base/log.h"

#include <dlfcn.h>
#include <stddef.h>

enum { ON_DEADLOCK_CYCLE_IGNORE = 0 }; /* absl::OnDeadlockCycle::kIgnore */

bool abseil_no_deadlock_graph(void)
{
    /* absl::debian3::SetMutexDeadlockDetectionMode(OnDeadlockCycle) */
    static const char name[] = "_ZN4absl7debian329SetMutexDeadlockDetectionModeENS0_15OnDeadlockCycleE";
    void (*set)(int mode) = NULL;

    *(void **)&set = dlsym(RTLD_DEFAULT, name);
    if (set == NULL) {
        log_event(LOG_WARN, "abseil's search for deadlocks could not be switched off: if it is a debug build, memory grows with connections");
        return false;
    }
    set(ON_DEADLOCK_CYCLE_IGNORE);
    return true;
}
