/* The passes before an all-reduce: how g is cut into tiles, and cuBLAS for many columns. */
#include "base/base.h"
#include "device/cuda_items.h"
#include "device/cuda_module_list.h"

/* A projection of one matrix: which sums it is made of. */
struct cut {
	int64_t rows, across, down; /* of a tile; tiles beside and below each other */
	int64_t terms;		    /* tiles along a sum */
	int64_t values;		    /* of the result */
};

/*
 * Tiles are of about PSGD__CUDA_FLAT values, narrow matrices being cut into longer ones. Those of
 * g^T p are twice as large: the longer its tiles, the fewer partial sums there are.
 */
static struct cut cut_of(const struct psgd__matrix *x, bool back)
{
	const int64_t cols = back ? PSGD__CUDA_STRIP : PSGD__CUDA_PROJECT_COLS;
	const int64_t width = x->m < cols ? x->m : cols;
	const int64_t unit = back ? PSGD__CUDA_BACK_ROWS : PSGD__CUDA_PROJECT_ROWS;
	const int64_t values = back ? 2 * PSGD__CUDA_FLAT : PSGD__CUDA_FLAT;
	struct cut cut = {
		.rows = values / width / unit * unit, .across = psgd__cuda_pieces(x->m, cols)};

	cut.down = psgd__cuda_pieces(x->n, cut.rows);
	cut.terms = back ? cut.down : cut.across;
	cut.values = (back ? x->m : x->n) * x->r;
	return cut;
}

static bool by_kernel(const struct psgd__matrix *x)
{
	return x->r && x->r <= PSGD__CUDA_MOST_COLS;
}

/* A matrix that is absorbed only, because p is a message or because cuBLAS does the rest. */
static uint64_t put_flat(struct psgd__cuda_matrix *to, const struct psgd__matrix *x)
{
	to->p = x->r ? NULL : x->p;
	to->vectors =
		psgd__cuda_aligned(x->g) && psgd__cuda_aligned(x->e) && psgd__cuda_aligned(to->p);
	return x->e || to->p ? (uint64_t)psgd__cuda_pieces(x->n * x->m, PSGD__CUDA_FLAT) : 0;
}

static uint64_t put_tiles(
	struct psgd__cuda_matrix *to, const struct psgd__matrix *x, const struct cut *cut)
{
	to->rows = (uint32_t)cut->rows;
	to->across = (uint32_t)cut->across;
	to->vectors = psgd__cuda_aligned(x->g) && psgd__cuda_aligned(x->e) && x->m % 4 == 0;
	return (uint64_t)cut->across * (uint64_t)cut->down;
}

/* What a projection puts into its slot. */
struct group {
	struct psgd__cuda_matrix *list;
	struct psgd__cuda_sum *sums;
	uint32_t *first, *first_sum; /* tiles before each */
	size_t count, n_sums;
	uint64_t tiles, sum_tiles;
	uint32_t cols; /* the largest r among them */
	float *work;   /* what is left of it */
};

static void add(struct group *group, const struct psgd__matrix *x, bool back)
{
	struct psgd__cuda_matrix *to = &group->list[group->count];
	const struct cut cut = cut_of(x, back);

	group->first[group->count++] = (uint32_t)group->tiles;
	*to = (struct psgd__cuda_matrix){
		.g = x->g, .e = x->e, .p = x->p, .q = x->q, .n = x->n, .m = x->m, .r = x->r};
	if (!by_kernel(x)) {
		group->tiles += put_flat(to, x);
		return;
	}
	group->tiles += put_tiles(to, x, &cut);
	group->cols = x->r > group->cols ? x->r : group->cols;
	to->sums = back ? x->q : x->p;
	if (cut.terms == 1)
		return;
	group->first_sum[group->n_sums] = (uint32_t)group->sum_tiles;
	group->sums[group->n_sums++] = (struct psgd__cuda_sum){.to = to->sums,
		.from = group->work,
		.count = cut.values,
		.terms = (uint32_t)cut.terms};
	group->sum_tiles += (uint64_t)psgd__cuda_pieces(cut.values, PSGD__CUDA_SUM_VALUES);
	to->sums = group->work;
	group->work += cut.terms * cut.values;
}

static size_t sum_values(const struct psgd__matrix *list, size_t count, bool back)
{
	size_t values = 0;

	for (size_t k = 0; k < count; k++) {
		const struct cut cut = cut_of(&list[k], back);

		if (by_kernel(&list[k]) && cut.terms > 1)
			values += (size_t)(cut.terms * cut.values);
	}
	return values;
}

