/* Small nets with every kind of layer. */
#include "nets.h"

static void add_dense(struct net *net)
{
	net_add_dense(net, "a", 7);
	net_add_dense(net, "b", 4);
}

static void add_relu(struct net *net)
{
	net_add_dense(net, "a", 9);
	net_add_relu(net);
	net_add_dense(net, "b", 5);
	net_add_relu(net);
	net_add_dense(net, "c", 3);
}

static void add_conv(struct net *net)
{
	net_add_conv(net, "a", 3, 3, 1);
	net_add_conv(net, "b", 16, 3, 1);
	net_add_conv(net, "c", 2, 3, 1);
	net_add_dense(net, "d", 3);
}

static void add_windows(struct net *net)
{
	net_add_conv(net, "a", 16, 7, 2);
	net_add_conv(net, "b", 16, 1, 1);
	net_add_conv(net, "c", 16, 3, 2);
	net_add_conv(net, "d", 5, 1, 2);
	net_add_dense(net, "e", 3);
}

static void add_norm(struct net *net)
{
	net_add_norm(net, "a", false);
	net_add_conv(net, "b", 16, 3, 1);
	net_add_norm(net, "c", true);
	net_add_conv(net, "d", 3, 3, 1);
	net_add_norm(net, "e", true);
	net_add_dense(net, "f", 3);
}

static void add_pool(struct net *net)
{
	net_add_conv(net, "a", 3, 3, 1);
	net_add_pool(net, 2, 2, 0);
	net_add_conv(net, "b", 16, 3, 1);
	net_add_pool(net, 3, 2, 1);
	net_add_conv(net, "c", 2, 1, 1);
	net_add_dense(net, "d", 3);
}

static void add_average(struct net *net)
{
	net_add_conv(net, "a", 32, 3, 1);
	net_add_average(net);
	net_add_dense(net, "b", 3);
}

/* Shortcuts as they are, by a projection, from the net's input; joins that join one value. */
static void add_joins(struct net *net)
{
	size_t start, branch;

	net_add_norm(net, "a", false);
	net_add_join(net, 0);
	net_add_norm(net, "b", true);
	net_add_conv(net, "c", 16, 3, 1);
	start = net->top;
	net_add_norm(net, "d", false);
	net_add_join(net, start);
	start = net->top;
	net_add_conv(net, "e", 16, 3, 2);
	net_add_norm(net, "f", false);
	branch = net->top;
	net->top = start;
	net_add_conv(net, "g", 16, 1, 2);
	net_add_norm(net, "h", false);
	net_add_join(net, branch);
	start = net->top;
	net_add_conv(net, "i", 16, 1, 1);
	branch = net->top;
	net_add_join(net, start);
	net_add_join(net, branch);
	net_add_dense(net, "j", 3);
}

static void add_all(struct net *net)
{
	size_t start;

	net_add_conv(net, "a", 16, 7, 2);
	net_add_norm(net, "b", true);
	net_add_pool(net, 3, 2, 1);
	start = net->top;
	net_add_conv(net, "c", 16, 3, 1);
	net_add_norm(net, "d", true);
	net_add_conv(net, "e", 16, 3, 1);
	net_add_norm(net, "f", false);
	net_add_join(net, start);
	net_add_average(net);
	net_add_dense(net, "g", 3);
}

void (*const net_builders[N_BUILDERS])(struct net *) = {add_dense, add_relu, add_conv, add_windows,
	add_norm, add_pool, add_average, add_joins, add_all};
