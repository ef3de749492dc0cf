/* The table of kernels on CUDA: lists of matrices to the device, then one launch for all of them.
 */
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "device/cuda_items.h"
#include "device/cuda_module_impl.h"

#define SAMPLE_VALUES (1 << 20) /* that are brought at a time */

static bool aligned(const void *memory)
{
	return (uintptr_t)memory % 16 == 0;
}

static int64_t pieces(int64_t all, int64_t piece)
{
	return all / piece + (all % piece != 0);
}

/* A list in a slot, and how many tiles it has. */
struct list {
	struct psgd__cuda_call *call;
	void *items;
	uint32_t *first;
	size_t count;
	uint64_t tiles;
};

static struct list list_put(struct psgd__cuda_call *call, size_t count, size_t each)
{
	struct list list = {.call = call, .count = count};

	list.items = psgd__cuda_put(call, count * each);
	list.first = psgd__cuda_put(call, count * sizeof(*list.first));
	return list;
}

/* Items are cut one after the other, from the first. */
static void list_cut(struct list *list, size_t k, int64_t tiles)
{
	list->first[k] = (uint32_t)list->tiles;
	list->tiles += (uint64_t)tiles;
}

static psgd_status list_ready(const struct list *list, struct psgd__cuda_cut *cut)
{
	if (list->tiles > INT32_MAX) {
		psgd__cuda_say(list->call->d, "a list too large for one launch");
		return PSGD_ERR_INVALID;
	}
	cut->first = psgd__cuda_place(list->call, list->first);
	cut->count = (uint32_t)list->count;
	cut->tiles = (uint32_t)list->tiles;
	return PSGD_OK;
}

static psgd_status cuda_absorb_project(
	void *self, const struct psgd__matrix *list, size_t count, psgd_stream stream)
{
	struct psgd__cuda_call call;

	PSGD__TRY(psgd__cuda_begin(&call, self, stream, "psgd absorb_project", count,
		PSGD__CUDA_EACH(struct psgd__cuda_matrix) +
			PSGD__CUDA_EACH(struct psgd__cuda_sum)));
	return psgd__cuda_end(&call, psgd__cuda_projections(&call, list, count, false));
}

static psgd_status cuda_back_project(
	void *self, const struct psgd__matrix *list, size_t count, psgd_stream stream)
{
	struct psgd__cuda_call call;

	PSGD__TRY(psgd__cuda_begin(&call, self, stream, "psgd back_project", count,
		PSGD__CUDA_EACH(struct psgd__cuda_matrix) +
			PSGD__CUDA_EACH(struct psgd__cuda_sum)));
	return psgd__cuda_end(&call, psgd__cuda_projections(&call, list, count, true));
}

static psgd_status start(struct psgd__cuda_call *call, const struct psgd__start *list, size_t count,
	uint64_t seed, float eps)
{
	struct psgd__cuda_start *items = psgd__cuda_put(call, count * sizeof(*items));

	for (size_t k = 0; k < count; k++)
		items[k] = (struct psgd__cuda_start){
			.q = list[k].q,
			.from = list[k].from,
			.m = list[k].m,
			.r = list[k].r,
			.tensor = list[k].tensor,
			.draw = list[k].draw,
			.redraw = list[k].redraw,
		};
	PSGD__TRY(psgd__cuda_send(call));
	return psgd__cuda_status(call->d,
		psgd__cuda_start(
			psgd__cuda_place(call, items), (uint32_t)count, seed, eps, call->stream),
		"start");
}

static psgd_status cuda_start(void *self, const struct psgd__start *list, size_t count,
	uint64_t seed, float eps, psgd_stream stream)
{
	struct psgd__cuda_call call;

	if (!count)
		return PSGD_OK;
	PSGD__TRY(psgd__cuda_begin(
		&call, self, stream, "psgd start", count, sizeof(struct psgd__cuda_start)));
	return psgd__cuda_end(&call, start(&call, list, count, seed, eps));
}

static psgd_status orthonormalize(
	struct psgd__cuda_call *call, const struct psgd__panel *list, size_t count, float eps)
{
	struct psgd__cuda_panel *items = psgd__cuda_put(call, count * sizeof(*items));

	for (size_t k = 0; k < count; k++)
		items[k] = (struct psgd__cuda_panel){
			.data = list[k].data, .rows = list[k].rows, .cols = list[k].cols};
	PSGD__TRY(psgd__cuda_send(call));
	return psgd__cuda_status(call->d,
		psgd__cuda_orthonormalize(
			psgd__cuda_place(call, items), (uint32_t)count, eps, call->stream),
		"orthonormalize");
}

