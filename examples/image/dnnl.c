/*
 * The compute primitives by oneDNN 2.x. A 3.x version differs in the four functions that fill an
 * operation descriptor (3.x has none) and where dnnl_memory_desc_t is a value (opaque there).
 * SPDX-License-Identifier: MIT
 */
#include "nn.h"

#include <dlfcn.h>
#include <stdlib.h>

#include <oneapi/dnnl/dnnl.h>
#include <oneapi/dnnl/dnnl_debug.h>

/* Which of an operation's layouts an argument has. */
enum side { IN, OUT, WEIGHTS, CHANNEL, SIDES };

static const struct {
	int arg;
	enum side side;
	bool result; /* of the operation, not given to it */
} slots[NN_SLOTS] = {[NN_SRC] = {DNNL_ARG_SRC, IN, false},
	[NN_DST] = {DNNL_ARG_DST, OUT, true},
	[NN_DIFF_SRC] = {DNNL_ARG_DIFF_SRC, IN, true},
	[NN_DIFF_DST] = {DNNL_ARG_DIFF_DST, OUT, false},
	[NN_WEIGHTS] = {DNNL_ARG_WEIGHTS, WEIGHTS, false},
	[NN_DIFF_WEIGHTS] = {DNNL_ARG_DIFF_WEIGHTS, WEIGHTS, true},
	[NN_BIAS] = {DNNL_ARG_BIAS, CHANNEL, false},
	[NN_DIFF_BIAS] = {DNNL_ARG_DIFF_BIAS, CHANNEL, true},
	[NN_SCALE] = {DNNL_ARG_SCALE, CHANNEL, false},
	[NN_DIFF_SCALE] = {DNNL_ARG_DIFF_SCALE, CHANNEL, true},
	[NN_SHIFT] = {DNNL_ARG_SHIFT, CHANNEL, false},
	[NN_DIFF_SHIFT] = {DNNL_ARG_DIFF_SHIFT, CHANNEL, true},
	[NN_MEAN] = {DNNL_ARG_MEAN, CHANNEL, false},
	[NN_VARIANCE] = {DNNL_ARG_VARIANCE, CHANNEL, false}};

#define BIT(slot) (1u << (slot))

/*
 * An argument of a primitive. Where the primitive wants another layout than the caller's, `inner`
 * is a buffer in that layout and `reorder` fills it, or empties it for a result.
 */
struct port {
	enum nn_slot slot;
	bool result;
	dnnl_memory_t given;
	dnnl_memory_t inner;
	size_t offset; /* of inner's values in the nn's scratch memory */
	dnnl_primitive_t reorder;
};

#define SCRATCH_ALIGN 64u

struct dnnl_nn {
	struct nn base;
	dnnl_engine_t engine;
	dnnl_stream_t stream;
	int64_t block; /* channels side by side in an activation */
	/* One at a time uses it, so that what a reorder wrote is still in the cache. */
	char *scratch;
	size_t scratch_bytes;
};

struct dnnl_op {
	struct nn_op base;
	dnnl_primitive_desc_t desc;
	dnnl_primitive_t primitive;
	dnnl_memory_t workspace;
	const struct dnnl_op *forward;
	size_t n_ports;
	struct port port[NN_SLOTS];
};

static psgd_status check(dnnl_status_t status, const char *what, struct image_error *error)
{
	if (status == dnnl_success)
		return PSGD_OK;
	return image_fail(error, status == dnnl_out_of_memory ? PSGD_ERR_NOMEM : PSGD_ERR_DEVICE,
		"oneDNN: %s: %s", what, dnnl_status2str(status));
}

/*
 * oneDNN brings an OpenMP runtime of its own choice along; asking whichever is loaded needs no
 * second one, and a oneDNN without OpenMP needs none.
 */
static void set_threads(unsigned threads)
{
	void (*set)(int) = NULL;

	*(void **)&set = dlsym(RTLD_DEFAULT, "omp_set_num_threads");
	if (set && threads > 0)
		set((int)threads);
}

