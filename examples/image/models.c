/* The models that the trainer knows. SPDX-License-Identifier: MIT */
#include "models.h"

#include <string.h>

/* Which bucket a tensor's gradient travels in, in the order in which backward completes them. */
struct bucket_rule {
	const char *tensor;
	unsigned bucket;
};

struct model {
	const char *name;
	void (*add)(struct net *net, unsigned classes);
	const struct bucket_rule *rules;
	unsigned n_buckets;
};

static void mlp_add(struct net *net, unsigned classes)
{
	net_add_dense(net, "fc1", 1024);
	net_add_relu(net);
	net_add_dense(net, "fc2", 1024);
	net_add_relu(net);
	net_add_dense(net, "fc3", classes);
}

/* A large matrix leaves alone, early; small biases wait for company. */
static const struct bucket_rule mlp_rules[] = {
	{"fc3.weight", 0},
	{"fc2.weight", 1},
	{"fc3.bias", 2},
	{"fc2.bias", 2},
	{"fc1.weight", 3},
	{"fc1.bias", 3},
	{NULL, 0},
};

static void cnn_add(struct net *net, unsigned classes)
{
	net_add_conv(net, "conv1", 16);
	net_add_norm(net, "bn1");
	net_add_relu(net);
	net_add_pool(net);
	net_add_conv(net, "conv2", 32);
	net_add_norm(net, "bn2");
	net_add_relu(net);
	net_add_pool(net);
	net_add_conv(net, "conv3", 64);
	net_add_norm(net, "bn3");
	net_add_relu(net);
	net_add_dense(net, "fc", classes);
}

static const struct bucket_rule cnn_rules[] = {
	{"fc.weight", 0},
	{"fc.bias", 0},
	{"bn3.weight", 1},
	{"bn3.bias", 1},
	{"conv3.weight", 1},
	{"bn2.weight", 2},
	{"bn2.bias", 2},
	{"conv2.weight", 2},
	{"bn1.weight", 3},
	{"bn1.bias", 3},
	{"conv1.weight", 3},
	{NULL, 0},
};

static const struct model models[] = {
	{"mlp", mlp_add, mlp_rules, 4},
	{"cnn", cnn_add, cnn_rules, 4},
};

static void assign_buckets(struct net *net, const struct model *model)
{
	net->n_buckets = model->n_buckets;
	for (size_t i = 0; i < net->n_tensors; i++)
		for (const struct bucket_rule *rule = model->rules; rule->tensor; rule++)
			if (strcmp(net->tensor[i].name, rule->tensor) == 0)
				net->tensor[i].bucket = rule->bucket;
}

psgd_status model_build(struct net *net, struct nn *nn, const struct psgd_config_model *config,
	const struct nn_shape *in, uint64_t seed, struct image_error *error)
{
	const char *name = config->name;
	unsigned classes = config->num_classes;
	psgd_status status;

	*net = (struct net){0};
	if (classes < 2 || classes > 256)
		return image_fail(error, PSGD_ERR_CONFIG,
			"model.num_classes is %u; labels are bytes: 2 to 256", classes);
	for (size_t i = 0; i < sizeof(models) / sizeof(models[0]); i++) {
		if (strcmp(models[i].name, name) != 0)
			continue;
		net_begin(net, nn, in);
		models[i].add(net, classes);
		status = net_end(net, seed);
		assign_buckets(net, &models[i]);
		if (status)
			return image_fail(error, status, "model %s: %s", name, net->error.text);
		return PSGD_OK;
	}
	return image_fail(error, PSGD_ERR_CONFIG, "model.name '%s' is not one of: mlp, cnn", name);
}
