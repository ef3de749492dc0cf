/*
 * What worker 0 observes of gradients for its controller: the sum of mean gradients, the sum of its
 * own ones with norms and spectra, and the entropy of its own gradient from a sample.
 */
#include "engine/core.h"

#include <math.h>
#include <string.h>

#define MOST_SAMPLES 65536 /* one value in so many that no more are kept */
#define MOST_BINS 1024
#define LEAST_BINS 16
#define SAMPLES_PER_BIN 16
#define OVERSAMPLING 8
#define ITERATIONS 4
#define SPECTRUM_SEED 20190531

psgd_status psgd__observe_zeros(psgd_session *s, size_t values, float **out)
{
	psgd_status status;
	void *memory;
	size_t bytes;

	if (psgd__mul_overflows(values, sizeof(float), &bytes))
		return PSGD_ERR_NOMEM;
	PSGD__TRY(s->device.ops->alloc(s->device.self, bytes, &memory));
	status = s->device.ops->zero(s->device.self, memory, bytes, s->stream);
	if (status < 0)
		s->device.ops->free(s->device.self, memory, bytes);
	else
		*out = memory;
	return status;
}

static void release(psgd_session *s, float **memory, size_t values)
{
	if (*memory)
		s->device.ops->free(s->device.self, *memory, values * sizeof(float));
	*memory = NULL;
}

psgd_status psgd__observe_setup(psgd_session *s)
{
	bool wanted = s->options.flags & PSGD_SESSION_GRAD_SUM;

	if (s->controller.ops)
		wanted |= !!(s->controller.ops->needs(s->controller.self, 0, 0, false) &
			     PSGD_NEED_GRAD_SUM);
	if (wanted && s->worker == 0)
		PSGD__TRY(psgd__observe_zeros(s, s->grad_sum_values, &s->grad_sum));
	s->sum_gradients = s->grad_sum != NULL;
	PSGD__TRY(psgd__observe_prepare(s, 0, &s->observed));
	return PSGD_OK;
}

static psgd_status prepare_samples(psgd_session *s)
{
	s->sample_stride = (s->grad_sum_values + MOST_SAMPLES - 1) / MOST_SAMPLES;
	s->n_samples = (s->grad_sum_values + s->sample_stride - 1) / s->sample_stride;
	s->samples = psgd__calloc(s->n_samples, sizeof(*s->samples));
	return s->samples ? PSGD_OK : PSGD_ERR_NOMEM;
}

psgd_status psgd__observe_prepare(psgd_session *s, uint64_t step, uint32_t *needs)
{
	*needs = 0;
	if (!s->controller.ops || s->worker != 0)
		return PSGD_OK;
	*needs = s->controller.ops->needs(s->controller.self, step, 0, false) &
		 (PSGD_NEED_LOCAL_SUM | PSGD_NEED_ENTROPY);
	if ((*needs & PSGD_NEED_LOCAL_SUM) && !s->local_sum)
		PSGD__TRY(psgd__observe_zeros(s, s->grad_sum_values, &s->local_sum));
	if ((*needs & PSGD_NEED_ENTROPY) && !s->samples)
		PSGD__TRY(prepare_samples(s));
	return PSGD_OK;
}

void psgd__observe_teardown(psgd_session *s)
{
	release(s, &s->grad_sum, s->grad_sum_values);
	release(s, &s->local_sum, s->grad_sum_values);
	free(s->samples);
	s->samples = NULL;
	free(s->local_norms);
	s->local_norms = NULL;
}

uint64_t psgd__observe_bytes(const psgd_session *s)
{
	uint64_t values = (s->grad_sum ? s->grad_sum_values : 0) +
			  (s->local_sum ? s->grad_sum_values : 0) + (s->samples ? s->n_samples : 0);

	return values * sizeof(float);
}

static psgd_status reset(psgd_session *s, float *sum)
{
	if (!sum)
		return PSGD_OK;
	return s->device.ops->zero(
		s->device.self, sum, s->grad_sum_values * sizeof(float), s->stream);
}

psgd_status psgd__grad_sum_norm(psgd_session *s, double *out)
{
	struct psgd__span all = {s->grad_sum, (int64_t)s->grad_sum_values};
	double squares = 0.0;

	*out = NAN;
	if (!s->grad_sum)
		return PSGD_OK;
	PSGD__TRY(
		s->device.ops->kernels->sum_squares(s->device.self, &all, 1, &squares, s->stream));
	*out = sqrt(squares);
	return PSGD_OK;
}

psgd_status psgd__grad_sum_reset(psgd_session *s)
{
	s->grad_sum_steps = 0;
	return reset(s, s->grad_sum);
}

psgd_status psgd__local_sum_reset(psgd_session *s)
{
	s->local_sum_steps = 0;
	return reset(s, s->local_sum);
}