static int64_t register_values(void)
{
	unsigned isa = (unsigned)dnnl_get_effective_cpu_isa();

	if ((isa & dnnl_cpu_isa_avx512_core) == dnnl_cpu_isa_avx512_core)
		return 16;
	return (isa & dnnl_cpu_isa_sse41) == dnnl_cpu_isa_sse41 ? 8 : 1;
}

static void close_nn(struct nn *base)
{
	struct dnnl_nn *nn = (struct dnnl_nn *)base;

	if (nn->stream)
		dnnl_stream_destroy(nn->stream);
	if (nn->engine)
		dnnl_engine_destroy(nn->engine);
	free(nn->scratch);
	free(nn);
}

static void op_free(struct nn_op *base)
{
	struct dnnl_op *op = (struct dnnl_op *)base;

	for (size_t i = 0; i < op->n_ports; i++) {
		if (op->port[i].reorder)
			dnnl_primitive_destroy(op->port[i].reorder);
		if (op->port[i].inner)
			dnnl_memory_destroy(op->port[i].inner);
		if (op->port[i].given)
			dnnl_memory_destroy(op->port[i].given);
	}
	if (op->workspace)
		dnnl_memory_destroy(op->workspace);
	if (op->primitive)
		dnnl_primitive_destroy(op->primitive);
	if (op->desc)
		dnnl_primitive_desc_destroy(op->desc);
	free(op);
}

static dnnl_memory_desc_t layout(int n_dims, const dnnl_dims_t dims, dnnl_format_tag_t tag)
{
	dnnl_memory_desc_t md;

	if (dnnl_memory_desc_init_by_tag(&md, n_dims, dims, dnnl_f32, tag) != dnnl_success)
		md = (dnnl_memory_desc_t){.ndims = -1}; /* refused by the descriptor it goes to */
	return md;
}

static dnnl_memory_desc_t vector(int64_t count)
{
	return layout(1, (dnnl_dims_t){count}, dnnl_a);
}

/* tag: of a plain image. */
static dnnl_memory_desc_t image(const struct nn_shape *s, dnnl_format_tag_t tag)
{
	return layout(4, (dnnl_dims_t){s->n, s->c, s->h, s->w}, tag);
}

static bool in_blocks(const struct dnnl_nn *nn, const struct nn_shape *s)
{
	return !s->plain && nn->block > 1 && s->c % nn->block == 0;
}

int64_t nn_block(const struct nn *base, const struct nn_shape *s)
{
	const struct dnnl_nn *nn = (const struct dnnl_nn *)base;

	return in_blocks(nn, s) ? nn->block : s->c;
}

/*
 * Where activations lie: in blocks of as many channels as a vector register holds, when that
 * comes out even. Both branches of a residual block then lie alike, and nothing is padded.
 */
static dnnl_memory_desc_t activations(const struct dnnl_nn *nn, const struct nn_shape *s)
{
	if (!in_blocks(nn, s))
		return image(s, dnnl_nhwc);
	return image(s, nn->block == 16 ? dnnl_nChw16c : dnnl_nChw8c);
}

/* A buffer in the nn's scratch memory, at *used. */
static psgd_status port_reorder(struct dnnl_nn *nn, struct port *port,
	const dnnl_memory_desc_t *given, const dnnl_memory_desc_t *wanted, size_t *used,
	struct image_error *error)
{
	dnnl_primitive_desc_t desc = NULL;
	psgd_status status;

	port->offset = *used;
	*used += (dnnl_memory_desc_get_size(wanted) + SCRATCH_ALIGN - 1) / SCRATCH_ALIGN *
		 SCRATCH_ALIGN;
	status = check(dnnl_memory_create(&port->inner, wanted, nn->engine, DNNL_MEMORY_NONE),
		"memory", error);
	if (!status)
		status = check(
			dnnl_reorder_primitive_desc_create(&desc, port->result ? wanted : given,
				nn->engine, port->result ? given : wanted, nn->engine, NULL),
			"reorder descriptor", error);
	if (!status)
		status = check(dnnl_primitive_create(&port->reorder, desc), "reorder", error);
	if (desc)
		dnnl_primitive_desc_destroy(desc);
	return status;
}

