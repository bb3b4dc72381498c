#include "slides/bench_parts.h"

#include <stdio.h>
#include <stdlib.h>

enum { PAN = 200 };

#ifdef HAVE_VIPS
#include <vips/vips.h>

double bench_pan_vips(const char *path, const struct slide *slide)
{
	uint64_t start;

	if (!slide || slide->kind != SLIDE_FOLDER || VIPS_INIT("terrace") != 0)
		return 0;
	vips_concurrency_set(1);
	vips_cache_set_max(0); /* it would remember the files */
	start = bench_ns();
	for (unsigned i = 0; i < PAN; i++) {
		struct tile tile = bench_tile(slide, i);
		char name[4200];
		VipsImage *image;
		size_t size;

		snprintf(name, sizeof name, "%s/tiles_files/%u/%u_%u.jpg", path, tile.level,
		         tile.col, tile.row);
		image = vips_image_new_from_file(name, NULL);
		if (!image)
			return 0;
		g_free(vips_image_write_to_memory(image, &size));
		g_object_unref(image);
	}
	return (double)(bench_ns() - start) / 1e6;
}

/* All tiles of the finest level, joined, as a pyramid of JPEG tiles. */
bool bench_make_scan(const char *folder, const char *to)
{
	struct slide *slide;
	const struct slide_level *level;
	VipsImage **tiles, *whole = NULL;
	bool made = false;
	int count;

	if (VIPS_INIT("terrace") != 0 || slide_open(folder, &slide) != TERRACE_OK)
		return false;
	level = &slide->levels[slide->level_count - 1];
	count = (int)(level->cols * level->rows);
	tiles = slide->kind == SLIDE_FOLDER ? calloc((size_t)count, sizeof *tiles) : NULL;
	for (int i = 0; tiles && i < count; i++) {
		char name[4200];

		snprintf(name, sizeof name, "%s/tiles_files/%u/%u_%u.jpg", folder, level->level,
		         (unsigned)i % level->cols, (unsigned)i / level->cols);
		tiles[i] = vips_image_new_from_file(name, NULL);
		if (!tiles[i])
			count = i;
	}
	if (tiles && count &&
	    vips_arrayjoin(tiles, &whole, count, "across", (int)level->cols, NULL) == 0)
		made = vips_tiffsave(whole, to, "tile", TRUE, "pyramid", TRUE, "compression",
		                     VIPS_FOREIGN_TIFF_COMPRESSION_JPEG, "Q", 85, "tile_width", 256,
		                     "tile_height", 256, NULL) == 0;
	if (whole)
		g_object_unref(whole);
	for (int i = 0; tiles && i < count; i++)
		g_object_unref(tiles[i]);
	free(tiles);
	slide_unref(slide);
	vips_error_clear();
	return made && slide_openslide_reads(to);
}
#else
double bench_pan_vips(const char *path, const struct slide *slide)
{
	(void)path, (void)slide;
	return 0;
}

bool bench_make_scan(const char *folder, const char *to)
{
	(void)folder, (void)to;
	return false;
}
#endif

#ifdef HAVE_OPENSLIDE
#include <openslide/openslide.h>

double bench_pan_openslide(const char *path, const struct slide *slide)
{
	openslide_t *file = slide ? openslide_open(path) : NULL;
	uint32_t *pixels = file ? malloc(512 * 512 * sizeof *pixels) : NULL;
	uint64_t start = bench_ns();
	double ms;

	for (unsigned i = 0; pixels && i < PAN; i++) {
		struct tile tile = bench_tile(slide, i);

		openslide_read_region(file, pixels, (int64_t)tile.col * 512,
		                      (int64_t)tile.row * 512, 0, 512, 512);
	}
	ms = pixels ? (double)(bench_ns() - start) / 1e6 : 0;
	free(pixels);
	if (file)
		openslide_close(file);
	return ms;
}
#else
double bench_pan_openslide(const char *path, const struct slide *slide)
{
	(void)path, (void)slide;
	return 0;
}
#endif

#ifdef HAVE_MICROHTTPD
#include <arpa/inet.h>
#include <fcntl.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* The least that a server of files can do. */
static enum MHD_Result send_file(void *ctx, struct MHD_Connection *connection, const char *url,
                                 const char *method, const char *version, const char *upload,
                                 size_t *upload_size, void **state)
{
	char path[4200];
	struct stat st;
	struct MHD_Response *response;
	enum MHD_Result result;
	static int seen;
	int fd;

	(void)method, (void)version, (void)upload, (void)upload_size;
	/* An answer before the request is complete would close the connection. */
	if (!*state) {
		*state = &seen;
		return MHD_YES;
	}
	snprintf(path, sizeof path, "%s%s", (const char *)ctx, url);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return MHD_NO;
	response = MHD_create_response_from_fd((size_t)st.st_size, fd);
	result = MHD_queue_response(connection, MHD_HTTP_OK, response);
	MHD_destroy_response(response);
	return result;
}

