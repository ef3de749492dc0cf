/* The part of the link that the kernel makes: its interface, its changes, and whether it acts. */
#include <string.h>

#include <psgd/tc.h>

#include "experiment/config_private.h"
#include "experiment/run_impl.h"
#include "experiment/stack_impl.h"

/* With segmentation offload a packet of so many bytes goes after a rest, beside the burst. */
#define OFFLOAD_BYTES 65536

static struct psgd_tc_options options_of(const struct psgd_stack *stack, char *error, size_t bytes)
{
	struct psgd_tc_options options = PSGD_INIT(psgd_tc_options);

	error[0] = '\0';
	options.interface_name = stack->config->network_limits.interface;
	options.unshaped_ports = &stack->launch.master_port;
	options.n_unshaped_ports = 1;
	options.module_dir = stack->module_dir;
	options.error = error;
	options.error_bytes = bytes;
	return options;
}

/* A call of tc that failed. What it calls the caller's mistake is the machine's here. */
static psgd_status tc_failed(
	struct psgd_stack *stack, psgd_status status, const char *what, const char *error)
{
	if (status == PSGD_ERR_STATE || status == PSGD_ERR_INVALID)
		status = PSGD_ERR_IO;
	return psgd__stack_fail(stack, status, "%s %s: %s", what,
		stack->config->network_limits.interface,
		error[0] ? error : psgd_status_text(status));
}

/* The interface of the gradients, whose name the records have from now on. */
static psgd_status find_interface(struct psgd_stack *stack)
{
	struct psgd_config_network *net = &stack->config->network_limits;
	const char *used = stack->config->communication.interface;
	char name[16] = "", error[PSGD__ERROR_BYTES] = "", *copy;

	if (strcmp(net->interface, "auto") != 0)
		return PSGD_OK;
	if (!used) {
		psgd_status status =
			psgd_tc_interface_to(psgd_rendezvous_address(stack->rendezvous),
				stack->module_dir, name, error, sizeof(error));

		if (status)
			return tc_failed(stack, status, "network_limits.interface:", error);
	}
	copy = psgd__strdup(used ? used : name);
	if (!copy)
		return psgd__stack_failed(stack, PSGD_ERR_NOMEM);
	free(net->interface);
	net->interface = copy;
	return PSGD_OK;
}

psgd_status psgd__stack_open_kernel(struct psgd_stack *stack)
{
	struct psgd_link link;

	if (stack->launch.n_workers == 1 ||
		!psgd__config_kernel_link_after(stack->config, 0, &link))
		return PSGD_OK;
	stack->module_dir = psgd__strdup(stack->settings.module_dir);
	if (stack->settings.module_dir && !stack->module_dir)
		return psgd__stack_failed(stack, PSGD_ERR_NOMEM);
	stack->kernel = true;
	return find_interface(stack);
}

psgd_status psgd__stack_change_kernel(struct psgd_stack *stack, unsigned change)
{
	char error[PSGD__ERROR_BYTES];
	struct psgd_tc_options options = options_of(stack, error, sizeof(error));
	struct psgd_link link;
	psgd_status status;

	/* The others of this node send by the same interface. */
	if (!stack->kernel || stack->launch.local_rank > 0 ||
		!psgd__config_kernel_link_after(stack->config, change, &link))
		return PSGD_OK;
	status = psgd_tc_change(&options, &link);
	return status ? tc_failed(stack, status, "changing the limits of", error) : PSGD_OK;
}

static psgd_status look(struct psgd_stack *stack, uint64_t *tx_bytes)
{
	char error[PSGD__ERROR_BYTES];
	struct psgd_tc_options options = options_of(stack, error, sizeof(error));
	struct psgd_tc_state state = PSGD_INIT(psgd_tc_state);
	size_t n = 0;
	psgd_status status = psgd_tc_show(&options, &state, 1, &n);

	if (status)
		return tc_failed(stack, status, "looking at", error);
	if (!n || !state.shaped)
		return psgd__stack_fail(stack, PSGD_ERR_IO,
			"%s is not limited, as network_limits.method: %s has it: `psgd run` sets "
			"the limits before it starts workers",
			options.interface_name, stack->config->network_limits.method);
	*tx_bytes = state.tx_bytes;
	return PSGD_OK;
}

psgd_status psgd__stack_watch_kernel(struct psgd_stack *stack)
{
	return look(stack, &stack->left_before);
}

psgd_status psgd__stack_check_kernel(
	struct psgd_stack *stack, const struct psgd_measured *found, struct psgd__link_check *check)
{
	struct psgd_link link, own;
	uint64_t left = 0, rate;

	PSGD__TRY(look(stack, &left));
	psgd__config_limits_after(stack->config, 0, &link);
	psgd__config_kernel_link_after(stack->config, 0, &own);
	rate = own.egress_bps;
	if (own.ingress_bps && (!rate || own.ingress_bps < rate))
		rate = own.ingress_bps;
	psgd__link_check_rates(check, found, &link, psgd_tc_burst(&own, rate) + OFFLOAD_BYTES);
	check->interface_name = stack->config->network_limits.interface;
	check->used_name = stack->config->communication.interface;
	check->alone = stack->launch.local_size == stack->launch.n_workers;
	check->left_bytes = left > stack->left_before ? left - stack->left_before : 0;
	stack->left_before = left;
	return PSGD_OK;
}