static psgd_status port_init(struct dnnl_nn *nn, const struct dnnl_op *op, struct port *port,
	const dnnl_memory_desc_t *given, size_t *used, struct image_error *error)
{
	const dnnl_memory_desc_t *wanted = dnnl_primitive_desc_query_md(
		op->desc, dnnl_query_exec_arg_md, slots[port->slot].arg);
	psgd_status status;

	status = check(dnnl_memory_create(&port->given, given, nn->engine, DNNL_MEMORY_NONE),
		"memory", error);
	if (status || !wanted || dnnl_memory_desc_equal(wanted, given))
		return status;
	return port_reorder(nn, port, given, wanted, used, error);
}

static psgd_status reserve(struct dnnl_nn *nn, size_t bytes, struct image_error *error)
{
	void *scratch;

	if (bytes <= nn->scratch_bytes)
		return PSGD_OK;
	scratch = aligned_alloc(SCRATCH_ALIGN, bytes);
	if (!scratch)
		return image_fail(error, PSGD_ERR_NOMEM, "out of memory");
	free(nn->scratch);
	nn->scratch = scratch;
	nn->scratch_bytes = bytes;
	return PSGD_OK;
}

static psgd_status op_fill(struct dnnl_nn *nn, struct dnnl_op *op, const_dnnl_op_desc_t desc,
	enum nn_pass pass, unsigned slots_used, const dnnl_memory_desc_t *given,
	struct image_error *error)
{
	const dnnl_memory_desc_t *workspace;
	size_t used = 0;
	psgd_status status;

	status = check(dnnl_primitive_desc_create(&op->desc, desc, NULL, nn->engine,
			       op->forward ? op->forward->desc : NULL),
		"primitive descriptor", error);
	if (!status)
		status = check(dnnl_primitive_create(&op->primitive, op->desc), "primitive", error);
	for (unsigned slot = 0; !status && slot < NN_SLOTS; slot++) {
		struct port *port = &op->port[op->n_ports];

		if (!(slots_used & BIT(slot)))
			continue;
		port->slot = (enum nn_slot)slot;
		/* The statistics of a batch are found in training. */
		port->result = slots[slot].result ||
			       (pass == NN_TRAIN && (slot == NN_MEAN || slot == NN_VARIANCE));
		op->n_ports++;
		status = port_init(nn, op, port, &given[slots[slot].side], &used, error);
	}
	if (!status)
		status = reserve(nn, used, error);
	if (status || pass != NN_TRAIN)
		return status;
	workspace = dnnl_primitive_desc_query_md(op->desc, dnnl_query_workspace_md, 0);
	if (workspace && dnnl_memory_desc_get_size(workspace) > 0)
		status = check(dnnl_memory_create(
				       &op->workspace, workspace, nn->engine, DNNL_MEMORY_ALLOCATE),
			"workspace", error);
	return status;
}

static const struct nn_ops ops;

/* made: what the descriptor's own function said. used: a bit for every slot. */
static psgd_status op_create(struct dnnl_nn *nn, dnnl_status_t made, const_dnnl_op_desc_t desc,
	enum nn_pass pass, const struct nn_op *forward, unsigned used,
	const dnnl_memory_desc_t *given, struct nn_op **out, struct image_error *error)
{
	struct dnnl_op *op = calloc(1, sizeof(*op));
	psgd_status status;

	*out = NULL;
	if (!op)
		return image_fail(error, PSGD_ERR_NOMEM, "out of memory");
	op->base.ops = &ops;
	op->forward = (const struct dnnl_op *)forward;
	status = check(made, "operation descriptor", error);
	if (!status)
		status = op_fill(nn, op, desc, pass, used, given, error);
	if (status)
		op_free(&op->base);
	else
		*out = &op->base;
	return status;
}

