/* A grammar with its query, ready to tag files; for the files that know tree-sitter. */
#ifndef REPOMAP_GRAMMAR_H
#define REPOMAP_GRAMMAR_H

#include "repomap/parts.h"

#include <tree_sitter/api.h>

#include <regex.h>

struct predicate {
	bool negated, is_match;
	uint32_t capture;
	bool to_capture; /* compare with another capture */
	uint32_t other;
	terrace_slice text; /* borrowed from the query */
	regex_t *regex;
};

struct pattern {
	struct predicate *predicates;
	uint32_t count;
};

/* What a capture means. */
enum role { ROLE_OTHER, ROLE_NAME, ROLE_DEFINITION, ROLE_REFERENCE };

struct grammar {
	const TSLanguage *language;
	TSQuery *query;
	enum role *roles; /* of each capture */
	struct pattern *patterns;
};

/* TERRACE_OK; TERRACE_EFORMAT with terrace_error_message(). */
int grammar_make(const char *name, const TSLanguage *language, const char *query, size_t size,
                 struct grammar **ret);
void grammar_free(struct grammar *grammar);
/* Do the predicates of a match hold? */
bool grammar_accepts(const struct grammar *grammar, const TSQueryMatch *match, const char *source);

#endif