static int connect_to(unsigned port)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
		                       .sin_port = htons((uint16_t)port),
		                       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;

	if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
		close(fd);
		return -1;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
	return fd;
}

/* One request on a connection that is kept; false when the answer is not 200. */
static bool ask(int fd, unsigned port, const char *path)
{
	static char bytes[1 << 20];
	size_t got = 0, length = 0;
	char *body = NULL, *header;
	ssize_t n;

	n = snprintf(bytes, sizeof bytes, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%u\r\n\r\n", path,
	             port);
	if (write(fd, bytes, (size_t)n) != n)
		return false;
	while (!body || got < (size_t)(body - bytes) + length) {
		n = read(fd, bytes + got, sizeof bytes - 1 - got);
		if (n <= 0)
			return false;
		got += (size_t)n;
		bytes[got] = '\0';
		if (!body && (body = strstr(bytes, "\r\n\r\n")) != NULL) {
			body += 4;
			header = strcasestr(bytes, "Content-Length:");
			length = header ? strtoul(header + 15, NULL, 10) : 0;
		}
	}
	return strncmp(bytes, "HTTP/1.1 200", 12) == 0;
}

/* Median microseconds; 0 when it fails. */
static double ask_all(unsigned port, const struct slide *slide, const char *format)
{
	enum { ROUNDS = 5 };
	static double us[PAN * ROUNDS];
	int fd = connect_to(port);
	bool good = fd >= 0;

	for (unsigned i = 0; i < PAN * ROUNDS && good; i++) {
		struct tile tile = bench_tile(slide, i % PAN);
		uint64_t start = bench_ns();
		char path[512];

		snprintf(path, sizeof path, format, tile.level, tile.col, tile.row);
		good = ask(fd, port, path);
		us[i] = (double)(bench_ns() - start) / 1000;
	}
	if (fd >= 0)
		close(fd);
	return good ? bench_quantile(us, PAN * ROUNDS, 0.5) : 0;
}

/* This very command, as people start it; its port. */
static unsigned start_server(const char *folder, const char *store, pid_t *ret_pid)
{
	const char *argv[] = { "terrace", "--dir",  store, "slides", "serve",
		               folder,    "--port", "0",   "--json", NULL };
	posix_spawn_file_actions_t actions;
	char line[256] = "";
	unsigned port = 0;
	const char *colon;
	int ends[2], failed;
	FILE *out;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return 0;
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
	failed = posix_spawn(ret_pid, "/proc/self/exe", &actions, NULL,
	                     (char *const *)(uintptr_t)argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	close(ends[1]);
	out = fdopen(ends[0], "r");
	if (!failed && out && fgets(line, sizeof line, out) &&
	    (colon = strstr(line, "127.0.0.1:")) != NULL)
		port = (unsigned)strtoul(colon + 10, NULL, 10);
	if (out)
		fclose(out);
	return port;
}

bool bench_serve(const char *folder, const char *store, double *ret_ours, double *ret_plain)
{
	const union MHD_DaemonInfo *info;
	struct MHD_Daemon *plain;
	struct slide *slide;
	const char *base = strrchr(folder, '/');
	char format[512];
	pid_t pid = 0;
	unsigned port;

	*ret_ours = *ret_plain = 0;
	if (slide_open(folder, &slide) != TERRACE_OK)
		return false;
	port = start_server(folder, store, &pid);
	snprintf(format, sizeof format, "/slides/%s/tiles/%%u/%%u_%%u.jpg",
	         base ? base + 1 : folder);
	if (port)
		*ret_ours = ask_all(port, slide, format);
	if (pid > 0) {
		kill(pid, SIGTERM);
		waitpid(pid, NULL, 0);
	}
	plain = MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION, 0,
	                         NULL, NULL, send_file, (void *)(uintptr_t)folder, MHD_OPTION_END);
	info = plain ? MHD_get_daemon_info(plain, MHD_DAEMON_INFO_BIND_PORT) : NULL;
	if (info)
		*ret_plain = ask_all(info->port, slide, "/tiles_files/%u/%u_%u.jpg");
	if (plain)
		MHD_stop_daemon(plain);
	slide_unref(slide);
	return *ret_ours > 0 && *ret_plain > 0;
}
#else
bool bench_serve(const char *folder, const char *store, double *ret_ours, double *ret_plain)
{
	(void)folder, (void)store, (void)ret_ours, (void)ret_plain;
	return false;
}
#endif
