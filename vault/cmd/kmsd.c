#include "vault/ops/cli.h"

#include <sys/stat.h>

int main(int argc, char **argv)
{
    umask(077); /* for the children too: whatever a library of theirs makes is ours alone */
    return cli_run(argc, argv);
}
