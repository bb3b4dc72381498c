/*
 * terrace slides serve: tiles and what is known of them to a browser on this
 * machine. One thread a connection; each tile is foreground work of the job
 * engine, so that preloading gives way to it.
 */
#include "slides/commands.h"

#ifdef HAVE_MICROHTTPD

#include "slides/http.h"
#include "slides/server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#ifdef HAVE_SLIDES_PAGE
extern const unsigned char slides_page_html[], slides_page_js[], slides_page_css[];
extern const size_t slides_page_html_size, slides_page_js_size, slides_page_css_size;
#endif

enum {
	CONNECTIONS = 64,
	IDLE_SECONDS = 30,
	LOOK_MS = 250, /* how old a look at a slide's files may be */
};

/* --- slides: names are those of the files in the folder, and nothing else ------------------------- */

/* Does a name from outside mean this path? With or without its ending. */
static bool is_named(const char *path, const char *name)
{
	const char *base = server_base(path);
	size_t size = strlen(name);

	return strncmp(base, name, size) == 0 &&
	       (base[size] == '\0' || strcmp(base + size, ".fastpath") == 0 ||
	        strcmp(base + size, ".dzi") == 0);
}

/* Its place in the folder; -1. Under the lock. */
static long find_slide(const struct server *server, const char *name)
{
	for (size_t i = 0; i < server->folder.count; i++) {
		if (strcmp(server_base(server->folder.paths[i]), name) == 0)
			return (long)i;
	}
	for (size_t i = 0; i < server->folder.count; i++) {
		if (is_named(server->folder.paths[i], name))
			return (long)i;
	}
	return -1;
}

static int open_named(struct server *server, const char *name, struct slide **ret, char *path,
                      size_t path_size)
{
	long at;

	pthread_mutex_lock(&server->lock);
	at = find_slide(server, name);
	if (at >= 0)
		snprintf(path, path_size, "%s", server->folder.paths[at]);
	pthread_mutex_unlock(&server->lock);
	if (at < 0)
		return terrace_fail(TERRACE_MISS, "there is no slide \"%s\"", name);
	return tiles_slide(server->tiles, path, LOOK_MS, ret);
}

/* Preload from this slide outwards, unless that is under way or done. */
static void preload_around(struct server *server, const char *name)
{
	struct preload_spec spec = { .folder = &server->folder, .finest_level = UINT32_MAX };
	struct preload *former = NULL;
	struct preload_status status;
	long at;

	if (!server->spec->preload)
		return;
	spec.rate_limit = server->spec->rate_limit;
	pthread_mutex_lock(&server->lock);
	at = find_slide(server, name);
	if (server->preload)
		preload_status(server->preload, &status);
	if (at >= 0 && (!server->preload || status.running)) {
		former = server->preload;
		spec.current = (size_t)at;
		preload_cancel(former);
		if (preload_start(server->tiles, server->jobs, &spec, &server->preload) !=
		    TERRACE_OK)
			server->preload = NULL;
	}
	pthread_mutex_unlock(&server->lock);
	preload_free(former);
}

static enum MHD_Result failed(struct MHD_Connection *connection, int rc)
{
	char text[700];

	snprintf(text, sizeof text, "%s\n", terrace_error_message());
	return http_text(connection,
	                 rc == TERRACE_MISS   ? MHD_HTTP_NOT_FOUND :
	                 rc == TERRACE_EINVAL ? MHD_HTTP_BAD_REQUEST :
	                                        MHD_HTTP_INTERNAL_SERVER_ERROR,
	                 text);
}

/* --- what is said about slides ------------------------------------------------------------------- */

static json_t *slide_json(const struct slide *slide, const char *id)
{
	json_t *levels = json_array();

	for (unsigned i = 0; i < slide->level_count; i++) {
		const struct slide_level *level = &slide->levels[i];

		json_array_append_new(
		    levels, json_pack("{s:i, s:f, s:i, s:i}", "level", level->level, "downsample",
		                      level->downsample, "cols", level->cols, "rows", level->rows));
	}
	return json_pack("{s:s, s:s, s:s, s:[i,i], s:i, s:i, s:o, s:[i,i,i], s:f}", "id", id,
	                 "name", slide->name, "format", slide_kind_name(slide->kind), "dimensions",
	                 slide->width, slide->height, "tile_size", slide->tile_size, "overlap",
	                 slide->overlap, "levels", levels, "background_color", slide->background[0],
	                 slide->background[1], slide->background[2], "mpp", slide->mpp);
}

/* The folder as it is now; a slide that cannot be opened is listed with its error. */
static enum MHD_Result send_list(struct server *server, struct MHD_Connection *connection)
{
	json_t *list = json_array(), *answer;
	struct folder folder;

