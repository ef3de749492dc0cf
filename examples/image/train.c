/* A worker's training run. SPDX-License-Identifier: MIT */
#include "train.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "models.h"
#include "optim.h"
#include "schedule.h"
#include "trainer.h"

#define MAX_NONFINITE_STEPS 10

psgd_status trainer_fail(struct trainer *trainer, psgd_status status, const char *what)
{
	char reason[sizeof(trainer->error->text)] = "";

	psgd_stack_error(trainer->stack, reason, sizeof(reason));
	return image_fail(trainer->error, status, "%s: %s", what,
		reason[0] ? reason : psgd_status_text(status));
}

/* Never 0, which a session takes for "not given". */
static uint64_t params_hash(const struct net *net)
{
	uint64_t hash = XXH3_64bits(net->params, net->n_params * sizeof(float));

	return hash ? hash : 1;
}

static psgd_status build_net(struct trainer *t)
{
	const struct image_shape *shape = &t->loader.data.shape;
	struct nn_shape in = {.c = (int64_t)shape->channels,
		.h = (int64_t)shape->rows,
		.w = (int64_t)shape->cols};
	psgd_status status = nn_open(t->config->threads, &t->nn, t->error);

	if (!status)
		status = model_build(
			&t->net, t->nn, &t->config->model, &in, t->config->seed, t->error);
	if (status)
		return status;
	t->plan = net_prepare(&t->net, t->config->dataset.batch_size, true);
	if (!t->plan)
		return image_fail(t->error, PSGD_ERR_NOMEM, "%s", t->net.error.text);
	return PSGD_OK;
}

static psgd_status alloc_buffers(struct trainer *t)
{
	t->labels = calloc(loader_largest(&t->loader), sizeof(*t->labels));
	t->momentum = calloc(t->net.n_params, sizeof(float));
	t->worker0_running = calloc(t->net.n_running + 1, sizeof(float));
	if (!t->labels || !t->momentum || !t->worker0_running)
		return image_fail(t->error, PSGD_ERR_NOMEM, "out of memory");
	return PSGD_OK;
}

static psgd_status open_session(struct trainer *t)
{
	struct psgd_tensor *tensors = calloc(t->net.n_tensors, sizeof(*tensors));
	psgd_status status;

	if (!tensors)
		return image_fail(t->error, PSGD_ERR_NOMEM, "out of memory");
	buckets_tensors(&t->net, tensors);
	status = psgd_stack_session(t->stack, tensors, t->net.n_tensors, &t->session);
	free(tensors);
	if (status)
		return trainer_fail(t, status, "session");
	status = buckets_init(&t->buckets, &t->net, t->session);
	if (status)
		return image_fail(t->error, status, "out of memory");
	status = psgd_session_broadcast(
		t->session, t->net.params, t->net.n_params * sizeof(float), 0);
	if (status)
		return trainer_fail(t, status, "broadcast of the first parameters");
	return PSGD_OK;
}

static psgd_status trainer_init(struct trainer *t, psgd_stack *stack, struct image_error *error)
{
	const struct psgd_config *config = psgd_stack_config(stack);
	psgd_status status;

	*t = (struct trainer){.stack = stack, .config = config, .error = error};
	t->launch = psgd_stack_launch(stack);
	t->run = psgd_stack_run(stack);
	status = loader_open(&t->loader, config, t->launch->worker, t->launch->n_workers, error);
	if (!status)
		status = build_net(t);
	if (!status)
		status = alloc_buffers(t);
	if (!status)
		status = open_session(t);
	t->total_iterations = (uint64_t)config->training.epochs * t->loader.sampler.iterations;
	if (config->training.max_iterations &&
		config->training.max_iterations < t->total_iterations)
		t->total_iterations = config->training.max_iterations;
	return status;
}

static void trainer_finish(struct trainer *t)
{
	buckets_finish(&t->buckets);
	free(t->worker0_running);
	free(t->momentum);
	free(t->labels);
	net_free(&t->net);
	nn_close(&t->nn);
	loader_close(&t->loader);
}

/* Forward, loss, backward; buckets leave while backward goes on. */
static psgd_status compute(struct trainer *t, uint64_t epoch, size_t i, struct loss *loss)
{
	size_t batch = t->loader.sampler.batch;
	psgd_status status =
		loader_train(&t->loader, epoch, i, t->plan->input, t->labels, t->error);

	if (status)
		return status;
	t->net.error.text[0] = 0;
	status = net_forward(&t->net, t->plan, NULL);
	if (status)
		return image_fail(t->error, status, "%s", t->net.error.text);
	loss_add(loss, t->plan->output, t->labels, batch, t->config->model.num_classes,
		t->plan->diff_start);
	buckets_begin(&t->buckets);
	status = net_backward(&t->net, t->plan, buckets_on_grads, &t->buckets);
	if (status && t->net.error.text[0])
		return image_fail(t->error, status, "%s", t->net.error.text);
	return status ? trainer_fail(t, status, "submit") : PSGD_OK;
}

static psgd_status record(struct trainer *t, uint64_t epoch, double rate, const struct loss *loss,
	const struct psgd_report *report)
{
	struct psgd_run_iteration row = PSGD_INIT(psgd_run_iteration);
	psgd_status status;

	row.epoch = epoch;
	row.iteration = t->iteration;
	row.iterations_in_epoch = t->loader.sampler.iterations;
	row.total_iterations = t->total_iterations;
	row.loss = loss->sum / (double)loss->samples;
	row.accuracy = 100.0 * (double)loss->correct / (double)loss->samples;
	row.learning_rate = rate;
	row.report = report;
	status = psgd_run_iteration(t->run, &row);
	if (status)
		return trainer_fail(t, status, "record of an iteration");
	t->epoch_loss.sum += loss->sum;
	t->epoch_loss.samples += loss->samples;
	if (!isnan(report->grad_norm)) {
		t->grad_norm_sum += report->grad_norm;
		t->grad_norms++;
	}
	t->grad_sum_norm = report->grad_sum_norm;
	return PSGD_OK;
}

