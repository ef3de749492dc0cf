/*
 * Trains a model on one worker from given parameters and batches, for a comparison with another
 * implementation. A line on standard input is the order to take a step; the answer is a line with
 * its loss, its seconds, and its seconds of processor time. At the end of the input the parameters
 * and running statistics are written.
 *
 * In FOLDER: params (tensors in order), images (of every step, NHWC), labels (16 bits each); out:
 * params.out, running.out (of each batch norm in order, means and then variances). All are f32.
 * SPDX-License-Identifier: MIT
 */
#include "examples/image/loss.h"
#include "examples/image/models.h"
#include "examples/image/optim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct steps {
	struct psgd_config_model model;
	struct psgd_config_training training;
	const char *folder;
	struct nn_shape in;
	size_t batch;
	struct nn *nn;
	struct net net;
	struct net_plan *plan;
	float *momentum;
	uint16_t *labels;
	FILE *images_file, *labels_file;
	struct image_error error;
};

static FILE *open_in(struct steps *s, const char *name, const char *mode)
{
	char path[4096];
	FILE *file;

	(void)snprintf(path, sizeof(path), "%s/%s", s->folder, name);
	file = fopen(path, mode);
	if (!file)
		(void)image_fail(&s->error, PSGD_ERR_IO, "cannot open %s", path);
	return file;
}

/* Reads or writes the parameters, without the padding between them. */
static int move_params(struct steps *s, const char *name, bool write)
{
	FILE *file = open_in(s, name, write ? "wb" : "rb");
	size_t moved = 1;

	if (!file)
		return -1;
	for (size_t t = 0; moved > 0 && t < s->net.n_tensors; t++) {
		const struct net_tensor *tensor = &s->net.tensor[t];
		float *values = s->net.params + tensor->offset;

		moved = write ? fwrite(values, tensor->count * sizeof(float), 1, file)
			      : fread(values, tensor->count * sizeof(float), 1, file);
	}
	if (fclose(file) != 0 || moved == 0) {
		(void)image_fail(&s->error, PSGD_ERR_IO, "%s is not complete", name);
		return -1;
	}
	return 0;
}

static int setup(struct steps *s, char **argv)
{
	s->model = (struct psgd_config_model){
		.name = argv[1], .stem = argv[2], .num_classes = (unsigned)atoi(argv[3])};
	s->in = (struct nn_shape){.c = atoi(argv[4]), .h = atoi(argv[5]), .w = atoi(argv[5])};
	s->batch = (size_t)atoi(argv[6]);
	s->training.learning_rate = atof(argv[7]);
	s->training.momentum = atof(argv[8]);
	s->training.weight_decay = atof(argv[9]);
	s->folder = argv[10];
	if (nn_open(1, &s->nn, &s->error))
		return -1;
	if (model_build(&s->net, s->nn, &s->model, &s->in, 1, &s->error))
		return -1;
	s->plan = net_prepare(&s->net, (int64_t)s->batch, true);
	if (!s->plan) {
		s->error = s->net.error;
		return -1;
	}
	s->momentum = calloc(s->net.n_params, sizeof(float));
	s->labels = calloc(s->batch, sizeof(*s->labels));
	if (!s->momentum || !s->labels || move_params(s, "params", false))
		return -1;
	s->images_file = open_in(s, "images", "rb");
	s->labels_file = open_in(s, "labels", "rb");
	return s->images_file && s->labels_file ? 0 : -1;
}

static void finish(struct steps *s)
{
	if (s->images_file)
		(void)fclose(s->images_file);
	if (s->labels_file)
		(void)fclose(s->labels_file);
	free(s->momentum);
	free(s->labels);
	net_free(&s->net);
	nn_close(&s->nn);
}

static double seconds(clockid_t clock)
{
	struct timespec now;

	(void)clock_gettime(clock, &now);
	return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static int step(struct steps *s)
{
	size_t image = net_values(&s->in, 1) * sizeof(float);
	struct loss loss = {0};
	double began, cpu_began;

	if (fread(s->plan->input, image, s->batch, s->images_file) != s->batch ||
		fread(s->labels, sizeof(*s->labels), s->batch, s->labels_file) != s->batch) {
		(void)image_fail(&s->error, PSGD_ERR_IO, "no more batches");
		return -1;
	}
	began = seconds(CLOCK_MONOTONIC);
	cpu_began = seconds(CLOCK_PROCESS_CPUTIME_ID);
	if (net_forward(&s->net, s->plan, NULL))
		goto failed;
	loss_add(&loss, s->plan->output, s->labels, s->batch, s->model.num_classes,
		s->plan->diff_start);
	if (net_backward(&s->net, s->plan, NULL, NULL))
		goto failed;
	optim_step(&s->training, s->training.learning_rate, s->net.params, s->net.grads,
		s->momentum, s->net.n_params);
	printf("%.9g %.9f %.9f\n", loss.sum / (double)loss.samples,
		seconds(CLOCK_MONOTONIC) - began, seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu_began);
	(void)fflush(stdout);
	return 0;
failed:
	s->error = s->net.error;
	return -1;
}

static int write_running(struct steps *s)
{
	FILE *file = open_in(s, "running.out", "wb");
	size_t n;

	if (!file)
		return -1;
	n = fwrite(s->net.running, sizeof(float), s->net.n_running, file);
	return fclose(file) == 0 && n == s->net.n_running ? 0 : -1;
}

int main(int argc, char **argv)
{
	struct steps s = {0};
	char line[16];
	int failed;

	if (argc != 11) {
		fprintf(stderr, "usage: image_steps MODEL STEM CLASSES CHANNELS SIDE BATCH "
				"LEARNING_RATE MOMENTUM WEIGHT_DECAY FOLDER\n");
		return 2;
	}
	failed = setup(&s, argv);
	while (!failed && fgets(line, sizeof(line), stdin))
		failed = step(&s);
	if (!failed)
		failed = move_params(&s, "params.out", true) || write_running(&s);
	if (failed)
		fprintf(stderr, "image_steps: %s\n", s.error.text[0] ? s.error.text : "failed");
	finish(&s);
	return failed ? 1 : 0;
}
