/* The table of kernels on CUDA, and what in it is not of a round. */
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "device/cuda_items.h"
#include "device/cuda_module_list.h"

#define SAMPLE_VALUES (1 << 20) /* that are brought at a time */

static psgd_status cuda_axpby(
	void *self, int64_t count, float a, const float *x, float b, float *y, psgd_stream stream)
{
	struct psgd__cuda_call call;

	if (count < 1)
		return PSGD_OK;
	PSGD__TRY(psgd__cuda_begin(&call, self, stream, "psgd axpby", 0, 0));
	return psgd__cuda_end(
		&call, psgd__cuda_status(call.d,
			       psgd__cuda_axpby(count, a, x, b, y,
				       psgd__cuda_aligned(x) && psgd__cuda_aligned(y), call.stream),
			       "axpby"));
}

static psgd_status accumulate(
	struct psgd__cuda_call *call, const struct psgd__addend *from, size_t count)
{
	struct psgd__cuda_list list =
		psgd__cuda_list_put(call, count, sizeof(struct psgd__cuda_addend));
	struct psgd__cuda_addend *items = list.items;
	struct psgd__cuda_cut cut;

	for (size_t k = 0; k < count; k++) {
		items[k] = (struct psgd__cuda_addend){.to = from[k].to,
			.from = from[k].from,
			.count = from[k].count,
			.vectors =
				psgd__cuda_aligned(from[k].to) && psgd__cuda_aligned(from[k].from)};
		psgd__cuda_list_cut(&list, k, psgd__cuda_pieces(from[k].count, PSGD__CUDA_FLAT));
	}
	PSGD__TRY(psgd__cuda_list_ready(&list, &cut));
	if (!cut.tiles)
		return PSGD_OK;
	PSGD__TRY(psgd__cuda_send(call));
	return psgd__cuda_status(call->d,
		psgd__cuda_accumulate(psgd__cuda_place(call, items), &cut, call->stream),
		"accumulate");
}

static psgd_status cuda_accumulate(
	void *self, const struct psgd__addend *list, size_t count, psgd_stream stream)
{
	struct psgd__cuda_call call;

	if (!count)
		return PSGD_OK;
	PSGD__TRY(psgd__cuda_begin(&call, self, stream, "psgd accumulate", count,
		PSGD__CUDA_EACH(struct psgd__cuda_addend)));
	return psgd__cuda_end(&call, accumulate(&call, list, count));
}

/* The tiles are the parts that base/kernels.h speaks of; the host adds them. */
_Static_assert(PSGD__CUDA_FLAT == PSGD__SQUARES, "a block sums a part");

static psgd_status sum_squares(
	struct psgd__cuda_call *call, const struct psgd__span *from, size_t count, double *out)
{
	const struct psgd__cuda_list spans = psgd__cuda_list_spans(call, from, count);
	struct psgd__cuda_cut cut;
	const double *sum;
	double *sums;

	PSGD__TRY(psgd__cuda_list_ready(&spans, &cut));
	if (!cut.tiles)
		return PSGD_OK;
	PSGD__TRY(psgd__cuda_send(call));
	sum = sums = psgd__cuda_put(call, cut.tiles * sizeof(*sums));
	PSGD__TRY(psgd__cuda_status(call->d,
		psgd__cuda_sum_squares(psgd__cuda_place(call, spans.items), &cut,
			psgd__cuda_place(call, sums), call->stream),
		"sum_squares"));
	PSGD__TRY(psgd__cuda_fetch(call, sums, cut.tiles * sizeof(*sums)));
	for (size_t k = 0; k < count; k++) {
		double squares = 0.0;

		for (int64_t i = psgd__cuda_pieces(from[k].count, PSGD__CUDA_FLAT); i > 0; i--)
			squares += *sum++;
		*out += squares;
	}
	return PSGD_OK;
}

static psgd_status cuda_sum_squares(
	void *self, const struct psgd__span *list, size_t count, double *out, psgd_stream stream)
{
	struct psgd__cuda_call call;
	size_t tiles = 0;

	for (size_t k = 0; k < count; k++)
		tiles += (size_t)psgd__cuda_pieces(list[k].count, PSGD__CUDA_FLAT);
	if (!tiles)
		return PSGD_OK;
	PSGD__TRY(psgd__cuda_begin(&call, self, stream, "psgd sum_squares", count + tiles,
		PSGD__CUDA_EACH(struct psgd__cuda_span)));
	return psgd__cuda_end(&call, sum_squares(&call, list, count, out));
}

static psgd_status all_finite(
	struct psgd__cuda_call *call, const struct psgd__span *from, size_t count, int *out)
{
	uint32_t *bad = psgd__cuda_put(call, sizeof(*bad));
	const struct psgd__cuda_list spans = psgd__cuda_list_spans(call, from, count);

	PSGD__TRY(psgd__cuda_send(call));
	PSGD__TRY(psgd__cuda_look(call, &spans, bad));
	PSGD__TRY(psgd__cuda_fetch(call, bad, sizeof(*bad)));
	*out = !*bad;
	return PSGD_OK;
}

