/* Where a run goes on from: the newest checkpoint that every worker holds. */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "experiment/checkpoint_impl.h"
#include "experiment/stack_impl.h"

enum resume_mode {
	RESUME_NO = 0,
	RESUME_AUTO = 1, /* begins anew when there is nothing */
	RESUME_PATH = 2
};

/* Worker 0's word. */
struct order {
	uint64_t run;	    /* of a run that begins anew */
	uint64_t iteration; /* PSGD__NO_ITERATION: the newest */
	uint32_t mode, done;
};

struct mark {
	uint64_t iteration, run;
};

/* What a worker tells the others: all that it could go on from, newest first. */
struct offer {
	uint32_t n, reserved;
	struct mark marks[PSGD__CHECKPOINTS_MAX];
};

static void say_unused(void *user, const char *text)
{
	psgd__stack_tell(user, PSGD_LOG_WARN, "%s", text);
}

/* --- what worker 0 says --- */

/* The run has ended well, and nothing of its configuration but places has changed since. */
static psgd_status is_done(struct psgd_stack *stack, bool *out)
{
	char state[16] = "", path[PATH_MAX + 16], *before, *now = NULL, *table = NULL;
	psgd_status status;

	*out = false;
	if (psgd_run_state(stack->run_dir, state, sizeof(state)) || strcmp(state, "finished") != 0)
		return PSGD_OK;
	snprintf(path, sizeof(path), "%s/resolved.yaml", stack->run_dir);
	before = psgd__read_text(path);
	if (!before)
		return PSGD_OK;
	status = psgd_config_yaml(stack->config, &now);
	if (!status)
		status = psgd__compare_finished(before, now, &table);
	if (!status)
		*out = !*table;
	free(table);
	free(now);
	free(before);
	return status == PSGD_ERR_NOMEM ? psgd__stack_failed(stack, status) : PSGD_OK;
}

static psgd_status give_order(struct psgd_stack *stack, struct order *order)
{
	const char *resume = stack->settings.resume;
	bool done = false;

	*order = (struct order){.iteration = stack->resume.wanted};
	if (resume)
		order->mode = strcmp(resume, "auto") == 0 ? RESUME_AUTO : RESUME_PATH;
	if (getrandom(&order->run, sizeof(order->run), 0) != (ssize_t)sizeof(order->run))
		order->run = (uint64_t)psgd__now_ns();
	if (resume && order->iteration == PSGD__NO_ITERATION)
		PSGD__TRY(is_done(stack, &done));
	order->done = done;
	return PSGD_OK;
}

/* Worker 0 owns the run: what it says about going on holds for all. */
static psgd_status hear_order(struct psgd_stack *stack, struct order *order)
{
	psgd_status status = stack->launch.worker == 0 ? give_order(stack, order) : PSGD_OK;

	PSGD__TRY(psgd__stack_agree(stack, status));
	return psgd__stack_share(stack, order, sizeof(*order));
}

/* --- what the workers have --- */

static psgd_status make_offer(struct psgd_stack *stack, uint64_t wanted, struct offer *offer)
{
	struct psgd__checkpoint list[PSGD__CHECKPOINTS_MAX];
	struct psgd__checkpoint_say say = {say_unused, stack};
	size_t n = 0;
	psgd_status status =
		psgd__checkpoint_list(stack->run_dir, stack->launch.worker, wanted, &say, list, &n);

	*offer = (struct offer){0};
	if (status)
		return psgd__stack_fail(stack, status, "%s/ckpt: cannot be read", stack->run_dir);
	for (size_t i = 0; i < n; i++) {
		if (list[i].n_workers != stack->launch.n_workers)
			return psgd__stack_fail(stack, PSGD_ERR_CONFIG,
				"%s/ckpt is of %" PRIu32 " workers, this run has %" PRIu32,
				stack->run_dir, list[i].n_workers, stack->launch.n_workers);
		offer->marks[offer->n++] = (struct mark){list[i].iteration, list[i].run};
	}
	return PSGD_OK;
}

