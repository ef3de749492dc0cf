/* Batches of training, the next one made while a device computes. SPDX-License-Identifier: MIT */
#include "ahead.h"

#include <stdlib.h>

#include "trainer.h"

psgd_status ahead_init(struct ahead *ahead, size_t batch, struct image_error *error)
{
	*ahead = (struct ahead){.labels = calloc(batch, sizeof(*ahead->labels)),
		.next = calloc(batch, sizeof(*ahead->next))};
	if (!ahead->labels || !ahead->next)
		return image_fail(error, PSGD_ERR_NOMEM, "out of memory");
	return PSGD_OK;
}

void ahead_finish(struct ahead *ahead)
{
	free(ahead->labels);
	free(ahead->next);
}

static psgd_status load(struct trainer *t, uint64_t epoch, size_t batch, uint16_t *labels)
{
	psgd_status status =
		loader_train(&t->loader, epoch, batch, t->plan->input, labels, t->error);

	if (status)
		return status;
	status = net_load(&t->net, t->plan);
	return status ? image_fail(t->error, status, "%s", t->net.error.text) : PSGD_OK;
}

psgd_status ahead_take(struct trainer *t, uint64_t epoch, size_t batch)
{
	struct ahead *ahead = &t->ahead;
	uint16_t *labels = ahead->next;
	bool there = ahead->loaded && ahead->epoch == epoch && ahead->batch == batch;

	if (there) {
		ahead->next = ahead->labels;
		ahead->labels = labels;
		t->loader.skipped += ahead->skipped;
	} else if (ahead->loaded) {
		net_unload(&t->net, t->plan);
	}
	ahead->loaded = false;
	return there ? PSGD_OK : load(t, epoch, batch, ahead->labels);
}

psgd_status ahead_load(struct trainer *t, uint64_t epoch, size_t batch)
{
	struct ahead *ahead = &t->ahead;
	uint64_t skipped = t->loader.skipped;
	psgd_status status;

	if (!t->plan->feed)
		return PSGD_OK;
	status = load(t, epoch, batch, ahead->next);
	ahead->skipped = t->loader.skipped - skipped;
	t->loader.skipped = skipped;
	ahead->loaded = !status;
	ahead->epoch = epoch;
	ahead->batch = batch;
	return status;
}