static psgd_status launch(struct psgd__cuda_call *call, const struct group *group, bool back)
{
	const struct psgd__cuda_cut cut = {psgd__cuda_place(call, group->first),
		(uint32_t)group->count, (uint32_t)group->tiles};
	const struct psgd__cuda_cut sums = {psgd__cuda_place(call, group->first_sum),
		(uint32_t)group->n_sums, (uint32_t)group->sum_tiles};
	const struct psgd__cuda_matrix *list = psgd__cuda_place(call, group->list);

	if (group->tiles > INT32_MAX || group->sum_tiles > INT32_MAX) {
		psgd__cuda_say(call->d, "matrices too large for one launch");
		return PSGD_ERR_INVALID;
	}
	if (!cut.tiles)
		return PSGD_OK;
	PSGD__TRY(psgd__cuda_send(call));
	if (back)
		PSGD__TRY(psgd__cuda_status(call->d,
			psgd__cuda_back_project(list, &cut, group->cols, call->stream),
			"back_project"));
	else
		PSGD__TRY(psgd__cuda_status(call->d,
			psgd__cuda_project(list, &cut, group->cols, call->stream),
			"absorb_project"));
	if (!sums.tiles)
		return PSGD_OK;
	return psgd__cuda_status(call->d,
		psgd__cuda_sum(psgd__cuda_place(call, group->sums), &sums, call->stream),
		"sum of projections");
}

static psgd_status blas_status(struct psgd__cuda *d, cublasStatus_t status, const char *what)
{
	if (status == CUBLAS_STATUS_SUCCESS)
		return PSGD_OK;
	/* What cuBLAS was told by CUDA must not be taken for a later call's. */
	cudaGetLastError();
	psgd__cuda_say(d, "%s: %s", what, cublasGetStatusString(status));
	return status == CUBLAS_STATUS_ALLOC_FAILED ? PSGD_ERR_NOMEM : PSGD_ERR_DEVICE;
}

/* cuBLAS takes columns one after the other: to it g is m by n. */
static psgd_status multiply(struct psgd__cuda_call *call, const struct psgd__matrix *x, bool back)
{
	const float one = 1.0f, zero = 0.0f;
	struct psgd__cuda *d = call->d;
	const int n = (int)x->n, m = (int)x->m, r = (int)x->r;
	cublasHandle_t made;

	if (x->n > INT32_MAX || x->m > INT32_MAX || x->r > INT32_MAX) {
		psgd__cuda_say(d, "a matrix too large for cuBLAS");
		return PSGD_ERR_UNSUPPORTED;
	}
	if (!d->blas) {
		PSGD__TRY(blas_status(d, cublasCreate(&made), "cublasCreate"));
		d->blas = made;
	}
	PSGD__TRY(blas_status(d, cublasSetStream(d->blas, call->stream), "cublasSetStream"));
	if (back)
		return blas_status(d,
			cublasSgemm(d->blas, CUBLAS_OP_N, CUBLAS_OP_N, m, r, n, &one, x->g, m, x->p,
				n, &zero, x->q, m),
			"cublasSgemm");
	return blas_status(d,
		cublasSgemm(d->blas, CUBLAS_OP_T, CUBLAS_OP_N, n, r, m, &one, x->g, m, x->q, m,
			&zero, x->p, n),
		"cublasSgemm");
}

psgd_status psgd__cuda_projections(
	struct psgd__cuda_call *call, const struct psgd__matrix *list, size_t count, bool back)
{
	const size_t values = sum_values(list, count, back);
	struct group group = {
		.list = psgd__cuda_put(call, count * sizeof(*group.list)),
		.sums = psgd__cuda_put(call, count * sizeof(*group.sums)),
		.first = psgd__cuda_put(call, count * sizeof(*group.first)),
		.first_sum = psgd__cuda_put(call, count * sizeof(*group.first_sum)),
	};

	if (values)
		PSGD__TRY(psgd__cuda_work(call, values * sizeof(float), &group.work));
	for (size_t k = 0; k < count; k++) {
		if (!back || by_kernel(&list[k]))
			add(&group, &list[k], back);
	}
	PSGD__TRY(launch(call, &group, back));
	for (size_t k = 0; k < count; k++) {
		if (list[k].r > PSGD__CUDA_MOST_COLS)
			PSGD__TRY(multiply(call, &list[k], back));
	}
	return PSGD_OK;
}