static bool offers(const struct offer *offer, const struct mark *mark)
{
	for (uint32_t i = 0; i < offer->n && i < PSGD__CHECKPOINTS_MAX; i++) {
		if (offer->marks[i].iteration == mark->iteration &&
			offer->marks[i].run == mark->run)
			return true;
	}
	return false;
}

/* The newest that all offer; NULL: none. */
static const struct mark *choose(const struct offer *all, uint32_t n_workers)
{
	for (uint32_t i = 0; i < all[0].n && i < PSGD__CHECKPOINTS_MAX; i++) {
		uint32_t w = 1;

		while (w < n_workers && offers(&all[w], &all[0].marks[i]))
			w++;
		if (w == n_workers)
			return &all[0].marks[i];
	}
	return NULL;
}

/* As a kill in the middle of the very first checkpoint leaves it: some have that one, no other. */
static bool is_first(const struct offer *all, uint32_t n_workers)
{
	const struct mark *first = NULL;

	for (uint32_t w = 0; w < n_workers; w++) {
		if (all[w].n > 1)
			return false;
		if (all[w].n && !first)
			first = &all[w].marks[0];
		if (all[w].n && !offers(&all[w], first))
			return false;
	}
	return true;
}

/* Who has none, or of all whom the newest ones differ. Work that others hold is not thrown away. */
static psgd_status nothing_common(struct psgd_stack *stack, const struct offer *all, uint32_t mode)
{
	char text[256], who[64] = "";
	bool any = false;
	uint32_t without = 0;

	for (uint32_t w = stack->launch.n_workers; w-- > 0;) {
		any |= all[w].n > 0;
		without = all[w].n ? without : w;
	}
	psgd__text(text, sizeof(text), "%s", "no complete checkpoint");
	if (all[without].n == 0)
		psgd__text(who, sizeof(who), " (worker %" PRIu32 " has none)", without);
	if (any && all[without].n == 0)
		psgd__text(text, sizeof(text), "worker %" PRIu32 " has no complete checkpoint",
			without);
	else if (any)
		psgd__text(text, sizeof(text), "no checkpoint that all %" PRIu32 " workers hold",
			stack->launch.n_workers);
	if (mode == RESUME_PATH)
		return psgd__stack_fail(
			stack, PSGD_ERR_CONFIG, "%s: nothing to resume: %s", stack->run_dir, text);
	if (!is_first(all, stack->launch.n_workers))
		return psgd__stack_fail(stack, PSGD_ERR_CONFIG,
			"%s: no checkpoint that all %" PRIu32
			" workers hold, which --resume auto needs%s; --overwrite begins anew",
			stack->run_dir, stack->launch.n_workers, who);
	if (stack->launch.worker == 0)
		psgd__stack_tell(stack, any ? PSGD_LOG_WARN : PSGD_LOG_INFO,
			"%s: nothing to resume (%s), the run begins anew", stack->run_dir, text);
	return PSGD_OK;
}

/* A checkpoint is for the configuration that wrote it; only how long and how to talk may change. */
static psgd_status check_config(struct psgd_stack *stack, const psgd_safetensors *file)
{
	char *now = NULL, *table = NULL;
	psgd_status status = psgd_config_yaml(stack->config, &now);

	if (!status)
		status = psgd__compare_resumed(psgd__checkpoint_config(file), now, &table);
	if (status == PSGD_ERR_CONFIG)
		psgd__stack_fail(stack, status, "%s: the checkpoint's configuration cannot be read",
			stack->run_dir);
	if (!status && *table)
		status = psgd__stack_fail(stack, PSGD_ERR_CONFIG,
			"%s: the checkpoint is of another configuration: %.*s", stack->run_dir,
			(int)strcspn(table, "\n"), table);
	free(table);
	free(now);
	return psgd__stack_failed(stack, status);
}

