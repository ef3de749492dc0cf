/* Models: initial values, buckets, shapes. */
#include "examples/image/models.h"
#include "support/suite.h"

#include <math.h>
#include <string.h>

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

static char *const model_names[] = {"mlp", "cnn", "resnet8", "resnet20", "resnet18", "resnet34",
	"resnet50", "resnet101", "resnet152"};
enum { MLP, CNN, RESNET8, RESNET20, RESNET18, RESNET34, RESNET50, RESNET101, RESNET152, N_MODELS };

struct wanted {
	char *name, *stem;
	unsigned classes;
	int64_t channels, height, width;
	uint64_t seed;
};

static psgd_status build_wanted(struct net *net, struct nn *on, const struct wanted *wanted)
{
	const struct psgd_config_model model = {
		.name = wanted->name, .stem = wanted->stem, .num_classes = wanted->classes};
	const struct nn_shape in = {.c = wanted->channels, .h = wanted->height, .w = wanted->width};

	return model_build(net, on, &model, &in, wanted->seed, &error);
}

static psgd_status build_named(
	struct net *net, struct nn *on, char *name, unsigned classes, int64_t side, uint64_t seed)
{
	return build_wanted(
		net, on, &(struct wanted){name, (char[]){"auto"}, classes, 1, side, side, seed});
}

static bool ends_in(const char *text, const char *end)
{
	size_t length = strlen(text), tail = strlen(end);

	return length >= tail && strcmp(text + length - tail, end) == 0;
}

/* The variance that a tensor's first values have by the rules; 0: they are all alike. */
static double variance(const struct net_tensor *tensor, bool resnet, double features, double *alike)
{
	double inputs = (double)tensor->count / (double)tensor->dims[0];

	*alike = ends_in(tensor->name, ".weight") ? 1.0 : 0.0;
	if (resnet && strcmp(tensor->name, "fc.weight") == 0)
		return 1.0 / 3.0 / inputs;
	if (resnet && strcmp(tensor->name, "fc.bias") == 0)
		return 1.0 / 3.0 / features;
	if (tensor->n_dims == 1)
		return 0.0;
	if (resnet)
		return 2.0 / (double)(tensor->dims[0] * tensor->dims[2] * tensor->dims[3]);
	return 2.0 / inputs;
}

START_TEST(test_model_init)
{
	struct net net, same, other;
	size_t bytes;
	double features;

	ck_assert_int_eq(build_named(&net, nn, model_names[_i], 10, 28, 1), PSGD_OK);
	ck_assert_int_eq(build_named(&same, nn, model_names[_i], 10, 28, 1), PSGD_OK);
	ck_assert_int_eq(build_named(&other, nn, model_names[_i], 10, 28, 2), PSGD_OK);
	bytes = net.n_params * sizeof(float);
	features = (double)net.layer[net.n_layers - 1].in.c;
	ck_assert_mem_eq(net.params, same.params, bytes);
	for (size_t t = 0; t < net.n_tensors; t++) {
		const struct net_tensor *tensor = &net.tensor[t];
		const float *values = net.params + tensor->offset;
		double sum = 0.0, square = 0.0, n = (double)tensor->count, alike, expected;
		bool constant = true;

		expected = variance(tensor, _i >= RESNET8, features, &alike);
		for (size_t i = 0; i < tensor->count; i++) {
			sum += values[i];
			square += (double)values[i] * values[i];
			constant = constant && values[i] == (float)alike;
		}
		ck_assert_msg(constant == (expected == 0.0), "%s", tensor->name);
		if (constant)
			continue;
		ck_assert_mem_ne(values, other.params + tensor->offset, 32);
		/* Six standard deviations of each estimate; a square's is at most sqrt(2). */
		ck_assert_double_le(fabs(sum / n), 6.0 * sqrt(expected / n));
		ck_assert_double_eq_tol(square / n / expected, 1.0, 6.0 * 1.4143 / sqrt(n));
	}
	net_free(&net);
	net_free(&same);
	net_free(&other);
}
END_TEST

/* Each bucket is complete no later in backward than the next; the edges are small. */
START_TEST(test_model_buckets)
{
	static const unsigned least[N_MODELS] = {4, 4, 1, 4, 6, 8, 8, 8, 8};
	struct net net;
	size_t *completed_at, *bytes, l;

	ck_assert_int_eq(build_named(&net, NULL, model_names[_i], 10, 32, 1), PSGD_OK);
	ck_assert_uint_ge(net.n_buckets, least[_i]);
	completed_at = calloc(net.n_buckets, sizeof(*completed_at));
	bytes = calloc(net.n_buckets, sizeof(*bytes));
	for (size_t b = 0; b < net.n_buckets; b++)
		completed_at[b] = net.n_layers;
	for (size_t t = 0; t < net.n_tensors; t++) {
		unsigned b = net.tensor[t].bucket;

		for (l = 0; net.layer[l].first_tensor + net.layer[l].n_tensors <= t; l++)
			;
		ck_assert_uint_lt(b, net.n_buckets);
		completed_at[b] = l < completed_at[b] ? l : completed_at[b];
		bytes[b] += net.tensor[t].count * sizeof(float);
	}
	for (unsigned b = 0; b < net.n_buckets; b++) {
		ck_assert_uint_gt(bytes[b], 0);
		ck_assert(b == 0 || completed_at[b] <= completed_at[b - 1]);
		/* Not more than its share and one tensor. */
		ck_assert_uint_le(bytes[b], _i >= RESNET8 ? 36u << 20 : UINT32_MAX);
	}
	if (_i >= RESNET8)
		ck_assert_uint_le(bytes[net.n_buckets - 1], 1u << 20);
	free(completed_at);
	free(bytes);
	net_free(&net);
}
END_TEST

