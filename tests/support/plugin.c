/* A library for the tests of the loader. */
int plugin_answer(void);
int plugin_answer(void)
{
	return 42;
}
