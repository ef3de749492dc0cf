/* Opening a stack: configuration, agreement of the workers, network, run folder. */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <psgd/experiment/checkpoint.h>

#include "experiment/stack_impl.h"

/* What a worker tells the others about itself. */
struct report {
	int32_t status;
	char text[PSGD__REPORT_BYTES - sizeof(int32_t)];
};

/* --- files --- */

static psgd_status load_config(struct psgd_stack *stack)
{
	const char *path = stack->settings.config;
	psgd_status status;

	if (!path)
		return psgd__stack_fail(stack, PSGD_ERR_CONFIG,
			"PSGD_CONFIG is not set: it names the configuration; `psgd run` sets it");
	status = psgd_config_load(path, NULL, 0, &stack->config, stack->text, sizeof(stack->text));
	/* A file that is not there is the user's mistake, not the machine's. */
	return psgd__stack_failed(stack, status == PSGD_ERR_IO ? PSGD_ERR_CONFIG : status);
}

char *psgd__read_text(const char *path)
{
	FILE *file = path ? fopen(path, "re") : NULL;
	char *text = NULL, chunk[4096];
	size_t n = 0, got;
	FILE *out;

	if (!file)
		return NULL;
	out = open_memstream(&text, &n);
	while (out && (got = fread(chunk, 1, sizeof(chunk), file)) > 0)
		fwrite(chunk, 1, got, out);
	if (out && fclose(out) != 0) {
		free(text);
		text = NULL;
	}
	fclose(file);
	return text;
}

static void read_command_line(char *out, size_t bytes)
{
	int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, out, bytes - 1);

	if (fd >= 0)
		close(fd);
	if (n < 0)
		n = 0;
	for (ssize_t i = 0; i + 1 < n; i++)
		out[i] = out[i] ? out[i] : ' ';
	out[n] = '\0';
}

/* --- agreement --- */

psgd_status psgd__stack_rendezvous_failed(struct psgd_stack *stack, psgd_status status)
{
	psgd_rendezvous_error(stack->rendezvous, stack->text, sizeof(stack->text));
	return psgd__stack_failed(stack, status);
}

static psgd_status add_report(struct psgd_stack *stack, const struct report *report, bool first)
{
	size_t n = strlen(stack->text);

	psgd__text(stack->text + n, sizeof(stack->text) - n, "%s%.*s", first ? "" : "\n",
		(int)sizeof(report->text), report->text);
	return (psgd_status)report->status;
}

/* The first failure, and the text of every worker that failed alike. */
static psgd_status judge(struct psgd_stack *stack, const struct report *all, uint32_t n)
{
	psgd_status status = PSGD_OK;

	stack->text[0] = '\0';
	for (uint32_t w = 0; w < n; w++) {
		if (all[w].status < 0 && (!status || (psgd_status)all[w].status == status))
			status = add_report(stack, &all[w], !status);
	}
	return status;
}

psgd_status psgd__stack_agree(struct psgd_stack *stack, psgd_status own)
{
	struct psgd_oob oob = psgd_rendezvous_oob(stack->rendezvous);
	struct report mine = {.status = own}, *all;
	psgd_status status;

	if (stack->launch.n_workers == 1)
		return own;
	all = psgd__calloc(stack->launch.n_workers, sizeof(*all));
	if (!all)
		return psgd__stack_fail(stack, PSGD_ERR_NOMEM, "out of memory");
	if (own && own != PSGD_ERR_MISMATCH)
		psgd__text(mine.text, sizeof(mine.text), "worker %u: %s", stack->launch.worker,
			stack->text);
	else if (own)
		psgd__text(mine.text, sizeof(mine.text), "%s", stack->text);
	status = oob.allgather(oob.self, &mine, all, sizeof(mine));
	status = status ? psgd__stack_rendezvous_failed(stack, status)
			: judge(stack, all, stack->launch.n_workers);
	free(all);
	return status;
}

psgd_status psgd__stack_share(struct psgd_stack *stack, void *data, size_t bytes)
{
	void *shared = NULL;
	size_t n = 0;
	psgd_status status = psgd_rendezvous_share(stack->rendezvous, data, bytes, &shared, &n);

	if (!status && n != bytes)
		status = PSGD_ERR_MISMATCH;
	if (!status)
		memcpy(data, shared, bytes);
	else
		psgd__stack_rendezvous_failed(stack, status);
	free(shared);
	return status;
}

