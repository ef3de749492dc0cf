/* A round on CUDA: lists of matrices to the device, then one launch for all of them. */
#include "base/base.h"
#include "device/cuda_items.h"
#include "device/cuda_module_list.h"

psgd_status psgd__cuda_round_absorb_project(
	void *self, const struct psgd__matrix *list, size_t count, psgd_stream stream)
{
	struct psgd__cuda_call call;

	PSGD__TRY(psgd__cuda_begin(&call, self, stream, "psgd absorb_project", count,
		PSGD__CUDA_EACH(struct psgd__cuda_matrix) +
			PSGD__CUDA_EACH(struct psgd__cuda_sum)));
	return psgd__cuda_end(&call, psgd__cuda_projections(&call, list, count, false));
}

psgd_status psgd__cuda_round_back_project(
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

psgd_status psgd__cuda_round_start(void *self, const struct psgd__start *list, size_t count,
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

psgd_status psgd__cuda_round_orthonormalize(
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
static struct psgd__cuda_list put_products(
	struct psgd__cuda_call *call, const struct psgd__matrix *from, size_t count, bool message)
{
	struct psgd__cuda_list list =
		psgd__cuda_list_put(call, count, sizeof(struct psgd__cuda_matrix));
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
			.across = (uint32_t)psgd__cuda_pieces(x->m, PSGD__CUDA_STRIP),
			.vectors = psgd__cuda_aligned(x->g) && psgd__cuda_aligned(x->e),
		};
		if (flat)
			items[k].vectors &= (uint32_t)psgd__cuda_aligned(items[k].p);
		else
			items[k].vectors &= x->m % 4 == 0;
		psgd__cuda_list_cut(&list, k,
			flat ? psgd__cuda_pieces(x->n * x->m, PSGD__CUDA_FLAT)
			     : psgd__cuda_pieces(x->m, PSGD__CUDA_STRIP) *
					psgd__cuda_pieces(x->n, PSGD__CUDA_FINISH_ROWS));
	}
	return list;
}

static psgd_status reconstruct(
	struct psgd__cuda_call *call, const struct psgd__matrix *from, size_t count)
{
	const struct psgd__cuda_list list = put_products(call, from, count, false);
	struct psgd__cuda_cut cut;

	PSGD__TRY(psgd__cuda_list_ready(&list, &cut));
	PSGD__TRY(psgd__cuda_send(call));
	return psgd__cuda_status(call->d,
		psgd__cuda_finish(
			psgd__cuda_place(call, list.items), &cut, 1.0f, NULL, call->stream),
		"reconstruct");
}

psgd_status psgd__cuda_round_reconstruct(
	void *self, const struct psgd__matrix *list, size_t count, psgd_stream stream)
{
	struct psgd__cuda_call call;

	if (!count)
		return PSGD_OK;
	PSGD__TRY(psgd__cuda_begin(&call, self, stream, "psgd reconstruct", count,
		PSGD__CUDA_EACH(struct psgd__cuda_matrix)));
	return psgd__cuda_end(&call, reconstruct(&call, list, count));
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
	const struct psgd__cuda_list spans =
		psgd__cuda_list_spans(call, f->messages, f->n_messages);
	const struct psgd__cuda_list list = put_products(call, f->list, f->count, true);
	uint32_t *bad = &verdict->bad;
	struct psgd__cuda_cut cut;

	verdict->to = f->nonfinite;
	PSGD__TRY(psgd__cuda_list_ready(&list, &cut));
	PSGD__TRY(psgd__cuda_send(call));
	PSGD__TRY(psgd__cuda_look(call, &spans, bad));
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

psgd_status psgd__cuda_round_finish(void *self, const struct psgd__finish *f, psgd_stream stream)
{
	struct psgd__cuda_call call;
	size_t count;

	if (__builtin_add_overflow(f->count, f->n_messages, &count))
		return PSGD_ERR_INVALID;
	PSGD__TRY(psgd__cuda_begin(&call, self, stream, "psgd finish", count,
		PSGD__CUDA_EACH(struct psgd__cuda_matrix)));
	return psgd__cuda_end(&call, finish(&call, f));
}
