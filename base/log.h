/*
 * Purpose: structured log: one event a line on stderr, a constant message plus typed key=value fields, logfmt-quoted.
 * Owns:    the level (atomic) and the process name: the only mutable globals beside the stop flag.
 * Threads: any; a line is one write(2). Libraries below vault/ log only through what they are given or not at all,
 *          except for background threads, which log here.
 * Errors:  none reported; a line that cannot be written is dropped.
 * Limits:  LOG_LINE_BYTES a line; LOG_FIELDS_MAX fields; values are escaped.
 * Secrets: a field is an integer, a literal, a public name, bytes shown as hex (ids), or an err. No field type takes a secret.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include "base/bytes.h"

enum { LOG_LINE_BYTES = 2048, LOG_FIELDS_MAX = 16 };
enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

struct log_field {
    const char *key;
    enum { LOGF_INT, LOGF_STR, LOGF_HEX, LOGF_ERR, LOGF_END } kind;
    int64_t i;
    struct bytes s;
    const struct err *e;
};
#define LF_INT(k, v) ((struct log_field){.key = (k), .kind = LOGF_INT, .i = (int64_t)(v)})
#define LF_STR(k, v) ((struct log_field){.key = (k), .kind = LOGF_STR, .s = bytes_str(v)})
#define LF_TXT(k, b) ((struct log_field){.key = (k), .kind = LOGF_STR, .s = (b)})
#define LF_HEX(k, b) ((struct log_field){.key = (k), .kind = LOGF_HEX, .s = (b)})
#define LF_ERR(err_) ((struct log_field){.key = "error", .kind = LOGF_ERR, .e = (err_)})

void log_init(const char *process /* literal */, enum log_level max_level);
void log_set_level(enum log_level max_level);
bool log_level_from_text(struct bytes text, enum log_level *ret); /* error warn info debug */
void log_write(enum log_level level, const char *msg, const struct log_field *fields /* ends with LOGF_END */);
/* log_event(LOG_INFO, "listening", LF_STR("address", a), LF_INT("port", p)); */
#define log_event(level, msg, ...)                                                                 \
    log_write((level), ("" msg), (const struct log_field[]){__VA_ARGS__ __VA_OPT__(, ) {.kind = LOGF_END}})

#endif
