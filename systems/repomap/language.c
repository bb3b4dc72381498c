/* Languages: which file is which, and their grammars, opened when a file needs them. */
#include "repomap/grammar.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct {
	const char *name, *extensions;
} languages[LANGUAGES] = {
	{ "none", "" },
	{ "python", " py pyi " },
	{ "c", " c h " },
	{ "javascript", " js mjs cjs jsx " },
	{ "go", " go " },
	{ "rust", " rs " },
	{ "java", " java " },
	{ "cpp", " cc cpp cxx c++ hh hpp hxx h++ ipp tpp " },
	{ "typescript", " ts mts cts " },
	{ "tsx", " tsx " },
};

struct opening {
	char folder[PATH_MAX];
	unsigned language;
};

struct grammars {
	terrace_library *libraries[LANGUAGES];
	struct opening openings[LANGUAGES];
	uint64_t ids[LANGUAGES];
	_Atomic bool told[LANGUAGES]; /* of 0: that there are none at all */
	const char *folder;
};

unsigned language_of(const char *path)
{
	const char *slash = strrchr(path, '/');
	const char *dot = strrchr(slash ? slash : path, '.');
	char word[16];

	if (!dot || (size_t)snprintf(word, sizeof word, " %s ", dot + 1) >= sizeof word ||
	    strchr(dot, ' '))
		return 0;
	for (unsigned i = 1; i < LANGUAGES; i++) {
		if (strstr(languages[i].extensions, word))
			return i;
	}
	return 0;
}

const char *language_name(unsigned language)
{
	return languages[language].name;
}

/* --- one grammar -------------------------------------------------------------------------------- */

static char *read_query(const char *folder, unsigned language, size_t *ret_size)
{
	char path[PATH_MAX + 32];
	struct text text = { 0 };
	char chunk[4096];
	size_t n;
	FILE *file;

	snprintf(path, sizeof path, "%s/%s.scm", folder, languages[language].name);
	file = fopen(path, "re");
	if (!file) {
		terrace_fail(TERRACE_MISS, "cannot read %s: %s; make repomap builds it", path,
		             strerror(errno));
		return NULL;
	}
	while ((n = fread(chunk, 1, sizeof chunk, file)) > 0)
		text_add(&text, chunk, n);
	fclose(file);
	*ret_size = text.size;
	text_add(&text, "", 1);
	return text.data;
}

static int ready(void *ctx, terrace_library *library, void **ret_object)
{
	const struct opening *opening = ctx;
	const TSLanguage *(*function)(void);
	struct grammar *grammar;
	char symbol[64], *query;
	void *address;
	size_t size = 0;
	int rc;

	snprintf(symbol, sizeof symbol, "tree_sitter_%s", languages[opening->language].name);
	rc = terrace_library_symbol(library, symbol, &address);
	if (rc != TERRACE_OK)
		return rc;
	memcpy(&function, &address, sizeof function);
	query = read_query(opening->folder, opening->language, &size);
	if (!query)
		return TERRACE_MISS;
	rc = grammar_make(languages[opening->language].name, function(), query, size, &grammar);
	free(query);
	if (rc == TERRACE_OK)
		*ret_object = grammar;
	return rc;
}

static void done(void *ctx, void *object)
{
	(void)ctx;
	grammar_free(object);
}

/* --- all of them ---------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t value, uint64_t more)
{
	value = (value ^ more) * UINT64_C(0x9E3779B97F4A7C15);
	return value ^ value >> 31;
}

/* Which files these are: replaced ones are others. */
static uint64_t identify(const char *folder, const char *name)
{
	static const char *const endings[] = { "so", "scm" };
	uint64_t id = TAGS_VERSION;

	for (int i = 0; i < 2; i++) {
		char path[PATH_MAX + 32];
		struct stat st;

		snprintf(path, sizeof path, "%s/%s.%s", folder, name, endings[i]);
		if (stat(path, &st) < 0)
			return 0;
		id = mix(id, (uint64_t)st.st_size);
		id = mix(id, (uint64_t)st.st_mtim.tv_sec);
		id = mix(id, (uint64_t)st.st_mtim.tv_nsec);
	}
	return id ? id : 1;
}

/* Where this program keeps its grammars: beside it in a build folder, or as installed. */
static void own_folders(char ret[2][PATH_MAX])
{
	static const char *const below[2] = { "../grammars", "grammars" };
	char self[PATH_MAX];
	ssize_t size = readlink("/proc/self/exe", self, sizeof self - 1);
	char *slash;

	ret[0][0] = ret[1][0] = '\0';
	if (size <= 0)
		return;
	self[size] = '\0';
	slash = strrchr(self, '/');
	if (slash)
		*slash = '\0';
	for (int i = 0; i < 2; i++) {
		char path[2 * PATH_MAX], *real;

		snprintf(path, sizeof path, "%s/%s", self, below[i]);
		real = realpath(path, NULL);
		if (real && strlen(real) < PATH_MAX)
			strcpy(ret[i], real);
		free(real);
	}
}

struct grammars *grammars_new(void)
{
	struct grammars *grammars = rm_take(1, sizeof *grammars);
	const char *given = getenv("TERRACE_GRAMMARS");
	char own[2][PATH_MAX];
	const char *folder;

	own_folders(own);
	folder = given && *given ? given :
	         *own[0]         ? own[0] :
	         *own[1]         ? own[1] :
	                           "lib/terrace/grammars";
	for (unsigned i = 1; i < LANGUAGES; i++) {
		terrace_library_options options = TERRACE_LIBRARY_INIT;
		char path[PATH_MAX + 32];

		snprintf(path, sizeof path, "%s/%s.so", folder, languages[i].name);
		snprintf(grammars->openings[i].folder, PATH_MAX, "%s", folder);
		grammars->openings[i].language = i;
		grammars->folder = grammars->openings[i].folder;
		grammars->ids[i] = identify(folder, languages[i].name);
		options.file = path;
		options.ready = ready;
		options.done = done;
		options.ctx = &grammars->openings[i];
		if (terrace_library_new(&options, &grammars->libraries[i]) != TERRACE_OK)
			grammars->ids[i] = 0;
	}
	return grammars;
}

void grammars_free(struct grammars *grammars)
{
	if (!grammars)
		return;
	for (unsigned i = 1; i < LANGUAGES; i++)
		terrace_library_free(grammars->libraries[i]);
	free(grammars);
}

uint64_t language_id(const struct grammars *grammars, unsigned language)
{
	return grammars->ids[language];
}

static bool has_any(const struct grammars *grammars)
{
	for (unsigned i = 1; i < LANGUAGES; i++) {
		if (grammars->ids[i])
			return true;
	}
	return false;
}

int grammar_get(struct grammars *grammars, unsigned language, const struct grammar **ret)
{
	void *object;
	int rc = TERRACE_MISS;

	if (grammars->libraries[language])
		rc = terrace_library_object(grammars->libraries[language], &object);
	if (rc == TERRACE_OK)
		*ret = object;
	else if (!has_any(grammars)) {
		if (!atomic_exchange(&grammars->told[0], true))
			rm_note("no file can be parsed: there are no grammars in %s; make repomap "
			        "builds them, TERRACE_GRAMMARS says where they are",
			        grammars->folder);
	} else if (!atomic_exchange(&grammars->told[language], true))
		rm_note("%s files are left out: %s", languages[language].name,
		        terrace_error_message());
	return rc;
}
