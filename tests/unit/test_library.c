/* Shared libraries that are opened when they are needed. */
#include "support/support.h"

#include <pthread.h>

/* What `ready` was asked, and what it made. */
struct made {
	_Atomic int ready, done;
	int refuse;
	terrace_library *again; /* asked for within ready */
	int again_status;
	int answer;
};

static int ready(void *ctx, terrace_library *library, void **ret_object)
{
	struct made *made = ctx;
	int (*answer)(void);
	void *address;
	int rc = terrace_library_symbol(library, "plugin_answer", &address);

	made->ready++;
	if (rc != TERRACE_OK)
		return rc;
	memcpy(&answer, &address, sizeof answer);
	made->answer = answer();
	if (made->again)
		made->again_status = terrace_library_object(made->again, NULL);
	if (made->refuse)
		return terrace_fail(made->refuse, "the plugin is refused");
	*ret_object = made;
	return TERRACE_OK;
}

static void done(void *ctx, void *object)
{
	struct made *made = ctx;

	assert_ptr_equal(object, ctx);
	made->done++;
}

static terrace_library *describe(const char *file, struct made *made, terrace_library *need)
{
	terrace_library_options options = TERRACE_LIBRARY_INIT;
	static const char *const folders[] = { "/no/such/folder", PLUGIN_DIR, NULL };
	terrace_library *library;

	options.file = file;
	options.folders = folders;
	options.ready = made ? ready : NULL;
	options.done = made ? done : NULL;
	options.ctx = made;
	options.needs = &need;
	options.need_count = need ? 1 : 0;
	assert_ok(terrace_library_new(&options, &library));
	return library;
}

static terrace_library_report report_of(terrace_library *library)
{
	terrace_library_report report = TERRACE_LIBRARY_REPORT_INIT;

	terrace_library_describe(library, &report);
	return report;
}

static void test_library__opens_on_the_first_need_and_once(void **state)
{
	struct made made = { 0 };
	terrace_library *library = describe(PLUGIN_FILE, &made, NULL);
	terrace_library_report report;
	void *object;

	(void)state;
	assert_int_equal(report_of(library).state, TERRACE_LIBRARY_CLOSED);
	assert_int_equal(made.ready, 0);
	for (int i = 0; i < 3; i++) {
		assert_ok(terrace_library_object(library, &object));
		assert_ptr_equal(object, &made);
	}
	assert_int_equal(made.ready, 1);
	assert_int_equal(made.answer, 42);
	report = report_of(library);
	assert_int_equal(report.state, TERRACE_LIBRARY_OPEN);
	assert_non_null(strstr(report.path, PLUGIN_DIR "/" PLUGIN_FILE));
	assert_status(terrace_library_symbol(library, "no_such_symbol", &object), TERRACE_MISS);
	assert_non_null(strstr(terrace_error_message(), "no_such_symbol"));
	assert_int_equal(made.done, 0);
	terrace_library_free(library);
	assert_int_equal(made.done, 1);
}

static void test_library__what_is_never_needed_is_never_opened(void **state)
{
	struct made made = { 0 };

	(void)state;
	terrace_library_free(describe("no-such-library.so", &made, NULL));
	terrace_library_free(NULL);
	assert_int_equal(made.ready + made.done, 0);
}

static void test_library__a_missing_or_broken_one_says_so(void **state)
{
	struct made made = { 0 };
	terrace_library *missing = describe("no-such-library.so", &made, NULL);
	terrace_library *dependant = describe(PLUGIN_FILE, &made, missing);
	struct scratch scratch;
	terrace_library *broken;

	(void)state;
	for (int i = 0; i < 2; i++) { /* a failure is remembered with its words */
		assert_status(terrace_library_object(missing, NULL), TERRACE_MISS);
		assert_non_null(strstr(terrace_error_message(), "no-such-library.so"));
		assert_non_null(strstr(terrace_error_message(), "/no/such/folder"));
		assert_non_null(strstr(terrace_error_message(), PLUGIN_DIR));
	}
	assert_int_equal(report_of(missing).state, TERRACE_LIBRARY_FAILED);
	assert_status(terrace_library_object(dependant, NULL), TERRACE_MISS);
	assert_non_null(strstr(terrace_error_message(), "needs another"));
	assert_int_equal(made.ready, 0);
	terrace_library_free(dependant);
	terrace_library_free(missing);

	scratch_make(&scratch);
	write_file(scratch_path(&scratch, "broken.so"), "no library");
	broken = describe(scratch_path(&scratch, "broken.so"), &made, NULL);
	assert_status(terrace_library_object(broken, NULL), TERRACE_EFORMAT);
	assert_non_null(strstr(terrace_error_message(), "broken.so"));
	terrace_library_free(broken);
	broken = describe(scratch_path(&scratch, "absent.so"), &made, NULL);
	assert_status(terrace_library_object(broken, NULL), TERRACE_MISS);
	terrace_library_free(broken);
	scratch_remove(&scratch);
	assert_int_equal(made.ready + made.done, 0);
}

