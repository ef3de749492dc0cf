/* Parameters from files: all of them as they were, or one line that says what is wrong. */
#include "examples/image/layers.h"
#include "examples/image/models.h"
#include "examples/image/pretrained.h"
#include "support/suite.h"

#include <math.h>
#include <psgd/experiment/checkpoint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct nn *nn;
static struct image_error error;
static char path[] = "/tmp/psgd-test-XXXXXX";

static void setup(void)
{
	int fd;

	strcpy(path, "/tmp/psgd-test-XXXXXX");
	fd = mkstemp(path);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(close(fd), 0);
	ck_assert_int_eq(nn_open(1, &nn, &error), PSGD_OK);
}

static void teardown(void)
{
	nn_close(&nn);
	(void)unlink(path);
}

static void build(struct net *net, char *name, unsigned classes, uint64_t seed)
{
	const struct psgd_config_model model = {
		.name = name, .stem = (char[]){"auto"}, .num_classes = classes};
	const struct nn_shape in = {.c = 3, .h = 32, .w = 32};

	ck_assert_int_eq(model_build(net, nn, &model, &in, seed, &error), PSGD_OK);
	/* No value that is there by itself. */
	for (size_t i = 0; i < net->n_running; i++)
		net->running[i] = (float)(seed * 1000 + i);
}

/* What is changed in the file of a net. */
struct change {
	const char *name;  /* of the array */
	const char *named; /* in its place; "": left out */
	int64_t first_dim; /* 0: as it is */
	double value;	   /* of element 1, if it is not 0 */
};

static void put(psgd_safetensors_writer *writer, const struct change *change, const char *name,
	uint32_t n_dims, const int64_t *dims, const float *values)
{
	struct psgd_state_array array = PSGD_INIT(psgd_state_array);
	bool changed = change && strcmp(change->name, name) == 0;
	size_t n = 1;
	float *copy;

	array.name = changed && change->named ? change->named : name;
	array.dtype = PSGD_F32;
	array.n_dims = n_dims;
	memcpy(array.dims, dims, n_dims * sizeof(*dims));
	if (changed && change->first_dim)
		array.dims[0] = change->first_dim;
	for (uint32_t i = 0; i < n_dims; i++)
		n *= (size_t)array.dims[i];
	copy = malloc(n * sizeof(*copy));
	memcpy(copy, values, n * sizeof(*copy));
	if (changed && change->value != 0.0)
		copy[1] = (float)change->value;
	if (array.name[0])
		ck_assert_int_eq(psgd_safetensors_add(writer, "", &array, copy), PSGD_OK);
	free(copy);
}

/* As torchvision's state_dict would be saved. */
static void write_file(const struct net *net, const struct change *change)
{
	psgd_safetensors_writer *writer = psgd_safetensors_writer_new();
	const int64_t eight = 8;
	char text[256];

	for (size_t i = 0; i < net->n_tensors; i++)
		put(writer, change, net->tensor[i].name, net->tensor[i].n_dims, net->tensor[i].dims,
			net->params + net->tensor[i].offset);
	for (size_t i = 0; i < net->n_layers; i++) {
		const struct net_layer *layer = &net->layer[i];
		char stem[NET_NAME_BYTES], name[NET_NAME_BYTES + 32];
		struct psgd_state_array count = PSGD_INIT(psgd_state_array);

		if (!layer->kind->statistics)
			continue;
		strcpy(stem, net->tensor[layer->first_tensor].name);
		*strrchr(stem, '.') = '\0';
		snprintf(name, sizeof(name), "%s.running_mean", stem);
		put(writer, change, name, 1, &layer->in.c, net->running + layer->running);
		snprintf(name, sizeof(name), "%s.running_var", stem);
		put(writer, change, name, 1, &layer->in.c,
			net->running + layer->running + layer->in.c);
		snprintf(name, sizeof(name), "%s.num_batches_tracked", stem);
		count.name = name;
		count.dtype = PSGD_U8;
		count.n_dims = 1;
		count.dims[0] = eight;
		ck_assert_int_eq(psgd_safetensors_add(writer, "", &count, &eight), PSGD_OK);
	}
	ck_assert_int_eq(psgd_safetensors_write(writer, path, text, sizeof(text)), PSGD_OK);
	psgd_safetensors_writer_free(&writer);
}

