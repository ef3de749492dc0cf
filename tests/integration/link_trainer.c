/* A trainer whose compute time is known: it sleeps, and hands in the same gradients in each step.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <psgd/experiment/stack.h>

#include "integration/link_trainer.h"

static float gradients[LINK_TENSORS][LINK_SIDE * LINK_SIDE];

static void sleep_until(int64_t ns)
{
	struct timespec until = {ns / 1000000000, ns % 1000000000};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
		;
}

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* All gradients are ready at the end of compute: nothing is hidden. */
static psgd_status one_step(psgd_session *session, struct psgd_report *report)
{
	struct psgd_step_info info = PSGD_INIT(psgd_step_info);
	struct psgd_grad grads[LINK_TENSORS];
	struct psgd_bucket bucket = PSGD_INIT(psgd_bucket);
	psgd_status status = psgd_session_begin_step(session);

	for (uint32_t i = 0; i < LINK_TENSORS; i++) {
		grads[i] = (struct psgd_grad){.id = i, .data = gradients[i]};
		for (size_t k = 0; k < LINK_SIDE * LINK_SIDE; k++)
			gradients[i][k] = (float)((k * 31 + i * 17) % 101) / 101;
	}
	sleep_until(now_ns() + LINK_COMPUTE_NS);
	bucket.grads = grads;
	bucket.n_grads = LINK_TENSORS;
	info.learning_rate = 0.1;
	if (!status)
		status = psgd_session_submit(session, &bucket, NULL, NULL);
	if (!status)
		status = psgd_session_finish_step(session, &info, report);
	return status;
}

static psgd_status train(psgd_stack *stack)
{
	const struct psgd_config *config = psgd_stack_config(stack);
	struct psgd_tensor tensors[LINK_TENSORS];
	psgd_session *session;
	psgd_status status;

	for (uint32_t i = 0; i < LINK_TENSORS; i++)
		tensors[i] = (struct psgd_tensor){.id = i,
			.dtype = PSGD_F32,
			.n_dims = 2,
			.dims = {LINK_SIDE, LINK_SIDE},
			.name = "w"};
	status = psgd_stack_session(stack, tensors, LINK_TENSORS, &session);
	for (uint64_t i = 0; i < config->training.max_iterations && !status; i++) {
		struct psgd_report report = PSGD_INIT(psgd_report);
		struct psgd_iteration_row row = PSGD_INIT(psgd_iteration_row);

		status = psgd_stack_begin_step(stack, i);
		if (!status)
			status = one_step(session, &report);
		row.iteration = i;
		row.iterations_in_epoch = row.total_iterations = config->training.max_iterations;
		row.loss = row.accuracy = NAN;
		row.learning_rate = 0.1;
		row.report = &report;
		if (!status)
			status = psgd_run_iteration(psgd_stack_run(stack), &row);
	}
	return status;
}

int main(void)
{
	struct psgd_stack_options options = PSGD_INIT(psgd_stack_options);
	char error[1024] = "";
	psgd_stack *stack = NULL;
	psgd_status status;

	options.error = error;
	options.error_bytes = sizeof(error);
	status = psgd_stack_open(&options, &stack);
	if (!status) {
		status = train(stack);
		psgd_stack_error(stack, error, sizeof(error));
	}
	psgd_stack_close(&stack, status, NULL);
	if (status)
		fprintf(stderr, "%s\n", error);
	return psgd_exit_code(status);
}
