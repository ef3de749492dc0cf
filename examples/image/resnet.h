/* Residual networks (He et al., 2015), with torchvision's names. SPDX-License-Identifier: MIT */
#ifndef IMAGE_RESNET_H
#define IMAGE_RESNET_H

#include "net.h"

struct resnet {
	unsigned stages;
	unsigned blocks[4]; /* of each stage */
	int64_t width;	    /* of the first stage; each further one has twice as many */
	int64_t expansion;  /* a bottleneck's result is wider than its middle; 1: basic blocks */
	bool small_images_only; /* no other stem than cifar */
};

/* Looks a model up by its name; NULL: not a ResNet. */
const struct resnet *resnet_find(const char *name);

/* imagenet: the stem is 7x7 of stride 2 and a pool, else 3x3. */
void resnet_add(struct net *net, const struct resnet *model, bool imagenet, unsigned classes);

#endif
