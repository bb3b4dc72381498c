/* What the slide server tells of itself, once or as server-sent events. */
#ifdef HAVE_MICROHTTPD

#include "slides/server.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

enum {
	LISTENERS = 8,
	EVENT_MS = 250,
};

static int64_t server_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

const char *server_base(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

void server_note(struct server *server, const struct slide *slide, const struct tile *tile,
                 enum tiles_from from)
{
	struct recent *seen;

	pthread_mutex_lock(&server->lock);
	seen = &server->recent[server->recent_count++ % RECENT];
	seen->when = server_now_ms();
	snprintf(seen->slide, sizeof seen->slide, "%.255s", server_base(slide->path));
	seen->tile = *tile;
	seen->from = from;
	pthread_mutex_unlock(&server->lock);
}

json_t *server_stats(struct server *server)
{
	struct preload_status status = { 0 };
	struct tiles_stats stats;
	uint64_t hits, all;
	json_t *recent = json_array();
	int64_t now = server_now_ms();

	pthread_mutex_lock(&server->lock);
	if (now - server->stats_when >= 1000) {
		tiles_stats(server->tiles, &server->stats);
		server->stats_when = now;
	}
	stats = server->stats;
	if (server->preload)
		preload_status(server->preload, &status);
	for (uint64_t i = server->recent_count > RECENT ? server->recent_count - RECENT : 0;
	     i < server->recent_count; i++) {
		const struct recent *seen = &server->recent[i % RECENT];

		if (now - seen->when <= 1000)
			json_array_append_new(recent, json_pack("[s,i,i,i,s]", seen->slide,
			                                        seen->tile.level, seen->tile.col,
			                                        seen->tile.row,
			                                        tiles_from_name(seen->from)));
	}
	pthread_mutex_unlock(&server->lock);
	hits = stats.served[FROM_DECODED] + stats.served[FROM_MEMORY] + stats.served[FROM_DISK];
	all = hits + stats.served[FROM_SOURCE];
	return json_pack(
	    "{s:o, s:{s:I, s:I, s:I, s:I, s:I}, s:f, s:{s:I, s:I, s:I}, s:{s:I, s:I, s:I}, "
	    "s:{s:I, s:I}, s:{s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b}}",
	    "recent", recent, "served", "decoded", (json_int_t)stats.served[FROM_DECODED], "memory",
	    (json_int_t)stats.served[FROM_MEMORY], "disk", (json_int_t)stats.served[FROM_DISK],
	    "source", (json_int_t)stats.served[FROM_SOURCE], "failed", (json_int_t)stats.failed,
	    "hit_rate", all ? (double)hits / (double)all : 0.0, "decoded", "bytes",
	    (json_int_t)stats.decoded_bytes, "entries", (json_int_t)stats.decoded_entries, "limit",
	    (json_int_t)stats.decoded_limit, "compressed", "bytes", (json_int_t)stats.jpeg_bytes,
	    "entries", (json_int_t)stats.jpeg_entries, "limit", (json_int_t)stats.jpeg_limit,
	    "disk", "bytes", (json_int_t)stats.disk_bytes, "entries",
	    (json_int_t)stats.disk_entries, "preload", "running", status.running, "slides",
	    (json_int_t)status.slides, "slides_done", (json_int_t)status.slides_done, "tiles",
	    (json_int_t)status.tiles, "tiles_done", (json_int_t)status.tiles_done, "tiles_skipped",
	    (json_int_t)status.tiles_skipped, "tiles_failed", (json_int_t)status.tiles_failed,
	    "elapsed_ms", (json_int_t)status.elapsed_ms, "full", status.full);
}

struct listener {
	struct server *server;
	char *text;
	size_t size, sent;
};

/* The next event, after a while; false when the server stops. */
static bool next_event(struct listener *listener)
{
	struct server *server = listener->server;
	struct timespec until;
	char *json;
	bool stopped;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += (listener->text ? EVENT_MS : 0) * 1000000L;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	pthread_mutex_lock(&server->lock);
	while (!server->stopped &&
	       pthread_cond_timedwait(&server->stopping, &server->lock, &until) != ETIMEDOUT)
		;
	stopped = server->stopped;
	pthread_mutex_unlock(&server->lock);
	free(listener->text);
	listener->text = NULL;
	if (stopped)
		return false;
	{
		json_t *stats = server_stats(server);

		json = stats ? json_dumps(stats, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL;
		json_decref(stats);
	}
	if (!json || asprintf(&listener->text, "data: %s\n\n", json) < 0)
		listener->text = NULL;
	free(json);
	listener->size = listener->text ? strlen(listener->text) : 0;
	listener->sent = 0;
	return listener->text != NULL;
}

static ssize_t read_events(void *ctx, uint64_t at, char *to, size_t most)
{
	struct listener *listener = ctx;
	size_t left;

	(void)at;
	if (listener->sent == listener->size && !next_event(listener))
		return MHD_CONTENT_READER_END_OF_STREAM;
	left = listener->size - listener->sent;
	if (left > most)
		left = most;
	memcpy(to, listener->text + listener->sent, left);
	listener->sent += left;
	return (ssize_t)left;
}

static void end_events(void *ctx)
{
	struct listener *listener = ctx;

	pthread_mutex_lock(&listener->server->lock);
	listener->server->listeners--;
	pthread_mutex_unlock(&listener->server->lock);
	free(listener->text);
	free(listener);
}

enum MHD_Result server_events(struct server *server, struct MHD_Connection *connection)
{
	struct listener *listener = calloc(1, sizeof *listener);
	struct MHD_Response *response = NULL;
	bool room;

	pthread_mutex_lock(&server->lock);
	room = listener && server->listeners < LISTENERS;
	server->listeners += room;
	pthread_mutex_unlock(&server->lock);
	if (!room) {
		free(listener);
		return http_text(connection, MHD_HTTP_SERVICE_UNAVAILABLE,
		                 "too many are listening\n");
	}
	listener->server = server;
	response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16384, read_events, listener,
	                                             end_events);
	if (!response)
		end_events(listener);
	return http_send(connection, MHD_HTTP_OK, "text/event-stream", response);
}

#else
typedef int events_are_not_built;
#endif
