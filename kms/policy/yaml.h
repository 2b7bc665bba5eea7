/*
 * Purpose: the plain subset of YAML that policy is written in, checked over libyaml's events before anything is built from
 *          it, and the line on which a node stands.
 * Owns:    nothing.
 * Threads: pure.
 * Errors:  false with line and text in struct yaml_fault.
 * Limits:  POLICY_DOC_MAX bytes; YAML_DEPTH_MAX levels; YAML_KEYS_MAX keys a mapping; YAML_SCALAR_MAX bytes a scalar.
 *          One document; no tabs, CRs or control characters, no anchors, aliases, tags or directives, no repeated keys.
 * Secrets: none.
 */
#ifndef KMS_POLICY_YAML_H
#define KMS_POLICY_YAML_H

#include "base/bytes.h"

enum { YAML_DEPTH_MAX = 8, YAML_KEYS_MAX = 8, YAML_KEY_MAX = 32, YAML_SCALAR_MAX = 512, YAML_FAULT_BYTES = 200 };

struct yaml_fault {
    unsigned line; /* from 1 */
    char text[YAML_FAULT_BYTES];
};
/* Whether a mapping at this path may have this key; libcyaml refuses others too, but names the line before. */
typedef bool yaml_key_known(const char *path /* e.g. "roles[2]" */, const char *key);
bool yaml_check(struct bytes untrusted, yaml_key_known *known, struct yaml_fault *ret);
/* Line of the node at this path, e.g. "roles[2].rules[0].actions[1]", of a text that yaml_check has passed; 1 if there is none. */
unsigned yaml_line(struct bytes checked, const char *path);

#endif