static psgd_status cuda_orthonormalize(
	void *self, const struct psgd__panel *list, size_t count, float eps, psgd_stream stream)
{
	struct psgd__cuda_call call;

	if (!count)
		return PSGD_OK;
	PSGD__TRY(psgd__cuda_begin(&call, self, stream, "psgd orthonormalize", count,
		sizeof(struct psgd__cuda_panel)));
	return psgd__cuda_end(&call, orthonormalize(&call, list, count, eps));
}

/* Matrices for the last pass. message: of r = 0, p is what g becomes. */
static struct list put_products(
	struct psgd__cuda_call *call, const struct psgd__matrix *from, size_t count, bool message)
{
	struct list list = list_put(call, count, sizeof(struct psgd__cuda_matrix));
	struct psgd__cuda_matrix *items = list.items;

	for (size_t k = 0; k < count; k++) {
		const struct psgd__matrix *x = &from[k];
		const bool flat = !x->r;

		items[k] = (struct psgd__cuda_matrix){
			.g = x->g,
			.e = x->e,
			.p = flat && !message ? NULL : x->p,
			.q = x->q,
			.keep = message ? x->keep : NULL,
			.n = x->n,
			.m = x->m,
			.r = x->r,
			.rows = flat ? 0 : PSGD__CUDA_FINISH_ROWS,
			.across = (uint32_t)pieces(x->m, PSGD__CUDA_STRIP),
			.vectors = aligned(x->g) && aligned(x->e),
		};
		if (flat)
			items[k].vectors &= (uint32_t)aligned(items[k].p);
		else
			items[k].vectors &= x->m % 4 == 0;
		list_cut(&list, k,
			flat ? pieces(x->n * x->m, PSGD__CUDA_FLAT)
			     : pieces(x->m, PSGD__CUDA_STRIP) *
					pieces(x->n, PSGD__CUDA_FINISH_ROWS));
	}
	return list;
}

static psgd_status reconstruct(
	struct psgd__cuda_call *call, const struct psgd__matrix *from, size_t count)
{
	const struct list list = put_products(call, from, count, false);
	struct psgd__cuda_cut cut;

	PSGD__TRY(list_ready(&list, &cut));
	PSGD__TRY(psgd__cuda_send(call));
	return psgd__cuda_status(call->d,
		psgd__cuda_finish(
			psgd__cuda_place(call, list.items), &cut, 1.0f, NULL, call->stream),
		"reconstruct");
}

static psgd_status cuda_reconstruct(
	void *self, const struct psgd__matrix *list, size_t count, psgd_stream stream)
{
	struct psgd__cuda_call call;

	if (!count)
		return PSGD_OK;
	PSGD__TRY(psgd__cuda_begin(&call, self, stream, "psgd reconstruct", count,
		PSGD__CUDA_EACH(struct psgd__cuda_matrix)));
	return psgd__cuda_end(&call, reconstruct(&call, list, count));
}

static struct list put_spans(
	struct psgd__cuda_call *call, const struct psgd__span *from, size_t count)
{
	struct list list = list_put(call, count, sizeof(struct psgd__cuda_span));
	struct psgd__cuda_span *items = list.items;

	for (size_t k = 0; k < count; k++) {
		items[k] = (struct psgd__cuda_span){from[k].data, from[k].count};
		list_cut(&list, k, pieces(from[k].count, PSGD__CUDA_FLAT));
	}
	return list;
}

/* The spans were sent. */
static psgd_status look(struct psgd__cuda_call *call, const struct list *spans, uint32_t *bad)
{
	struct psgd__cuda_cut cut;

	PSGD__TRY(list_ready(spans, &cut));
	if (!cut.tiles)
		return PSGD_OK;
	return psgd__cuda_status(call->d,
		psgd__cuda_finite(psgd__cuda_place(call, spans->items), &cut,
			psgd__cuda_place(call, bad), call->stream),
		"finite");
}

/* In the slot: from where to where a driver's thread copies the verdict. */
struct verdict {
	uint32_t *to;
	uint32_t bad; /* also on the device */
	uint32_t reserved;
};

static void tell(void *user)
{
	const struct verdict *verdict = user;

	*verdict->to = verdict->bad;
}