static psgd_status compare_with(struct psgd_stack *stack, const char *first, const char *own)
{
	char *table = NULL;
	psgd_status status = psgd__compare_yaml(first, own, stack->launch.worker, &table);

	if (status)
		return psgd__stack_fail(stack, status, "worker 0's configuration cannot be read");
	if (*table)
		status = psgd__stack_fail(stack, PSGD_ERR_MISMATCH, "%s", table);
	free(table);
	return status;
}

static psgd_status compare_configs(struct psgd_stack *stack)
{
	char *own = NULL, *first = NULL, *copy = NULL;
	psgd_status status = psgd_config_yaml(stack->config, &own);
	void *shared = NULL;
	size_t bytes = 0;

	if (status)
		return psgd__stack_failed(stack, status);
	status = psgd_rendezvous_share(stack->rendezvous, own, strlen(own), &shared, &bytes);
	if (status) {
		psgd__stack_rendezvous_failed(stack, status);
		goto out;
	}
	first = shared;
	copy = strndup(first, bytes);
	status = copy ? compare_with(stack, copy, own)
		      : psgd__stack_fail(stack, PSGD_ERR_NOMEM, "out of memory");
	status = psgd__stack_agree(stack, status);
out:
	free(copy);
	free(shared);
	free(own);
	return status;
}

/* --- opening, in this order --- */

/* What needs no other worker; a mistake shows before anybody is waited for. */
static psgd_status open_objects(struct psgd_stack *stack)
{
	psgd_status status = psgd__stack_find_device(stack);

	if (!status)
		status = psgd_config_compressor(stack->config, &stack->compressor);
	if (!status)
		status = psgd_config_controller(
			stack->config, &stack->controller, stack->text, sizeof(stack->text));
	/* The only file here is the recorded run that a replay names. */
	return psgd__stack_failed(stack, status == PSGD_ERR_IO ? PSGD_ERR_CONFIG : status);
}

/* The rendezvous has no level of its own. */
static void log_up_to_level(void *user, enum psgd_log_level level, const char *message)
{
	const struct psgd_stack *stack = user;

	if (level <= stack->log_level)
		stack->log(stack->log_user, level, message);
}

static psgd_status open_rendezvous(struct psgd_stack *stack)
{
	struct psgd_rendezvous_options options = PSGD_INIT(psgd_rendezvous_options);

	options.launch = &stack->launch;
	options.token_file = stack->settings.token_file;
	options.timeout_ns = (int64_t)(stack->settings.rdzv_timeout_s * 1e9);
	options.log = stack->log ? log_up_to_level : NULL;
	options.log_user = stack;
	options.error = stack->text;
	options.error_bytes = sizeof(stack->text);
	return psgd__stack_failed(stack, psgd_rendezvous_open(&options, &stack->rendezvous));
}

static psgd_status open_nccl(struct psgd_stack *stack, const struct psgd_oob *oob)
{
	struct psgd_nccl_options options = PSGD_INIT(psgd_nccl_options);

	options.oob = oob;
	options.timeout_ns = psgd__stack_timeout_ns(stack);
	options.module_dir = stack->settings.module_dir;
	options.error = stack->text;
	options.error_bytes = sizeof(stack->text);
	options.ordinal = stack->cuda.ordinal;
	return psgd_transport_nccl(&options, &stack->network);
}

static psgd_status open_gloo(struct psgd_stack *stack, const struct psgd_oob *oob)
{
	struct psgd_gloo_options options = PSGD_INIT(psgd_gloo_options);

	options.oob = oob;
	options.address = psgd_rendezvous_address(stack->rendezvous);
	options.interface_name = stack->config->communication.interface;
	options.timeout_ns = psgd__stack_timeout_ns(stack);
	options.module_dir = stack->settings.module_dir;
	options.error = stack->text;
	options.error_bytes = sizeof(stack->text);
	return psgd_transport_gloo(&options, &stack->network);
}