	if (folder_list(server->spec->folder, &folder) == TERRACE_OK) {
		struct folder former;

		pthread_mutex_lock(&server->lock);
		former = server->folder;
		server->folder = folder;
		pthread_mutex_unlock(&server->lock);
		folder_free(&former);
	}
	pthread_mutex_lock(&server->lock);
	for (size_t i = 0; i < server->folder.count; i++) {
		const char *id = server_base(server->folder.paths[i]);
		struct slide *slide;

		if (tiles_slide(server->tiles, server->folder.paths[i], LOOK_MS, &slide) ==
		    TERRACE_OK) {
			json_array_append_new(list, slide_json(slide, id));
			slide_unref(slide);
		} else {
			json_array_append_new(list,
			                      json_pack("{s:s, s:s, s:s}", "id", id, "name", id,
			                                "error", terrace_error_message()));
		}
	}
	answer = json_pack("{s:o, s:s}", "slides", list, "current", server->current);
	pthread_mutex_unlock(&server->lock);
	return http_json(connection, MHD_HTTP_OK, answer);
}

/* --- tiles ------------------------------------------------------------------------------------------- */

static void release(void *value)
{
	terrace_release(value);
}

/* For a client that takes no JPEG: the decoded tile behind a PPM's head. */
static enum MHD_Result send_pixels(struct server *server, struct MHD_Connection *connection,
                                   struct slide *slide, const struct tile *tile)
{
	struct MHD_IoVec parts[2];
	const struct picture *picture;
	enum tiles_from from;
	terrace_value *value;
	static _Thread_local char head[64];
	int rc;

	if (!http_accepts(connection, "image/x-portable-pixmap"))
		return http_text(connection, MHD_HTTP_NOT_ACCEPTABLE,
		                 "tiles are image/jpeg or image/x-portable-pixmap\n");
	rc = tiles_picture(server->tiles, slide, tile, NULL, NULL, &value, &from);
	if (rc != TERRACE_OK)
		return failed(connection, rc);
	server_note(server, slide, tile, from);
	picture = terrace_object(value);
	/* Good until this thread, which is the connection's, has sent it. */
	parts[0].iov_len = (size_t)snprintf(head, sizeof head, "P6\n%u %u\n255\n", picture->width,
	                                    picture->height);
	parts[0].iov_base = head;
	parts[1].iov_base = picture->rgb;
	parts[1].iov_len = (size_t)picture->width * picture->height * 3;
	return http_send(connection, MHD_HTTP_OK, "image/x-portable-pixmap",
	                 MHD_create_response_from_iovec(parts, 2, release, value));
}

static enum MHD_Result send_tile(struct server *server, struct MHD_Connection *connection,
                                 struct slide *slide, const char *rest)
{
	enum tiles_from from;
	terrace_value *value;
	struct tile tile;
	int end = 0, rc;

	if (sscanf(rest, "%9u/%9u_%9u%n", &tile.level, &tile.col, &tile.row, &end) != 3 ||
	    strcmp(rest + end, ".jpg") != 0)
		return http_text(connection, MHD_HTTP_NOT_FOUND, "it is tiles/LEVEL/COL_ROW.jpg\n");
	if (!http_accepts(connection, "image/jpeg"))
		return send_pixels(server, connection, slide, &tile);
	rc = tiles_jpeg(server->tiles, slide, &tile, NULL, NULL, &value, &from);
	if (rc != TERRACE_OK)
		return failed(connection, rc);
	server_note(server, slide, &tile, from);
	return http_value(connection, "image/jpeg", value, tiles_from_name(from));
}

static enum MHD_Result send_thumbnail(struct server *server, struct MHD_Connection *connection,
                                      struct slide *slide)
{
	const struct slide_level *coarsest = &slide->levels[0];
	struct tile tile = { coarsest->level, 0, 0 };
	enum tiles_from from;
	terrace_value *value;
	size_t size;
	void *bytes;
	int rc = slide_thumbnail(slide, &bytes, &size);

	if (rc == TERRACE_OK)
		return http_bytes(connection, "image/jpeg", bytes, size);
	/* Of the smallest level that is one tile of some size, where there is none. */
	for (unsigned i = 0; i < slide->level_count; i++) {
		if (slide->levels[i].cols == 1 && slide->levels[i].rows == 1)
			tile.level = slide->levels[i].level;
	}
	rc = tiles_jpeg(server->tiles, slide, &tile, NULL, NULL, &value, &from);
	if (rc != TERRACE_OK)
		return failed(connection, rc);
	return http_value(connection, "image/jpeg", value, tiles_from_name(from));
}

/* --- the view --------------------------------------------------------------------------------------------- */

static enum MHD_Result show(struct server *server, struct MHD_Connection *connection,
                            struct slide *slide, const char *path)
{
	uint64_t generation;
	json_t *answer;
	int rc = viewer_open(server->viewer, path, &generation);

