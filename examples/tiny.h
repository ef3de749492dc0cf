/*
 * A problem that is small enough to read: learn y = truth x + 1 from examples that every worker
 * draws for itself. C11 and C++17, as the examples that include it.
 */
#ifndef EXAMPLES_TINY_H
#define EXAMPLES_TINY_H

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <psgd/psgd.h>

enum { ROWS = 40, COLS = 60, BATCH = 16 };

/* Parameters, and in the same form their gradient. */
struct tiny {
	float weight[ROWS][COLS];
	float bias[ROWS];
};

/* What the library has to know of them: id, flags, type, dimensions, name. */
enum { WEIGHT = 0, BIAS = 1, TENSORS = 2 };
static const struct psgd_tensor tiny_tensors[TENSORS] = {
	{WEIGHT, 0, PSGD_F32, 2, {ROWS, COLS}, "weight"},
	{BIAS, 0, PSGD_F32, 1, {ROWS}, "bias"},
};

/* From -1 to 1. */
static inline float tiny_random(uint32_t *state)
{
	*state = *state * 1664525u + 1013904223u;
	return (float)(*state >> 8) / 8388608.0f - 1.0f;
}

/* The loss over a batch, and its gradient. */
static inline double tiny_backward(
	const struct tiny *model, uint32_t *random, struct tiny *gradient)
{
	double loss = 0;

	memset(gradient, 0, sizeof(*gradient));
	for (int example = 0; example < BATCH; example++) {
		float x[COLS];

		for (int k = 0; k < COLS; k++)
			x[k] = tiny_random(random);
		for (int i = 0; i < ROWS; i++) {
			float error = model->bias[i] - 1;

			for (int k = 0; k < COLS; k++)
				error += (model->weight[i][k] - sinf((float)(i + k))) * x[k];
			loss += (double)(error * error) / (double)BATCH;
			gradient->bias[i] += error / (float)BATCH;
			for (int k = 0; k < COLS; k++)
				gradient->weight[i][k] += error * x[k] / (float)BATCH;
		}
	}
	return loss;
}

static inline void tiny_descend(struct tiny *model, const struct tiny *gradient, float rate)
{
	for (int i = 0; i < ROWS; i++) {
		model->bias[i] -= rate * gradient->bias[i];
		for (int k = 0; k < COLS; k++)
			model->weight[i][k] -= rate * gradient->weight[i][k];
	}
}

/* Ends the program, with the library's own words, if a call has failed. */
static inline void must(psgd_status status, psgd_session *session)
{
	char why[256] = "";

	if (status >= 0)
		return;
	if (session)
		psgd_session_error(session, why, sizeof(why));
	fprintf(stderr, "%s. %s\n", psgd_status_text(status), why);
	exit(EXIT_FAILURE);
}

/* A whole step of a session: afterwards the gradient is the mean over the workers. */
static inline void tiny_average(
	psgd_session *session, struct tiny *gradient, struct psgd_report *report)
{
	const struct psgd_grad grads[] = {{WEIGHT, gradient->weight[0]}, {BIAS, gradient->bias}};
	struct psgd_bucket bucket = PSGD_INIT(psgd_bucket);

	bucket.grads = grads;
	bucket.n_grads = TENSORS;
	must(psgd_session_submit(session, &bucket, NULL, NULL), session);
	must(psgd_session_finish_step(session, NULL, report), session);
}

/* Every worker a thread of this process, with its end of `transport`. Waits for all of them. */
static inline void tiny_threads(
	struct psgd_transport *transport, int n_workers, void *(*work)(void *transport))
{
	pthread_t *thread = (pthread_t *)malloc((size_t)n_workers * sizeof(*thread));

	for (int w = 0; w < n_workers; w++) {
		if (!thread || pthread_create(&thread[w], NULL, work, &transport[w]))
			exit(EXIT_FAILURE);
	}
	for (int w = 0; w < n_workers; w++)
		pthread_join(thread[w], NULL);
	free(thread);
}

#endif
