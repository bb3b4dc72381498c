/* The verb top: what the caches of a store do, live, in a terminal. */
#include "cli.h"

#include <curses.h>
#include <inttypes.h>
#include <locale.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

/* Rates are over so many looks: other processes tell what they do every five seconds. */
enum { LOOKS = 10, CACHES_MOST = 1024 };

enum column { BY_HITS, BY_MISSES, BY_SIZE, BY_NAME, COLUMNS };
static const char *const column_names[] = { "hits", "misses", "size", "name" };

struct watched {
	terrace_cache *cache;
	char *name;
	terrace_stats looks[LOOKS + 1]; /* a ring */
	double times[LOOKS + 1];
	unsigned count;
	/* Between the oldest look and the newest. */
	terrace_stats now;
	double seconds;
	uint64_t hits[3], misses, evicted; /* l1, l2, l3 */
};

struct top {
	terrace *store;
	struct watched *caches[CACHES_MOST];
	size_t count;
	int interval_ms;
	enum column order;
	bool tiers, totals;
	size_t first; /* that is shown */
	uint64_t memory_bytes, disk_bytes, disk_limit, saved_us;
	unsigned processes, tight;
};

/* --- looking ------------------------------------------------------------------------------------ */

static double seconds_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void subtract_latency(terrace_latency *from, const terrace_latency *what)
{
	from->count -= what->count;
	from->sum_ns -= what->sum_ns;
	for (int i = 0; i < TERRACE_LATENCY_BUCKETS; i++)
		from->buckets[i] -= what->buckets[i];
}

static uint64_t evicted_of(const terrace_stats *stats)
{
	return stats->evicted_l1 + stats->evicted_l2 + stats->evicted_l3;
}

/* What happened between the oldest look that is kept and this one, or ever. */
static void compare(struct watched *w, bool totals)
{
	static const terrace_stats nothing;
	unsigned newest = (w->count - 1) % (LOOKS + 1), kept = w->count - 1;
	const terrace_stats *old;

	kept = kept > LOOKS ? LOOKS : kept;
	old = &w->looks[(w->count - 1 - kept) % (LOOKS + 1)];
	w->now = w->looks[newest];
	w->seconds = w->times[newest] - w->times[(w->count - 1 - kept) % (LOOKS + 1)];
	/* Somebody may have removed the statistics. */
	if (totals || w->now.gets < old->gets)
		old = &nothing;
	w->hits[0] = w->now.hits_l1 + w->now.hits_encoded - old->hits_l1 - old->hits_encoded;
	w->hits[1] = w->now.hits_l2 - old->hits_l2;
	w->hits[2] = w->now.hits_l3 - old->hits_l3;
	w->misses = w->now.misses - old->misses;
	w->evicted = evicted_of(&w->now) - evicted_of(old);
	subtract_latency(&w->now.hit_l1_time, &old->hit_l1_time);
	subtract_latency(&w->now.hit_l2_time, &old->hit_l2_time);
	subtract_latency(&w->now.hit_l3_time, &old->hit_l3_time);
}

static int watch_cache(void *ctx, const char *name)
{
	struct top *top = ctx;
	struct watched *w;

	for (size_t i = 0; i < top->count; i++) {
		if (strcmp(top->caches[i]->name, name) == 0)
			return 0;
	}
	if (*name == '.' || top->count == CACHES_MOST)
		return 0;
	w = calloc(1, sizeof *w);
	if (!w)
		return 1;
	w->name = strdup(name);
	if (!w->name || terrace_cache_open(top->store, name, NULL, &w->cache) != TERRACE_OK) {
		free(w->name);
		free(w);
		return 0;
	}
	top->caches[top->count++] = w;
	return 0;
}

static int add_process(void *ctx, const terrace_process *process)
{
	struct top *top = ctx;

	top->processes++;
	top->tight += process->tight;
	top->memory_bytes += process->memory_bytes + process->encoded_bytes;
	return 0;
}

static int find_limit(void *ctx, const terrace_setting *setting)
{
	struct top *top = ctx;

	if (strcmp(setting->section, "store") == 0 && strcmp(setting->name, "disk_bytes") == 0)
		terrace_parse_size(setting->value, &top->disk_limit);
	return 0;
}

