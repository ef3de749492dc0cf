/* The models that the trainer knows. SPDX-License-Identifier: MIT */
#include "models.h"

#include <string.h>

#include "resnet.h"

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
	net_add_conv(net, "conv1", 16, 3, 1);
	net_add_norm(net, "bn1", true);
	net_add_pool(net, 2, 2, 0);
	net_add_conv(net, "conv2", 32, 3, 1);
	net_add_norm(net, "bn2", true);
	net_add_pool(net, 2, 2, 0);
	net_add_conv(net, "conv3", 64, 3, 1);
	net_add_norm(net, "bn3", true);
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

static void rule_buckets(struct net *net, const struct model *model)
{
	net->n_buckets = model->n_buckets;
	for (size_t i = 0; i < net->n_tensors; i++)
		for (const struct bucket_rule *rule = model->rules; rule->tensor; rule++)
			if (strcmp(net->tensor[i].name, rule->tensor) == 0)
				net->tensor[i].bucket = rule->bucket;
}

#define MIB ((size_t)1 << 20)
#define SHARES 8	      /* about so many buckets, if their bytes are in bounds */
#define LEAST_BYTES (MIB / 4) /* less is not worth a message */
#define MOST_BYTES (25 * MIB)
#define EDGE_BYTES MIB

static size_t layer_bytes(const struct net *net, const struct net_layer *layer)
{
	size_t values = 0;

	for (size_t i = 0; i < layer->n_tensors; i++)
		values += net->tensor[layer->first_tensor + i].count;
	return values * sizeof(float);
}

/*
 * From the last layer to the first, as backward goes. A bucket is full when it holds its bytes.
 * The first is small so that the network begins early, the last so that little is left to wait
 * for when backward has ended.
 */
static void size_buckets(struct net *net)
{
	size_t left = 0, held = 0, most, edge;
	bool full, last = false;

	for (size_t i = 0; i < net->n_layers; i++)
		left += layer_bytes(net, &net->layer[i]);
	most = left / SHARES;
	most = most < LEAST_BYTES ? LEAST_BYTES : most > MOST_BYTES ? MOST_BYTES : most;
	edge = most < EDGE_BYTES ? most : EDGE_BYTES;
	net->n_buckets = 1;
	for (size_t i = net->n_layers; i-- > 0;) {
		const struct net_layer *layer = &net->layer[i];
		size_t bytes = layer_bytes(net, layer);

		if (bytes == 0)
			continue;
		full = held >= (net->n_buckets == 1 ? edge : most);
		if (held > 0 && !last && (full || left <= edge)) {
			net->n_buckets++;
			held = 0;
		}
		last = left <= edge;
		for (size_t k = 0; k < layer->n_tensors; k++)
			net->tensor[layer->first_tensor + k].bucket = net->n_buckets - 1;
		held += bytes;
		left -= bytes;
	}
}

static const struct model *model_find(const char *name)
{
	for (size_t i = 0; i < sizeof(models) / sizeof(models[0]); i++)
		if (strcmp(models[i].name, name) == 0)
			return &models[i];
	return NULL;
}

#define CIFAR_MOST_SIDE 64     /* larger images have the imagenet stem, if no other is wanted */
#define IMAGENET_LEAST_SIDE 32 /* smaller ones are less than a pixel in the last stage */

static psgd_status find_stem(const struct psgd_config_model *config, const struct resnet *resnet,
	const struct nn_shape *in, bool *imagenet, struct image_error *error)
{
	const char *stem = config->stem;
	bool small = in->h <= CIFAR_MOST_SIDE && in->w <= CIFAR_MOST_SIDE;

	*imagenet = false;
	if (!resnet && strcmp(stem, "auto") != 0)
		return image_fail(error, PSGD_ERR_CONFIG,
			"model.stem is '%s', but a %s has no stem; only ResNets do", stem,
			config->name);
	if (!resnet || strcmp(stem, "cifar") == 0)
		return PSGD_OK;
	*imagenet = strcmp(stem, "imagenet") == 0 || (!resnet->small_images_only && !small);
	if (*imagenet && resnet->small_images_only)
		return image_fail(error, PSGD_ERR_CONFIG,
			"model.stem is 'imagenet', but %s has only the cifar stem", config->name);
	if (*imagenet && (in->h < IMAGENET_LEAST_SIDE || in->w < IMAGENET_LEAST_SIDE))
		return image_fail(error, PSGD_ERR_CONFIG,
			"model.stem is 'imagenet', which needs images of at least %d x %d pixels; "
			"these have %lld x %lld",
			IMAGENET_LEAST_SIDE, IMAGENET_LEAST_SIDE, (long long)in->h,
			(long long)in->w);
	return PSGD_OK;
}

#define MOST_CLASSES 65536u /* a label is a uint16_t */

psgd_status model_build(struct net *net, struct nn *nn, const struct psgd_config_model *config,
	const struct nn_shape *in, uint64_t seed, struct image_error *error)
{
	const struct model *model = model_find(config->name);
	const struct resnet *resnet = resnet_find(config->name);
	unsigned classes = config->num_classes;
	bool imagenet;
	psgd_status status;

	*net = (struct net){0};
	if (classes < 2 || classes > MOST_CLASSES)
		return image_fail(error, PSGD_ERR_CONFIG,
			"model.num_classes is %u, expected 2 to %u", classes, MOST_CLASSES);
	if (!model && !resnet)
		return image_fail(error, PSGD_ERR_CONFIG,
			"model.name '%s' is not one of: mlp, cnn, resnet8, resnet20, resnet18, "
			"resnet34, resnet50, resnet101, resnet152",
			config->name);
	status = find_stem(config, resnet, in, &imagenet, error);
	if (status)
		return status;
	net_begin(net, nn, in);
	if (model)
		model->add(net, classes);
	else
		resnet_add(net, resnet, imagenet, classes);
	status = net_end(net, seed);
	if (status)
		return image_fail(error, status, "model %s: %s", config->name, net->error.text);
	if (model)
		rule_buckets(net, model);
	else
		size_buckets(net);
	return PSGD_OK;
}
