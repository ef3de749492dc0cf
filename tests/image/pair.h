/* The same net on this processor and on the CUDA engine, for comparison. */
#ifndef TESTS_IMAGE_PAIR_H
#define TESTS_IMAGE_PAIR_H

#include "examples/image/net.h"

#define BATCH 5
#define TOLERANCE 1e-4 /* relative, of a whole tensor */

extern struct nn *pair_cpu, *pair_cuda;
extern struct image_error pair_error;

/* False: there is none, and a TAP line has said so. */
bool pair_has_device(void);

/* A fixture: both engines; nothing is left when they are closed. */
void pair_setup(void);
void pair_teardown(void);

void pair_noise(float *out, size_t n, uint64_t item);
/* The engine's values for the host; freed by the caller. */
float *pair_values(struct nn *nn, const float *values, size_t n);
void pair_check_close(
	const float *got, const float *expected, size_t n, double tolerance, const char *what);

struct pair {
	struct net cpu, cuda;
	struct net_plan *on_cpu, *on_cuda;
};

/* With the same parameters, and plans for training. */
void pair_open(struct pair *p, void (*add)(struct net *), const struct nn_shape *in, int64_t batch);
void pair_model(struct pair *p, char *name, int64_t batch); /* images of 3 x 16 x 16 */
void pair_prepare(struct pair *p, int64_t batch, bool train);
void pair_close(struct pair *p);

size_t pair_outputs(const struct pair *p);
void pair_input(struct pair *p, uint64_t item);
void pair_forward(struct pair *p, float *running_cpu, float *running_cuda);
void pair_backward(struct pair *p, uint64_t item);
void pair_check_outputs(struct pair *p, const char *what);
/* And the running statistics. */
void pair_check_grads(struct pair *p, const char *what);

#endif
