#include "kms/policy/document.h"

#include "kms/policy/policy.h"

#include <cyaml/cyaml.h>
#include <stdio.h>
#include <string.h>

static const cyaml_strval_t EFFECTS[] = {{"allow", DOC_ALLOW}, {"deny", DOC_DENY}};

static const cyaml_schema_value_t WORD = {CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char, 1, DOC_WORD_MAX)};
static const cyaml_schema_value_t RESOURCE = {CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char, 1, DOC_RESOURCE_MAX)};

static const cyaml_schema_field_t RULE_FIELDS[] = {
    CYAML_FIELD_STRING_PTR("id", CYAML_FLAG_POINTER, struct doc_rule, id, 1, POLICY_RULE_ID_MAX),
    CYAML_FIELD_ENUM("effect", CYAML_FLAG_STRICT, struct doc_rule, effect, EFFECTS, CYAML_ARRAY_LEN(EFFECTS)),
    CYAML_FIELD_SEQUENCE("actions", CYAML_FLAG_POINTER, struct doc_rule, actions, &WORD, 1, DOC_LIST_MAX),
    CYAML_FIELD_SEQUENCE("resources", CYAML_FLAG_POINTER, struct doc_rule, resources, &RESOURCE, 1, DOC_LIST_MAX),
    CYAML_FIELD_END,
};
static const cyaml_schema_value_t RULE = {CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct doc_rule, RULE_FIELDS)};

static const cyaml_schema_field_t ROLE_FIELDS[] = {
    CYAML_FIELD_STRING_PTR("name", CYAML_FLAG_POINTER, struct doc_role, name, 1, POLICY_RULE_ID_MAX),
    CYAML_FIELD_SEQUENCE("rules", CYAML_FLAG_POINTER, struct doc_role, rules, &RULE, 1, POLICY_RULES_MAX),
    CYAML_FIELD_END,
};
static const cyaml_schema_value_t ROLE = {CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct doc_role, ROLE_FIELDS)};

static const cyaml_schema_field_t BINDING_FIELDS[] = {
    CYAML_FIELD_STRING_PTR("role", CYAML_FLAG_POINTER, struct doc_binding, role, 1, POLICY_RULE_ID_MAX),
    CYAML_FIELD_STRING_PTR("tenant", CYAML_FLAG_POINTER, struct doc_binding, tenant, 1, NAME_SEGMENT_MAX),
    CYAML_FIELD_SEQUENCE("principals", CYAML_FLAG_POINTER, struct doc_binding, principals, &WORD, 1, DOC_LIST_MAX),
    CYAML_FIELD_END,
};
static const cyaml_schema_value_t BINDING = {CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct doc_binding, BINDING_FIELDS)};

static const cyaml_schema_field_t GUARD_FIELDS[] = {
    CYAML_FIELD_STRING_PTR("id", CYAML_FLAG_POINTER, struct doc_guard, id, 1, POLICY_RULE_ID_MAX),
    CYAML_FIELD_SEQUENCE("resources", CYAML_FLAG_POINTER, struct doc_guard, resources, &RESOURCE, 1, DOC_LIST_MAX),
    CYAML_FIELD_UINT("unused_days", CYAML_FLAG_DEFAULT, struct doc_guard, unused_days),
    CYAML_FIELD_END,
};
static const cyaml_schema_value_t GUARD = {CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct doc_guard, GUARD_FIELDS)};

static const cyaml_schema_field_t DOCUMENT_FIELDS[] = {
    CYAML_FIELD_UINT("version", CYAML_FLAG_DEFAULT, struct document, version),
    CYAML_FIELD_SEQUENCE("roles", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct document, roles, &ROLE, 1, DOC_ROLES_MAX),
    CYAML_FIELD_SEQUENCE("bindings", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct document, bindings, &BINDING, 1, DOC_BINDINGS_MAX),
    CYAML_FIELD_SEQUENCE("guards", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct document, guards, &GUARD, 1, DOC_GUARDS_MAX),
    CYAML_FIELD_END,
};
static const cyaml_schema_value_t DOCUMENT = {CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct document, DOCUMENT_FIELDS)};

/* The same tables by path, so that an unknown key is named with its own line. */
static const struct {
    const char *path;
    const cyaml_schema_field_t *fields;
} SHAPES[] = {{"", DOCUMENT_FIELDS}, {"roles[]", ROLE_FIELDS}, {"roles[].rules[]", RULE_FIELDS}, {"bindings[]", BINDING_FIELDS}, {"guards[]", GUARD_FIELDS}};

static bool same_shape(const char *path, const char *shape)
{
    for (; *path && *path == *shape; path++, shape++)
        if (*path == '[')
            path += strspn(path + 1, "0123456789");
    return *path == *shape;
}

static bool is_known_key(const char *path, const char *key)
{
    for (size_t i = 0; i < sizeof SHAPES / sizeof SHAPES[0]; i++)
        if (same_shape(path, SHAPES[i].path))
            for (const cyaml_schema_field_t *f = SHAPES[i].fields; f->key; f++)
                if (strcmp(f->key, key) == 0)
                    return true;
    return false;
}

/* libcyaml tells what and where in its log alone: first the complaint, then a backtrace, innermost place first. */
static void listen(cyaml_log_t level, void *context, const char *fmt, va_list args)
{
    struct yaml_fault *fault = context;
    char text[YAML_FAULT_BYTES];
    if (level < CYAML_LOG_ERROR)
        return;
    vsnprintf(text, sizeof text, fmt, args);
    text[strcspn(text, "\n")] = '\0';
    const char *at = strstr(text, "(line: ");
    if (at && fault->line == 0)
        (void)sscanf(at, "(line: %u", &fault->line);
    if (!at && fault->text[0] == '\0') {
        const char *what = strncmp(text, "Load: ", 6) == 0 ? text + 6 : text;
        memcpy(fault->text, what, strlen(what) + 1);
    }
}

static cyaml_config_t config_for(struct yaml_fault *fault)
{
    return (cyaml_config_t){
        .log_fn = fault ? listen : NULL, .log_ctx = fault, .mem_fn = cyaml_mem, .log_level = CYAML_LOG_ERROR, .flags = CYAML_CFG_NO_ALIAS};
}

bool document_load(struct bytes untrusted, struct document **ret, struct yaml_fault *fault)
{
    if (!yaml_check(untrusted, is_known_key, fault))
        return false;
    *fault = (struct yaml_fault){0};
    cyaml_config_t config = config_for(fault);
    cyaml_data_t *data = NULL;
    cyaml_err_t rc = cyaml_load_data(untrusted.p, untrusted.n, &config, &DOCUMENT, &data, NULL);
    if (rc == CYAML_OK && data) {
        *ret = data;
        return true;
    }
    /* yaml_check has seen libyaml through to the end of these bytes: where it stops now there was no memory */
    INVARIANT(rc != CYAML_ERR_OOM && rc != CYAML_ERR_LIBYAML_PARSER && rc != CYAML_ERR_LIBYAML_PARSER_INIT);
    if (fault->line == 0)
        fault->line = 1;
    if (fault->text[0] == '\0')
        snprintf(fault->text, sizeof fault->text, "%s", cyaml_strerror(rc));
    return false;
}

void document_free(struct document *d)
{
    cyaml_config_t config = config_for(NULL);
    if (d)
        (void)cyaml_free(&config, &DOCUMENT, d, 0);
}
