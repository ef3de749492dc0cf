/*
 * Opens the module psgd-nccl.so, and brings the workers together: each tells the others whether it
 * is ready and which device it has, worker 0 also the id that NCCL knows this group by. Then a
 * first sum goes through, so that what cannot work is found here, and each tells how that went.
 */
#include <string.h>
#include <unistd.h>

#include "base/module.h"
#include "transport/meet.h"
#include "transport/nccl_module.h"
#include "transport/request.h"

#define DEFAULT_TIMEOUT_NS (60 * INT64_C(1000000000))
#define HELLO_MAGIC 0x5053474eu
#define TEST_NS 100000000

_Static_assert(PSGD__REASON_BYTES >= PSGD_STREAMED_REASON, "reasons of the module fit");

/* What a worker says. */
struct introduction {
	struct psgd__hello hello;
	uint32_t version; /* of NCCL */
	uint32_t reserved;
	char boot[PSGD__BOOT_BYTES];
	char host[64]; /* a name for messages */
	char bus[PSGD__NCCL_BUS_BYTES];
	struct psgd__nccl_id id; /* of worker 0 */
};

struct nccl {
	const struct psgd__nccl_module *module;
	const struct psgd_nccl_options *options;
	int64_t timeout_ns;
	void *self; /* the module's; the transport ends it */
	struct psgd_transport transport;
};

static psgd_status load_module(
	const struct psgd__nccl_module **out, const char *folder, char *reason, size_t bytes)
{
	const struct psgd__module module = {"NCCL", "psgd-nccl.so", PSGD__NCCL_ENTRY_NAME};
	psgd__nccl_entry entry;
	void *library;

	PSGD__TRY(psgd__module_open(&module, folder, &library, &entry, reason, bytes));
	*out = entry();
	/* Its code stays: see psgd__module_open. */
	psgd__module_close(library);
	return PSGD_OK;
}

static void tell_host(struct introduction *mine)
{
	psgd__boot_id(mine->boot);
	if (gethostname(mine->host, sizeof(mine->host) - 1))
		psgd__text(mine->host, sizeof(mine->host), "unknown");
}

/* All that can fail before the others are needed. */
static psgd_status prepare(struct nccl *n, struct introduction *mine, char *reason, size_t bytes)
{
	const struct psgd_nccl_options *o = n->options;
	const uint32_t worker = o->oob->worker, n_workers = o->oob->n_workers;
	psgd_status status;

	PSGD__TRY(load_module(&n->module, o->module_dir, reason, bytes));
	PSGD__TRY(n->module->version(&mine->version, reason));
	PSGD__TRY(n->module->look(o->ordinal, mine->bus, reason));
	tell_host(mine);
	if (worker == 0)
		PSGD__TRY(n->module->make_id(&mine->id, reason));
	PSGD__TRY(n->module->open(o->ordinal, worker, n_workers, &n->self, reason));
	status = psgd_transport_streamed(
		n->module->ops, n->self, worker, n_workers, n->timeout_ns, &n->transport);
	if (status)
		(void)n->module->ops->close(n->self);
	return status;
}

static psgd_status compare(const struct introduction *a, const struct introduction *b, uint32_t v,
	uint32_t w, char *reason, size_t bytes)
{
	if (a->version != b->version) {
		psgd__text(reason, bytes, "worker %u has NCCL %u.%u.%u, worker %u %u.%u.%u", v,
			a->version / 10000, a->version / 100 % 100, a->version % 100, w,
			b->version / 10000, b->version / 100 % 100, b->version % 100);
		return PSGD_ERR_MISMATCH;
	}
	if (!strcmp(a->boot, b->boot) && !strcmp(a->bus, b->bus)) {
		psgd__text(reason, bytes,
			"workers %u and %u are both on CUDA device %s of %s: NCCL needs one for "
			"each worker",
			v, w, a->bus, a->host);
		return PSGD_ERR_UNSUPPORTED;
	}
	return PSGD_OK;
}

static psgd_status compare_all(
	struct introduction *all, uint32_t n_workers, char *reason, size_t bytes)
{
	for (uint32_t w = 0; w < n_workers; w++) {
		psgd__meet_clean(all[w].boot, sizeof(all[w].boot));
		psgd__meet_clean(all[w].host, sizeof(all[w].host));
		psgd__meet_clean(all[w].bus, sizeof(all[w].bus));
	}
	for (uint32_t w = 1; w < n_workers; w++) {
		for (uint32_t v = 0; v < w; v++)
			PSGD__TRY(compare(&all[v], &all[w], v, w, reason, bytes));
	}
	return PSGD_OK;
}

