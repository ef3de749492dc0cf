/* The shapes of ResNet-18 for 32x32 images and 10 classes. */
#ifndef TESTS_RESNET18_H
#define TESTS_RESNET18_H

#include <psgd/types.h>

#define RESNET18_TENSORS 62
#define RESNET18_VALUES 11173962

/* Convolutions, two vectors of each batch norm, classifier; ids are positions. */
void resnet18_tensors(struct psgd_tensor out[RESNET18_TENSORS]);

#endif
