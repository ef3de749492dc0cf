/* The passes of a step at r = 0, timed: what compression can at best cost. */
#include "base/base.h"
#include "base/kernels.h"

/* The time by which all that was asked for is done. */
static psgd_status now(const struct psgd_device *device, int64_t *ns)
{
	if (PSGD__HAS(device->ops, stream_finish))
		PSGD__TRY(device->ops->stream_finish(device->self, NULL));
	*ns = psgd__now_ns();
	return PSGD_OK;
}

/* Passes go over all matrices, one after the other, as those of a bucket do. */
static psgd_status passes(const struct psgd_device *device, const struct psgd__matrix *list,
	const struct psgd__span *spans, size_t count, int64_t ns[PSGD_FLOOR_PASSES])
{
	const struct psgd_kernels *kernels = device->ops->kernels;
	int64_t t[PSGD_FLOOR_PASSES + 1];
	int finite;

	PSGD__TRY(now(device, &t[0]));
	PSGD__TRY(kernels->absorb_project(device->self, list, count, NULL));
	PSGD__TRY(now(device, &t[1]));
	PSGD__TRY(kernels->finite(device->self, spans, count, &finite, NULL));
	PSGD__TRY(now(device, &t[2]));
	PSGD__TRY(kernels->reconstruct(device->self, list, count, NULL));
	PSGD__TRY(now(device, &t[3]));
	for (int i = 0; i < PSGD_FLOOR_PASSES; i++)
		ns[i] += t[i + 1] - t[i];
	return PSGD_OK;
}

psgd_status psgd_device_floor(const struct psgd_device *device,
	const struct psgd_floor_matrix *list, size_t count, int64_t ns[PSGD_FLOOR_PASSES])
{
	struct psgd__matrix *matrices = NULL;
	struct psgd__span *spans = NULL;
	psgd_status status = PSGD_ERR_NOMEM;

	if (!device || !device->ops || !list || !count || !ns)
		return PSGD_ERR_INVALID;
	if (!PSGD__HAS(device->ops, kernels))
		return PSGD_ERR_UNSUPPORTED;
	matrices = psgd__calloc(count, sizeof(*matrices));
	spans = psgd__calloc(count, sizeof(*spans));
	if (!matrices || !spans)
		goto out;
	for (size_t i = 0; i < count; i++) {
		const struct psgd_floor_matrix *x = &list[i];
		int64_t values;

		status = PSGD_ERR_INVALID;
		if (!x->g || !x->e || x->n < 1 || x->m < 1 ||
			__builtin_mul_overflow(x->n, x->m, &values))
			goto out;
		matrices[i] = (struct psgd__matrix){.g = x->g, .e = x->e, .n = x->n, .m = x->m};
		spans[i] = (struct psgd__span){x->g, values};
	}
	status = passes(device, matrices, spans, count, ns);
out:
	free(spans);
	free(matrices);
	return status;
}