	if (rc != TERRACE_OK)
		return failed(connection, rc);
	pthread_mutex_lock(&server->lock);
	snprintf(server->current, sizeof server->current, "%.255s", server_base(path));
	pthread_mutex_unlock(&server->lock);
	preload_around(server, server_base(path));
	answer = slide_json(slide, server_base(path));
	json_object_set_new(answer, "generation", json_integer((json_int_t)generation));
	return http_json(connection, MHD_HTTP_OK, answer);
}

static enum MHD_Result look(struct server *server, struct MHD_Connection *connection)
{
	const char *text = MHD_lookup_connection_value(connection, MHD_GET_ARGUMENT_KIND,
	                                               "viewport");
	const char *of = MHD_lookup_connection_value(connection, MHD_GET_ARGUMENT_KIND,
	                                             "generation");
	struct view view;
	int rc, end = 0;

	if (!text || !of ||
	    sscanf(text, "%lf,%lf,%lf,%lf,%lf,%lf,%lf%n", &view.x, &view.y, &view.width,
	           &view.height, &view.scale, &view.velocity_x, &view.velocity_y, &end) != 7 ||
	    text[end])
		return http_text(connection, MHD_HTTP_BAD_REQUEST,
		                 "it is ?generation=N&viewport=X,Y,W,H,SCALE,VX,VY\n");
	rc = viewer_look(server->viewer, strtoull(of, NULL, 10), &view);
	if (rc == VIEWER_STALE)
		return http_text(connection, MHD_HTTP_GONE, "another slide is shown by now\n");
	if (rc != TERRACE_OK)
		return failed(connection, rc);
	return http_json(connection, MHD_HTTP_OK, json_pack("{s:b}", "asked", 1));
}

/* --- routes ----------------------------------------------------------------------------------------------------- */

static enum MHD_Result send_page(struct MHD_Connection *connection, const char *url)
{
#ifdef HAVE_SLIDES_PAGE
	if (strcmp(url, "/") == 0)
		return http_static(connection, "text/html; charset=utf-8", slides_page_html,
		                   slides_page_html_size);
	if (strcmp(url, "/page.js") == 0)
		return http_static(connection, "text/javascript; charset=utf-8", slides_page_js,
		                   slides_page_js_size);
	if (strcmp(url, "/page.css") == 0)
		return http_static(connection, "text/css; charset=utf-8", slides_page_css,
		                   slides_page_css_size);
#else
	if (strcmp(url, "/") == 0)
		return http_text(connection, MHD_HTTP_OK,
		                 "The page was not built: make slides fetches OpenSeadragon and "
		                 "builds it. Tiles are served all the same.\n");
#endif
	return http_text(connection, MHD_HTTP_NOT_FOUND, "there is nothing here\n");
}

/* /slides/ID/... */
static enum MHD_Result route_slide(struct server *server, struct MHD_Connection *connection,
                                   const char *url)
{
	char id[SLIDE_NAME_MAX], path[4096];
	size_t size = strcspn(url, "/");
	const char *rest = url[size] ? url + size + 1 : "";
	enum MHD_Result result;
	struct slide *slide;
	int rc;

	if (size == 0 || size >= sizeof id)
		return http_text(connection, MHD_HTTP_NOT_FOUND, "there is no such slide\n");
	memcpy(id, url, size);
	id[size] = '\0';
	rc = open_named(server, id, &slide, path, sizeof path);
	if (rc != TERRACE_OK)
		return failed(connection, rc);
	if (strncmp(rest, "tiles/", 6) == 0) {
		/* Somebody looks at the slide. Asking how it goes is no such thing. */
		terrace_jobs_enter(server->jobs);
		result = send_tile(server, connection, slide, rest + 6);
		terrace_jobs_leave(server->jobs);
	} else if (strcmp(rest, "thumbnail.jpg") == 0)
		result = send_thumbnail(server, connection, slide);
	else if (strcmp(rest, "show") == 0)
		result = show(server, connection, slide, path);
	else if (*rest == '\0')
		result = http_json(connection, MHD_HTTP_OK, slide_json(slide, server_base(path)));
	else
		result = http_text(connection, MHD_HTTP_NOT_FOUND, "there is nothing here\n");
	slide_unref(slide);
	return result;
}

static enum MHD_Result route(struct server *server, struct MHD_Connection *connection,
                             const char *url)
{
	if (strcmp(url, "/slides") == 0)
		return send_list(server, connection);
	if (strcmp(url, "/stats") == 0)
		return http_json(connection, MHD_HTTP_OK, server_stats(server));
	if (strcmp(url, "/events") == 0)
		return server_events(server, connection);
	if (strcmp(url, "/look") == 0)
		return look(server, connection);
	if (strncmp(url, "/slides/", 8) == 0)
		return route_slide(server, connection, url + 8);
	return send_page(connection, url);
}

