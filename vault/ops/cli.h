/*
 * Purpose: the command line of kmsd: one table of subcommands, stable exit codes, messages that say what to do.
 * Owns:    nothing. Threads: one.
 * Errors:  none leave: cli_run prints them and returns the exit code.
 * Limits:  none. Secrets: none on the command line, ever: PINs come from files.
 */
#ifndef VAULT_OPS_CLI_H
#define VAULT_OPS_CLI_H

enum cli_exit { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_CONFIG = 3 };

int cli_run(int argc, char **argv);

#endif