static dnnl_prop_kind_t forward_kind(enum nn_pass pass)
{
	return pass == NN_TRAIN ? dnnl_forward_training : dnnl_forward_inference;
}

static psgd_status inner(struct nn *base, enum nn_pass pass, const struct nn_shape *in,
	const struct nn_shape *result, const struct nn_op *forward, struct nn_op **out,
	struct image_error *error)
{
	struct dnnl_nn *nn = (struct dnnl_nn *)base;
	/* One pixel's channels are a plain row in any blocks. */
	dnnl_memory_desc_t md[SIDES] = {
		[IN] = in->h * in->w == 1 ? image(in, dnnl_nhwc) : activations(nn, in),
		[OUT] = layout(2, (dnnl_dims_t){result->n, result->c}, dnnl_ab),
		[WEIGHTS] = layout(4, (dnnl_dims_t){result->c, in->c, in->h, in->w}, dnnl_acdb),
		[CHANNEL] = vector(result->c)};
	dnnl_memory_desc_t row = image(in, dnnl_nhwc);
	dnnl_inner_product_desc_t desc;
	dnnl_status_t made;
	unsigned used;

	if (pass == NN_BACK_DATA) {
		used = BIT(NN_DIFF_DST) | BIT(NN_WEIGHTS) | BIT(NN_DIFF_SRC);
		made = dnnl_inner_product_backward_data_desc_init(
			&desc, &row, &md[WEIGHTS], &md[OUT]);
	} else if (pass == NN_BACK_PARAMS) {
		used = BIT(NN_SRC) | BIT(NN_DIFF_DST) | BIT(NN_DIFF_WEIGHTS) | BIT(NN_DIFF_BIAS);
		made = dnnl_inner_product_backward_weights_desc_init(
			&desc, &row, &md[WEIGHTS], &md[CHANNEL], &md[OUT]);
	} else {
		used = BIT(NN_SRC) | BIT(NN_WEIGHTS) | BIT(NN_BIAS) | BIT(NN_DST);
		made = dnnl_inner_product_forward_desc_init(
			&desc, forward_kind(pass), &row, &md[WEIGHTS], &md[CHANNEL], &md[OUT]);
	}
	return op_create(nn, made, &desc, pass, forward, used, md, out, error);
}

/*
 * Winograd's algorithm takes half the time of the direct one or less, where it has enough tiles
 * of 4 x 4 to use each transformed weight on. Bounds by measurement (AVX-512, both ways).
 */
static bool winograd_pays(
	const struct nn_shape *in, const struct nn_shape *result, const struct nn_window *window)
{
	int64_t most = in->c > result->c ? in->c : result->c;
	int64_t tiles = result->n * ((result->h + 3) / 4) * ((result->w + 3) / 4);

	return window->height == 3 && window->width == 3 && window->stride == 1 && in->c >= 32 &&
	       result->c >= 32 && tiles >= 64 && tiles >= most / 4;
}

