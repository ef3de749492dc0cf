/* Images that cannot be decoded. SPDX-License-Identifier: MIT */
#include "bad.h"

#include <stdlib.h>
#include <string.h>

psgd_status bad_init(struct bad *bad, size_t n)
{
	*bad = (struct bad){.known = calloc(n, sizeof(*bad->known))};
	(void)pthread_mutex_init(&bad->lock, NULL);
	return bad->known ? PSGD_OK : PSGD_ERR_NOMEM;
}

void bad_finish(struct bad *bad)
{
	(void)pthread_mutex_destroy(&bad->lock);
	free(bad->known);
}

bool bad_knows(struct bad *bad, size_t index)
{
	bool known;

	(void)pthread_mutex_lock(&bad->lock);
	known = bad->known[index];
	(void)pthread_mutex_unlock(&bad->lock);
	return known;
}

void bad_add(struct bad *bad, size_t index, const struct image_error *line)
{
	(void)pthread_mutex_lock(&bad->lock);
	if (bad->known[index])
		; /* two threads have met it */
	else if (bad->n_lines < BAD_LINES)
		bad->line[bad->n_lines++] = *line;
	else
		bad->unnamed++;
	bad->known[index] = true;
	(void)pthread_mutex_unlock(&bad->lock);
}

bool bad_take(struct bad *bad, struct image_error *line)
{
	bool found = true;

	(void)pthread_mutex_lock(&bad->lock);
	if (bad->n_lines > 0) {
		*line = bad->line[0];
		memmove(bad->line, bad->line + 1, --bad->n_lines * sizeof(*bad->line));
	} else if (bad->unnamed > 0) {
		(void)image_fail(line, PSGD_ERR_CONFIG, "%zu more images", bad->unnamed);
		bad->unnamed = 0;
	} else {
		found = false;
	}
	(void)pthread_mutex_unlock(&bad->lock);
	return found;
}