static void look(struct top *top)
{
	terrace_caches_each(top->store, watch_cache, top);
	top->memory_bytes = top->disk_bytes = top->saved_us = 0;
	top->processes = top->tight = 0;
	terrace_processes_each(top->store, add_process, top);
	for (size_t i = 0; i < top->count; i++) {
		struct watched *w = top->caches[i];
		unsigned at = w->count % (LOOKS + 1);

		w->looks[at] = terrace_stats_init();
		if (terrace_cache_stats(w->cache, &w->looks[at]) != TERRACE_OK)
			continue;
		w->times[at] = seconds_now();
		w->count++;
		top->disk_bytes += w->looks[at].l2.bytes + w->looks[at].l3.bytes;
		top->saved_us += w->looks[at].saved_us;
	}
}

static uint64_t size_of(const struct watched *w)
{
	return w->now.l2.bytes + w->now.l3.bytes;
}

static uint64_t all_hits(const struct watched *w)
{
	return w->hits[0] + w->hits[1] + w->hits[2];
}

static enum column sort_by;

static uint64_t weight(const struct watched *w)
{
	switch (sort_by) {
	case BY_HITS:
		return all_hits(w);
	case BY_MISSES:
		return w->misses;
	case BY_SIZE:
		return size_of(w);
	default:
		return 0;
	}
}

static int in_order(const void *a, const void *b)
{
	const struct watched *x = *(struct watched *const *)a, *y = *(struct watched *const *)b;

	if (weight(x) != weight(y))
		return weight(x) < weight(y) ? 1 : -1;
	return strcmp(x->name, y->name);
}

/* --- drawing --------------------------------------------------------------------------------------- */

/* 999, 12.3k, 4.5M: five columns. */
static const char *count_text(double count, char text[16])
{
	static const char units[] = " kMGT";
	int unit = 0;

	while (count >= 999.5 && unit < 4) {
		count /= 1000;
		unit++;
	}
	if (unit == 0)
		snprintf(text, 16, count < 9.95 && count != (int)count ? "%.1f" : "%.0f", count);
	else
		snprintf(text, 16, "%.*f%c", count < 99.95 ? 1 : 0, count, units[unit]);
	return text;
}

static const char *rate_text(uint64_t hits, uint64_t misses, char text[16])
{
	if (hits + misses == 0)
		return "-";
	snprintf(text, 16, "%.1f%%", 100.0 * (double)hits / (double)(hits + misses));
	return text;
}

/* One line of the table; NULL and negative: nothing to say. */
struct line {
	const char *name;
	uint64_t hits, misses;
	double evicted, entries, bytes;
	const terrace_latency *time;
};

static double per_second(const struct top *top, const struct watched *w, uint64_t count)
{
	if (top->totals)
		return (double)count;
	return w->seconds > 0 ? (double)count / w->seconds : 0;
}

/* What the numbers leave: 16 of 80. */
static int name_width(void)
{
	int width = COLS - 64;

	return width < 12 ? 12 : width > 40 ? 40 : width;
}

static void draw_line(const struct top *top, const struct watched *w, int row,
                      const struct line *line)
{
	char hits[16], misses[16], rate[16], entries[16] = "-", size[TERRACE_TEXT_MAX] = "-",
					     p50[32] = "-", p99[32] = "-", evicted[16] = "-";

	if (line->entries >= 0)
		count_text(line->entries, entries);
	if (line->bytes >= 0)
		terrace_format_size((uint64_t)line->bytes, size);
	if (line->evicted >= 0)
		count_text(line->evicted, evicted);
	if (line->time && line->time->count) {
		nanoseconds_text(terrace_latency_quantile(line->time, 0.5), p50);
		nanoseconds_text(terrace_latency_quantile(line->time, 0.99), p99);
	}
	mvprintw(row, 0, "%-*.*s %7s %7s %6s %7s %8s %7s %7s %6s", name_width(), name_width(),
	         line->name, count_text(per_second(top, w, line->hits), hits),
	         count_text(per_second(top, w, line->misses), misses),
	         rate_text(line->hits, line->misses, rate), entries, size, p50, p99, evicted);
	clrtoeol();
}