/* clang-format off */
static const struct {
	struct wanted wanted;
	size_t tensors, values;
} counts[] = {
	/* Projections where a stage begins; without them resnet20 has 269,722. */
	{{"resnet8", "auto", 10, 3, 32, 32, 1}, 29, 78042},
	{{"resnet20", "auto", 10, 3, 32, 32, 1}, 65, 272474},
	{{"resnet18", "auto", 10, 3, 32, 32, 1}, 62, 11173962},
	{{"resnet18", "imagenet", 10, 3, 32, 32, 1}, 62, 11181642},
	{{"resnet18", "auto", 2, 1, 64, 64, 1}, 62, 11173962 - 8 * 513 - 2 * 576},
	{{"resnet18", "auto", 1000, 3, 224, 224, 1}, 62, 11689512},
	{{"resnet34", "auto", 1000, 3, 224, 224, 1}, 110, 21797672},
	{{"resnet50", "auto", 1000, 3, 224, 224, 1}, 161, 25557032},
	{{"resnet101", "auto", 1000, 3, 224, 224, 1}, 314, 44549160},
	{{"resnet152", "auto", 1000, 3, 224, 224, 1}, 467, 60192808},
	{{"resnet101", "imagenet", 10, 3, 64, 64, 1}, 314, 44549160 - 990 * 2049},
	{{"resnet50", "cifar", 100, 3, 224, 65, 1}, 161, 25557032 - 900 * 2049 - 64 * 3 * 40},
};
/* clang-format on */

#define N_COUNTS ((int)(sizeof(counts) / sizeof(counts[0])))

/* The numbers that torchvision gives for 1000 classes. */
START_TEST(test_model_counts)
{
	struct net net;
	size_t values = 0;

	ck_assert_int_eq(build_wanted(&net, NULL, &counts[_i].wanted), PSGD_OK);
	for (size_t t = 0; t < net.n_tensors; t++)
		values += net.tensor[t].count;
	ck_assert_uint_eq(values, counts[_i].values);
	ck_assert_uint_eq(net.n_tensors, counts[_i].tensors);
	net_free(&net);
}
END_TEST

static const char *const resnet18_names[] = {"conv1.weight", "bn1.weight", "bn1.bias",
	"layer1.0.conv1.weight", "layer1.0.bn1.weight", "layer1.0.bn1.bias",
	"layer1.0.conv2.weight", "layer1.0.bn2.weight", "layer1.0.bn2.bias",
	"layer1.1.conv1.weight", "layer1.1.bn1.weight", "layer1.1.bn1.bias",
	"layer1.1.conv2.weight", "layer1.1.bn2.weight", "layer1.1.bn2.bias",
	"layer2.0.conv1.weight", "layer2.0.bn1.weight", "layer2.0.bn1.bias",
	"layer2.0.conv2.weight", "layer2.0.bn2.weight", "layer2.0.bn2.bias",
	"layer2.0.downsample.0.weight", "layer2.0.downsample.1.weight",
	"layer2.0.downsample.1.bias", "layer2.1.conv1.weight"};

static const char *const resnet50_names[] = {"conv1.weight", "bn1.weight", "bn1.bias",
	"layer1.0.conv1.weight", "layer1.0.bn1.weight", "layer1.0.bn1.bias",
	"layer1.0.conv2.weight", "layer1.0.bn2.weight", "layer1.0.bn2.bias",
	"layer1.0.conv3.weight", "layer1.0.bn3.weight", "layer1.0.bn3.bias",
	"layer1.0.downsample.0.weight", "layer1.0.downsample.1.weight",
	"layer1.0.downsample.1.bias", "layer1.1.conv1.weight"};

static void check_names(char *model, const char *const *names, size_t n)
{
	struct net net;

	ck_assert_int_eq(build_named(&net, NULL, model, 10, 224, 1), PSGD_OK);
	for (size_t t = 0; t < n; t++)
		ck_assert_str_eq(net.tensor[t].name, names[t]);
	ck_assert_str_eq(net.tensor[net.n_tensors - 2].name, "fc.weight");
	ck_assert_str_eq(net.tensor[net.n_tensors - 1].name, "fc.bias");
	net_free(&net);
}

