/* The link that a run has by its configuration, and as it changes under way. */
#include "experiment/config_private.h"
#include "experiment/run_impl.h"
#include "experiment/stack_impl.h"

/* The change in force, counted from 1; 0: none yet. */
static unsigned change_at(const struct psgd_config_network *net, uint64_t iteration)
{
	unsigned n = 0;

	while (n < net->schedule_count && net->schedule[n].at_iteration <= iteration)
		n++;
	return n;
}

psgd_status psgd__stack_open_link(struct psgd_stack *stack)
{
	struct psgd_link link = PSGD_INIT(psgd_link);
	bool limited = false;
	psgd_status status = psgd_config_link(stack->config, &link, &limited);

	if (!status && limited)
		status = psgd_shaper_model(&link, &stack->shaper);
	if (!status && limited)
		status = psgd_transport_shaped(&stack->network, &stack->shaper, &stack->shaped);
	return psgd__stack_failed(stack, status);
}

void psgd__stack_tell_link(struct psgd_stack *stack)
{
	struct psgd_link link = PSGD_INIT(psgd_link);
	bool limited = false;

	if (psgd_config_link(stack->config, &link, &limited) == PSGD_OK && limited)
		psgd__run_link(stack->run, &link);
}

/* The cap's first idea of the network, in the place of none. */
static psgd_status tell_controller(struct psgd_stack *stack, const struct psgd_measured *found)
{
	struct psgd_cost_link prior = PSGD_INIT(psgd_cost_link);

	if (psgd__config_cap(stack->config) != PSGD_CAP_LIVE)
		return PSGD_OK;
	prior.delay_ns = found->delay_ns;
	prior.ns_per_byte = found->ns_per_byte;
	prior.n_workers = found->n_workers;
	psgd_controller_destroy(&stack->controller);
	return psgd__stack_failed(
		stack, psgd__config_controller(stack->config, &prior, &stack->controller,
			       stack->text, sizeof(stack->text)));
}

static psgd_status record(struct psgd_stack *stack, const struct psgd_measured *found)
{
	struct psgd_link link = PSGD_INIT(psgd_link);
	bool limited = false;
	psgd_status status = psgd_config_link(stack->config, &link, &limited);

	if (!status)
		status = psgd__run_env(stack->run, found, limited ? &link : NULL);
	if (status)
		psgd_run_error(stack->run, stack->text, sizeof(stack->text));
	return psgd__stack_failed(stack, status);
}

psgd_status psgd__stack_measure(struct psgd_stack *stack)
{
	const struct psgd_transport *network = psgd__stack_transport(stack);
	struct psgd_oob oob = psgd_rendezvous_oob(stack->rendezvous);
	struct psgd_measured found = PSGD_INIT(psgd_measured);
	char reason[PSGD__ERROR_BYTES] = "";
	psgd_status status = psgd_measure_network(network, &oob, 0, &found);

	if (status) {
		network->ops->error(network->self, reason, sizeof(reason));
		return psgd__stack_fail(stack, status, "measuring the network: %s",
			reason[0] ? reason : psgd_status_text(status));
	}
	/* A link of its own for training: nobody sees there that something was measured. */
	psgd_transport_destroy(&stack->shaped);
	psgd_shaper_destroy(&stack->shaper);
	status = psgd__stack_open_link(stack);
	if (!status)
		status = tell_controller(stack, &found);
	return status ? status : record(stack, &found);
}

psgd_status psgd_stack_begin_step(psgd_stack *stack, uint64_t iteration)
{
	const struct psgd_config_network *net;
	struct psgd_link link = PSGD_INIT(psgd_link);
	unsigned change;
	psgd_status status;

	if (!stack)
		return PSGD_ERR_INVALID;
	net = &stack->config->network_limits;
	change = change_at(net, iteration);
	if (!stack->shaped.ops || change == stack->link_change)
		return PSGD_OK;
	stack->text[0] = '\0';
	status = psgd__config_link_after(stack->config, change, &link);
	if (!status)
		status = psgd_shaper_set_link(&stack->shaper, &link);
	if (status)
		return psgd__stack_failed(stack, status);
	stack->link_change = change;
	psgd__run_link(stack->run, &link);
	return psgd__event_link(stack->run, iteration, &link);
}
