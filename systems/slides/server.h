/* The slide server, as its two files see it: serve.c answers, events.c tells how it goes. */
#ifndef SLIDES_SERVER_H
#define SLIDES_SERVER_H

#include "slides/commands.h"
#include "slides/http.h"
#include "slides/viewer.h"

#include <pthread.h>

enum { RECENT = 512 };

struct recent {
	int64_t when;
	char slide[SLIDE_NAME_MAX];
	struct tile tile;
	enum tiles_from from;
};

struct server {
	const struct serve_spec *spec;
	struct tiles *tiles;
	terrace_jobs *jobs;
	struct viewer *viewer;
	_Atomic uint16_t port; /* 0 until it listens */

	pthread_mutex_t lock; /* over what follows */
	pthread_cond_t stopping;
	bool stopped;
	struct folder folder;
	char current[SLIDE_NAME_MAX];
	struct preload *preload;
	struct recent recent[RECENT];
	uint64_t recent_count;
	unsigned listeners;
	struct tiles_stats stats;
	int64_t stats_when;
};

/* The file's name in a path: a slide's name to the outside. */
const char *server_base(const char *path);

/* A tile was sent: for those who listen. */
void server_note(struct server *server, const struct slide *slide, const struct tile *tile,
                 enum tiles_from from);
json_t *server_stats(struct server *server);
/* Four times a second what server_stats() says, as server-sent events. */
enum MHD_Result server_events(struct server *server, struct MHD_Connection *connection);

#endif
