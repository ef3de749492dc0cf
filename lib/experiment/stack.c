#include <psgd/experiment/stack.h>

#include <errno.h>
#include <string.h>

#include "experiment/c_locale.h"
#include "experiment/stack_impl.h"

psgd_status psgd__stack_fail(struct psgd_stack *stack, psgd_status status, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	psgd__vtext(stack->text, sizeof(stack->text), format, args);
	va_end(args);
	return status;
}

psgd_status psgd__stack_failed(struct psgd_stack *stack, psgd_status status)
{
	if (status && !stack->text[0])
		psgd__text(stack->text, sizeof(stack->text), "%s", psgd_status_text(status));
	return status;
}

void psgd__stack_tell(struct psgd_stack *stack, enum psgd_log_level level, const char *format, ...)
{
	char text[PATH_MAX + 256];
	va_list args;

	va_start(args, format);
	psgd__vtext(text, sizeof(text), format, args);
	va_end(args);
	if (stack->log && level <= stack->log_level)
		stack->log(stack->log_user, level, text);
}

int64_t psgd__stack_timeout_ns(const struct psgd_stack *stack)
{
	return (int64_t)(stack->config->communication.timeout_s * 1e9);
}

const struct psgd_transport *psgd__stack_transport(const struct psgd_stack *stack)
{
	return stack->shaped.ops ? &stack->shaped : &stack->network;
}

/* --- the environment --- */

static const char *get_text(const char *name)
{
	const char *text = getenv(name);

	return text && *text ? text : NULL;
}

static psgd_status get_number(
	struct psgd_stack *stack, const char *name, double min, double max, double *out)
{
	const char *text = get_text(name);
	struct psgd__c_locale locale;
	char *end;

	if (!text)
		return PSGD_OK;
	PSGD__TRY(psgd__c_locale_enter(&locale));
	errno = 0;
	*out = strtod(text, &end);
	psgd__c_locale_leave(&locale);
	if (*end || errno || !(*out >= min && *out <= max))
		return psgd__stack_fail(stack, PSGD_ERR_CONFIG,
			"%s is \"%.40s\", expected a number of %g to %g", name, text, min, max);
	return PSGD_OK;
}

static psgd_status read_settings(struct psgd_stack *stack)
{
	const char *overwrite = get_text("PSGD_OVERWRITE");
	double progress_fd = -1;

	stack->settings = (struct psgd__stack_settings){
		.config = get_text("PSGD_CONFIG"),
		.source = get_text("PSGD_CONFIG_SOURCE"),
		.command_line = get_text("PSGD_COMMAND_LINE"),
		.run_dir = get_text("PSGD_RUN_DIR"),
		.token_file = get_text("PSGD_TOKEN_FILE"),
		.module_dir = get_text("PSGD_MODULE_PATH"),
		.cpu = get_text("PSGD_CPU"),
		.resume = get_text("PSGD_RESUME"),
		.overwrite = overwrite && strcmp(overwrite, "0") != 0,
	};
	PSGD__TRY(get_number(
		stack, "PSGD_RDZV_TIMEOUT", 0.001, 1e6, &stack->settings.rdzv_timeout_s));
	PSGD__TRY(get_number(stack, "PSGD_PROGRESS_FD", 0, INT32_MAX, &progress_fd));
	stack->settings.progress_fd = (int32_t)progress_fd;
	return PSGD_OK;
}

/* --- life --- */

psgd_status psgd_stack_open(const struct psgd_stack_options *options, psgd_stack **out)
{
	struct psgd_stack_options own;
	struct psgd_stack *stack;
	psgd_status status;

	if (!out)
		return PSGD_ERR_INVALID;
	*out = NULL;
	PSGD__TRY(psgd__copy_options(&own, sizeof(own), options));
	psgd__text(own.error, own.error_bytes, "%s", "");
	stack = psgd__calloc(1, sizeof(*stack));
	if (!stack)
		return PSGD_ERR_NOMEM;
	stack->log = own.log;
	stack->log_user = own.log_user;
	stack->log_level = own.log_level;
	stack->probe = own.cuda;
	stack->probe_user = own.cuda_user;
	stack->launch.size = sizeof(stack->launch);
	status = read_settings(stack);
	if (!status)
		status = psgd__stack_open_all(stack);
	memset(&stack->settings, 0, sizeof(stack->settings));
	if (status) {
		psgd__text(own.error, own.error_bytes, "%s", stack->text);
		psgd_stack_close(&stack, status, NULL);
		return status;
	}
	*out = stack;
	return PSGD_OK;
}