static psgd_status conv_create(struct dnnl_nn *nn, enum nn_pass pass, dnnl_alg_kind_t how,
	const struct nn_shape *in, const struct nn_shape *result, const struct nn_window *window,
	const struct nn_op *forward, struct nn_op **out, struct image_error *error)
{
	dnnl_dims_t kernel = {result->c, in->c, window->height, window->width};
	dnnl_dims_t stride = {window->stride, window->stride};
	dnnl_dims_t padding = {window->padding, window->padding};
	dnnl_memory_desc_t md[SIDES] = {[IN] = activations(nn, in),
		[OUT] = activations(nn, result),
		[WEIGHTS] = layout(4, kernel, dnnl_abcd)};
	dnnl_memory_desc_t any = layout(4, kernel, dnnl_format_tag_any);
	dnnl_memory_desc_t src = image(in, dnnl_format_tag_any);
	dnnl_convolution_desc_t desc;
	dnnl_status_t made;
	unsigned used;

	if (pass == NN_BACK_DATA) {
		used = BIT(NN_DIFF_DST) | BIT(NN_WEIGHTS) | BIT(NN_DIFF_SRC);
		made = dnnl_convolution_backward_data_desc_init(
			&desc, how, &src, &any, &md[OUT], stride, padding, padding);
	} else if (pass == NN_BACK_PARAMS) {
		used = BIT(NN_SRC) | BIT(NN_DIFF_DST) | BIT(NN_DIFF_WEIGHTS);
		made = dnnl_convolution_backward_weights_desc_init(
			&desc, how, &src, &any, NULL, &md[OUT], stride, padding, padding);
	} else {
		used = BIT(NN_SRC) | BIT(NN_WEIGHTS) | BIT(NN_DST);
		made = dnnl_convolution_forward_desc_init(&desc, forward_kind(pass), how, &src,
			&any, NULL, &md[OUT], stride, padding, padding);
	}
	return op_create(nn, made, &desc, pass, forward, used, md, out, error);
}

static psgd_status conv(struct nn *base, enum nn_pass pass, const struct nn_shape *in,
	const struct nn_shape *result, const struct nn_window *window, const struct nn_op *forward,
	struct nn_op **out, struct image_error *error)
{
	struct dnnl_nn *nn = (struct dnnl_nn *)base;
	struct image_error ignored;

	/* Not every processor has it. */
	if (winograd_pays(in, result, window) &&
		!conv_create(nn, pass, dnnl_convolution_winograd, in, result, window, forward, out,
			&ignored))
		return PSGD_OK;
	return conv_create(
		nn, pass, dnnl_convolution_direct, in, result, window, forward, out, error);
}

static psgd_status norm(struct nn *base, enum nn_pass pass, const struct nn_shape *in, bool relu,
	float epsilon, const struct nn_op *forward, struct nn_op **out, struct image_error *error)
{
	struct dnnl_nn *nn = (struct dnnl_nn *)base;
	unsigned flags = dnnl_use_scale | dnnl_use_shift | (relu ? dnnl_fuse_norm_relu : 0u);
	dnnl_memory_desc_t md[SIDES] = {
		[IN] = activations(nn, in), [OUT] = activations(nn, in), [CHANNEL] = vector(in->c)};
	dnnl_batch_normalization_desc_t desc;
	dnnl_status_t made;
	/* 2.6 insists on the shift in backward, too. */
	unsigned used =
		BIT(NN_SRC) | BIT(NN_MEAN) | BIT(NN_VARIANCE) | BIT(NN_SCALE) | BIT(NN_SHIFT);

	if (pass == NN_BACK_DATA || pass == NN_BACK_PARAMS) {
		used |= BIT(NN_DIFF_DST) | BIT(NN_DIFF_SRC) | BIT(NN_DIFF_SCALE) |
			BIT(NN_DIFF_SHIFT);
		made = dnnl_batch_normalization_backward_desc_init(
			&desc, dnnl_backward, &md[OUT], &md[IN], epsilon, flags);
	} else {
		used |= BIT(NN_DST);
		if (pass == NN_INFER)
			flags |= dnnl_use_global_stats;
		made = dnnl_batch_normalization_forward_desc_init(
			&desc, forward_kind(pass), &md[IN], epsilon, flags);
	}
	return op_create(nn, made, &desc, pass, forward, used, md, out, error);
}

