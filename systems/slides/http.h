/*
 * Answers of the slide server: what every one of them carries, and who is let
 * in. Around libmicrohttpd.
 */
#ifndef SLIDES_HTTP_H
#define SLIDES_HTTP_H

#include <terrace/terrace.h>

#include <jansson.h>
#include <microhttpd.h>

/* Copies the text. */
enum MHD_Result http_text(struct MHD_Connection *connection, unsigned status, const char *text);
/* Takes over the value. */
enum MHD_Result http_json(struct MHD_Connection *connection, unsigned status, json_t *value);
/* Bytes that stay where they are, as those of the page do. */
enum MHD_Result http_static(struct MHD_Connection *connection, const char *type,
                            const unsigned char *bytes, size_t size);
/* Bytes of malloc(); takes them over. */
enum MHD_Result http_bytes(struct MHD_Connection *connection, const char *type, void *bytes,
                           size_t size);
/* The bytes of a pinned value, sent from where they are; takes over the pin. */
enum MHD_Result http_value(struct MHD_Connection *connection, const char *type,
                           terrace_value *value, const char *from);
/* Queue any response with the headers that all have; takes over the response. */
enum MHD_Result http_send(struct MHD_Connection *connection, unsigned status, const char *type,
                          struct MHD_Response *response);

/* 0, or the status to refuse with: another Host than this server's, another method than GET. */
unsigned http_refuse(struct MHD_Connection *connection, const char *method, uint16_t port);

/* Does the client take this type? One that says nothing takes all. */
bool http_accepts(struct MHD_Connection *connection, const char *type);

#endif
