#include "cli.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <time.h>

void complain(const char *format, ...)
{
	char *line = NULL;
	va_list args;

	fflush(stdout);
	va_start(args, format);
	if (vasprintf(&line, format, args) < 0)
		line = NULL;
	va_end(args);
	/* One line, whatever a name or a key in it holds. */
	for (char *c = line; c && *c; c++) {
		if ((unsigned char)*c < 0x20 || *c == 0x7f)
			*c = '?';
	}
	fprintf(stderr, "terrace: %s\n", line ? line : "out of memory");
	free(line);
}

int usage(const struct cli *cli, const char *format, ...)
{
	char text[512];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	if (cli->verb)
		complain("%s: %s (see terrace %s --help)", cli->verb->name, text, cli->verb->name);
	else
		complain("%s (see terrace --help)", text);
	return STATUS_USAGE;
}

int failed(int rc)
{
	const char *message = terrace_error_message();

	complain("%s", *message ? message : terrace_status_name(rc));
	return rc == TERRACE_EINVAL || rc == TERRACE_ECONFIG ? STATUS_USAGE : STATUS_FAILED;
}

int print_json(json_t *value)
{
	int rc = json_dumpf(value, stdout, JSON_INDENT(2) | JSON_ENSURE_ASCII);

	json_decref(value);
	if (rc != 0) {
		complain("cannot write JSON to standard output");
		return STATUS_FAILED;
	}
	fputc('\n', stdout);
	return STATUS_DONE;
}

json_t *json_bytes(terrace_slice bytes)
{
	json_t *text = json_stringn(bytes.data ? bytes.data : "", bytes.size);
	char *hex;

	if (text)
		return text;
	hex = malloc(2 * bytes.size + 1);
	if (!hex)
		return json_null();
	for (size_t i = 0; i < bytes.size; i++)
		sprintf(hex + 2 * i, "%02x", ((const uint8_t *)bytes.data)[i]);
	text = json_pack("{s:s#}", "hex", hex, (int)(2 * bytes.size));
	free(hex);
	return text;
}

json_t *json_text(const char *text)
{
	return json_bytes(terrace_str(text));
}

void json_set_named(json_t *object, const char *name, json_t *value)
{
	json_t *text = json_text(name);
	char hex[2 * 256 + 8];

	if (!json_is_string(text)) {
		snprintf(hex, sizeof hex, "hex:%s",
		         json_string_value(json_object_get(text, "hex")));
		name = hex;
	}
	json_object_set_new(object, name, value);
	json_decref(text);
}

json_t *json_time(int64_t ms)
{
	return ms ? json_integer(ms) : json_null();
}

const char *time_text(int64_t ms, char text[32])
{
	time_t seconds = (time_t)(ms / 1000);
	struct tm local;

	if (!localtime_r(&seconds, &local) || strftime(text, 32, "%Y-%m-%d %H:%M:%S", &local) == 0)
		snprintf(text, 32, "%" PRId64 " ms", ms);
	return text;
}

const char *codec_name(terrace_codec codec)
{
	static const char *const names[] = {
		"default", "none", "lz4", "zstd", "auto", "dictionary"
	};

	return (unsigned)codec < sizeof names / sizeof *names ? names[codec] : "unknown";
}

const char *nanoseconds_text(uint64_t ns, char text[32])
{
	static const struct {
		uint64_t least;
		double scale;
		const char *unit;
	} steps[] = {
		{ UINT64_C(10000000000), 1e9, "s" },
		{ 1000000000, 1e9, "s" },
		{ 1000000, 1e6, "ms" },
		{ 1000, 1e3, "us" },
		{ 0, 1, "ns" },
	};
	size_t i = 0;
	double value;

	if (ns >= UINT64_C(120000000000)) {
		char duration[TERRACE_TEXT_MAX];

		snprintf(text, 32, "%s",
		         terrace_format_duration((int64_t)(ns / 1000000000) * 1000, duration));
		return text;
	}
	while (ns < steps[i].least)
		i++;
	value = (double)ns / steps[i].scale;
	snprintf(text, 32, value < 10 && steps[i].scale > 1 ? "%.1f %s" : "%.0f %s", value,
	         steps[i].unit);
	return text;
}