/* The tiers' hits together: L1's are timed once in a while, the others' always. */
static void mix(const struct watched *w, terrace_latency *ret)
{
	const terrace_latency *times[] = { &w->now.hit_l1_time, &w->now.hit_l2_time,
		                           &w->now.hit_l3_time };

	memset(ret, 0, sizeof *ret);
	for (int t = 0; t < 3; t++) {
		double weight = all_hits(w) ? 1e6 * (double)w->hits[t] / (double)all_hits(w) : 0;

		for (int i = 0; i < TERRACE_LATENCY_BUCKETS && times[t]->count; i++)
			ret->buckets[i] += (uint32_t)(weight * times[t]->buckets[i] /
			                              (double)times[t]->count);
	}
	for (int i = 0; i < TERRACE_LATENCY_BUCKETS; i++)
		ret->count += ret->buckets[i];
}

static int draw_cache(const struct top *top, const struct watched *w, int row)
{
	uint64_t below = w->hits[1] + w->hits[2] + w->misses;
	terrace_latency mixed;
	const struct line all = { w->name,
		                  all_hits(w),
		                  w->misses,
		                  per_second(top, w, w->evicted),
		                  (double)(w->now.l2.entries + w->now.l3.entries),
		                  (double)size_of(w),
		                  &mixed };
	const struct line tiers[] = {
		{ "  l1 memory", w->hits[0], below, -1, -1, -1, &w->now.hit_l1_time },
		{ "  l2 rows", w->hits[1], w->hits[2] + w->misses, -1, (double)w->now.l2.entries,
		  (double)w->now.l2.bytes, &w->now.hit_l2_time },
		{ "  l3 files", w->hits[2], w->misses, -1, (double)w->now.l3.entries,
		  (double)w->now.l3.bytes, &w->now.hit_l3_time },
	};

	mix(w, &mixed);
	attron(A_BOLD);
	draw_line(top, w, row++, &all);
	attroff(A_BOLD);
	for (size_t i = 0; top->tiers && i < 3; i++) {
		if ((w->now.tiers & (1u << i)) == 0)
			continue;
		draw_line(top, w, row++, &tiers[i]);
	}
	return row;
}

static void draw_head(const struct top *top)
{
	char disk[TERRACE_TEXT_MAX], limit[TERRACE_TEXT_MAX], memory[TERRACE_TEXT_MAX], saved[32],
	    hits_text[16], misses_text[16], rate[16], clock[16];
	double hits = 0, misses = 0;
	uint64_t hit_count = 0, miss_count = 0;
	time_t now = time(NULL);
	struct tm local;

	for (size_t i = 0; i < top->count; i++) {
		const struct watched *w = top->caches[i];

		hit_count += all_hits(w);
		miss_count += w->misses;
		hits += per_second(top, w, all_hits(w));
		misses += per_second(top, w, w->misses);
	}
	if (!localtime_r(&now, &local) || strftime(clock, sizeof clock, "%H:%M:%S", &local) == 0)
		*clock = 0;
	mvprintw(0, 0, "terrace top  %s", terrace_dir(top->store));
	clrtoeol();
	mvprintw(0, COLS - (int)strlen(clock) - 1, " %s", clock);
	mvprintw(1, 0, "memory %s in %u process%s%s   disk %s of %s   saved %s",
	         terrace_format_size(top->memory_bytes, memory), top->processes,
	         top->processes == 1 ? "" : "es", top->tight ? " (short of memory)" : "",
	         terrace_format_size(top->disk_bytes, disk),
	         top->disk_limit ? terrace_format_size(top->disk_limit, limit) : "no limit",
	         nanoseconds_text(top->saved_us * 1000, saved));
	clrtoeol();
	mvprintw(2, 0, "%s %s hits, %s misses, %s served",
	         top->totals ? "Ever:" : "Per second:", count_text(hits, hits_text),
	         count_text(misses, misses_text), rate_text(hit_count, miss_count, rate));
	clrtoeol();
	attron(A_REVERSE);
	mvprintw(4, 0, "%-*s %7s %7s %6s %7s %8s %7s %7s %6s", name_width(), "CACHE",
	         top->totals ? "HITS" : "HITS/s", top->totals ? "MISSES" : "MISS/s", "RATE",
	         "ENTRIES", "SIZE", "P50", "P99", top->totals ? "EVICT" : "EVIC/s");
	for (int column = getcurx(stdscr); column < COLS; column++)
		addch(' ');
	attroff(A_REVERSE);
}

