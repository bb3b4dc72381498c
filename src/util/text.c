#include "util/text.h"

#include "util/util.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* Digits into a number; the first byte behind them, NULL without any or over 2^63. */
static const char *digits(const char *text, uint64_t *ret)
{
	uint64_t number = 0;

	if (!isdigit((unsigned char)*text))
		return NULL;
	for (; isdigit((unsigned char)*text); text++) {
		if (__builtin_mul_overflow(number, 10, &number) ||
		    __builtin_add_overflow(number, (uint64_t)(*text - '0'), &number) ||
		    number > INT64_MAX)
			return NULL;
	}
	*ret = number;
	return text;
}

/* The power of 1,024 that a unit means; -1 for none that we know. */
static int size_power(const char *unit)
{
	static const char letters[] = "BKMGT";
	const char *letter;

	if (*unit == '\0')
		return 0;
	letter = strchr(letters, toupper((unsigned char)*unit));
	if (!letter)
		return -1;
	if (letter == letters)
		return unit[1] ? -1 : 0;
	unit++;
	if (*unit && strcasecmp(unit, "b") != 0 && strcasecmp(unit, "ib") != 0)
		return -1;
	return (int)(letter - letters);
}

bool terrace__text_size(const char *text, uint64_t *ret_bytes)
{
	uint64_t whole, bytes, scale;
	double fraction = 0;
	const char *at = digits(text, &whole);
	int power;

	if (!at)
		return false;
	if (*at == '.') {
		double place = 0.1;

		if (!isdigit((unsigned char)at[1]))
			return false;
		for (at++; isdigit((unsigned char)*at); at++, place /= 10)
			fraction += (*at - '0') * place;
	}
	if (*at == ' ')
		at++;
	power = size_power(at);
	if (power < 0 || (power == 0 && fraction > 0))
		return false;
	scale = UINT64_C(1) << (10 * power);
	if (__builtin_mul_overflow(whole, scale, &bytes) || bytes > INT64_MAX)
		return false;
	/* 0.999… may be one, in binary */
	*ret_bytes = bytes + (uint64_t)(fraction * (double)scale);
	return *ret_bytes <= INT64_MAX;
}

static const struct {
	const char *name;
	int64_t ms;
} units[] = {
	{ "w", INT64_C(7) * 24 * 3600 * 1000 },
	{ "d", INT64_C(24) * 3600 * 1000 },
	{ "h", INT64_C(3600) * 1000 },
	{ "m", 60 * 1000 },
	{ "s", 1000 },
	{ "ms", 1 },
};

bool terrace__text_duration(const char *text, int64_t *ret_ms)
{
	int64_t sum = 0;
	const char *at = text;

	if (strcmp(text, "forever") == 0) {
		*ret_ms = TEXT_FOREVER;
		return true;
	}
	if (strcmp(text, "0") == 0) {
		*ret_ms = 0;
		return true;
	}
	do {
		size_t length, i;
		uint64_t number;
		int64_t part;

		at = digits(at, &number);
		if (!at)
			return false;
		length = strspn(at, "wdhms");
		for (i = 0; i < ARRAY_LEN(units); i++) {
			if (strlen(units[i].name) == length &&
			    strncmp(at, units[i].name, length) == 0)
				break;
		}
		if (i == ARRAY_LEN(units) ||
		    __builtin_mul_overflow((int64_t)number, units[i].ms, &part) ||
		    __builtin_add_overflow(sum, part, &sum))
			return false;
		at += length;
	} while (*at);
	*ret_ms = sum;
	return true;
}

void terrace__text_put_size(uint64_t bytes, char *ret, size_t ret_size)
{
	static const char *const names[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	double value = (double)bytes;
	size_t unit = 0;

	while (value >= 1024 && unit + 1 < ARRAY_LEN(names)) {
		value /= 1024;
		unit++;
	}
	if (unit == 0)
		snprintf(ret, ret_size, "%" PRIu64 " B", bytes);
	else if (value < 10 && value != (double)(uint64_t)value)
		snprintf(ret, ret_size, "%.1f %s", value, names[unit]);
	else
		snprintf(ret, ret_size, "%.0f %s", value, names[unit]);
}

void terrace__text_put_duration(int64_t ms, char *ret, size_t ret_size)
{
	size_t at = 0;
	int parts = 0;

	if (ms < 0) {
		snprintf(ret, ret_size, "forever");
		return;
	}
	snprintf(ret, ret_size, "0");
	/* The two largest units say enough. */
	for (size_t i = 0; i < ARRAY_LEN(units) && parts < 2; i++) {
		int64_t count = ms / units[i].ms;

		if (count == 0 && parts == 0)
			continue;
		parts++;
		ms %= units[i].ms;
		if (count)
			at += (size_t)snprintf(ret + at, ret_size - at, "%" PRId64 "%s", count,
			                       units[i].name);
		if (at >= ret_size)
			return;
	}
}
