#include "kms/policy/yaml.h"

#include "base/text.h"
#include "kms/policy/policy.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <yaml.h>

/* One open mapping or sequence; path_n is how much of the path names it. */
struct frame {
    bool mapping, key_next;
    unsigned index, keys;
    size_t path_n;
    char seen[YAML_KEYS_MAX][YAML_KEY_MAX + 1];
};
struct walk {
    struct yaml_fault *fault;
    yaml_key_known *known;
    const char *want; /* path whose line is looked for, or NULL */
    unsigned want_line;
    unsigned documents, depth;
    struct frame frames[YAML_DEPTH_MAX];
    char path[YAML_DEPTH_MAX * (YAML_KEY_MAX + 16)];
};

__attribute__((format(printf, 3, 4))) static bool fault(struct walk *w, size_t line0, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    w->fault->line = (unsigned)line0 + 1;
    vsnprintf(w->fault->text, sizeof w->fault->text, fmt, args);
    va_end(args);
    return false;
}

static bool check_bytes(struct walk *w, struct bytes text)
{
    size_t line = 0;
    if (text.n == 0 || text.n > POLICY_DOC_MAX)
        return fault(w, 0, "the document has %zu bytes; 1 to %d are read", text.n, POLICY_DOC_MAX);
    for (size_t i = 0; i < text.n; i++) {
        uint8_t c = text.p[i];
        if (c == '\t')
            return fault(w, line, "a tab: indent with spaces");
        if ((c < 0x20 && c != '\n') || c == 0x7f)
            return fault(w, line, "a control character (0x%02x)", c);
        line += c == '\n';
    }
    return text_is_utf8(text) || fault(w, 0, "the document is not UTF-8");
}

/* Called where a node (not a key) begins: completes the path with the place it takes in its parent. */
static void place(struct walk *w, size_t line0)
{
    if (w->depth == 0)
        w->path[0] = '\0';
    if (w->depth > 0 && !w->frames[w->depth - 1].mapping) {
        struct frame *f = &w->frames[w->depth - 1];
        snprintf(w->path + f->path_n, sizeof w->path - f->path_n, "[%u]", f->index++);
    }
    if (w->want && w->want_line == 0 && strcmp(w->path, w->want) == 0)
        w->want_line = (unsigned)line0 + 1;
}

static bool take_key(struct walk *w, struct bytes key, size_t line0)
{
    struct frame *f = &w->frames[w->depth - 1];
    if (key.n < 1 || key.n > YAML_KEY_MAX || f->keys == YAML_KEYS_MAX)
        return fault(w, line0, "%s", key.n > YAML_KEY_MAX ? "an unknown, overlong key" : key.n ? "too many keys in one mapping" : "an empty key");
    char *copy = f->seen[f->keys];
    memcpy(copy, key.p, key.n);
    copy[key.n] = '\0';
    for (unsigned i = 0; i < f->keys; i++)
        if (strcmp(f->seen[i], copy) == 0)
            return fault(w, line0, "key \"%s\" appears twice", copy);
    f->keys++;
    f->key_next = false;
    w->path[f->path_n] = '\0';
    if (w->known && !w->known(w->path, copy))
        return fault(w, line0, "unknown key \"%s\"", copy);
    snprintf(w->path + f->path_n, sizeof w->path - f->path_n, "%s%s", f->path_n ? "." : "", copy);
    return true;
}

static bool is_key_next(const struct walk *w)
{
    return w->depth > 0 && w->frames[w->depth - 1].mapping && w->frames[w->depth - 1].key_next;
}

static void node_done(struct walk *w)
{
    if (w->depth > 0)
        w->frames[w->depth - 1].key_next = true;
}

