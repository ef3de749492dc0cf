/* The module psgd-tc.so: each operation on a socket of its own, all of it or nothing. */
#include <string.h>

#include "base/base.h"
#include "shape/tc_module_impl.h"

static struct psgd__tc_device interface_of(const struct psgd__tc_found *at)
{
	return (struct psgd__tc_device){at->name, at->index};
}

static psgd_status look(const char *name, struct psgd__tc_found *found, char *reason, size_t bytes)
{
	struct psgd__tc_net net;
	psgd_status status;

	PSGD__TRY(psgd__tc_open(&net, reason, bytes));
	status = psgd__tc_link_find(&net, name, found);
	if (!status)
		status = psgd__tc_tree_find(&net, found);
	psgd__tc_close(&net);
	return status;
}

static psgd_status list(struct psgd__tc_found **found, size_t *n, char *reason, size_t bytes)
{
	struct psgd__tc_net net;
	size_t n_links = 0, kept = 0;
	psgd_status status;

	*n = 0;
	*found = NULL;
	PSGD__TRY(psgd__tc_open(&net, reason, bytes));
	status = psgd__tc_link_list(&net, found, &n_links);
	for (size_t i = 0; !status && i < n_links; i++) {
		struct psgd__tc_found *one = &(*found)[i];

		status = psgd__tc_tree_find(&net, one);
		if (!status && (one->mark_index || one->root || one->ingress))
			(*found)[kept++] = *one;
	}
	psgd__tc_close(&net);
	if (status) {
		free(*found);
		*found = NULL;
		return status;
	}
	*n = kept;
	return PSGD_OK;
}

static void release(struct psgd__tc_found *found)
{
	free(found);
}

static psgd_status may(const struct psgd__tc_found *at, char *reason, size_t bytes)
{
	const struct psgd__tc_device device = interface_of(at);
	struct psgd__tc_net net;
	psgd_status status;

	PSGD__TRY(psgd__tc_open(&net, reason, bytes));
	status = psgd__tc_right(&net, &device);
	psgd__tc_close(&net);
	return status;
}

/*
 * psgdN comes first: of two that shape one interface at the same time, the second finds it there.
 * It goes last, so that what a killed process leaves has its mark.
 */
static psgd_status apply(const struct psgd__tc_found *at, const struct psgd__tc_plan *plan,
	char *reason, size_t bytes)
{
	const struct psgd__tc_device device = interface_of(at);
	char name[PSGD__TC_NAME_BYTES];
	struct psgd__tc_device mark = {name, 0};
	struct psgd__tc_net net;
	psgd_status status;

	PSGD__TRY(psgd__tc_open(&net, reason, bytes));
	psgd__tc_mark_name(at->index, name);
	status = psgd__tc_mark_add(&net, at->index, plan->mark, !plan->in.rate_bps, &mark.index);
	if (status)
		goto close;
	if (plan->in.rate_bps)
		status = psgd__tc_tree_add(&net, &mark, plan, &plan->in);
	if (status)
		goto unmark;
	status = psgd__tc_tree_add(&net, &device, plan, &plan->out);
	if (status)
		goto unroot;
	if (plan->in.rate_bps)
		status = psgd__tc_redirect_add(&net, &device, mark.index);
	if (!status)
		goto close;
unroot:
	/* Also when the root itself was refused: what it cannot be is a root of this handle. */
	net.told = true;
	psgd__tc_root_delete(&net, &device);
unmark:
	net.told = true;
	psgd__tc_link_delete(&net, &mark);
close:
	psgd__tc_close(&net);
	return status;
}

/* The rates, fifos and netem of a plan that has the same parts as what is there. */
static psgd_status change_to(struct psgd__tc_net *net, const struct psgd__tc_found *at,
	const struct psgd__tc_side *out, const struct psgd__tc_side *in,
	const struct psgd__tc_netem *netem)
{
	const struct psgd__tc_device device = interface_of(at);
	char name[PSGD__TC_NAME_BYTES];
	const struct psgd__tc_device mark = {name, at->mark_index};

	psgd__tc_mark_name(at->index, name);
	PSGD__TRY(psgd__tc_tree_change(net, &device, netem, out));
	return in->rate_bps ? psgd__tc_tree_change(net, &mark, netem, in) : PSGD_OK;
}

static psgd_status change(const struct psgd__tc_found *at, const struct psgd__tc_plan *plan,
	char *reason, size_t bytes)
{
	struct psgd__tc_net net;
	psgd_status status;

	PSGD__TRY(psgd__tc_open(&net, reason, bytes));
	status = change_to(&net, at, &plan->out, &plan->in, &plan->netem);
	if (status) {
		net.told = true;
		change_to(&net, at, &at->out, &at->in, &at->netem);
	}
	psgd__tc_close(&net);
	return status;
}

static psgd_status clear(const struct psgd__tc_found *at, char *reason, size_t bytes)
{
	const struct psgd__tc_device device = interface_of(at);
	char name[PSGD__TC_NAME_BYTES];
	const struct psgd__tc_device mark = {name, at->mark_index};
	struct psgd__tc_net net;
	psgd_status status = PSGD_OK;

	PSGD__TRY(psgd__tc_open(&net, reason, bytes));
	psgd__tc_mark_name(at->index, name);
	if (at->ingress)
		status = psgd__tc_ingress_delete(&net, &device);
	if (!status && at->root)
		status = psgd__tc_root_delete(&net, &device);
	if (!status && at->mark_index)
		status = psgd__tc_link_delete(&net, &mark);
	psgd__tc_close(&net);
	return status;
}

static psgd_status route(const void *address, size_t length, char name[PSGD__TC_NAME_BYTES],
	char *reason, size_t bytes)
{
	struct psgd__tc_net net;
	psgd_status status;

	PSGD__TRY(psgd__tc_open(&net, reason, bytes));
	status = psgd__tc_link_to(&net, address, length, name);
	psgd__tc_close(&net);
	return status;
}

static const struct psgd__tc_module module = {
	.size = sizeof(struct psgd__tc_module),
	.look = look,
	.list = list,
	.release = release,
	.may = may,
	.apply = apply,
	.change = change,
	.clear = clear,
	.route = route,
};

__attribute__((visibility("default"))) const struct psgd__tc_module *PSGD__TC_ENTRY(void);

const struct psgd__tc_module *PSGD__TC_ENTRY(void)
{
	return &module;
}