static psgd_status take_checkpoint(struct psgd_stack *stack, const struct mark *mark)
{
	psgd_safetensors *file = NULL;
	psgd_status status = psgd__checkpoint_open(stack->run_dir, stack->launch.worker,
		mark->iteration, &file, stack->text, sizeof(stack->text));
	const char *epoch = psgd_safetensors_metadata(file, "epoch");

	if (!status)
		status = check_config(stack, file);
	if (!status) {
		stack->resume.resumes = true;
		stack->resume.iteration = mark->iteration;
		stack->resume.epoch = epoch ? strtoull(epoch, NULL, 10) : 0;
		stack->resume.run = mark->run;
		if (stack->launch.worker == 0)
			psgd__stack_tell(stack, PSGD_LOG_INFO,
				"%s: the run goes on from its checkpoint of iteration %" PRIu64,
				stack->run_dir, mark->iteration);
	}
	psgd_safetensors_close(&file);
	return psgd__stack_failed(stack, status);
}

static psgd_status find_common(struct psgd_stack *stack, const struct order *order)
{
	uint32_t n = stack->launch.n_workers;
	struct psgd_oob oob = psgd_rendezvous_oob(stack->rendezvous);
	struct offer mine, *all = psgd__calloc(n, sizeof(*all));
	const struct mark *mark;
	bool agreed;
	psgd_status status = all ? make_offer(stack, order->iteration, &mine) : PSGD_ERR_NOMEM;

	status = psgd__stack_agree(stack, psgd__stack_failed(stack, status));
	agreed = !status;
	if (!status && n == 1)
		all[0] = mine;
	else if (!status)
		status = oob.allgather(oob.self, &mine, all, sizeof(mine));
	/* The agreement has told its own failures. */
	if (status && agreed)
		psgd__stack_rendezvous_failed(stack, status);
	if (!status) {
		mark = choose(all, n);
		status = mark ? take_checkpoint(stack, mark)
			      : nothing_common(stack, all, order->mode);
		status = psgd__stack_agree(stack, status);
	}
	free(all);
	return psgd__stack_failed(stack, status);
}

/* Without --resume: work that could go on is not thrown away by a mistyped command. */
static psgd_status refuse_unfinished(struct psgd_stack *stack)
{
	struct psgd__checkpoint list[PSGD__CHECKPOINTS_MAX];
	char state[16] = "";
	size_t n = 0;

	if (stack->launch.worker > 0 || stack->settings.overwrite ||
		psgd_run_state(stack->run_dir, state, sizeof(state)) ||
		(strcmp(state, "failed") != 0 && strcmp(state, "running") != 0))
		return PSGD_OK;
	PSGD__TRY(psgd__stack_failed(stack,
		psgd__checkpoint_list(stack->run_dir, 0, PSGD__NO_ITERATION, NULL, list, &n)));
	if (!n)
		return PSGD_OK;
	return psgd__stack_fail(stack, PSGD_ERR_STATE,
		"%s holds a run with a checkpoint of iteration %" PRIu64
		": --resume auto goes on from it, --overwrite begins anew",
		stack->run_dir, list[0].iteration);
}

psgd_status psgd__stack_find_checkpoint(struct psgd_stack *stack)
{
	struct order order = {0};

	PSGD__TRY(hear_order(stack, &order));
	stack->resume.run = order.run;
	if (order.mode == RESUME_NO)
		return psgd__stack_agree(stack, refuse_unfinished(stack));
	if (order.done) {
		stack->resume.done = true;
		if (stack->launch.worker == 0)
			psgd__stack_tell(stack, PSGD_LOG_INFO,
				"%s: the run has finished, nothing is left to do", stack->run_dir);
		return PSGD_OK;
	}
	return find_common(stack, &order);
}

void psgd__stack_drop_checkpoints(struct psgd_stack *stack)
{
	if (stack->resume.resumes)
		psgd__checkpoint_prune(
			stack->run_dir, stack->launch.worker, stack->resume.iteration, SIZE_MAX);
	else
		psgd__checkpoint_prune(stack->run_dir, stack->launch.worker, 0, 0);
}
