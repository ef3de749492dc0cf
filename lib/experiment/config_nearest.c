#include <ctype.h>
#include <string.h>

#include "base/base.h"
#include "experiment/config_schema.h"

/* Edit distance with transpositions, case ignored; words above the buffer's length are far. */
static size_t distance(const char *a, const char *b)
{
	size_t row[3][40];
	size_t n = strlen(a), m = strlen(b);

	if (n >= PSGD__COUNT(row[0]) || m >= PSGD__COUNT(row[0]))
		return SIZE_MAX;
	for (size_t j = 0; j <= m; j++)
		row[0][j] = j;
	for (size_t i = 1; i <= n; i++) {
		size_t *now = row[i % 3], *last = row[(i + 2) % 3], *older = row[(i + 1) % 3];

		now[0] = i;
		for (size_t j = 1; j <= m; j++) {
			bool same = tolower((unsigned char)a[i - 1]) ==
				    tolower((unsigned char)b[j - 1]);
			size_t best = last[j - 1] + !same;

			if (last[j] + 1 < best)
				best = last[j] + 1;
			if (now[j - 1] + 1 < best)
				best = now[j - 1] + 1;
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
				older[j - 2] + 1 < best)
				best = older[j - 2] + 1;
			now[j] = best;
		}
	}
	return row[n % 3][m];
}

const char *psgd__config_nearest(const cyaml_schema_field_t *fields, const char *key)
{
	size_t best = strlen(key) / 3 + 1;
	const char *name = NULL;

	if (best > 3)
		best = 3;
	for (; fields->key; fields++) {
		size_t d = distance(fields->key, key);

		if (d < best || (d == best && !name)) {
			best = d;
			name = fields->key;
		}
	}
	return name;
}