static void test_library__what_ready_refuses_stays_refused(void **state)
{
	struct made made = { .refuse = 77 };
	terrace_library *library = describe(PLUGIN_FILE, &made, NULL);

	(void)state;
	for (int i = 0; i < 2; i++) {
		assert_status(terrace_library_object(library, NULL), 77);
		assert_string_equal(terrace_error_message(), "the plugin is refused");
	}
	assert_int_equal(made.ready, 1);
	terrace_library_free(library);
	assert_int_equal(made.done, 0);
}

static void test_library__that_needs_itself_is_a_cycle(void **state)
{
	struct made made = { 0 };
	terrace_library *library = describe(PLUGIN_FILE, &made, NULL);

	(void)state;
	made.again = library;
	assert_ok(terrace_library_object(library, NULL));
	assert_int_equal(made.again_status, TERRACE_ECYCLE);
	terrace_library_free(library);
}

static void *ask(void *arg)
{
	void *object = NULL;

	return terrace_library_object(arg, &object) == TERRACE_OK ? object : NULL;
}

static void test_library__many_threads_open_it_once(void **state)
{
	enum { THREADS = 8, ROUNDS = 50 };

	(void)state;
	for (int round = 0; round < ROUNDS; round++) {
		struct made made = { 0 };
		terrace_library *library = describe(PLUGIN_FILE, &made, NULL);
		pthread_t threads[THREADS];
		void *object;

		if (round % 2) /* and a preload among them, which free waits for */
			assert_ok(terrace_library_preload(&library, 1));
		for (int i = 0; i < THREADS; i++)
			assert_int_equal(pthread_create(&threads[i], NULL, ask, library), 0);
		for (int i = 0; i < THREADS; i++) {
			pthread_join(threads[i], &object);
			assert_ptr_equal(object, &made);
		}
		assert_int_equal(made.ready, 1);
		terrace_library_free(library);
		assert_int_equal(made.done, 1);
	}
}

static void test_preload__opens_all_and_remembers_failures(void **state)
{
	struct made made = { 0 };
	terrace_library *libraries[2] = { describe("no-such-library.so", NULL, NULL),
		                          describe(PLUGIN_FILE, &made, NULL) };
	void *object;

	(void)state;
	assert_ok(terrace_library_preload(libraries, 2));
	assert_status(terrace_library_object(libraries[0], NULL), TERRACE_MISS);
	assert_ok(terrace_library_object(libraries[1], &object));
	assert_int_equal(made.ready, 1);
	for (int i = 0; i < 2; i++)
		terrace_library_free(libraries[i]);
}

static void test_library__without_a_file_is_refused(void **state)
{
	terrace_library_options options = TERRACE_LIBRARY_INIT;
	terrace_library *library;

	(void)state;
	assert_status(terrace_library_new(&options, &library), TERRACE_EINVAL);
	options.file = "";
	assert_status(terrace_library_new(&options, &library), TERRACE_EINVAL);
	assert_status(terrace_library_new(NULL, &library), TERRACE_EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_library__opens_on_the_first_need_and_once),
		cmocka_unit_test(test_library__what_is_never_needed_is_never_opened),
		cmocka_unit_test(test_library__a_missing_or_broken_one_says_so),
		cmocka_unit_test(test_library__what_ready_refuses_stays_refused),
		cmocka_unit_test(test_library__that_needs_itself_is_a_cycle),
		cmocka_unit_test(test_library__many_threads_open_it_once),
		cmocka_unit_test(test_preload__opens_all_and_remembers_failures),
		cmocka_unit_test(test_library__without_a_file_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
