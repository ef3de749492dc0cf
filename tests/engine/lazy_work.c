#include "lazy_work.h"

#include <stdlib.h>
#include <string.h>

struct lazy_work {
	void (*run)(const struct lazy_work *w, const struct psgd_kernels *k, void *self);
	void *list, *spans; /* copies */
	size_t count;
	struct psgd__finish finish;
	uint64_t seed;
	int64_t n, stride;
	const float *x;
	float *y;
	void *out;
	float a, b;
	uint32_t keep;
};

void lazy_work_run(struct lazy_work *w, const struct psgd_device *cpu)
{
	w->run(w, cpu->ops->kernels, cpu->self);
}

void lazy_work_free(struct lazy_work *w)
{
	if (!w)
		return;
	free(w->list);
	free(w->spans);
	free(w);
}

static void *copy_of(const void *list, size_t bytes)
{
	void *mine = malloc(bytes ? bytes : 1);

	if (bytes)
		memcpy(mine, list, bytes);
	return mine;
}

static psgd_status later(
	void *self, psgd_stream stream, const char *name, struct lazy_work what, bool wait)
{
	return lazy_enqueue_work(self, stream, name, copy_of(&what, sizeof(what)), wait);
}

/* The kernels of the CPU are done when they return, and do not fail. */
#define DEFINE_MATRICES(name)                                                                      \
	static void run_##name(                                                                    \
		const struct lazy_work *w, const struct psgd_kernels *k, void *self)               \
	{                                                                                          \
		k->name(self, w->list, w->count, NULL);                                            \
	}                                                                                          \
                                                                                                   \
	static psgd_status lazy_##name(                                                            \
		void *self, const struct psgd__matrix *list, size_t count, psgd_stream stream)     \
	{                                                                                          \
		return later(self, stream, #name,                                                  \
			(struct lazy_work){.run = run_##name,                                      \
				.list = copy_of(list, count * sizeof(*list)),                      \
				.count = count},                                                   \
			false);                                                                    \
	}
DEFINE_MATRICES(absorb_project)
DEFINE_MATRICES(back_project)
DEFINE_MATRICES(reconstruct)

static void run_start(const struct lazy_work *w, const struct psgd_kernels *k, void *self)
{
	k->start(self, w->list, w->count, w->seed, w->a, NULL);
}

static psgd_status lazy_start(void *self, const struct psgd__start *list, size_t count,
	uint64_t seed, float eps, psgd_stream stream)
{
	return later(self, stream, "start",
		(struct lazy_work){.run = run_start,
			.list = copy_of(list, count * sizeof(*list)),
			.count = count,
			.seed = seed,
			.a = eps},
		false);
}

static void run_orthonormalize(const struct lazy_work *w, const struct psgd_kernels *k, void *self)
{
	k->orthonormalize(self, w->list, w->count, w->a, NULL);
}

static psgd_status lazy_orthonormalize(
	void *self, const struct psgd__panel *list, size_t count, float eps, psgd_stream stream)
{
	return later(self, stream, "orthonormalize",
		(struct lazy_work){.run = run_orthonormalize,
			.list = copy_of(list, count * sizeof(*list)),
			.count = count,
			.a = eps},
		false);
}

static void run_finish(const struct lazy_work *w, const struct psgd_kernels *k, void *self)
{
	struct psgd__finish finish = w->finish;

	finish.list = w->list;
	finish.messages = w->spans;
	k->finish(self, &finish, NULL);
}

static psgd_status lazy_finish(void *self, const struct psgd__finish *finish, psgd_stream stream)
{
	return later(self, stream, "finish",
		(struct lazy_work){.run = run_finish,
			.list = copy_of(finish->list, finish->count * sizeof(*finish->list)),
			.spans = copy_of(
				finish->messages, finish->n_messages * sizeof(*finish->messages)),
			.finish = *finish},
		false);
}

