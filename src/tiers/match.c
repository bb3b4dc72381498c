#include "tiers/extra.h"
#include "tiers/tier.h"
#include "util/glob.h"

static bool same(terrace_slice a, terrace_slice b)
{
	return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

static bool has_tag(terrace_slice extra, terrace_slice wanted)
{
	struct extra_walk walk;
	terrace_slice tag;

	terrace__extra_start(&walk, extra);
	while (terrace__extra_next_tag(&walk, &tag)) {
		if (same(tag, wanted))
			return true;
	}
	return false;
}

static bool has_source(terrace_slice extra, terrace_slice path)
{
	struct extra_walk walk;
	struct source_mark mark;
	terrace_slice tag;

	terrace__extra_start(&walk, extra);
	while (terrace__extra_next_tag(&walk, &tag))
		;
	while (terrace__extra_next_source(&walk, &mark)) {
		if (same(mark.path, path))
			return true;
	}
	return false;
}

bool terrace__match_fits(const terrace_match *match, terrace_slice key, terrace_slice extra)
{
	switch (match->kind) {
	case TERRACE_MATCH_ALL:
		return true;
	case TERRACE_MATCH_KEY:
		return same(match->text, key);
	case TERRACE_MATCH_PREFIX:
		return match->text.size <= key.size &&
		       same(match->text, terrace_bytes(key.data, match->text.size));
	case TERRACE_MATCH_GLOB:
		return terrace__glob_match(match->text.data, match->text.size, key.data, key.size);
	case TERRACE_MATCH_TAG:
		return has_tag(extra, match->text);
	case TERRACE_MATCH_SOURCE:
		return has_source(extra, match->text);
	}
	return false;
}
