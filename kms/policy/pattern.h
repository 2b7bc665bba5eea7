/*
 * Purpose: resource patterns: parsed once into one test a level, matched without allocation.
 * Owns:    nothing: a pattern views the text it was parsed from.
 * Threads: pure.
 * Errors:  pattern_parse: a literal text that says what is wrong, or NULL.
 * Limits:  those of kms/name.
 * Secrets: none.
 *
 *   instance                              the instance itself, which is in no tenant
 *   projects/{tenant}/locations/eu        exactly this; {tenant} is the caller's tenant
 *   projects/{tenant}/locations/x         with a star for x: any one segment there; collection words are always spelled out
 *   projects/{tenant}/xx                  with two stars for xx (last only): the tenant itself and everything below it
 *   xx                                    with two stars: everything, the instance too
 */
#ifndef KMS_POLICY_PATTERN_H
#define KMS_POLICY_PATTERN_H

#include "kms/name/name.h"

enum segment_kind { SEGMENT_LITERAL, SEGMENT_ANY, SEGMENT_CALLERS_TENANT };
struct segment {
    enum segment_kind kind;
    struct bytes text;
    uint32_t version;
};
struct pattern {
    unsigned depth;                 /* levels tested: segments[0..depth) are tenant, location, ring, key, version */
    enum name_kind shallow, deepest; /* kinds that can match */
    struct segment segments[NAME_VERSION];
};
const char *pattern_parse(struct bytes untrusted, struct pattern *ret);
bool pattern_match(const struct pattern *p, const struct name *resource, struct bytes callers_tenant);
bool pattern_names_callers_tenant(const struct pattern *p); /* then it can match inside that tenant only */

#endif