static void run_axpby(const struct lazy_work *w, const struct psgd_kernels *k, void *self)
{
	k->axpby(self, w->n, w->a, w->x, w->b, w->y, NULL);
}

static psgd_status lazy_axpby(
	void *self, int64_t count, float a, const float *x, float b, float *y, psgd_stream stream)
{
	return later(self, stream, "axpby",
		(struct lazy_work){.run = run_axpby, .n = count, .a = a, .x = x, .b = b, .y = y},
		false);
}

static void run_accumulate(const struct lazy_work *w, const struct psgd_kernels *k, void *self)
{
	k->accumulate(self, w->list, w->count, NULL);
}

static psgd_status lazy_accumulate(
	void *self, const struct psgd__addend *list, size_t count, psgd_stream stream)
{
	return later(self, stream, "accumulate",
		(struct lazy_work){.run = run_accumulate,
			.list = copy_of(list, count * sizeof(*list)),
			.count = count},
		false);
}

static void run_sum_squares(const struct lazy_work *w, const struct psgd_kernels *k, void *self)
{
	k->sum_squares(self, w->list, w->count, w->out, NULL);
}

static psgd_status lazy_sum_squares(
	void *self, const struct psgd__span *list, size_t count, double *out, psgd_stream stream)
{
	return later(self, stream, "sum_squares",
		(struct lazy_work){.run = run_sum_squares,
			.list = copy_of(list, count * sizeof(*list)),
			.count = count,
			.out = out},
		true);
}

static void run_finite(const struct lazy_work *w, const struct psgd_kernels *k, void *self)
{
	k->finite(self, w->list, w->count, w->out, NULL);
}

static psgd_status lazy_finite(
	void *self, const struct psgd__span *list, size_t count, int *out, psgd_stream stream)
{
	return later(self, stream, "finite",
		(struct lazy_work){.run = run_finite,
			.list = copy_of(list, count * sizeof(*list)),
			.count = count,
			.out = out},
		true);
}

static void run_leading(const struct lazy_work *w, const struct psgd_kernels *k, void *self)
{
	k->leading(self, w->list, w->keep, w->y, NULL);
}

static psgd_status lazy_leading(
	void *self, const struct psgd__panel *from, uint32_t keep, float *to, psgd_stream stream)
{
	return later(self, stream, "leading",
		(struct lazy_work){.run = run_leading,
			.list = copy_of(from, sizeof(*from)),
			.keep = keep,
			.y = to},
		false);
}

static void run_fill(const struct lazy_work *w, const struct psgd_kernels *k, void *self)
{
	k->fill(self, w->list, w->count, w->seed, NULL);
}

static psgd_status lazy_fill(
	void *self, const struct psgd__fill *list, size_t count, uint64_t seed, psgd_stream stream)
{
	return later(self, stream, "fill",
		(struct lazy_work){.run = run_fill,
			.list = copy_of(list, count * sizeof(*list)),
			.count = count,
			.seed = seed},
		false);
}

static void run_sample(const struct lazy_work *w, const struct psgd_kernels *k, void *self)
{
	k->sample(self, w->x, w->stride, w->n, w->y, NULL);
}

static psgd_status lazy_sample(
	void *self, const float *from, int64_t stride, int64_t count, float *to, psgd_stream stream)
{
	return later(self, stream, "sample",
		(struct lazy_work){
			.run = run_sample, .x = from, .stride = stride, .n = count, .y = to},
		true);
}

const struct psgd_kernels lazy_kernels = {
	.size = sizeof(lazy_kernels),
	.start = lazy_start,
	.absorb_project = lazy_absorb_project,
	.orthonormalize = lazy_orthonormalize,
	.back_project = lazy_back_project,
	.reconstruct = lazy_reconstruct,
	.finish = lazy_finish,
	.axpby = lazy_axpby,
	.accumulate = lazy_accumulate,
	.sum_squares = lazy_sum_squares,
	.finite = lazy_finite,
	.leading = lazy_leading,
	.fill = lazy_fill,
	.sample = lazy_sample,
};
