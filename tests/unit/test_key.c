/* Keys: structured, composite, by content. */
#include "support/support.h"

static terrace_slice slice(const char *bytes, size_t size)
{
	return terrace_bytes(bytes, size);
}

static bool same(terrace_slice a, terrace_slice b)
{
	return a.size == b.size && memcmp(a.data, b.data, a.size) == 0;
}

static void assert_text(const terrace_key_parts *parts, const char *expected)
{
	terrace_slice text;

	assert_ok(terrace_key_format(parts, &text));
	if (!same(text, terrace_str(expected)))
		fail_msg("\"%.*s\" is not \"%s\"", (int)text.size, (const char *)text.data,
		         expected);
	terrace_key_free(text);
}

static void test_key__is_written_as_the_field_writes_it(void **state)
{
	terrace_key_parts parts = { terrace_str("compilation"), terrace_str("workspace"),
		                    terrace_str("zmk-main-abc123"), terrace_str("v1") };

	(void)state;
	assert_text(&parts, "compilation:workspace:zmk-main-abc123:v1");
	parts.version = slice(NULL, 0);
	assert_text(&parts, "compilation:workspace:zmk-main-abc123");
	parts.identifier = terrace_str("a:b%c\n");
	assert_text(&parts, "compilation:workspace:a%3Ab%25c%0A");
}

static void test_key__text_and_parts_map_one_to_one(void **state)
{
	/* every byte, separators and escapes at the edges, empty parts */
	static const char *const samples[] = { "",   ":",   "%",  "a",  "a:",
		                               ":a", "%3A", "%%", "a%", "\x7f" };
	enum { COUNT = sizeof samples / sizeof *samples };
	char all[256];

	(void)state;
	for (int i = 0; i < 256; i++)
		all[i] = (char)i;
	for (int i = 0; i < (COUNT + 1) * (COUNT + 1) * 2; i++) {
		int first = i % (COUNT + 1), last = i / (COUNT + 1) % (COUNT + 1);
		terrace_slice a = first == COUNT ? slice(all, 256) : terrace_str(samples[first]);
		terrace_slice b = last == COUNT ? slice(all, 256) : terrace_str(samples[last]);
		terrace_key_parts parts = { a, terrace_str("mid"), b, slice(NULL, 0) }, read;
		terrace_slice text, again;

		if (i >= (COUNT + 1) * (COUNT + 1))
			parts.version = a; /* "" is a version, too */
		assert_ok(terrace_key_format(&parts, &text));
		assert_ok(terrace_key_parse(text, &read));
		assert_true(same(read.name_space, a));
		assert_true(same(read.category, terrace_str("mid")));
		assert_true(same(read.identifier, b));
		assert_int_equal(read.version.data != NULL, parts.version.data != NULL);
		if (parts.version.data)
			assert_true(same(read.version, a));
		assert_ok(terrace_key_format(&read, &again));
		assert_true(same(text, again));
		terrace_key_free(text);
		terrace_key_free(again);
		terrace_key_parts_free(&read);
	}
}

static void test_key__what_format_does_not_write_is_refused(void **state)
{
	static const char *const bad[] = {
		"",        "a",        "a:b",      "a:b:c:d:e", "a:b:c%",
		"a:b:c%4", "a:b:c%zz", "a:b:c%3a", "a:b:c%41",  "a:b:c\n"
	};
	terrace_key_parts parts;

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		if (terrace_key_parse(terrace_str(bad[i]), &parts) != TERRACE_EINVAL)
			fail_msg("\"%s\" is taken for a key", bad[i]);
	}
}

static void test_key__over_64_KiB_is_refused(void **state)
{
	terrace_key_parts parts = { terrace_str("a"), terrace_str("b"), { NULL, 0 }, { NULL, 0 } };
	char *bytes = malloc(TERRACE_KEY_MAX);
	terrace_slice text;

	(void)state;
	memset(bytes, 'x', TERRACE_KEY_MAX);
	parts.identifier = slice(bytes, TERRACE_KEY_MAX - 4);
	assert_ok(terrace_key_format(&parts, &text));
	assert_int_equal(text.size, TERRACE_KEY_MAX);
	terrace_key_free(text);
	parts.identifier = slice(bytes, TERRACE_KEY_MAX - 3);
	assert_status(terrace_key_format(&parts, &text), TERRACE_ETOOBIG);
	free(bytes);
}