static psgd_status pool(struct nn *base, enum nn_pass pass, const struct nn_shape *in,
	const struct nn_shape *result, const struct nn_window *window, bool average,
	const struct nn_op *forward, struct nn_op **out, struct image_error *error)
{
	struct dnnl_nn *nn = (struct dnnl_nn *)base;
	dnnl_dims_t kernel = {window->height, window->width};
	dnnl_dims_t stride = {window->stride, window->stride};
	dnnl_dims_t padding = {window->padding, window->padding};
	dnnl_alg_kind_t how = average ? dnnl_pooling_avg_exclude_padding : dnnl_pooling_max;
	dnnl_memory_desc_t md[SIDES] = {
		[IN] = activations(nn, in), [OUT] = activations(nn, result)};
	dnnl_pooling_desc_t desc;
	dnnl_status_t made;
	unsigned used;

	if (pass == NN_BACK_DATA) {
		used = BIT(NN_DIFF_DST) | BIT(NN_DIFF_SRC);
		made = dnnl_pooling_backward_desc_init(
			&desc, how, &md[IN], &md[OUT], stride, kernel, padding, padding);
	} else {
		used = BIT(NN_SRC) | BIT(NN_DST);
		made = dnnl_pooling_forward_desc_init(&desc, forward_kind(pass), how, &md[IN],
			&md[OUT], stride, kernel, padding, padding);
	}
	return op_create(nn, made, &desc, pass, forward, used, md, out, error);
}

static psgd_status reorder(struct dnnl_nn *nn, struct port *port, struct image_error *error)
{
	dnnl_exec_arg_t args[2] = {
		{DNNL_ARG_FROM, port->result ? port->inner : port->given},
		{DNNL_ARG_TO, port->result ? port->given : port->inner},
	};

	return check(dnnl_primitive_execute(port->reorder, nn->stream, 2, args), "reorder", error);
}

static psgd_status run(struct nn *base, struct nn_op *base_op, const struct nn_data *data,
	struct image_error *error)
{
	struct dnnl_nn *nn = (struct dnnl_nn *)base;
	struct dnnl_op *op = (struct dnnl_op *)base_op;
	dnnl_exec_arg_t args[NN_SLOTS + 1];
	dnnl_memory_t workspace = op->forward ? op->forward->workspace : op->workspace;
	int n_args = 0;
	psgd_status status = PSGD_OK;

	for (size_t i = 0; !status && i < op->n_ports; i++) {
		struct port *port = &op->port[i];

		status = check(dnnl_memory_set_data_handle(port->given, data->at[port->slot]),
			"data handle", error);
		if (!status && port->reorder)
			status = check(dnnl_memory_set_data_handle(
					       port->inner, nn->scratch + port->offset),
				"data handle", error);
		if (!status && port->reorder && !port->result)
			status = reorder(nn, port, error);
		args[n_args++] = (dnnl_exec_arg_t){
			slots[port->slot].arg, port->reorder ? port->inner : port->given};
	}
	if (workspace)
		args[n_args++] = (dnnl_exec_arg_t){DNNL_ARG_WORKSPACE, workspace};
	if (!status)
		status = check(dnnl_primitive_execute(op->primitive, nn->stream, n_args, args),
			"execution", error);
	for (size_t i = 0; !status && i < op->n_ports; i++) {
		if (op->port[i].reorder && op->port[i].result)
			status = reorder(nn, &op->port[i], error);
	}
	if (!status)
		status = check(dnnl_stream_wait(nn->stream), "stream", error);
	return status;
}

static const struct nn_ops ops = {"oneDNN", close_nn, inner, conv, norm, pool, run, op_free};

psgd_status nn_open(unsigned threads, struct nn **out, struct image_error *error)
{
	struct dnnl_nn *nn = calloc(1, sizeof(*nn));
	psgd_status status;

	*out = NULL;
	if (!nn)
		return image_fail(error, PSGD_ERR_NOMEM, "out of memory");
	nn->base.ops = &ops;
	set_threads(threads);
	nn->block = register_values();
	status = check(dnnl_engine_create(&nn->engine, dnnl_cpu, 0), "engine", error);
	if (!status)
		status = check(
			dnnl_stream_create(&nn->stream, nn->engine, dnnl_stream_default_flags),
			"stream", error);
	if (status)
		close_nn(&nn->base);
	else
		*out = &nn->base;
	return status;
}
