/* Models: initial values, buckets, shapes. */
#include "examples/image/models.h"
#include "support/suite.h"

#include <math.h>

static struct nn *nn;
static struct image_error error;

static void open_nn(void)
{
	ck_assert_int_eq(nn_open(1, &nn, &error), PSGD_OK);
}

static void close_nn(void)
{
	nn_close(&nn);
}

static char *const model_names[] = {"mlp", "cnn"};

static psgd_status build_named(
	struct net *net, struct nn *on, char *name, unsigned classes, int64_t side, uint64_t seed)
{
	const struct psgd_config_model model = {.name = name, .num_classes = classes};
	const struct nn_shape in = {0, 1, side, side};

	return model_build(net, on, &model, &in, seed, &error);
}

static void build_model(struct net *net, int which, uint64_t seed)
{
	ck_assert_int_eq(build_named(net, nn, model_names[which], 10, 28, seed), PSGD_OK);
}

START_TEST(test_model_init)
{
	struct net net, same, other;
	size_t bytes;

	build_model(&net, _i, 1);
	build_model(&same, _i, 1);
	build_model(&other, _i, 2);
	bytes = net.n_params * sizeof(float);
	ck_assert_mem_eq(net.params, same.params, bytes);
	for (size_t t = 0; t < net.n_tensors; t++) {
		const struct net_tensor *tensor = &net.tensor[t];
		const float *values = net.params + tensor->offset;
		double sum = 0.0, square = 0.0, n = (double)tensor->count;
		bool constant = true;

		for (size_t i = 0; i < tensor->count; i++) {
			sum += values[i];
			square += (double)values[i] * values[i];
			constant = constant && values[i] == tensor->constant;
		}
		ck_assert(constant == (tensor->fan_in == 0));
		if (constant)
			continue;
		ck_assert_mem_ne(values, other.params + tensor->offset, 64);
		/* Six standard deviations of each estimate; that of a square is 2/sqrt(5). */
		ck_assert_double_le(fabs(sum / n), 6.0 * sqrt(2.0 / (double)tensor->fan_in / n));
		ck_assert_double_eq_tol(
			square / n * (double)tensor->fan_in / 2.0, 1.0, 6.0 * 0.8945 / sqrt(n));
	}
	net_free(&net);
	net_free(&same);
	net_free(&other);
}
END_TEST

/* At least four buckets; each is complete no later in backward than the next. */
START_TEST(test_model_buckets)
{
	struct net net;
	size_t completed_at[NET_MAX_TENSORS], sizes[NET_MAX_TENSORS] = {0}, l;

	build_model(&net, _i, 1);
	ck_assert_uint_ge(net.n_buckets, 4);
	for (size_t b = 0; b < NET_MAX_TENSORS; b++)
		completed_at[b] = NET_MAX_LAYERS;
	for (size_t t = 0; t < net.n_tensors; t++) {
		unsigned b = net.tensor[t].bucket;

		for (l = 0; net.layer[l].first_tensor + net.layer[l].n_tensors <= t; l++)
			;
		ck_assert_uint_lt(b, net.n_buckets);
		completed_at[b] = l < completed_at[b] ? l : completed_at[b];
		sizes[b]++;
	}
	for (unsigned b = 0; b < net.n_buckets; b++) {
		ck_assert_uint_gt(sizes[b], 0);
		ck_assert(b == 0 || completed_at[b] <= completed_at[b - 1]);
	}
	net_free(&net);
}
END_TEST

START_TEST(test_model_shapes)
{
	struct net net;

	ck_assert_int_eq(build_named(&net, NULL, "mlp", 10, 28, 1), PSGD_OK);
	ck_assert_uint_eq(net.n_tensors, 6);
	ck_assert_str_eq(net.tensor[0].name, "fc1.weight");
	ck_assert_int_eq(net.tensor[0].dims[0], 1024);
	ck_assert_int_eq(net.tensor[0].dims[1], 784);
	ck_assert_str_eq(net.tensor[5].name, "fc3.bias");
	ck_assert_int_eq(net.tensor[5].dims[0], 10);
	ck_assert_ptr_null(net.params);
	net_free(&net);
	ck_assert_int_eq(build_named(&net, NULL, "vgg", 10, 28, 1), PSGD_ERR_CONFIG);
	ck_assert_str_eq(error.text, "model.name 'vgg' is not one of: mlp, cnn");
	ck_assert_int_eq(build_named(&net, NULL, "mlp", 1, 28, 1), PSGD_ERR_CONFIG);
	ck_assert_str_eq(error.text, "model.num_classes is 1; labels are bytes: 2 to 256");
	ck_assert_int_eq(build_named(&net, NULL, "cnn", 10, 3, 1), PSGD_ERR_CONFIG);
	ck_assert_str_eq(error.text, "model cnn: images are too small to pool");
	net_free(&net);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("image_models");
	TCase *c = tcase_create("models");

	tcase_add_checked_fixture(c, open_nn, close_nn);
	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, test_model_init, 0, 2);
	tcase_add_loop_test(c, test_model_buckets, 0, 2);
	tcase_add_test(c, test_model_shapes);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