/* Every stride-th value of all tensors one after the other, whatever the buckets are. */
static psgd_status sample(psgd_session *s, size_t at, const float *data, uint64_t step)
{
	size_t from = s->grad_sum_at[at], stride = s->sample_stride, count = (size_t)s->counts[at];
	size_t first = (stride - from % stride) % stride;

	if (s->samples_step != step + 1) {
		/* A tensor that is not submitted has none. */
		for (size_t i = 0; i < s->n_samples; i++)
			s->samples[i] = NAN;
		s->samples_step = step + 1;
	}
	if (first >= count)
		return PSGD_OK;
	return s->device.ops->kernels->sample(s->device.self, data + first, (int64_t)stride,
		(int64_t)((count - first + stride - 1) / stride),
		s->samples + (from + first) / stride, s->stream);
}

psgd_status psgd__observe_own(struct psgd_exchange *x)
{
	psgd_session *s = x->session;
	const struct psgd_kernels *kernels = s->device.ops->kernels;
	bool added = false;

	if (s->trial.on || !s->observed)
		return PSGD_OK;
	for (size_t i = 0; i < x->bucket.n_grads; i++) {
		const struct psgd_grad *grad = &x->bucket.grads[i];
		size_t at = psgd__index_find(&s->index, grad->id);
		struct psgd__span span = {grad->data, s->counts[at]};
		int finite = 1;

		if (s->observed & PSGD_NEED_ENTROPY)
			PSGD__TRY(sample(s, at, grad->data, x->round.step));
		if (!(s->observed & PSGD_NEED_LOCAL_SUM))
			continue;
		/* As with the sum of means: what is discarded must not spoil it. */
		PSGD__TRY(kernels->finite(s->device.self, &span, 1, &finite, x->round.stream));
		if (!finite)
			continue;
		PSGD__TRY(kernels->axpby(s->device.self, span.count, 1.0f, grad->data, 1.0f,
			s->local_sum + s->grad_sum_at[at], x->round.stream));
		added = true;
	}
	pthread_mutex_lock(&s->lock);
	s->record.in_local_sum |= added;
	pthread_mutex_unlock(&s->lock);
	return PSGD_OK;
}

/*
 * Differential entropy from a histogram over [-max, max], with Miller and Madow's correction for
 * the number of bins that are in use. NaN when there is no value.
 */
static double entropy_of(const float *samples, size_t count)
{
	uint32_t bins[MOST_BINS] = {0};
	size_t n = 0, n_bins, used = 0;
	double largest = 0.0, sum = 0.0;

	for (size_t i = 0; i < count; i++) {
		if (!isfinite(samples[i]))
			continue;
		n++;
		largest = fmax(largest, fabs((double)samples[i]));
	}
	if (largest == 0.0)
		return n ? 0.0 : NAN;
	n_bins = n / SAMPLES_PER_BIN;
	n_bins = n_bins < LEAST_BINS ? LEAST_BINS : n_bins > MOST_BINS ? MOST_BINS : n_bins;
	for (size_t i = 0; i < count; i++) {
		size_t bin;

		if (!isfinite(samples[i]))
			continue;
		bin = (size_t)(((double)samples[i] / largest + 1.0) / 2.0 * (double)n_bins);
		bins[bin < n_bins ? bin : n_bins - 1]++;
	}
	for (size_t b = 0; b < n_bins; b++) {
		double share = (double)bins[b] / (double)n;

		if (bins[b])
			sum -= share * log(share);
		used += bins[b] > 0;
	}
	return sum + log(2.0 * largest / (double)n_bins) + (double)(used - 1) / (2.0 * (double)n);
}

double psgd__observe_entropy(const psgd_session *s, uint64_t step)
{
	/* The samples of a step that had none are an earlier one's. */
	return s->samples_step == step + 1 ? entropy_of(s->samples, s->n_samples) : NAN;
}

psgd_status psgd__observe_norms(psgd_session *s)
{
	if (!s->local_norms)
		s->local_norms = psgd__calloc(s->n_tensors, sizeof(*s->local_norms));
	if (!s->local_norms)
		return PSGD_ERR_NOMEM;
	for (size_t i = 0; i < s->n_tensors; i++) {
		struct psgd__span span = {s->local_sum + s->grad_sum_at[i], s->counts[i]};
		double squares = 0.0;

		PSGD__TRY(s->device.ops->kernels->sum_squares(
			s->device.self, &span, 1, &squares, s->stream));
		s->local_norms[i] = sqrt(squares);
	}
	return PSGD_OK;
}

