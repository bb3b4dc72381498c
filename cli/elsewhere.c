/*
 * Verbs that bring libraries along which no other needs: for those of slides, a hundred,
 * the loader takes longer than any other verb for its work, and for two more a
 * quarter of what a get takes. They belong to commands of their own, which this one becomes.
 * Into those the verb itself is linked, which comes before the weak one here.
 */
#include "cli.h"

#include <errno.h>
#include <limits.h>
#include <unistd.h>

/* Where such a command may lie: beside this one in a build folder, or as installed. */
static const char *const places[] = { "terrace-", "../lib/terrace/terrace-" };

static int become(const struct cli *cli, const char *verb)
{
	char self[PATH_MAX], path[PATH_MAX + 64];
	ssize_t size = readlink("/proc/self/exe", self, sizeof self - 1);
	char *slash;

	if (!cli->argv) {
		complain("%s: no memory for its command", verb);
		return STATUS_FAILED;
	}
	self[size > 0 ? size : 0] = '\0';
	slash = strrchr(self, '/');
	if (slash)
		*slash = '\0';
	for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
		snprintf(path, sizeof path, "%s/%s%s", self, places[i], verb);
		execv(path, cli->argv);
	}
	complain("%s: cannot start %s: %s; this terrace was built without it (make slides, make "
	         "repomap), or is not installed as a whole",
	         verb, path, strerror(errno));
	return STATUS_FAILED;
}

__attribute__((weak)) int verb_slides(struct cli *cli, const struct args *args)
{
	(void)args;
	return become(cli, "slides");
}

__attribute__((weak)) int verb_repomap(struct cli *cli, const struct args *args)
{
	(void)args;
	return become(cli, "repomap");
}

__attribute__((weak)) int verb_top(struct cli *cli, const struct args *args)
{
	(void)args;
	return become(cli, "top");
}
