/* Residual networks (He et al., 2015), with torchvision's names. SPDX-License-Identifier: MIT */
#include "resnet.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct {
	const char *name;
	struct resnet model;
} resnets[] = {
	{"resnet8", {3, {1, 1, 1}, 16, 1, true}},
	{"resnet20", {3, {3, 3, 3}, 16, 1, true}},
	{"resnet18", {4, {2, 2, 2, 2}, 64, 1, false}},
	{"resnet34", {4, {3, 4, 6, 3}, 64, 1, false}},
	{"resnet50", {4, {3, 4, 6, 3}, 64, 4, false}},
	{"resnet101", {4, {3, 4, 23, 3}, 64, 4, false}},
	{"resnet152", {4, {3, 8, 36, 3}, 64, 4, false}},
};

const struct resnet *resnet_find(const char *name)
{
	for (size_t i = 0; i < sizeof(resnets) / sizeof(resnets[0]); i++)
		if (strcmp(resnets[i].name, name) == 0)
			return &resnets[i].model;
	return NULL;
}

struct names {
	char block[24]; /* "layer1.0" */
	char full[NET_NAME_BYTES - 8];
};

static const char *full_name(struct names *names, const char *part)
{
	(void)snprintf(names->full, sizeof(names->full), "%s.%s", names->block, part);
	return names->full;
}

/* He et al.'s initial values with the fan-out, as torchvision has them. */
static void add_conv(
	struct net *net, const char *name, int64_t channels, int64_t kernel, int64_t stride)
{
	double fan_out = (double)(channels * kernel * kernel);

	net_add_conv(net, name, channels, kernel, stride);
	net_init_last(net, NET_NORMAL, (float)sqrt(2.0 / fan_out));
}

static void add_block(struct net *net, const struct resnet *model, struct names *names,
	int64_t width, int64_t stride)
{
	bool bottleneck = model->expansion > 1;
	int64_t channels = width * model->expansion;
	size_t start = net->top, branch;

	/* The stride is on the 3x3 of a bottleneck, which loses less than on its first 1x1. */
	if (bottleneck)
		add_conv(net, full_name(names, "conv1"), width, 1, 1);
	else
		add_conv(net, full_name(names, "conv1"), width, 3, stride);
	net_add_norm(net, full_name(names, "bn1"), true);
	add_conv(net, full_name(names, "conv2"), width, 3, bottleneck ? stride : 1);
	net_add_norm(net, full_name(names, "bn2"), bottleneck);
	if (bottleneck) {
		add_conv(net, full_name(names, "conv3"), channels, 1, 1);
		net_add_norm(net, full_name(names, "bn3"), false);
	}
	branch = net->top;
	net->top = start;
	if (stride > 1 || net->layer[start - 1].out.c != channels) {
		add_conv(net, full_name(names, "downsample.0"), channels, 1, stride);
		net_add_norm(net, full_name(names, "downsample.1"), false);
	}
	start = net->top;
	net->top = branch;
	net_add_join(net, start);
}

void resnet_add(struct net *net, const struct resnet *model, bool imagenet, unsigned classes)
{
	struct names names;
	int64_t width = model->width;

	add_conv(net, "conv1", width, imagenet ? 7 : 3, imagenet ? 2 : 1);
	net_add_norm(net, "bn1", true);
	if (imagenet)
		net_add_pool(net, 3, 2, 1);
	for (unsigned stage = 0; stage < model->stages; stage++, width *= 2)
		for (unsigned i = 0; i < model->blocks[stage] && !net->status; i++) {
			/* Below 256, so that the compiler sees that the name fits. */
			(void)snprintf(names.block, sizeof(names.block), "layer%u.%u",
				(stage + 1) & 0xff, i & 0xff);
			add_block(net, model, &names, width, stage > 0 && i == 0 ? 2 : 1);
		}
	net_add_average(net);
	net_add_dense(net, "fc", classes);
	net_init_last(net, NET_UNIFORM,
		1.0f / sqrtf((float)(model->width * model->expansion << (model->stages - 1))));
}