psgd_status psgd_stack_session(
	psgd_stack *stack, const struct psgd_tensor *tensors, size_t n_tensors, psgd_session **out)
{
	struct psgd_session_options options = PSGD_INIT(psgd_session_options);
	psgd_status status;

	if (!stack || !out)
		return PSGD_ERR_INVALID;
	*out = NULL;
	if (stack->session)
		return psgd__stack_fail(stack, PSGD_ERR_STATE, "the stack has a session already");
	options.device = &stack->device;
	options.compressor = &stack->compressor;
	options.controller = &stack->controller;
	options.transport = psgd__stack_transport(stack);
	options.worker = stack->launch.worker;
	options.n_workers = stack->launch.n_workers;
	options.check_every = stack->config->communication.check_every;
	options.timeout_ns = psgd__stack_timeout_ns(stack);
	options.log = stack->log;
	options.log_user = stack->log_user;
	options.log_level = stack->log_level;
	if (!stack->config->communication.overlap)
		options.flags |= PSGD_SESSION_NO_OVERLAP;
	if (stack->launch.worker == 0)
		options.flags |= PSGD_SESSION_GRAD_NORM | PSGD_SESSION_GRAD_SUM;
	stack->text[0] = '\0';
	status = psgd__stack_failed(
		stack, psgd_session_open(tensors, n_tensors, &options, &stack->session));
	*out = stack->session;
	return status;
}

const struct psgd_config *psgd_stack_config(const psgd_stack *stack)
{
	return stack->config;
}

const struct psgd_launch *psgd_stack_launch(const psgd_stack *stack)
{
	return &stack->launch;
}

psgd_run *psgd_stack_run(psgd_stack *stack)
{
	return stack->run;
}

const struct psgd_controller *psgd_stack_controller(const psgd_stack *stack)
{
	return &stack->controller;
}

int psgd_exit_code(psgd_status status)
{
	switch ((int)status) {
	case PSGD_ERR_CONFIG:
	case PSGD_ERR_INVALID:
	case PSGD_ERR_STATE:
	case PSGD_ERR_MISMATCH:
		return 2;
	case PSGD_ERR_PEER_LOST:
		return 3;
	case PSGD_ERR_TIMEOUT:
		return 4;
	case PSGD_ERR_UNSUPPORTED:
	case PSGD_ERR_AUTH:
	case PSGD_ERR_IO:
	case PSGD_ERR_DEVICE:
		return 5;
	default:
		return status < 0 ? 1 : 0;
	}
}

void psgd_stack_error(psgd_stack *stack, char *text, size_t bytes)
{
	char found[PSGD__REPORT_BYTES] = "";

	if (stack && stack->session)
		psgd_session_error(stack->session, found, sizeof(found));
	if (stack && !found[0] && stack->run)
		psgd_run_error(stack->run, found, sizeof(found));
	if (stack && !found[0])
		psgd_rendezvous_error(stack->rendezvous, found, sizeof(found));
	psgd__text(text, bytes, "%s", stack && !found[0] ? stack->text : found);
}

/* Nobody closes a connection under a worker that still waits for its last message. */
static void await_all(struct psgd_stack *stack)
{
	struct psgd_oob oob = psgd_rendezvous_oob(stack->rendezvous);

	oob.allgather(oob.self, NULL, NULL, 0);
}

static void finish_run(struct psgd_stack *stack, psgd_status status, const char *reason)
{
	char text[PSGD__REPORT_BYTES] = "";

	if (!stack->run)
		return;
	if (!reason && status < 0) {
		psgd_stack_error(stack, text, sizeof(text));
		reason = text[0] ? text : psgd_status_text(status);
	}
	psgd_run_finish(stack->run, status < 0 ? "failed" : "finished", reason);
}

void psgd_stack_close(psgd_stack **stack, psgd_status status, const char *reason)
{
	struct psgd_stack *s;

	if (!stack || !*stack)
		return;
	s = *stack;
	*stack = NULL;
	finish_run(s, status, reason);
	if (status >= 0 && s->rendezvous)
		await_all(s);
	psgd_session_close(&s->session);
	psgd_run_close(&s->run);
	psgd_controller_destroy(&s->controller);
	psgd_compressor_destroy(&s->compressor);
	psgd_transport_destroy(&s->shaped);
	psgd_shaper_destroy(&s->shaper);
	psgd_transport_destroy(&s->network);
	psgd_device_destroy(&s->device);
	psgd_rendezvous_close(&s->rendezvous);
	psgd_config_free(&s->config);
	free(s->module_dir);
	free(s);
}