static char *const names[] = {"resnet8", "resnet18", "cnn", "mlp"};

START_TEST(test_all_of_it)
{
	struct net from, to;

	build(&from, names[_i], 10, 1);
	build(&to, names[_i], 10, 2);
	write_file(&from, NULL);
	ck_assert_msg(pretrained_load(&to, path, &error) == PSGD_OK, "%s", error.text);
	ck_assert_mem_eq(to.params, from.params, from.n_params * sizeof(float));
	ck_assert_mem_eq(to.running, from.running, from.n_running * sizeof(float));
	net_free(&from);
	net_free(&to);
}
END_TEST

static const struct {
	struct change change;
	const char *text;
} refusals[] = {
	{{"layer2.0.conv2.weight", "", 0, 0},
		"has no layer2.0.conv2.weight, which the model needs"},
	{{"bn1.running_var", "bn1.running_vari", 0, 0},
		"has no bn1.running_var, which the model needs"},
	{{"bn1.bias", NULL, 15, 0}, "bn1.bias is 15, but the model's is 16"},
	{{"layer1.0.conv1.weight", NULL, 8, 0},
		"layer1.0.conv1.weight is 8 x 16 x 3 x 3, but the model's is 16 x 16 x 3 x 3"},
	{{"fc.bias", NULL, 0, NAN}, "value 1 of fc.bias is nan"},
	{{"bn1.running_mean", NULL, 0, INFINITY}, "value 1 of bn1.running_mean is inf"},
	{{"bn1.running_var", NULL, 0, -2}, "value 1 of bn1.running_var is -2"},
};

#define N_REFUSALS ((int)(sizeof(refusals) / sizeof(refusals[0])))

static void check_refusal(struct net *net, const char *text)
{
	char wanted[512];

	ck_assert_int_eq(pretrained_load(net, path, &error), PSGD_ERR_CONFIG);
	snprintf(wanted, sizeof(wanted), "%s: %s", path, text);
	ck_assert_str_eq(error.text, wanted);
}

START_TEST(test_refusals)
{
	struct net net;

	build(&net, names[0], 10, 1);
	write_file(&net, &refusals[_i].change);
	check_refusal(&net, refusals[_i].text);
	net_free(&net);
}
END_TEST

/* Files of other models: of other classes, deeper, no file. */
START_TEST(test_other_models)
{
	struct net net, other;

	build(&net, names[0], 10, 1);
	build(&other, names[0], 100, 1);
	write_file(&other, NULL);
	check_refusal(&net, "fc.weight is 100 x 64, but the model's is 10 x 64; see "
			    "model.num_classes");
	net_free(&other);
	build(&other, (char[]){"resnet20"}, 10, 1);
	write_file(&other, NULL);
	ck_assert_int_eq(pretrained_load(&net, path, &error), PSGD_ERR_CONFIG);
	ck_assert_ptr_nonnull(strstr(error.text, ", which the model has not"));
	ck_assert_ptr_nonnull(strstr(error.text, ": has layer"));
	net_free(&other);
	ck_assert_int_eq(truncate(path, 100), 0);
	ck_assert_int_eq(pretrained_load(&net, path, &error), PSGD_ERR_CONFIG);
	ck_assert_int_eq(strncmp(error.text, path, strlen(path)), 0);
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_eq(pretrained_load(&net, path, &error), PSGD_ERR_IO);
	ck_assert_int_eq(strncmp(error.text, path, strlen(path)), 0);
	net_free(&net);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("image_pretrained");
	TCase *c = tcase_create("pretrained");

	tcase_add_checked_fixture(c, setup, teardown);
	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, test_all_of_it, 0, (int)(sizeof(names) / sizeof(names[0])));
	tcase_add_loop_test(c, test_refusals, 0, N_REFUSALS);
	tcase_add_test(c, test_other_models);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