/*
 * The optimizer's step. Gradients that are not finite, which all workers see alike, are left out;
 * when no others come the parameters are lost already.
 */
static psgd_status update(struct trainer *t, double rate, const struct psgd_report *report)
{
	if (!report->n_nonfinite) {
		t->nonfinite_steps = 0;
		optim_step(&t->config->training, rate, t->net.params, t->net.grads, t->momentum,
			t->net.n_params);
		return PSGD_OK;
	}
	if (++t->nonfinite_steps < MAX_NONFINITE_STEPS)
		return PSGD_OK;
	return image_fail(t->error, PSGD_ERR_FAILED,
		"gradients were not finite in %u iterations in a row, the last is %" PRIu64
		"; try a lower training.learning_rate",
		t->nonfinite_steps, t->iteration);
}

static psgd_status train_step(struct trainer *t, uint64_t epoch, size_t i, double rate)
{
	struct psgd_step_info info = PSGD_INIT(psgd_step_info);
	struct psgd_report report = PSGD_INIT(psgd_report);
	unsigned check_every = t->config->communication.check_every;
	struct loss loss = {0};
	psgd_status status = compute(t, epoch, i, &loss);

	if (status)
		return status;
	info.epoch = epoch;
	info.learning_rate = rate;
	info.epoch_end = i + 1 == t->loader.sampler.iterations;
	/* The optimizer has not run yet: these are the parameters that the step began with. */
	if (check_every && t->iteration % check_every == 0)
		info.param_hash = params_hash(&t->net);
	status = psgd_session_finish_step(t->session, &info, &report);
	if (status)
		return trainer_fail(t, status, "step");
	status = update(t, rate, &report);
	if (status)
		return status;
	status = record(t, epoch, rate, &loss, &report);
	t->iteration++;
	return status;
}

static psgd_status end_epoch(struct trainer *t, uint64_t epoch, double rate)
{
	struct psgd_run_epoch row = PSGD_INIT(psgd_run_epoch);
	struct evaluation seen;
	psgd_status status = evaluate(t, &seen);

	if (status || t->launch->worker > 0)
		return status;
	row.epoch = epoch;
	row.iteration = t->iteration - 1;
	row.epoch_loss = seen.train_loss;
	row.accuracy = seen.accuracy;
	row.grad_norm_avg = t->grad_norms ? t->grad_norm_sum / (double)t->grad_norms : NAN;
	row.grad_accum_norm = t->grad_sum_norm;
	row.num_data_processed = t->iteration * t->loader.sampler.batch * t->launch->n_workers;
	status = psgd_run_epoch(t->run, &row);
	if (status)
		return trainer_fail(t, status, "record of an epoch");
	printf("epoch %" PRIu64 ", iteration %" PRIu64 " of %" PRIu64
	       ": loss %.4f, test accuracy %.2f %%, learning rate %g\n",
		epoch + 1, t->iteration, t->total_iterations, seen.train_loss, seen.accuracy, rate);
	(void)fflush(stdout);
	return PSGD_OK;
}

static psgd_status train_epoch(struct trainer *t, unsigned epoch)
{
	double rate = schedule_learning_rate(t->config, epoch);
	psgd_status status;

	t->epoch_loss = (struct loss){0};
	t->grad_norm_sum = 0.0;
	t->grad_norms = 0;
	/* What lies between two epochs is no step's compute time. */
	status = psgd_session_begin_step(t->session);
	if (status)
		return trainer_fail(t, status, "step");
	for (size_t i = 0; i < t->loader.sampler.iterations && t->iteration < t->total_iterations;
		i++) {
		status = train_step(t, epoch, i, rate);
		if (status)
			return status;
	}
	return end_epoch(t, epoch, rate);
}

/* Training has worked only if every worker holds the same parameters, to the bit. */
static psgd_status compare_params(struct trainer *t)
{
	uint64_t hash = params_hash(&t->net);
	char text[128];
	psgd_status status = psgd_session_agree(t->session, hash);

	if (status)
		return trainer_fail(t, status, "parameters at the end of training");
	if (t->launch->worker > 0)
		return PSGD_OK;
	(void)snprintf(text, sizeof(text),
		"parameters bit-equal on all %" PRIu32 " workers (hash %016" PRIx64 ")",
		t->launch->n_workers, hash);
	(void)puts(text);
	(void)fflush(stdout);
	status = psgd_run_event(t->run, "agree", t->iteration, text);
	return status ? trainer_fail(t, status, "record of the comparison") : PSGD_OK;
}

psgd_status train_run(psgd_stack **stack, struct image_error *error)
{
	struct trainer trainer;
	psgd_status status = trainer_init(&trainer, *stack, error);

	for (unsigned epoch = 0; !status && trainer.iteration < trainer.total_iterations; epoch++)
		status = train_epoch(&trainer, epoch);
	if (!status)
		status = compare_params(&trainer);
	/* The session may still hold gradients of a step that failed. */
	psgd_stack_close(stack, status, status ? error->text : NULL);
	trainer_finish(&trainer);
	return status;
}
