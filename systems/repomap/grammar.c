/* Queries: what their captures mean, and their predicates. */
#include "repomap/grammar.h"

#include <stdlib.h>

static terrace_slice string_of(const TSQuery *query, uint32_t id)
{
	uint32_t size;
	const char *text = ts_query_string_value_for_id(query, id, &size);

	return terrace_bytes(text, size);
}

static bool is(terrace_slice text, const char *word)
{
	return text.size == strlen(word) && memcmp(text.data, word, text.size) == 0;
}

static bool begins(const char *text, uint32_t size, const char *word)
{
	return size >= strlen(word) && memcmp(text, word, strlen(word)) == 0;
}

/* --- predicates ---------------------------------------------------------------------------------- */

/* "\d" is the one class of the queries' expressions that POSIX and glibc do not have. */
static regex_t *compile(terrace_slice pattern)
{
	regex_t *regex = rm_take(1, sizeof *regex);
	const char *from = pattern.data;
	struct text text = { 0 };
	int err;

	for (size_t i = 0; i < pattern.size; i++) {
		if (from[i] == '\\' && i + 1 < pattern.size && from[i + 1] == 'd') {
			text_str(&text, "[0-9]");
			i++;
		} else {
			text_add(&text, from + i, 1);
			if (from[i] == '\\' && i + 1 < pattern.size)
				text_add(&text, from + ++i, 1);
		}
	}
	text_add(&text, "", 1);
	err = regcomp(regex, text.data, REG_EXTENDED | REG_NOSUB);
	text_done(&text);
	if (err == 0)
		return regex;
	free(regex);
	return NULL;
}

/* One predicate of `count` steps, its name first; others than ours do not choose matches. */
static int add_predicate(const TSQuery *query, struct pattern *pattern,
                         const TSQueryPredicateStep *steps, uint32_t count)
{
	struct predicate *p = &pattern->predicates[pattern->count];
	terrace_slice name = string_of(query, steps[0].value_id);

	*p = (struct predicate){ 0 };
	p->negated = is(name, "not-eq?") || is(name, "not-match?");
	p->is_match = is(name, "match?") || is(name, "not-match?");
	if (!p->negated && !p->is_match && !is(name, "eq?"))
		return TERRACE_OK;
	if (count != 3 || steps[1].type != TSQueryPredicateStepTypeCapture ||
	    (p->is_match && steps[2].type != TSQueryPredicateStepTypeString))
		return terrace_fail(TERRACE_EFORMAT, "a #%.*s needs a capture and a text",
		                    (int)name.size, (const char *)name.data);
	p->capture = steps[1].value_id;
	p->to_capture = steps[2].type == TSQueryPredicateStepTypeCapture;
	p->other = steps[2].value_id;
	if (!p->to_capture)
		p->text = string_of(query, steps[2].value_id);
	if (p->is_match) {
		p->regex = compile(p->text);
		if (!p->regex)
			return terrace_fail(TERRACE_EFORMAT,
			                    "\"%.*s\" is not an expression that can be compiled",
			                    (int)p->text.size, (const char *)p->text.data);
	}
	pattern->count++;
	return TERRACE_OK;
}

static int read_pattern(const TSQuery *query, uint32_t index, struct pattern *pattern)
{
	uint32_t count, start = 0;
	const TSQueryPredicateStep *steps = ts_query_predicates_for_pattern(query, index, &count);

	pattern->predicates = rm_take(count + 1, sizeof *pattern->predicates);
	for (uint32_t i = 0; i < count; i++) {
		int rc;

		if (steps[i].type != TSQueryPredicateStepTypeDone)
			continue;
		rc = i > start && steps[start].type == TSQueryPredicateStepTypeString ?
		         add_predicate(query, pattern, steps + start, i - start) :
		         TERRACE_OK;
		if (rc != TERRACE_OK)
			return rc;
		start = i + 1;
	}
	return TERRACE_OK;
}

static terrace_slice text_of(TSNode node, const char *source)
{
	uint32_t start = ts_node_start_byte(node);

	return terrace_bytes(source + start, ts_node_end_byte(node) - start);
}

static bool same(terrace_slice a, terrace_slice b)
{
	return a.size == b.size && memcmp(a.data, b.data, a.size) == 0;
}

static bool matches(const regex_t *regex, terrace_slice text)
{
	/* Ended by NUL: the sanitizers read to there, whatever REG_STARTEND says. */
	char *copy = strndup(text.data, text.size);
	bool found = copy && regexec(regex, copy, 0, NULL, 0) == 0;

	free(copy);
	return found;
}