static enum MHD_Result on_request(void *ctx, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_size, void **state)
{
	static int seen;
	struct server *server = ctx;
	unsigned refuse;

	(void)version, (void)upload;
	if (*state == NULL) { /* the headers are there; a body may follow */
		*state = &seen;
		return MHD_YES;
	}
	if (*upload_size) { /* nobody has to send us anything */
		*upload_size = 0;
		return MHD_YES;
	}
	refuse = http_refuse(connection, method, server->port);
	if (refuse)
		return http_text(connection, refuse,
		                 refuse == MHD_HTTP_FORBIDDEN ? "this is not that host\n" :
		                                                "there is only GET\n");
	return route(server, connection, url);
}

/* --- starting and stopping ----------------------------------------------------------------------------------------- */

static struct MHD_Daemon *start_daemon(struct server *server, uint16_t port)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};

	return MHD_start_daemon(
	    MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION, port, NULL, NULL,
	    on_request, server, MHD_OPTION_SOCK_ADDR, &address, MHD_OPTION_CONNECTION_LIMIT,
	    (unsigned)CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_SECONDS,
	    MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)32 << 10, MHD_OPTION_END);
}

static int open_server(struct server *server)
{
	struct tiles_budget budget;
	const struct serve_spec *spec = server->spec;
	long at;
	int rc = folder_list(spec->folder, &server->folder);

	if (rc == TERRACE_OK)
		rc = tiles_budget(&budget);
	if (rc == TERRACE_OK)
		rc = tiles_open(spec->dir, spec->config, &budget, spec->warn, &server->tiles);
	if (rc == TERRACE_OK)
		rc = terrace_jobs_open(NULL, &server->jobs);
	if (rc == TERRACE_OK)
		rc = viewer_new(server->tiles, server->jobs, VIEWER_JPEGS, NULL, NULL,
		                &server->viewer);
	if (rc != TERRACE_OK || server->folder.count == 0)
		return rc;
	at = spec->current ? find_slide(server, spec->current) : 0;
	if (at < 0)
		return terrace_fail(TERRACE_EINVAL, "there is no slide \"%s\" in %s", spec->current,
		                    spec->folder);
	snprintf(server->current, sizeof server->current, "%.255s",
	         server_base(server->folder.paths[at]));
	return TERRACE_OK;
}

static int serve(struct server *server, sigset_t *signals)
{
	const union MHD_DaemonInfo *info;
	/* Before there are requests, which may change these. */
	size_t count = server->folder.count;
	char url[64], current[SLIDE_NAME_MAX];
	struct MHD_Daemon *daemon;
	int received;

	memcpy(current, server->current, sizeof current);
	daemon = start_daemon(server, server->spec->port);

	if (!daemon)
		return terrace_fail(TERRACE_EBUSY,
		                    "cannot listen on 127.0.0.1:%u: %s; --port 0 takes a free one",
		                    server->spec->port, strerror(errno));
	info = MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_BIND_PORT);
	server->port = info ? info->port : server->spec->port;
	if (count)
		preload_around(server, current);
	snprintf(url, sizeof url, "http://127.0.0.1:%u/", server->port);
	server->spec->ready(server->spec->ctx, url, count);
	sigwait(signals, &received);
	pthread_mutex_lock(&server->lock);
	server->stopped = true;
	pthread_cond_broadcast(&server->stopping);
	pthread_mutex_unlock(&server->lock);
	MHD_stop_daemon(daemon);
	return TERRACE_OK;
}

int slides_serve(const struct serve_spec *spec)
{
	struct server *server = calloc(1, sizeof *server);
	pthread_condattr_t monotonic;
	sigset_t signals;
	int rc;

	if (!server)
		return terrace_fail(TERRACE_ENOMEM, "out of memory for a server");
	server->spec = spec;
	pthread_mutex_init(&server->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&server->stopping, &monotonic);
	pthread_condattr_destroy(&monotonic);
	/* Before there are threads: all of them leave these to sigwait(). */
	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	signal(SIGPIPE, SIG_IGN);
	rc = open_server(server);
	if (rc == TERRACE_OK)
		rc = serve(server, &signals);
	preload_free(server->preload);
	viewer_close(server->viewer);
	terrace_jobs_close(server->jobs);
	tiles_close(server->tiles);
	folder_free(&server->folder);
	pthread_cond_destroy(&server->stopping);
	pthread_mutex_destroy(&server->lock);
	free(server);
	return rc;
}

#else

int slides_serve(const struct serve_spec *spec)
{
	(void)spec;
	return terrace_fail(TERRACE_EFORMAT, "this terrace was built without libmicrohttpd");
}

#endif
