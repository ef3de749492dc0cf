/* From layers whose gradients are there to buckets that are submitted. SPDX-License-Identifier: MIT
 */
#ifndef IMAGE_BUCKETS_H
#define IMAGE_BUCKETS_H

#include "net.h"

#include <psgd/session.h>

struct buckets {
	const struct net *net;
	psgd_session *session;
	struct psgd_grad *grad; /* of bucket 0, then of bucket 1 ... */
	struct psgd_bucket *bucket;
	psgd_stream stream; /* that gradients are computed in; NULL: they are there */
	size_t *missing;    /* gradients that a bucket still waits for, this step */
	unsigned next;	    /* the first bucket that is not submitted */
};

/* The tensors of a net in the form that sessions want; out has room for net->n_tensors. */
void buckets_tensors(const struct net *net, struct psgd_tensor *out);

/* Ended by buckets_finish, also on failure. Errors: NOMEM. */
psgd_status buckets_init(struct buckets *buckets, const struct net *net, psgd_session *session);
void buckets_finish(struct buckets *buckets); /* of zeros is fine */

/* Before each backward. */
void buckets_begin(struct buckets *buckets);

/* A net_grads_fn: submits every bucket that is complete, in order. user: struct buckets. */
psgd_status buckets_on_grads(void *user, const struct net_layer *layer);

#endif
