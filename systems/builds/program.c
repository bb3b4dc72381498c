/* The program that a command's name means: found as execvp() finds it, and told by its content. */
#include "builds/parts.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* An element of PATH that is empty is the working directory. */
static bool is_program(const char *directory, size_t size, const char *name, char ret[PATH_MAX])
{
	struct stat st;

	return snprintf(ret, PATH_MAX, "%.*s%s%s", (int)size, directory, size ? "/" : "./", name) <
	           PATH_MAX &&
	       stat(ret, &st) == 0 && S_ISREG(st.st_mode) && access(ret, X_OK) == 0;
}

static bool find_program(const char *name, char ret[PATH_MAX])
{
	char usual[256] = "";
	const char *path = getenv("PATH");

	if (strchr(name, '/'))
		return snprintf(ret, PATH_MAX, "%s", name) < PATH_MAX;
	if (!path && confstr(_CS_PATH, usual, sizeof usual) <= sizeof usual)
		path = usual;
	for (; path; path = *path ? path + 1 : NULL) {
		size_t size = strcspn(path, ":");

		if (is_program(path, size, name, ret))
			return true;
		path += size;
	}
	return false;
}

/* One that may be run but not read is told by what the system says of it. */
static int digest_program(terrace *store, struct file *program)
{
	stamp_take(program->name, &program->stamp);
	if (terrace_file_digest(store, program->name, &program->digest) == TERRACE_OK)
		return 0;
	program->digest = terrace_digest_bytes(
	    terrace_bytes(&program->stamp, sizeof program->stamp));
	return stamp_same(&program->stamp, &(const struct stamp){ { 0 } }) ? -1 : 0;
}

int program_digest(const char *name, terrace *store, struct file *ret)
{
	char path[PATH_MAX];

	*ret = (struct file){ .name = find_program(name, path) ? strdup(path) : NULL };
	return ret->name ? digest_program(store, ret) : -1;
}

bool program_is_same(const char *name, terrace *store, const struct file *program)
{
	struct file now;
	bool same = program_digest(name, store, &now) == 0 &&
	            strcmp(now.name, program->name) == 0 &&
	            stamp_same(&now.stamp, &program->stamp) &&
	            memcmp(&now.digest, &program->digest, sizeof now.digest) == 0;

	free(now.name);
	return same;
}
