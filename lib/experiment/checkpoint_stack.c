/* Checkpoints of a whole worker: the trainer's arrays, the session's, the run folder's. */
#include <inttypes.h>
#include <stdio.h>

#include "experiment/checkpoint_impl.h"
#include "experiment/run_impl.h"
#include "experiment/stack_impl.h"

/* Where the arrays of one object go. */
struct part {
	psgd_safetensors_writer *writer;
	const char *prefix;
};

static psgd_status put(void *user, const struct psgd_state_array *array, const void *data)
{
	struct part *part = user;

	return psgd_safetensors_add(part->writer, part->prefix, array, data);
}

static psgd_status collect(struct psgd_stack *stack, psgd_safetensors_writer *writer,
	psgd_checkpoint_save_fn save, void *user)
{
	struct part trainer = {writer, "trainer/"}, session = {writer, "session/"};
	struct part run = {writer, "run/"};
	struct psgd_state_writer to = {put, &trainer};
	psgd_status status = save(user, &to);

	if (status)
		return psgd__stack_fail(stack, status, "checkpoint: the trainer's state: %s",
			psgd_status_text(status));
	to.user = &session;
	status = psgd_session_save(stack->session, &to);
	if (status)
		return psgd__stack_fail(stack, status, "checkpoint: the session's state: %s",
			psgd_status_text(status));
	to.user = &run;
	status = psgd__run_save(stack->run, &to);
	if (status)
		psgd_run_error(stack->run, stack->text, sizeof(stack->text));
	return psgd__stack_failed(stack, status);
}

static psgd_status write_checkpoint(struct psgd_stack *stack,
	const struct psgd_checkpoint_position *position, psgd_checkpoint_save_fn save, void *user)
{
	struct psgd__checkpoint checkpoint = {.iteration = position->iteration,
		.epoch = position->epoch,
		.run = stack->resume.run,
		.worker = stack->launch.worker,
		.n_workers = stack->launch.n_workers};
	psgd_safetensors_writer *writer = psgd_safetensors_writer_new();
	char *config = NULL;
	psgd_status status = writer ? psgd_config_yaml(stack->config, &config) : PSGD_ERR_NOMEM;

	stack->text[0] = '\0';
	if (!status)
		status = collect(stack, writer, save, user);
	if (!status)
		status = psgd__checkpoint_write(stack->run_dir, &checkpoint, config, writer,
			stack->text, sizeof(stack->text));
	free(config);
	psgd_safetensors_writer_free(&writer);
	return psgd__stack_failed(stack, status);
}

psgd_status psgd_stack_save(psgd_stack *stack, const struct psgd_checkpoint_position *position,
	psgd_checkpoint_save_fn save, void *user)
{
	struct psgd_checkpoint_position own;
	psgd_status status;
	char text[96];

	if (!stack || !position || !save)
		return PSGD_ERR_INVALID;
	PSGD__TRY(psgd__copy_options(&own, sizeof(own), position));
	if (!stack->session || !stack->run)
		return psgd__stack_fail(
			stack, PSGD_ERR_STATE, "a checkpoint needs a session and a run folder");
	status = psgd__stack_agree(stack, write_checkpoint(stack, &own, save, user));
	if (status)
		return status;
	/* Only now is there one that every worker holds. */
	psgd__checkpoint_prune(stack->run_dir, stack->launch.worker, own.iteration,
		stack->config->checkpoint.keep);
	snprintf(text, sizeof(text), "ckpt/iter_%08" PRIu64, own.iteration);
	return psgd_run_event(stack->run, "checkpoint", own.iteration, text);
}

/* --- going on --- */

bool psgd_stack_resumes(const psgd_stack *stack, struct psgd_checkpoint_position *position)
{
	struct psgd_checkpoint_position own = PSGD_INIT(psgd_checkpoint_position);

	if (!stack || !stack->resume.resumes)
		return false;
	own.iteration = stack->resume.iteration;
	own.epoch = stack->resume.epoch;
	if (position && psgd__report_fits(position))
		psgd__copy_report(position, &own, sizeof(own));
	return true;
}

bool psgd_stack_done(const psgd_stack *stack)
{
	return stack && stack->resume.done;
}

/* What does not fit was made by another trainer or model, whatever the configuration says. */
static psgd_status not_taken(struct psgd_stack *stack, const char *whose, psgd_status status)
{
	bool fits = status != PSGD_ERR_MISMATCH && status != PSGD_ERR_INVALID;

	return psgd__stack_fail(stack, fits ? status : PSGD_ERR_CONFIG,
		"worker %" PRIu32 "'s checkpoint of iteration %" PRIu64 ": %s state %s%s",
		stack->launch.worker, stack->resume.iteration, whose,
		fits ? "cannot be read: " : "is not of this model",
		fits ? psgd_status_text(status) : "");
}

static psgd_status load_parts(struct psgd_stack *stack, const psgd_safetensors *file,
	psgd_checkpoint_load_fn load, void *user)
{
	struct psgd_safetensors_view view = {file, "trainer/"};
	struct psgd_state_reader from = psgd_safetensors_reader(&view);
	psgd_status status = load(user, &from);

	if (status)
		return not_taken(stack, "the trainer's", status);
	view.prefix = "session/";
	status = psgd_session_load(stack->session, &from);
	if (status)
		return not_taken(stack, "the session's", status);
	view.prefix = "run/";
	status = psgd__run_load(stack->run, &from);
	return status ? not_taken(stack, "the run's", status) : PSGD_OK;
}

static psgd_status load_checkpoint(
	struct psgd_stack *stack, psgd_checkpoint_load_fn load, void *user)
{
	psgd_safetensors *file = NULL;
	psgd_status status = psgd__checkpoint_open(stack->run_dir, stack->launch.worker,
		stack->resume.iteration, &file, stack->text, sizeof(stack->text));

	if (status)
		return psgd__stack_failed(stack, status);
	status = load_parts(stack, file, load, user);
	psgd_safetensors_close(&file);
	return status;
}

psgd_status psgd_stack_load(psgd_stack *stack, psgd_checkpoint_load_fn load, void *user)
{
	if (!stack || !load)
		return PSGD_ERR_INVALID;
	if (!stack->resume.resumes || !stack->session || !stack->run)
		return psgd__stack_fail(stack, PSGD_ERR_STATE,
			"there is no checkpoint to go on from, or no session yet");
	stack->text[0] = '\0';
	return psgd__stack_agree(stack, load_checkpoint(stack, load, user));
}

psgd_status psgd_stack_compare(psgd_stack *stack, const char *what, uint64_t hash)
{
	uint64_t first = hash;
	psgd_status status = PSGD_OK;

	if (!stack || !what)
		return PSGD_ERR_INVALID;
	stack->text[0] = '\0';
	PSGD__TRY(psgd__stack_share(stack, &first, sizeof(first)));
	if (first != hash)
		status = psgd__stack_fail(stack, PSGD_ERR_MISMATCH,
			"%s on worker %" PRIu32 " differ from worker 0's", what,
			stack->launch.worker);
	return psgd__stack_agree(stack, status);
}
