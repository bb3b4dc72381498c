/*
 * Any bytes as source files, as stored tags and as rules of .gitignore: nothing
 * may crash, and what is made of a source file must read back.
 *
 * With libFuzzer (make fuzz-repomap), or alone over the files that it is given.
 */
#include "repomap/grammar.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct grammars *grammars;
static struct tagger *tagger;

static void must(bool holds, const char *what)
{
	if (!holds) {
		fprintf(stderr, "fuzz: %s\n", what);
		abort();
	}
}

/* The lines of some definitions, chosen by the bytes. */
static void render(const struct tags *tags, uint8_t choice)
{
	struct text text = { 0 };
	uint32_t *lines = rm_take(tags->tag_count, sizeof *lines);
	size_t count = 0;

	for (uint32_t i = 0; i < tags->tag_count; i++) {
		if (!(tags->items[i].line_kind & 1) && (choice & 1 << (i % 8)))
			lines[count++] = tags->items[i].line_kind / 2;
	}
	render_lines(tags, lines, count, &text);
	must(!utf8_mend(text.data, text.size), "a tree is UTF-8");
	text_done(&text);
	free(lines);
}

static void fuzz_source(unsigned language, char *source, size_t size, uint8_t choice)
{
	terrace_digest digest = terrace_digest_bytes(terrace_bytes(source, size));
	const struct grammar *grammar;
	struct text packed = { 0 }, again = { 0 };
	struct tags tags;
	bool mended = utf8_mend(source, size);

	if (grammar_get(grammars, language, &grammar) != TERRACE_OK)
		return;
	if (tagger_run(tagger, grammar, source, size, &digest, mended, &packed) == TERRACE_OK) {
		must(tags_unpack(terrace_bytes(packed.data, packed.size), &tags), "it reads back");
		render(&tags, choice);
		must(tagger_run(tagger, grammar, source, size, &digest, mended, &again) ==
		             TERRACE_OK &&
		         again.size == packed.size &&
		         memcmp(again.data, packed.data, packed.size) == 0,
		     "the same source gives the same tags");
	}
	text_done(&packed);
	text_done(&again);
}

static void fuzz_packed(const char *data, size_t size, uint8_t choice)
{
	struct tags tags;
	char *copy = rm_take(size, 1);

	memcpy(copy, data, size);
	/* What claims more lines than a file has bytes would only take memory. */
	if (tags_unpack(terrace_bytes(copy, size), &tags) && tags.line_count < 1 << 20) {
		struct text text = { 0 };
		uint32_t lines[2] = { choice, choice * 3u };

		render_lines(&tags, lines, 2, &text);
		text_done(&text);
	}
	free(copy);
}

static void fuzz_ignore(const char *data, size_t size)
{
	static int folder = -1;
	struct ignore *ignore;
	char path[64] = "";
	size_t length = size < 32 ? size : 32;
	int fd;

	if (folder < 0) {
		char name[] = "/tmp/fuzz-repomap-XXXXXX";

		must(mkdtemp(name) != NULL, "a folder can be made");
		folder = open(name, O_RDONLY | O_DIRECTORY);
	}
	fd = openat(folder, ".gitignore", O_WRONLY | O_CREAT | O_TRUNC, 0600);
	must(fd >= 0 && write(fd, data, size) == (ssize_t)size, "rules can be written");
	close(fd);
	for (size_t i = 0; i < length; i++)
		path[i] = data[i] > ' ' ? data[i] : '/';
	ignore = ignore_read(folder, "", NULL);
	ignore_matches(ignore, path, size % 2);
	ignore_free(ignore);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *copy;

	if (!grammars) {
		grammars = grammars_new();
		tagger = tagger_new();
	}
	if (size < 2)
		return 0;
	copy = rm_take(size, 1);
	memcpy(copy, data + 2, size - 2);
	if (data[0] % 16 == 0)
		fuzz_packed(copy, size - 2, data[1]);
	else if (data[0] % 16 == 1)
		fuzz_ignore(copy, size - 2);
	else
		fuzz_source(1 + data[0] % (LANGUAGES - 1), copy, size - 2, data[1]);
	free(copy);
	return 0;
}
