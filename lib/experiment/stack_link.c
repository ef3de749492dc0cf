/* The link that a run has by its configuration, and as it changes under way. */
#include "experiment/config_private.h"
#include "experiment/run_impl.h"
#include "experiment/stack_impl.h"

/* As long as a network of 10 Mbit/s needs for messages beside which a burst is small. */
#define KERNEL_BUDGET_NS INT64_C(3000000000)
#define KERNEL_TRIES 4 /* until the rate is not too low */

/* An entry has one of the two. */
static bool has_come(
	const struct psgd_config_link_change *change, uint64_t iteration, int64_t training_ns)
{
	return change->at_iteration ? change->at_iteration <= iteration
				    : change->at_second * 1e9 <= (double)training_ns;
}

unsigned psgd__link_change_at(
	const struct psgd_config_network *net, uint64_t iteration, int64_t training_ns)
{
	unsigned n = 0;

	while (n < net->schedule_count && has_come(&net->schedule[n], iteration, training_ns))
		n++;
	return n;
}

psgd_status psgd__stack_open_link(struct psgd_stack *stack)
{
	struct psgd_link link;
	psgd_status status;

	if (!psgd__config_link_after(stack->config, 0, &link))
		return PSGD_OK;
	status = psgd_shaper_model(&link, &stack->shaper);
	if (!status)
		/* Beside the kernel's rates: a model of a whole link would see no slow network. */
		status = (stack->kernel ? psgd_transport_delayed : psgd_transport_shaped)(
			&stack->network, &stack->shaper, &stack->shaped);
	return psgd__stack_failed(stack, status);
}

void psgd__stack_tell_link(struct psgd_stack *stack)
{
	struct psgd_link link;

	if (psgd__config_limits_after(stack->config, 0, &link))
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

static psgd_status record(struct psgd_stack *stack, const struct psgd_measured *found,
	const struct psgd__link_check *check)
{
	struct psgd_link link;
	bool limited = psgd__config_limits_after(stack->config, 0, &link);
	psgd_status status = psgd__run_env(stack->run, found, limited ? &link : NULL, check);

	if (status)
		psgd_run_error(stack->run, stack->text, sizeof(stack->text));
	return psgd__stack_failed(stack, status);
}

static psgd_status measure(struct psgd_stack *stack, struct psgd_measured *found)
{
	const struct psgd_transport *network = psgd__stack_transport(stack);
	struct psgd_oob oob = psgd_rendezvous_oob(stack->rendezvous);
	char reason[PSGD__ERROR_BYTES] = "";
	psgd_status status =
		psgd_measure_network(network, &oob, stack->kernel ? KERNEL_BUDGET_NS : 0, found);

	if (!status)
		return PSGD_OK;
	network->ops->error(network->self, reason, sizeof(reason));
	return psgd__stack_fail(stack, status, "measuring the network: %s",
		reason[0] ? reason : psgd_status_text(status));
}

psgd_status psgd__stack_measure(struct psgd_stack *stack)
{
	struct psgd_measured found = PSGD_INIT(psgd_measured);
	struct psgd__link_check check = {0};
	int tries = 0;
	psgd_status status;

	do {
		PSGD__TRY(measure(stack, &found));
		if (stack->kernel)
			PSGD__TRY(psgd__stack_check_kernel(stack, &found, &check));
	} while (psgd__link_check_is_slow(&check) && ++tries < KERNEL_TRIES);
	/* A link of its own for training: nobody sees there that something was measured. */
	psgd_transport_destroy(&stack->shaped);
	psgd_shaper_destroy(&stack->shaper);
	status = psgd__stack_open_link(stack);
	if (!status)
		status = tell_controller(stack, &found);
	if (!status)
		status = record(stack, &found, stack->kernel ? &check : NULL);
	/* Also what is refused is on record. */
	if (status || !stack->kernel)
		return status;
	return psgd__link_check_judge(&check, stack->text, sizeof(stack->text));
}

static psgd_status change_process(struct psgd_stack *stack, unsigned change)
{
	struct psgd_link link;

	if (!psgd__config_link_after(stack->config, change, &link))
		return PSGD_OK;
	return psgd__stack_failed(stack, psgd_shaper_set_link(&stack->shaper, &link));
}

psgd_status psgd_stack_begin_step(psgd_stack *stack, uint64_t iteration)
{
	struct psgd_link link;
	unsigned change;

	if (!stack)
		return PSGD_ERR_INVALID;
	if (!stack->shaped.ops && !stack->kernel)
		return PSGD_OK;
	change = psgd__link_change_at(
		&stack->config->network_limits, iteration, psgd__run_training_ns(stack->run));
	if (change == stack->link_change)
		return PSGD_OK;
	stack->text[0] = '\0';
	PSGD__TRY(change_process(stack, change));
	PSGD__TRY(psgd__stack_change_kernel(stack, change));
	stack->link_change = change;
	psgd__config_limits_after(stack->config, change, &link);
	psgd__run_link(stack->run, &link);
	return psgd__event_link(stack->run, iteration, &link);
}
