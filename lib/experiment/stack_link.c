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
