/*
 * Opens the module psgd-gloo.so, and brings the workers together: each tells the others whether it
 * is ready and where it listens, then whether it is connected.
 */
#include <net/if.h>
#include <string.h>

#include "base/module.h"
#include "transport/meet.h"
#include "transport/module.h"
#include "transport/queue.h"
#include "transport/request.h"

#define DEFAULT_TIMEOUT_NS (60 * INT64_C(1000000000))
#define HELLO_MAGIC 0x50534744u

struct gloo {
	const struct psgd__gloo_module *module;
	void *library; /* of psgd__module_open */
	void *mesh;
};

static psgd_status load_module(struct gloo *g, const char *folder, char *reason, size_t bytes)
{
	const struct psgd__module module = {"Gloo", "psgd-gloo.so", PSGD__GLOO_ENTRY_NAME};
	psgd__gloo_entry entry;

	PSGD__TRY(psgd__module_open(&module, folder, &g->library, &entry, reason, bytes));
	g->module = entry();
	return PSGD_OK;
}

static psgd_status jobs_run(void *self, const struct psgd_collective *collective,
	uint64_t *sent_bytes, char *reason, size_t bytes)
{
	struct gloo *g = self;

	return g->module->run(g->mesh, collective, sent_bytes, reason, bytes);
}

static void jobs_interrupt(void *self)
{
	struct gloo *g = self;

	g->module->interrupt(g->mesh);
}

static void jobs_close(void *self)
{
	struct gloo *g = self;

	if (g->mesh)
		g->module->close(g->mesh);
	psgd__module_close(g->library);
	free(g);
}

static const struct psgd__queue_jobs jobs = {jobs_run, jobs_interrupt, jobs_close};

static const struct psgd_transport_ops gloo_ops = {
	.size = sizeof(struct psgd_transport_ops),
	.name = "gloo",
	.post = psgd__queue_post,
	.test = psgd__queue_test,
	.abort = psgd__queue_abort,
	.error = psgd__queue_error,
	.destroy = psgd__queue_destroy,
};

/* Picks out of everyone's blocks where each listens for this worker. */
static psgd_status pick_addresses(const struct psgd_oob *oob, const char *blocks, size_t block,
	struct psgd__gloo_address *theirs, char *reason, size_t bytes)
{
	for (uint32_t w = 0; w < oob->n_workers; w++) {
		memcpy(&theirs[w],
			blocks + w * block + sizeof(struct psgd__hello) +
				oob->worker * sizeof(theirs[w]),
			sizeof(theirs[w]));
		if (theirs[w].length > PSGD__GLOO_ADDRESS_BYTES) {
			psgd__text(reason, bytes, "worker %u sent a bad address", w);
			return PSGD_ERR_MISMATCH;
		}
	}
	return PSGD_OK;
}

/* What a worker says: a hello, then its addresses for each worker. */
static psgd_status meet(
	struct gloo *g, const struct psgd_gloo_options *o, char *reason, size_t bytes)
{
	const struct psgd_oob *oob = o->oob;
	const struct psgd__gloo_setup setup = {
		.size = sizeof(setup),
		.worker = oob->worker,
		.n_workers = oob->n_workers,
		.address = o->address,
		.interface_name = o->interface_name,
		.timeout_ns = o->timeout_ns ? o->timeout_ns : DEFAULT_TIMEOUT_NS,
	};
	size_t n = oob->n_workers, table, block, all;
	struct psgd__gloo_address *addresses = NULL;
	char *mine = NULL, *blocks = NULL;
	psgd_status status;

	if (psgd__mul_overflows(n, sizeof(*addresses), &table) ||
		__builtin_add_overflow(table, sizeof(struct psgd__hello), &block) ||
		psgd__mul_overflows(block, n, &all))
		return PSGD_ERR_NOMEM;
	addresses = psgd__calloc(1, table);
	mine = psgd__calloc(1, block);
	blocks = psgd__calloc(1, all);
	if (!addresses || !mine || !blocks) {
		status = PSGD_ERR_NOMEM;
		goto out;
	}
	status = load_module(g, o->module_dir, reason, bytes);
	if (!status && o->interface_name && !if_nametoindex(o->interface_name)) {
		psgd__text(reason, bytes, "no network interface named %s", o->interface_name);
		status = PSGD_ERR_IO;
	}
	if (!status)
		status = g->module->open(&setup, &g->mesh, addresses, reason, bytes);
	memcpy(mine + sizeof(struct psgd__hello), addresses, table);
	status = psgd__meet(oob, HELLO_MAGIC, mine, blocks, block, status, reason, bytes);
	if (status)
		goto out;
	status = pick_addresses(oob, blocks, block, addresses, reason, bytes);
	if (!status)
		status = g->module->connect(g->mesh, addresses, reason, bytes);
	status = psgd__meet(
		oob, HELLO_MAGIC, mine, blocks, sizeof(struct psgd__hello), status, reason, bytes);
out:
	free(blocks);
	free(mine);
	free(addresses);
	return status;
}

psgd_status psgd_transport_gloo(const struct psgd_gloo_options *options, struct psgd_transport *out)
{
	char reason[PSGD__REASON_BYTES] = "";
	struct psgd_gloo_options o;
	struct psgd__queue *queue;
	psgd_status status;
	struct gloo *g;

	if (!out)
		return PSGD_ERR_INVALID;
	*out = (struct psgd_transport){0};
	PSGD__TRY(psgd__copy_options(&o, sizeof(o), options));
	psgd__text(o.error, o.error_bytes, "%s", "");
	if (!psgd__meet_valid(o.oob, o.timeout_ns)) {
		psgd__text(o.error, o.error_bytes, "bad options");
		return PSGD_ERR_INVALID;
	}
	g = psgd__calloc(1, sizeof(*g));
	if (!g) {
		psgd__text(o.error, o.error_bytes, "%s", psgd_status_text(PSGD_ERR_NOMEM));
		return PSGD_ERR_NOMEM;
	}
	status = meet(g, &o, reason, sizeof(reason));
	if (!status)
		status = psgd__queue_open(&jobs, g, o.oob->worker, o.oob->n_workers, &queue);
	if (status) {
		psgd__text(o.error, o.error_bytes, "%s",
			reason[0] ? reason : psgd_status_text(status));
		jobs_close(g);
		return status;
	}
	*out = (struct psgd_transport){&gloo_ops, queue, o.oob->worker, o.oob->n_workers};
	return PSGD_OK;
}
