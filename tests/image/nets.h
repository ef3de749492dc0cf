/* Small nets with every kind of layer. */
#ifndef TESTS_IMAGE_NETS_H
#define TESTS_IMAGE_NETS_H

#include "examples/image/net.h"

/* Every kind above and below every other. Each adds layers to a net that has begun. */
#define N_BUILDERS 9
extern void (*const net_builders[N_BUILDERS])(struct net *);

#endif