static void draw(struct top *top)
{
	int row = 5;
	size_t i;

	for (i = 0; i < top->count; i++)
		compare(top->caches[i], top->totals);
	sort_by = top->order;
	qsort(top->caches, top->count, sizeof *top->caches, in_order);
	if (top->first >= top->count)
		top->first = top->count ? top->count - 1 : 0;
	erase();
	draw_head(top);
	if (top->count == 0)
		mvprintw(row, 0, "No cache yet.");
	for (i = top->first; i < top->count && row < LINES - 1; i++)
		row = draw_cache(top, top->caches[i], row);
	attron(A_REVERSE);
	mvprintw(LINES - 1, 0,
	         " q quit  s sort: %-6s  t tiers  r %s  + - every %d ms  arrows scroll",
	         column_names[top->order], top->totals ? "rates " : "totals", top->interval_ms);
	for (int column = getcurx(stdscr); column < COLS - 1; column++)
		addch(' ');
	attroff(A_REVERSE);
	refresh();
}

/* --- the loop --------------------------------------------------------------------------------------- */

/* False to end. */
static bool obey(struct top *top, int key)
{
	switch (key) {
	case 'q':
	case 3: /* ^C */
	case 27:
		return false;
	case 's':
		top->order = (top->order + 1) % COLUMNS;
		break;
	case 't':
		top->tiers = !top->tiers;
		break;
	case 'r':
		top->totals = !top->totals;
		break;
	case '+':
		top->interval_ms = top->interval_ms < 60000 ? top->interval_ms * 2 : 60000;
		break;
	case '-':
		top->interval_ms = top->interval_ms > 250 ? top->interval_ms / 2 : 125;
		break;
	case KEY_DOWN:
		top->first += top->first + 1 < top->count;
		break;
	case KEY_UP:
		top->first -= top->first > 0;
		break;
	case KEY_HOME:
		top->first = 0;
		break;
	}
	return true;
}

static void run(struct top *top)
{
	double next = 0;
	bool go_on = true;

	while (go_on) {
		double now = seconds_now();
		int key;

		if (now >= next) {
			look(top);
			next = now + top->interval_ms / 1000.0;
		}
		draw(top);
		timeout((int)((next - now) * 1000) + 1);
		key = getch();
		if (key == ERR && !isatty(STDIN_FILENO))
			break; /* the terminal has gone */
		go_on = key == ERR || obey(top, key);
	}
}

static bool screen_begin(void)
{
	setlocale(LC_ALL, "");
	if (!newterm(NULL, stdout, stdin))
		return false;
	raw(); /* so that ^C leaves the terminal as it was */
	noecho();
	keypad(stdscr, TRUE);
	set_escdelay(25);
	curs_set(0);
	return true;
}

int verb_top(struct cli *cli, const struct args *args)
{
	const char *interval = args_value(args, "interval");
	struct top top = { .interval_ms = 1000, .tiers = true };
	int64_t ms = top.interval_ms;
	int status;

	if (interval &&
	    (terrace_parse_duration(interval, &ms) != TERRACE_OK || ms < 100 || ms > 60000))
		return usage(cli, "--interval %s: give 100ms to 60s", interval);
	top.interval_ms = (int)ms;
	if (cli->json || !isatty(STDOUT_FILENO) || !isatty(STDIN_FILENO))
		return usage(cli, "it needs a terminal; terrace stat says the same once");
	status = open_store(cli, &top.store);
	if (status != STATUS_DONE)
		return status;
	terrace_config_each(top.store, find_limit, &top);
	if (screen_begin()) {
		run(&top);
		endwin();
	} else {
		complain("top: the terminal \"%s\" cannot be used; set TERM to one that is known",
		         getenv("TERM") ? getenv("TERM") : "");
		status = STATUS_FAILED;
	}
	for (size_t i = 0; i < top.count; i++) {
		terrace_cache_close(top.caches[i]->cache);
		free(top.caches[i]->name);
		free(top.caches[i]);
	}
	terrace_close(top.store);
	return status;
}