/* A sum over all workers: NCCL's own connecting is done once it is through. */
static psgd_status first_sum(struct nccl *n, char *reason, size_t bytes)
{
	const struct psgd_transport *t = &n->transport;
	struct psgd_collective c = PSGD_INIT(psgd_collective);
	double one = 1;
	psgd_status status;
	void *request;

	c.kind = PSGD_ALLREDUCE_SUM;
	c.dtype = PSGD_F64;
	c.count = 1;
	c.data = &one;
	status = t->ops->post(t->self, &c, &request);
	if (!status) {
		do
			status = t->ops->test(t->self, request, TEST_NS, NULL);
		while (status == PSGD_PENDING);
	}
	if (status) {
		char words[PSGD__REASON_BYTES];

		t->ops->error(t->self, words, sizeof(words));
		psgd__text(reason, bytes, "NCCL does not bring the workers together: %s",
			words[0] ? words : psgd_status_text(status));
		return status;
	}
	if (one != t->n_workers) {
		psgd__text(reason, bytes, "NCCL's sum over %u ones is %g", t->n_workers, one);
		return PSGD_ERR_TRANSPORT;
	}
	return PSGD_OK;
}

/* The two exchanges. */
static psgd_status meet(struct nccl *n, char *reason, size_t bytes)
{
	const struct psgd_oob *oob = n->options->oob;
	struct introduction *mine = psgd__calloc(1, sizeof(*mine));
	struct introduction *all = psgd__calloc(oob->n_workers, sizeof(*all));
	psgd_status status;

	if (!mine || !all) {
		status = PSGD_ERR_NOMEM;
		goto out;
	}
	status = prepare(n, mine, reason, bytes);
	status = psgd__meet(
		oob, HELLO_MAGIC, (char *)mine, (char *)all, sizeof(*mine), status, reason, bytes);
	if (!status)
		status = compare_all(all, oob->n_workers, reason, bytes);
	/* All have seen the same until here, so that nobody waits for a second exchange. */
	if (status)
		goto out;
	status = n->module->connect(n->self, &all[0].id, reason);
	if (!status)
		status = first_sum(n, reason, bytes);
	status = psgd__meet(oob, HELLO_MAGIC, (char *)mine, (char *)all, sizeof(struct psgd__hello),
		status, reason, bytes);
out:
	free(all);
	free(mine);
	return status;
}

psgd_status psgd_transport_nccl(const struct psgd_nccl_options *options, struct psgd_transport *out)
{
	char reason[PSGD__REASON_BYTES + 64] = "";
	struct psgd_nccl_options o;
	struct nccl n = {.options = &o};
	psgd_status status;

	if (!out)
		return PSGD_ERR_INVALID;
	*out = (struct psgd_transport){0};
	PSGD__TRY(psgd__copy_options(&o, sizeof(o), options));
	psgd__text(o.error, o.error_bytes, "%s", "");
	if (!psgd__meet_valid(o.oob, o.timeout_ns) || o.reserved) {
		psgd__text(o.error, o.error_bytes, "bad options");
		return PSGD_ERR_INVALID;
	}
	n.timeout_ns = o.timeout_ns ? o.timeout_ns : DEFAULT_TIMEOUT_NS;
	status = meet(&n, reason, sizeof(reason));
	if (status) {
		psgd__text(o.error, o.error_bytes, "%s",
			reason[0] ? reason : psgd_status_text(status));
		/* Peers that failed would not take part in an orderly end. */
		if (n.transport.ops)
			n.transport.ops->abort(n.transport.self);
		psgd_transport_destroy(&n.transport);
		return status;
	}
	*out = n.transport;
	return PSGD_OK;
}

psgd_status psgd_nccl_info(
	const char *module_dir, uint32_t *version, char *error, size_t error_bytes)
{
	char reason[PSGD__REASON_BYTES] = "";
	const struct psgd__nccl_module *module;
	psgd_status status;

	psgd__text(error, error_bytes, "%s", "");
	if (!version)
		return PSGD_ERR_INVALID;
	*version = 0;
	status = load_module(&module, module_dir, reason, sizeof(reason));
	if (!status)
		status = module->version(version, reason);
	if (status)
		psgd__text(error, error_bytes, "%s", reason[0] ? reason : psgd_status_text(status));
	return status;
}
