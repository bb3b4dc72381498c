#include "core/pressure.h"

#include "util/util.h"

#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Percent. */
enum { STALLED_TIGHT = 10, STALLED_CALM = 1, USED_TIGHT = 95, USED_CALM = 85 };
enum { CALM_MS = 10000 };

#define GROUPS "/sys/fs/cgroup"

/* A small file as text; false when it cannot be read. */
static bool read_text(const char *dir, const char *name, char *ret, size_t size)
{
	char path[PATH_MAX + 64];
	ssize_t got;
	int fd;

	snprintf(path, sizeof path, "%s%s%s", dir, *name ? "/" : "", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	got = read(fd, ret, size - 1);
	close(fd);
	ret[got > 0 ? got : 0] = 0;
	return got > 0;
}

static bool read_number(const char *dir, const char *name, uint64_t *ret)
{
	char text[64], *end;

	if (!read_text(dir, name, text, sizeof text))
		return false;
	*ret = strtoull(text, &end, 10);
	return end != text; /* "max": no limit */
}

static double read_stalled(const char *path)
{
	char text[512], *avg;

	if (!read_text(path ? path : "/proc/pressure/memory", "", text, sizeof text) ||
	    strncmp(text, "some ", 5) != 0)
		return 0;
	avg = strstr(text, "avg10=");
	return avg ? strtod(avg + 6, NULL) : 0;
}

/* --- control groups --------------------------------------------------------------------------- */

/* The value of a line "name N" of memory.stat. */
static uint64_t stat_value(const char *dir, const char *name)
{
	char text[8192], *line;

	if (!read_text(dir, "memory.stat", text, sizeof text))
		return 0;
	for (line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, name, strlen(name)) == 0 && line[strlen(name)] == ' ')
			return strtoull(line + strlen(name), NULL, 10);
	}
	return 0;
}

/* How much of its limit one group has in use; 0 without a limit. */
static double used_of(const char *dir)
{
	uint64_t limit, high, used, files;

	if (read_number(dir, "memory.current", &used)) {
		if (!read_number(dir, "memory.max", &limit))
			limit = UINT64_MAX;
		if (read_number(dir, "memory.high", &high))
			limit = min_u64(limit, high);
		files = stat_value(dir, "inactive_file");
	} else if (read_number(dir, "memory.usage_in_bytes", &used) &&
	           read_number(dir, "memory.limit_in_bytes", &limit)) {
		files = stat_value(dir, "total_inactive_file");
	} else {
		return 0;
	}
	/* Version 1 writes "no limit" as a number near the greatest. */
	if (limit == 0 || limit > UINT64_MAX / 4)
		return 0;
	return 100.0 * (double)(used - min_u64(files, used)) / (double)limit;
}

/* The process's group: of version 2, or of version 1's memory controller. */
static bool own_group(char ret[PATH_MAX])
{
	char text[8192], *line, *next;
	bool found = false;

	if (!read_text("/proc/self/cgroup", "", text, sizeof text))
		return false;
	for (line = text; line && *line; line = next) {
		char *path, *controllers;

		next = strchr(line, '\n');
		if (next)
			*next++ = 0;
		controllers = strchr(line, ':');
		path = controllers ? strchr(controllers + 1, ':') : NULL;
		if (!path)
			continue;
		*path++ = 0;
		if (strcmp(controllers + 1, "memory") == 0) {
			snprintf(ret, PATH_MAX, GROUPS "/memory%s", path);
			return true;
		}
		if (!found && controllers[1] == 0) {
			snprintf(ret, PATH_MAX, GROUPS "%s", path);
			found = true;
		}
	}
	return found;
}

/* The tightest of the group and those around it. */
static double read_used(const char *group)
{
	char dir[PATH_MAX], *slash;
	double most = 0;

	if (group)
		return used_of(group);
	if (!own_group(dir))
		return 0;
	while (strlen(dir) >= strlen(GROUPS)) {
		double used = used_of(dir);

		most = used > most ? used : most;
		slash = strrchr(dir, '/');
		if (!slash)
			break;
		*slash = 0;
	}
	return most;
}

enum pressure_level terrace__pressure_read(struct pressure *pressure)
{
	const char *stall = pressure->stall_path, *group = pressure->group_path;

	pressure->stalled = stall && !*stall ? 0 : read_stalled(stall);
	pressure->used = group && !*group ? 0 : read_used(group);
	if (pressure->stalled >= STALLED_TIGHT || pressure->used >= USED_TIGHT)
		return PRESSURE_TIGHT;
	if (pressure->stalled < STALLED_CALM && pressure->used < USED_CALM)
		return PRESSURE_CALM;
	return PRESSURE_NEITHER;
}

/* --- what follows from it ---------------------------------------------------------------------- */

uint64_t terrace__pressure_limit(struct pressure *pressure, enum pressure_level level,
                                 int64_t now_ms, uint64_t limit, uint64_t used, uint64_t least,
                                 uint64_t most)
{
	pressure->tight = level == PRESSURE_TIGHT;
	if (level != PRESSURE_CALM)
		pressure->calm_since = -1;
	if (level == PRESSURE_TIGHT)
		return min_u64(limit, max_u64(least, min_u64(limit, used) / 4 * 3));
	if (level == PRESSURE_NEITHER || limit >= most)
		return limit;
	if (pressure->calm_since < 0)
		pressure->calm_since = now_ms;
	if (now_ms - pressure->calm_since < CALM_MS)
		return limit;
	pressure->calm_since = now_ms;
	return min_u64(most, limit + most / 8);
}