static const struct net_tensor *find(const struct net *net, const char *name)
{
	for (size_t t = 0; t < net->n_tensors; t++)
		if (strcmp(net->tensor[t].name, name) == 0)
			return &net->tensor[t];
	return NULL;
}

static const struct net_layer *layer_of(const struct net *net, const char *name)
{
	const struct net_tensor *tensor = find(net, name);

	for (size_t l = 0; tensor && l < net->n_layers; l++)
		if (&net->tensor[net->layer[l].first_tensor] == tensor && net->layer[l].n_tensors)
			return &net->layer[l];
	return NULL;
}

START_TEST(test_resnet_tensors)
{
	struct net net;

	check_names((char[]){"resnet18"}, resnet18_names,
		sizeof(resnet18_names) / sizeof(resnet18_names[0]));
	check_names((char[]){"resnet50"}, resnet50_names,
		sizeof(resnet50_names) / sizeof(resnet50_names[0]));
	/* The stride of a bottleneck is on its 3x3. */
	ck_assert_int_eq(build_named(&net, NULL, (char[]){"resnet50"}, 10, 224, 1), PSGD_OK);
	ck_assert_int_eq(layer_of(&net, "layer2.0.conv1.weight")->window.stride, 1);
	ck_assert_int_eq(layer_of(&net, "layer2.0.conv2.weight")->window.stride, 2);
	ck_assert_int_eq(find(&net, "layer2.0.conv2.weight")->dims[2], 3);
	ck_assert_int_eq(find(&net, "layer2.0.conv3.weight")->dims[0], 512);
	/* 224 pixels a side become 7. */
	ck_assert_int_eq(layer_of(&net, "layer4.2.conv3.weight")->out.h, 7);
	net_free(&net);
	/* The deepest have more blocks in the middle, and names of two digits. */
	ck_assert_int_eq(build_named(&net, NULL, (char[]){"resnet101"}, 10, 224, 1), PSGD_OK);
	ck_assert_ptr_nonnull(find(&net, "layer3.22.conv3.weight"));
	ck_assert_ptr_null(find(&net, "layer3.23.conv1.weight"));
	net_free(&net);
	ck_assert_int_eq(build_named(&net, NULL, (char[]){"resnet152"}, 10, 224, 1), PSGD_OK);
	ck_assert_ptr_nonnull(find(&net, "layer2.7.bn3.bias"));
	ck_assert_ptr_nonnull(find(&net, "layer3.35.conv3.weight"));
	ck_assert_ptr_null(find(&net, "layer3.36.conv1.weight"));
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
}
END_TEST

/* clang-format off */
static const struct {
	struct wanted wanted;
	const char *text;
} refusals[] = {
	{{"vgg", "auto", 10, 1, 28, 28, 1}, "model.name 'vgg' is not one of: mlp, cnn, resnet8, "
		"resnet20, resnet18, resnet34, resnet50, resnet101, resnet152"},
	{{"mlp", "auto", 1, 1, 28, 28, 1}, "model.num_classes is 1, expected 2 to 65536"},
	{{"cnn", "auto", 65537, 1, 28, 28, 1},
		"model.num_classes is 65537, expected 2 to 65536"},
	{{"cnn", "auto", 10, 1, 3, 3, 1}, "model cnn: images are too small to pool"},
	{{"cnn", "cifar", 10, 1, 28, 28, 1},
		"model.stem is 'cifar', but a cnn has no stem; only ResNets do"},
	{{"resnet20", "imagenet", 10, 3, 224, 224, 1},
		"model.stem is 'imagenet', but resnet20 has only the cifar stem"},
	{{"resnet18", "imagenet", 10, 1, 28, 64, 1}, "model.stem is 'imagenet', which needs "
		"images of at least 32 x 32 pixels; these have 28 x 64"},
	{{"resnet18", "auto", 10, 3, 65, 31, 1}, "model.stem is 'imagenet', which needs "
		"images of at least 32 x 32 pixels; these have 65 x 31"},
	{{"resnet18", "auto", 10, 3, 5000, 5000, 1}, "model resnet18: image size out of range"},
};
/* clang-format on */

#define N_REFUSALS ((int)(sizeof(refusals) / sizeof(refusals[0])))

START_TEST(test_model_refusals)
{
	struct net net;

	ck_assert_int_eq(build_wanted(&net, NULL, &refusals[_i].wanted), PSGD_ERR_CONFIG);
	ck_assert_str_eq(error.text, refusals[_i].text);
	net_free(&net);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("image_models");
	TCase *c = tcase_create("models");

	tcase_add_checked_fixture(c, open_nn, close_nn);
	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, test_model_init, 0, RESNET34);
	tcase_add_loop_test(c, test_model_buckets, 0, N_MODELS);
	tcase_add_loop_test(c, test_model_counts, 0, N_COUNTS);
	tcase_add_test(c, test_resnet_tensors);
	tcase_add_test(c, test_model_shapes);
	tcase_add_loop_test(c, test_model_refusals, 0, N_REFUSALS);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