static psgd_status finish(struct psgd__cuda_call *call, const struct psgd__finish *f)
{
	struct verdict *verdict = psgd__cuda_put(call, sizeof(*verdict));
	const struct list spans = put_spans(call, f->messages, f->n_messages);
	const struct list list = put_products(call, f->list, f->count, true);
	uint32_t *bad = &verdict->bad;
	struct psgd__cuda_cut cut;

	verdict->to = f->nonfinite;
	PSGD__TRY(list_ready(&list, &cut));
	PSGD__TRY(psgd__cuda_send(call));
	PSGD__TRY(look(call, &spans, bad));
	if (cut.tiles)
		PSGD__TRY(psgd__cuda_status(call->d,
			psgd__cuda_finish(psgd__cuda_place(call, list.items), &cut, f->mean,
				f->as_is ? NULL : psgd__cuda_place(call, bad), call->stream),
			"finish"));
	PSGD__TRY(psgd__cuda_status(call->d,
		cudaMemcpyAsync(bad, psgd__cuda_place(call, bad), sizeof(*bad),
			cudaMemcpyDeviceToHost, call->stream),
		"cudaMemcpyAsync"));
	return psgd__cuda_status(
		call->d, cudaLaunchHostFunc(call->stream, tell, verdict), "cudaLaunchHostFunc");
}

static psgd_status cuda_finish(void *self, const struct psgd__finish *f, psgd_stream stream)
{
	struct psgd__cuda_call call;
	size_t count;

	if (__builtin_add_overflow(f->count, f->n_messages, &count))
		return PSGD_ERR_INVALID;
	PSGD__TRY(psgd__cuda_begin(&call, self, stream, "psgd finish", count,
		PSGD__CUDA_EACH(struct psgd__cuda_matrix)));
	return psgd__cuda_end(&call, finish(&call, f));
}

static psgd_status cuda_axpby(
	void *self, int64_t count, float a, const float *x, float b, float *y, psgd_stream stream)
{
	struct psgd__cuda_call call;

	if (count < 1)
		return PSGD_OK;
	PSGD__TRY(psgd__cuda_begin(&call, self, stream, "psgd axpby", 0, 0));
	return psgd__cuda_end(&call,
		psgd__cuda_status(call.d,
			psgd__cuda_axpby(count, a, x, b, y, aligned(x) && aligned(y), call.stream),
			"axpby"));
}

static psgd_status accumulate(
	struct psgd__cuda_call *call, const struct psgd__addend *from, size_t count)
{
	struct list list = list_put(call, count, sizeof(struct psgd__cuda_addend));
	struct psgd__cuda_addend *items = list.items;
	struct psgd__cuda_cut cut;

	for (size_t k = 0; k < count; k++) {
		items[k] = (struct psgd__cuda_addend){.to = from[k].to,
			.from = from[k].from,
			.count = from[k].count,
			.vectors = aligned(from[k].to) && aligned(from[k].from)};
		list_cut(&list, k, pieces(from[k].count, PSGD__CUDA_FLAT));
	}
	PSGD__TRY(list_ready(&list, &cut));
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
	const struct list spans = put_spans(call, from, count);
	struct psgd__cuda_cut cut;
	const double *sum;
	double *sums;

	PSGD__TRY(list_ready(&spans, &cut));
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

		for (int64_t i = pieces(from[k].count, PSGD__CUDA_FLAT); i > 0; i--)
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
		tiles += (size_t)pieces(list[k].count, PSGD__CUDA_FLAT);
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
	const struct list spans = put_spans(call, from, count);

	PSGD__TRY(psgd__cuda_send(call));
	PSGD__TRY(look(call, &spans, bad));
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
	struct list list = list_put(call, count, sizeof(struct psgd__cuda_fill));
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
		list_cut(&list, k, pieces(from[k].rows * from[k].cols, PSGD__CUDA_FLAT));
	}
	PSGD__TRY(list_ready(&list, &cut));
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
	.start = cuda_start,
	.absorb_project = cuda_absorb_project,
	.orthonormalize = cuda_orthonormalize,
	.back_project = cuda_back_project,
	.reconstruct = cuda_reconstruct,
	.finish = cuda_finish,
	.axpby = cuda_axpby,
	.accumulate = cuda_accumulate,
	.sum_squares = cuda_sum_squares,
	.finite = cuda_finite,
	.leading = cuda_leading,
	.fill = cuda_fill,
	.sample = cuda_sample,
};