/* For every node of its capture. */
static bool holds(const struct predicate *p, const TSQueryMatch *match, const char *source)
{
	terrace_slice other = p->text;

	if (p->to_capture) {
		bool found = false;

		for (uint16_t i = 0; i < match->capture_count && !found; i++) {
			found = match->captures[i].index == p->other;
			if (found)
				other = text_of(match->captures[i].node, source);
		}
		if (!found)
			return true;
	}
	for (uint16_t i = 0; i < match->capture_count; i++) {
		terrace_slice text;

		if (match->captures[i].index != p->capture)
			continue;
		text = text_of(match->captures[i].node, source);
		if ((p->is_match ? matches(p->regex, text) : same(text, other)) == p->negated)
			return false;
	}
	return true;
}

bool grammar_accepts(const struct grammar *grammar, const TSQueryMatch *match, const char *source)
{
	const struct pattern *pattern = &grammar->patterns[match->pattern_index];

	for (uint32_t i = 0; i < pattern->count; i++) {
		if (!holds(&pattern->predicates[i], match, source))
			return false;
	}
	return true;
}

/* --- grammars -------------------------------------------------------------------------------------- */

static int read_query(struct grammar *grammar, const char *name, const char *query, size_t size)
{
	uint32_t captures, patterns, at = 0;
	TSQueryError error = TSQueryErrorNone;

	grammar->query = ts_query_new(grammar->language, query, (uint32_t)size, &at, &error);
	if (!grammar->query)
		return terrace_fail(TERRACE_EFORMAT,
		                    "the tags query of %s does not fit its grammar (byte %u); make "
		                    "repomap builds both anew",
		                    name, at);
	/* Comments before a definition are no tags; keeping hold of runs of them is quadratic. */
	ts_query_disable_capture(grammar->query, "doc", 3);
	captures = ts_query_capture_count(grammar->query);
	grammar->roles = rm_take(captures, sizeof *grammar->roles);
	for (uint32_t i = 0; i < captures; i++) {
		uint32_t length;
		const char *capture = ts_query_capture_name_for_id(grammar->query, i, &length);

		if (length == 4 && memcmp(capture, "name", 4) == 0)
			grammar->roles[i] = ROLE_NAME;
		else if (begins(capture, length, "definition."))
			grammar->roles[i] = ROLE_DEFINITION;
		else if (begins(capture, length, "reference."))
			grammar->roles[i] = ROLE_REFERENCE;
	}
	patterns = ts_query_pattern_count(grammar->query);
	grammar->patterns = rm_take(patterns, sizeof *grammar->patterns);
	for (uint32_t i = 0; i < patterns; i++) {
		int rc = read_pattern(grammar->query, i, &grammar->patterns[i]);

		if (rc != TERRACE_OK)
			return rc;
	}
	return TERRACE_OK;
}

int grammar_make(const char *name, const TSLanguage *language, const char *query, size_t size,
                 struct grammar **ret)
{
	uint32_t version = language ? ts_language_version(language) : 0;
	struct grammar *grammar;
	int rc;

	if (version < TREE_SITTER_MIN_COMPATIBLE_LANGUAGE_VERSION ||
	    version > TREE_SITTER_LANGUAGE_VERSION)
		return terrace_fail(TERRACE_EFORMAT,
		                    "the grammar of %s is of ABI %u; this libtree-sitter reads %d "
		                    "to %d",
		                    name, version, TREE_SITTER_MIN_COMPATIBLE_LANGUAGE_VERSION,
		                    TREE_SITTER_LANGUAGE_VERSION);
	grammar = rm_take(1, sizeof *grammar);
	grammar->language = language;
	rc = read_query(grammar, name, query, size);
	if (rc != TERRACE_OK) {
		grammar_free(grammar);
		return rc;
	}
	*ret = grammar;
	return TERRACE_OK;
}

void grammar_free(struct grammar *grammar)
{
	uint32_t patterns;

	if (!grammar)
		return;
	patterns = grammar->query ? ts_query_pattern_count(grammar->query) : 0;
	for (uint32_t i = 0; grammar->patterns && i < patterns; i++) {
		for (uint32_t n = 0; n < grammar->patterns[i].count; n++) {
			if (grammar->patterns[i].predicates[n].regex) {
				regfree(grammar->patterns[i].predicates[n].regex);
				free(grammar->patterns[i].predicates[n].regex);
			}
		}
		free(grammar->patterns[i].predicates);
	}
	free(grammar->patterns);
	free(grammar->roles);
	if (grammar->query)
		ts_query_delete(grammar->query);
	free(grammar);
}
