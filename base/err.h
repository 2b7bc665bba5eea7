/*
 * Purpose: the one error type. Functions that can fail return RESULT and take a `struct err *` last, untouched on success.
 * Owns:    nothing; every string in an err except `detail` is a literal.
 * Threads: an err belongs to its caller; no thread-local, no errno across modules.
 * Errors:  this is them. Codes say what the *caller can do*; vault/rpc/status.c alone maps them to gRPC.
 * Limits:  ERR_DETAIL_BYTES of private detail, cut with "...".
 * Secrets: `detail` goes to the log only, and never holds a secret; clients get err_phrase(code), reason, field and hint.
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include <errno.h> /* FAIL_ERRNO */
#include <stdbool.h>
#include <stddef.h>

enum { ERR_DETAIL_BYTES = 256 };

/*      code                what the caller can do about it; the fixed phrase a client sees */
#define ERR_CODES(X)                                                                              \
    X(ERR_NONE,             "ok")                                                                 \
    X(ERR_INVALID,          "the request is not valid")               /* fix the request */       \
    X(ERR_OUT_OF_RANGE,     "the value is out of range")              /* ask for less */          \
    X(ERR_UNAUTHENTICATED,  "the caller is not authenticated")        /* present credentials */   \
    X(ERR_DENIED,           "permission denied")                      /* ask for permission */    \
    X(ERR_NOT_FOUND,        "not found")                              /* create it first */       \
    X(ERR_EXISTS,           "already exists")                         /* use it, or other name */ \
    X(ERR_STATE,            "the resource is not in the right state") /* change the state */      \
    X(ERR_CONFLICT,         "the resource was changed meanwhile")     /* read again, retry */     \
    X(ERR_EXHAUSTED,        "a limit was reached")                    /* slow down, retry later */\
    X(ERR_CIPHERTEXT,       "the ciphertext cannot be decrypted")     /* every cause, one text */ \
    X(ERR_UNIMPLEMENTED,    "not implemented")                        /* use something else */    \
    X(ERR_UNAVAILABLE,      "the service is unavailable for now")     /* retry with backoff */    \
    X(ERR_DEADLINE,         "the deadline has passed")                /* allow more time */       \
    X(ERR_CANCELLED,        "the call was cancelled")                 /* nothing */               \
    X(ERR_DATA_LOSS,        "stored data failed its integrity check") /* call the operator */     \
    X(ERR_WOULD_BLOCK,      "needs the slow lane")                    /* internal: never leaves */\
    X(ERR_INTERNAL,         "internal error")                         /* report a bug */

enum err_code {
#define X(code, phrase) code,
    ERR_CODES(X)
#undef X
};

struct err {
    enum err_code code;
    const char *reason; /* literal, UPPER_SNAKE: google.rpc.ErrorInfo.reason; NULL: the code's name */
    const char *field;  /* literal: request field at fault (proto path), or NULL */
    const char *hint;   /* literal, public: what is wrong with it or what to do, or NULL */
    const char *file;
    int line;
    char detail[ERR_DETAIL_BYTES]; /* private: for the log */
};

struct result {
    int failed;
};
/* Return type of everything that can fail: dropping it is a compile error. */
#define RESULT __attribute__((warn_unused_result)) struct result

static inline struct result ok(void)
{
    return (struct result){0};
}

/* The two control-flow macros; there is no third. */
#define TRY(expr)                                                                                  \
    do {                                                                                           \
        if ((expr).failed)                                                                         \
            return (struct result){1};                                                             \
    } while (0)
/* FAIL(err, ERR_STATE, "KEY_VERSION_DISABLED", "version %u is disabled", n): reason a literal or NULL, detail private. */
#define FAIL(e, code_, reason_, ...) return err_set((e), (code_), (reason_), __FILE__, __LINE__, __VA_ARGS__)
/* Refusal of one request field; `hint` is a literal that the client reads: err_field(e, "crypto_key_id", "must match ..."). */
#define err_field(e, field_, hint_) err_set_field((e), (field_), (hint_), __FILE__, __LINE__)

struct result err_set(struct err *e, enum err_code code, const char *reason, const char *file, int line,
                      const char *fmt, ...) __attribute__((format(printf, 6, 7)));
struct result err_set_field(struct err *e, const char *field, const char *hint, const char *file, int line);
/* The same with errno's text appended to the detail (call at once after the failing call). */
struct result err_set_errno(struct err *e, enum err_code code, const char *reason, int errnum, const char *file, int line,
                            const char *fmt, ...) __attribute__((format(printf, 7, 8)));
#define FAIL_ERRNO(e, code_, reason_, ...)                                                         \
    return err_set_errno((e), (code_), (reason_), errno, __FILE__, __LINE__, __VA_ARGS__)

const char *err_phrase(enum err_code code); /* fixed public text */
const char *err_name(enum err_code code);   /* "ERR_STATE" */
/* Public message into out (NUL-terminated, cut to n): phrase[: field][: hint]. Returns out. */
const char *err_public(const struct err *e, char *out, size_t n);
/* "ERR_STATE/KEY_VERSION_DISABLED field: hint (detail) at file:line" for the log and for start-up messages. */
const char *err_log_text(const struct err *e, char *out, size_t n);
/* For an operator at start-up: what is wrong in words (detail, else hint, else phrase), then [code/reason]. */
const char *err_operator(const struct err *e, char *out, size_t n);

/* A broken invariant is a bug: stops the process in every build, after one line on stderr. */
#define INVARIANT(cond)                                                                            \
    do {                                                                                           \
        if (__builtin_expect(!(cond), 0))                                                          \
            invariant_failed(#cond, __FILE__, __LINE__);                                           \
    } while (0)
__attribute__((noreturn)) void invariant_failed(const char *what, const char *file, int line);

/* Scope-bound release: CLEANUP(buf_release) struct buf b = {0}; the function takes a pointer to the variable. */
#define CLEANUP(fn) __attribute__((cleanup(fn)))

#endif