static psgd_status cuda_finite(
	void *self, const struct psgd__span *list, size_t count, int *out, psgd_stream stream)
{
	struct psgd__cuda_call call;

	PSGD__TRY(psgd__cuda_begin(&call, self, stream, "psgd finite", count,
		PSGD__CUDA_EACH(struct psgd__cuda_span)));
	return psgd__cuda_end(&call, all_finite(&call, list, count, out));
}

/* A rotation is rare and small: the host does it. */
static psgd_status cuda_leading(
	void *self, const struct psgd__panel *from, uint32_t keep, float *to, psgd_stream stream)
{
	struct psgd__cuda *d = self;
	struct psgd__panel panel = *from;
	float *data = NULL, *out = NULL;
	psgd_status status = PSGD_ERR_NOMEM;
	size_t column, bytes, kept;

	if (keep > from->cols || from->cols > PSGD__MAX_ROTATE || from->rows < 1)
		return PSGD_ERR_INVALID;
	if (!keep)
		return PSGD_OK;
	if (psgd__mul_overflows((size_t)from->rows, sizeof(float), &column) ||
		psgd__mul_overflows(column, from->cols, &bytes) ||
		psgd__mul_overflows(column, keep, &kept))
		goto out;
	data = malloc(bytes);
	out = malloc(kept);
	if (!data || !out) {
		psgd__cuda_say(d, "out of memory: %zu bytes wanted", bytes + kept);
		goto out;
	}
	panel.data = data;
	status = psgd__cuda_download(d, data, from->data, bytes, stream);
	if (status >= 0)
		status = d->setup.leading(NULL, &panel, keep, out, NULL);
	if (status >= 0)
		status = psgd__cuda_upload(d, to, out, kept, stream);
out:
	free(out);
	free(data);
	return status;
}

static psgd_status fill(
	struct psgd__cuda_call *call, const struct psgd__fill *from, size_t count, uint64_t seed)
{
	struct psgd__cuda_list list =
		psgd__cuda_list_put(call, count, sizeof(struct psgd__cuda_fill));
	struct psgd__cuda_fill *items = list.items;
	struct psgd__cuda_cut cut;

	for (size_t k = 0; k < count; k++) {
		items[k] = (struct psgd__cuda_fill){
			.data = from[k].data,
			.rows = from[k].rows,
			.first_col = from[k].first_col,
			.cols = from[k].cols,
			.tensor = from[k].tensor,
			.draw = from[k].draw,
		};
		psgd__cuda_list_cut(
			&list, k, psgd__cuda_pieces(from[k].rows * from[k].cols, PSGD__CUDA_FLAT));
	}
	PSGD__TRY(psgd__cuda_list_ready(&list, &cut));
	if (!cut.tiles)
		return PSGD_OK;
	PSGD__TRY(psgd__cuda_send(call));
	return psgd__cuda_status(call->d,
		psgd__cuda_fill(psgd__cuda_place(call, items), &cut, seed, call->stream), "fill");
}

static psgd_status cuda_fill(
	void *self, const struct psgd__fill *list, size_t count, uint64_t seed, psgd_stream stream)
{
	struct psgd__cuda_call call;

	if (!count)
		return PSGD_OK;
	PSGD__TRY(psgd__cuda_begin(
		&call, self, stream, "psgd fill", count, PSGD__CUDA_EACH(struct psgd__cuda_fill)));
	return psgd__cuda_end(&call, fill(&call, list, count, seed));
}

static psgd_status sample(
	struct psgd__cuda_call *call, const float *from, int64_t stride, int64_t count, float *to)
{
	float *values = psgd__cuda_put(call, (size_t)count * sizeof(*values));

	PSGD__TRY(psgd__cuda_status(call->d,
		psgd__cuda_gather(
			from, stride, count, psgd__cuda_place(call, values), call->stream),
		"sample"));
	PSGD__TRY(psgd__cuda_fetch(call, values, (size_t)count * sizeof(*values)));
	memcpy(to, values, (size_t)count * sizeof(*to));
	return PSGD_OK;
}

static psgd_status cuda_sample(
	void *self, const float *from, int64_t stride, int64_t count, float *to, psgd_stream stream)
{
	struct psgd__cuda_call call;

	for (int64_t at = 0; at < count; at += SAMPLE_VALUES) {
		const int64_t n = count - at < SAMPLE_VALUES ? count - at : SAMPLE_VALUES;

		PSGD__TRY(psgd__cuda_begin(
			&call, self, stream, "psgd sample", (size_t)n, sizeof(float)));
		PSGD__TRY(psgd__cuda_end(
			&call, sample(&call, from + at * stride, stride, n, to + at)));
	}
	return PSGD_OK;
}

const struct psgd_kernels psgd__cuda_kernels = {
	.size = sizeof(psgd__cuda_kernels),
	.start = psgd__cuda_round_start,
	.absorb_project = psgd__cuda_round_absorb_project,
	.orthonormalize = psgd__cuda_round_orthonormalize,
	.back_project = psgd__cuda_round_back_project,
	.reconstruct = psgd__cuda_round_reconstruct,
	.finish = psgd__cuda_round_finish,
	.axpby = cuda_axpby,
	.accumulate = cuda_accumulate,
	.sum_squares = cuda_sum_squares,
	.finite = cuda_finite,
	.leading = cuda_leading,
	.fill = cuda_fill,
	.sample = cuda_sample,
};