/* What carries memory of the device. */
static psgd_status open_network(struct psgd_stack *stack)
{
	struct psgd_oob oob = psgd_rendezvous_oob(stack->rendezvous);

	if (stack->launch.n_workers == 1)
		return psgd__stack_failed(stack,
			psgd_transport_local(1, psgd__stack_timeout_ns(stack), &stack->network));
	return psgd__stack_failed(
		stack, stack->on_cuda ? open_nccl(stack, &oob) : open_gloo(stack, &oob));
}

/* What PSGD_RESUME names is the run folder, whatever the configuration says. */
static psgd_status find_run_dir(struct psgd_stack *stack)
{
	const char *resume = stack->settings.resume, *dir = stack->settings.run_dir;
	psgd_status status;

	stack->resume.wanted = UINT64_MAX;
	if (resume && strcmp(resume, "auto") != 0)
		status = psgd_checkpoint_path(
			resume, stack->run_dir, sizeof(stack->run_dir), &stack->resume.wanted);
	else if (dir)
		status = (size_t)snprintf(stack->run_dir, sizeof(stack->run_dir), "%s", dir) <
					 sizeof(stack->run_dir)
				 ? PSGD_OK
				 : PSGD_ERR_INVALID;
	else
		status = psgd_run_dir(stack->config, stack->run_dir, sizeof(stack->run_dir));
	return status ? psgd__stack_fail(stack, status, "run folder: its name is too long")
		      : PSGD_OK;
}

static psgd_status open_run(struct psgd_stack *stack)
{
	struct psgd_run_options options = PSGD_INIT(psgd_run_options);
	char transport[64], command_line[4096], *source;
	psgd_status status;

	read_command_line(command_line, sizeof(command_line));
	source = psgd__read_text(stack->settings.source);
	options.dir = stack->run_dir;
	options.resume = stack->resume.resumes;
	options.resume_iteration = stack->resume.iteration;
	options.resume_epoch = stack->resume.epoch;
	options.config = stack->config;
	options.source = source;
	options.command_line =
		stack->settings.command_line ? stack->settings.command_line : command_line;
	psgd__text(transport, sizeof(transport), "%s%s", stack->network.ops->name,
		stack->shaped.ops ? ", shaped" : "");
	options.transport = transport;
	options.cuda = stack->on_cuda ? &stack->cuda : NULL;
	options.worker = stack->launch.worker;
	options.n_workers = stack->launch.n_workers;
	options.overwrite = stack->settings.overwrite;
	options.progress_fd = stack->settings.progress_fd;
	options.error = stack->text;
	options.error_bytes = sizeof(stack->text);
	status = psgd__stack_failed(stack, psgd_run_open(&options, &stack->run));
	free(source);
	if (!status)
		psgd__stack_tell_link(stack);
	return status;
}

psgd_status psgd__stack_open_all(struct psgd_stack *stack)
{
	psgd_status status;

	PSGD__TRY(load_config(stack));
	PSGD__TRY(psgd__stack_failed(stack,
		psgd_launch_resolve(NULL, &stack->launch, stack->text, sizeof(stack->text))));
	PSGD__TRY(find_run_dir(stack));
	PSGD__TRY(open_objects(stack));
	PSGD__TRY(open_rendezvous(stack));
	PSGD__TRY(compare_configs(stack));
	PSGD__TRY(psgd__stack_find_checkpoint(stack));
	if (stack->resume.done)
		return PSGD_OK;
	PSGD__TRY(psgd__stack_open_device(stack));
	PSGD__TRY(open_network(stack));
	status = psgd__stack_open_kernel(stack);
	if (!status)
		status = psgd__stack_open_link(stack);
	if (!status)
		status = open_run(stack);
	PSGD__TRY(psgd__stack_agree(stack, status));
	/* Before anything else can fail: the records are not the old run's any more. */
	psgd__stack_drop_checkpoints(stack);
	if (stack->launch.n_workers == 1 ||
		(!stack->config->communication.measure && !stack->kernel))
		return PSGD_OK;
	if (stack->kernel)
		PSGD__TRY(psgd__stack_agree(stack, psgd__stack_watch_kernel(stack)));
	return psgd__stack_agree(stack, psgd__stack_measure(stack));
}
