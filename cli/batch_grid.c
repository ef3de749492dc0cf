/* Grids: the values that a key takes in a campaign. SPDX-License-Identifier: MIT */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "batch.h"

/* Names are read by people: these keys are what a grid is mostly made of. */
static const struct {
	const char *key, *name;
} short_names[] = {
	{"compression.fixed_rank_value", "r"},
	{"network_limits.egress_mbps", "mbps"},
};

static void add_trimmed(struct cli_strings *values, const char *begin, const char *end)
{
	while (begin < end && *begin == ' ')
		begin++;
	while (end > begin && end[-1] == ' ')
		end--;
	cli_strings_add(values, "%.*s", (int)(end - begin), begin);
}

/* The inside of [...], cut at commas that are in no brackets and no quotes of their own. */
static bool split(const char *begin, const char *end, struct cli_strings *values)
{
	const char *from = begin;
	int depth = 0;
	char quote = 0;

	for (const char *c = begin; c < end; c++) {
		if (quote)
			quote = *c == quote ? 0 : quote;
		else if (*c == '"' || *c == '\'')
			quote = *c;
		else if (*c == '[' || *c == '{')
			depth++;
		else if (*c == ']' || *c == '}')
			depth--;
		else if (*c == ',' && depth == 0) {
			add_trimmed(values, from, c);
			from = c + 1;
		}
		if (depth < 0)
			return false;
	}
	add_trimmed(values, from, end);
	for (size_t i = 0; i < values->n; i++) {
		if (!*values->items[i])
			return false;
	}
	return depth == 0 && !quote;
}

/* "0:3" is 0, 1, 2. False: it is no range. */
static bool range(const char *text, int64_t *from, int64_t *to)
{
	char first[24];
	size_t length = strcspn(text, ":");

	if (text[length] != ':' || length >= sizeof(first))
		return false;
	snprintf(first, sizeof(first), "%.*s", (int)length, text);
	return cli_parse_number(first, 0, INT32_MAX, from) &&
	       cli_parse_number(text + length + 1, 0, INT32_MAX, to);
}

static bool parse_values(const char *text, struct batch_axis *out, char *error, size_t error_bytes)
{
	size_t length = strlen(text);
	int64_t from, to;

	if (length >= 2 && text[0] == '[' && text[length - 1] == ']') {
		out->varies = true;
		if (split(text + 1, text + length - 1, &out->values))
			return true;
		snprintf(error, error_bytes, "%s=%s: expected values between commas", out->key,
			text);
		return false;
	}
	if (!range(text, &from, &to)) {
		cli_strings_add(&out->values, "%s", text);
		return true;
	}
	if (from >= to || to - from > BATCH_MAX_ITEMS) {
		snprintf(error, error_bytes,
			"%s=%s: expected FROM:TO with 1 to %d values; TO is not one of them",
			out->key, text, BATCH_MAX_ITEMS);
		return false;
	}
	out->varies = true;
	for (; from < to; from++)
		cli_strings_add(&out->values, "%lld", (long long)from);
	return true;
}

bool batch_axis_parse(const char *text, struct batch_axis *out, char *error, size_t error_bytes)
{
	size_t length = strcspn(text, "=");

	*out = (struct batch_axis){.key = strndup(text, length)};
	if (out->key && parse_values(text + length + 1, out, error, error_bytes))
		return true;
	if (!out->key)
		snprintf(error, error_bytes, "out of memory");
	batch_axis_free(out);
	return false;
}

void batch_axis_free(struct batch_axis *axis)
{
	cli_strings_free(&axis->values);
	free(axis->key);
	axis->key = NULL;
}

void batch_suffix(const struct batch_axis *axis, const char *value, char *out, size_t bytes)
{
	const char *dot = strrchr(axis->key, '.'), *name = dot ? dot + 1 : axis->key;

	for (size_t i = 0; i < CLI_COUNT(short_names); i++) {
		if (strcmp(axis->key, short_names[i].key) == 0)
			name = short_names[i].name;
	}
	snprintf(out, bytes, "_%s%s", name, value);
	for (char *c = out; *c; c++) {
		if (!isalnum((unsigned char)*c) && !strchr("._+-", *c))
			*c = '-';
	}
}