/* P := orthonormal columns that span the leading directions of g; Q := g^T P. */
static psgd_status iterate(psgd_session *s, const struct psgd__matrix *x, uint32_t tensor)
{
	const struct psgd_kernels *k = s->device.ops->kernels;
	const struct psgd__panel p = {.data = x->p, .rows = x->n, .cols = x->r};
	const struct psgd__panel q = {.data = x->q, .rows = x->m, .cols = x->r};
	const struct psgd__fill fill = {.data = x->q, .rows = x->m, .cols = x->r, .tensor = tensor};

	PSGD__TRY(k->fill(s->device.self, &fill, 1, SPECTRUM_SEED, s->stream));
	for (int i = 0; i < ITERATIONS; i++) {
		PSGD__TRY(k->orthonormalize(s->device.self, &q, 1, 0.0f, s->stream));
		PSGD__TRY(k->absorb_project(s->device.self, x, 1, s->stream));
		PSGD__TRY(k->orthonormalize(s->device.self, &p, 1, 0.0f, s->stream));
		PSGD__TRY(k->back_project(s->device.self, x, 1, s->stream));
	}
	return PSGD_OK;
}

/* *rest: the squared norm of what P Q^T leaves of x->g. copy: room for as many values. */
static psgd_status residual(
	psgd_session *s, const struct psgd__matrix *x, float *copy, double *rest)
{
	const struct psgd_kernels *k = s->device.ops->kernels;
	struct psgd__span span = {copy, x->n * x->m};
	struct psgd__matrix product = *x;

	product.g = copy;
	PSGD__TRY(s->device.ops->copy(
		s->device.self, copy, x->g, (size_t)span.count * sizeof(float), s->stream));
	PSGD__TRY(k->reconstruct(s->device.self, &product, 1, s->stream));
	PSGD__TRY(k->axpby(s->device.self, span.count, 1.0f, x->g, -1.0f, copy, s->stream));
	*rest = 0.0;
	return k->sum_squares(s->device.self, &span, 1, rest, s->stream);
}

/*
 * With B = Q^T = P^T g, the best part of rank k within the span of P leaves
 * |g - P B|^2 + (the squared singular values of B after the k-th): terms that are all positive, so
 * that nothing cancels, and never less than the optimum.
 */
static psgd_status errors_of(psgd_session *s, const struct psgd__matrix *x, uint32_t tensor,
	float *turned, float *copy, uint32_t n, double *out)
{
	const struct psgd_kernels *k = s->device.ops->kernels;
	const struct psgd__panel q = {.data = x->q, .rows = x->m, .cols = x->r};
	double rest;

	PSGD__TRY(iterate(s, x, tensor));
	PSGD__TRY(k->leading(s->device.self, &q, x->r, turned, s->stream));
	PSGD__TRY(residual(s, x, copy, &rest));
	for (uint32_t j = x->r; j-- > 0;) {
		struct psgd__span column = {turned + (size_t)j * (size_t)x->m, x->m};
		double square = 0.0;

		if (j < n)
			out[j] = sqrt(rest);
		PSGD__TRY(k->sum_squares(s->device.self, &column, 1, &square, s->stream));
		rest += square;
	}
	return PSGD_OK;
}

psgd_status psgd__observe_errors(void *user, size_t i, uint32_t n, double *out)
{
	struct psgd_exchange *control = user;
	psgd_session *s = control->session;
	struct psgd__matrix x = {.e = NULL};
	uint64_t columns = (uint64_t)n + OVERSAMPLING, side;
	size_t values;
	psgd_status status;
	float *memory = NULL;

	if (i >= s->n_tensors || (n && !out) || !s->local_sum)
		return PSGD_ERR_INVALID;
	for (uint32_t k = 0; k < n; k++)
		out[k] = 0.0;
	PSGD__TRY(psgd_tensor_matrix(&s->tensors[i], &x.n, &x.m));
	if (!n || s->tensors[i].n_dims < 2 || s->tensors[i].flags & PSGD_TENSOR_DENSE)
		return PSGD_OK;
	side = (uint64_t)(x.n < x.m ? x.n : x.m);
	columns = columns > side ? side : columns;
	columns = columns > PSGD__MAX_ROTATE ? PSGD__MAX_ROTATE : columns;
	x.r = (uint32_t)columns;
	/* P, Q, the rotated Q, and a copy of the matrix: all of them at multiples of 16 values. */
	size_t p = ((size_t)x.n * x.r + 15) & ~(size_t)15;
	size_t q = ((size_t)x.m * x.r + 15) & ~(size_t)15;

	values = p + 2 * q + (size_t)s->counts[i];
	PSGD__TRY(psgd__observe_zeros(s, values, &memory));
	x.g = s->local_sum + s->grad_sum_at[i];
	x.p = memory;
	x.q = memory + p;
	status = errors_of(s, &x, s->tensors[i].id, memory + p + q, memory + p + 2 * q, n, out);
	/* The last thing was waited for, when there was no failure. */
	if (status < 0)
		psgd__device_quiet(s);
	release(s, &memory, values);
	/* More columns than can be rotated: what is left there is no more than at the last one. */
	for (uint64_t k = columns; k < n && k + 1 < side; k++)
		out[k] = out[columns - 1];
	return status;
}
