#ifdef HAVE_MICROHTTPD

#include "slides/http.h"

#include <stdio.h>
#include <stdlib.h>

enum MHD_Result http_send(struct MHD_Connection *connection, unsigned status, const char *type,
                          struct MHD_Response *response)
{
	enum MHD_Result result;

	if (!response)
		return MHD_NO;
	MHD_add_response_header(response, "Content-Type", type);
	/* Everything comes from here; nothing is to be framed, guessed or kept. */
	MHD_add_response_header(response, "Content-Security-Policy",
	                        "default-src 'none'; script-src 'self'; style-src 'self'; "
	                        "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; "
	                        "form-action 'none'; frame-ancestors 'none'");
	MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
	MHD_add_response_header(response, "X-Frame-Options", "DENY");
	MHD_add_response_header(response, "Referrer-Policy", "no-referrer");
	MHD_add_response_header(response, "Cross-Origin-Resource-Policy", "same-origin");
	MHD_add_response_header(response, "Cross-Origin-Opener-Policy", "same-origin");
	MHD_add_response_header(response, "Cache-Control", "no-store");
	if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
		MHD_add_response_header(response, "Allow", "GET, HEAD");
	result = MHD_queue_response(connection, status, response);
	MHD_destroy_response(response);
	return result;
}

enum MHD_Result http_text(struct MHD_Connection *connection, unsigned status, const char *text)
{
	return http_send(connection, status, "text/plain; charset=utf-8",
	                 MHD_create_response_from_buffer(strlen(text), (void *)(uintptr_t)text,
	                                                 MHD_RESPMEM_MUST_COPY));
}

enum MHD_Result http_bytes(struct MHD_Connection *connection, const char *type, void *bytes,
                           size_t size)
{
	return http_send(connection, MHD_HTTP_OK, type,
	                 MHD_create_response_from_buffer(size, bytes, MHD_RESPMEM_MUST_FREE));
}

enum MHD_Result http_json(struct MHD_Connection *connection, unsigned status, json_t *value)
{
	char *text = value ? json_dumps(value, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL;

	json_decref(value);
	if (!text)
		return http_text(connection, MHD_HTTP_INTERNAL_SERVER_ERROR, "out of memory\n");
	return http_send(
	    connection, status, "application/json",
	    MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE));
}

enum MHD_Result http_static(struct MHD_Connection *connection, const char *type,
                            const unsigned char *bytes, size_t size)
{
	return http_send(connection, MHD_HTTP_OK, type,
	                 MHD_create_response_from_buffer(size, (void *)(uintptr_t)bytes,
	                                                 MHD_RESPMEM_PERSISTENT));
}

static void release(void *value)
{
	terrace_release(value);
}

enum MHD_Result http_value(struct MHD_Connection *connection, const char *type,
                           terrace_value *value, const char *from)
{
	struct MHD_Response *response = MHD_create_response_from_buffer_with_free_callback_cls(
	    terrace_size(value), (void *)(uintptr_t)terrace_data(value), release, value);

	if (!response) {
		terrace_release(value);
		return MHD_NO;
	}
	MHD_add_response_header(response, "X-Terrace-From", from);
	return http_send(connection, MHD_HTTP_OK, type, response);
}

/* --- who is let in ----------------------------------------------------------------------------- */

static bool is_our_host(const char *host, uint16_t port)
{
	static const char *const names[] = { "127.0.0.1", "localhost", "[::1]" };
	char expected[32];

	for (size_t i = 0; host && i < sizeof names / sizeof names[0]; i++) {
		snprintf(expected, sizeof expected, "%s:%u", names[i], port);
		if (strcasecmp(host, expected) == 0 ||
		    (port == 80 && strcasecmp(host, names[i]) == 0))
			return true;
	}
	return false;
}

unsigned http_refuse(struct MHD_Connection *connection, const char *method, uint16_t port)
{
	/* A page of another site that has its name point here is another Host. */
	if (!is_our_host(MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Host"), port))
		return MHD_HTTP_FORBIDDEN;
	if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0)
		return MHD_HTTP_METHOD_NOT_ALLOWED;
	return 0;
}

bool http_accepts(struct MHD_Connection *connection, const char *type)
{
	const char *accept = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Accept");
	size_t group = strcspn(type, "/");

	while (accept && *accept) {
		size_t size, all;

		accept += strspn(accept, " \t,");
		size = strcspn(accept, ",; \t");
		all = strcspn(accept, ",");
		if ((size == strlen(type) && strncasecmp(accept, type, size) == 0) ||
		    (size == 3 && strncmp(accept, "*/*", 3) == 0) ||
		    (size == group + 2 && strncasecmp(accept, type, group + 1) == 0 &&
		     accept[group + 1] == '*'))
			return !memmem(accept, all, "q=0,", 4) &&
			       !(all >= 4 && strncmp(accept + all - 4, ";q=0", 4) == 0);
		accept += all;
		if (!*accept)
			return false;
	}
	return true;
}

#else
typedef int http_is_not_built;
#endif