static bool open_node(struct walk *w, bool mapping, size_t line0)
{
    if (is_key_next(w))
        return fault(w, line0, "a key must be a word");
    if (w->depth == YAML_DEPTH_MAX)
        return fault(w, line0, "nested deeper than %d levels", YAML_DEPTH_MAX);
    place(w, line0);
    struct frame *f = &w->frames[w->depth++];
    f->mapping = mapping;
    f->key_next = true;
    f->index = f->keys = 0;
    f->path_n = strlen(w->path);
    return true;
}

static bool scalar(struct walk *w, const yaml_event_t *ev)
{
    struct bytes value = BYTES(ev->data.scalar.value, ev->data.scalar.length);
    size_t line0 = ev->start_mark.line;
    /* Escapes in double quotes can spell what check_bytes has refused; C strings would end at a NUL. */
    if (value.n > YAML_SCALAR_MAX || !text_is_clean_utf8(value))
        return fault(w, line0, "a value that is too long or has control characters");
    if (is_key_next(w))
        return take_key(w, value, line0);
    place(w, line0);
    node_done(w);
    return true;
}

static bool is_plain(struct walk *w, const yaml_event_t *ev, const yaml_char_t *anchor, const yaml_char_t *tag)
{
    if (anchor)
        return fault(w, ev->start_mark.line, "an anchor (&): write it out");
    if (tag)
        return fault(w, ev->start_mark.line, "a tag (!): values are plain");
    return true;
}

static bool take_event(struct walk *w, const yaml_event_t *ev)
{
    size_t line0 = ev->start_mark.line;
    switch (ev->type) {
    case YAML_DOCUMENT_START_EVENT:
        if (w->documents++)
            return fault(w, line0, "a second document: one to a file");
        if (ev->data.document_start.version_directive || ev->data.document_start.tag_directives.start != ev->data.document_start.tag_directives.end)
            return fault(w, line0, "a %% directive");
        return true;
    case YAML_ALIAS_EVENT:
        return fault(w, line0, "an alias (*): write it out, or quote the star");
    case YAML_SCALAR_EVENT:
        return is_plain(w, ev, ev->data.scalar.anchor, ev->data.scalar.tag) && scalar(w, ev);
    case YAML_SEQUENCE_START_EVENT:
        return is_plain(w, ev, ev->data.sequence_start.anchor, ev->data.sequence_start.tag) && open_node(w, false, line0);
    case YAML_MAPPING_START_EVENT:
        return is_plain(w, ev, ev->data.mapping_start.anchor, ev->data.mapping_start.tag) && open_node(w, true, line0);
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        w->depth--;
        node_done(w);
        return true;
    case YAML_NO_EVENT:
    case YAML_STREAM_START_EVENT:
    case YAML_STREAM_END_EVENT:
    case YAML_DOCUMENT_END_EVENT:
        return true;
    }
    return true;
}

static bool walk(struct walk *w, struct bytes text)
{
    yaml_parser_t parser;
    bool good = true, end = false;
    INVARIANT(yaml_parser_initialize(&parser) == 1);
    yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&parser, text.p, text.n);
    while (good && !end) {
        yaml_event_t ev;
        if (!yaml_parser_parse(&parser, &ev)) {
            INVARIANT(parser.error != YAML_MEMORY_ERROR); /* nothing is wrong with the document */
            good = fault(w, parser.problem_mark.line, "%s", parser.problem ? parser.problem : "not YAML");
            break;
        }
        good = take_event(w, &ev);
        end = ev.type == YAML_STREAM_END_EVENT;
        yaml_event_delete(&ev);
    }
    yaml_parser_delete(&parser);
    return good && (w->documents == 1 || fault(w, 0, "the document is empty"));
}

bool yaml_check(struct bytes untrusted, yaml_key_known *known, struct yaml_fault *ret)
{
    struct walk w = {.fault = ret, .known = known};
    return check_bytes(&w, untrusted) && walk(&w, untrusted);
}

unsigned yaml_line(struct bytes checked, const char *path)
{
    struct yaml_fault unused;
    struct walk w = {.fault = &unused, .want = path};
    return walk(&w, checked) && w.want_line ? w.want_line : 1;
}