/* prefix@hash of two fields and a set, in the order given by `turn`. */
static terrace_slice compose(int turn, const terrace_slice *items, size_t count)
{
	terrace_key_builder *builder;
	terrace_slice key;

	assert_ok(terrace_key_builder_new("map", &builder));
	for (int i = 0; i < 3; i++) {
		switch ((i + turn) % 3) {
		case 0:
			assert_ok(
			    terrace_key_builder_field(builder, "budget", terrace_str("1024")));
			break;
		case 1:
			assert_ok(terrace_key_builder_field(builder, "root", terrace_str("/src")));
			break;
		case 2:
			assert_ok(terrace_key_builder_set(builder, "files", items, count));
			break;
		}
	}
	assert_ok(terrace_key_builder_finish(builder, &key));
	terrace_key_builder_free(builder);
	return key;
}

static void test_composite__order_matters_nowhere_it_should_not(void **state)
{
	const terrace_slice ab[] = { terrace_str("a"), terrace_str("b") };
	const terrace_slice ba[] = { terrace_str("b"), terrace_str("a"), terrace_str("b") };
	const terrace_slice one[] = { terrace_str("ab") };
	terrace_slice key = compose(0, ab, 2), other;

	(void)state;
	assert_int_equal(key.size, 4 + 32);
	assert_memory_equal(key.data, "map@", 4);
	for (int turn = 0; turn < 3; turn++) {
		other = compose(turn, ba, 3);
		assert_true(same(key, other));
		terrace_key_free(other);
	}
	/* "a" and "b" are not "ab" */
	other = compose(0, one, 1);
	assert_false(same(key, other));
	terrace_key_free(other);
	terrace_key_free(key);
}

static void test_composite__a_field_is_no_set_and_no_field_comes_twice(void **state)
{
	const terrace_slice a = terrace_str("a");
	terrace_key_builder *builder;
	terrace_slice field, set, twice;

	(void)state;
	assert_ok(terrace_key_builder_new(NULL, &builder));
	assert_ok(terrace_key_builder_field(builder, "x", a));
	assert_ok(terrace_key_builder_finish(builder, &field));
	assert_int_equal(field.size, 32);
	assert_ok(terrace_key_builder_field(builder, "x", a));
	assert_status(terrace_key_builder_finish(builder, &twice), TERRACE_EINVAL);
	terrace_key_builder_free(builder);
	assert_ok(terrace_key_builder_new(NULL, &builder));
	assert_ok(terrace_key_builder_set(builder, "x", &a, 1));
	assert_ok(terrace_key_builder_finish(builder, &set));
	assert_false(same(field, set));
	terrace_key_builder_free(builder);
	terrace_key_free(field);
	terrace_key_free(set);
}

static void test_digest__is_xxh3_128(void **state)
{
	terrace_digest digest = terrace_digest_bytes(terrace_str("terrace"));
	char text[33];

	(void)state;
	terrace_digest_text(&digest, text);
	/* as xxhsum -H2 has it */
	assert_string_equal(text, "3e958ea347847eafdb4b915d0d34470b");
}

static void test_composite__with_too_long_a_prefix_is_refused(void **state)
{
	char *prefix = malloc(TERRACE_KEY_MAX + 1);
	terrace_key_builder *builder;
	terrace_slice key = { NULL, 7 };

	(void)state;
	memset(prefix, 'p', TERRACE_KEY_MAX);
	prefix[TERRACE_KEY_MAX] = '\0';
	assert_ok(terrace_key_builder_new(prefix, &builder));
	assert_status(terrace_key_builder_finish(builder, &key), TERRACE_ETOOBIG);
	assert_int_equal(key.size, 7);
	terrace_key_builder_free(builder);
	prefix[TERRACE_KEY_MAX - 33] = '\0'; /* '@' and 32 digits behind it */
	assert_ok(terrace_key_builder_new(prefix, &builder));
	assert_ok(terrace_key_builder_finish(builder, &key));
	assert_int_equal(key.size, TERRACE_KEY_MAX);
	terrace_key_free(key);
	terrace_key_builder_free(builder);
	terrace_key_builder_free(NULL);
	free(prefix);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_key__is_written_as_the_field_writes_it),
		cmocka_unit_test(test_key__text_and_parts_map_one_to_one),
		cmocka_unit_test(test_key__what_format_does_not_write_is_refused),
		cmocka_unit_test(test_key__over_64_KiB_is_refused),
		cmocka_unit_test(test_composite__order_matters_nowhere_it_should_not),
		cmocka_unit_test(test_composite__a_field_is_no_set_and_no_field_comes_twice),
		cmocka_unit_test(test_digest__is_xxh3_128),
		cmocka_unit_test(test_composite__with_too_long_a_prefix_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
