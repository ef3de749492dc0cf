/* Engines: what they have in common, and their memory. SPDX-License-Identifier: MIT */
#include "nn.h"

#include <stdlib.h>
#include <string.h>

#include "net.h"

void nn_close(struct nn **nn)
{
	if (*nn)
		(*nn)->ops->close(*nn);
	*nn = NULL;
}

void nn_op_free(struct nn_op *op)
{
	if (op)
		op->ops->op_free(op);
}

float *nn_alloc(struct nn *nn, size_t n)
{
	return nn->device ? nn->device->alloc(nn, net_padded(n ? n : 1)) : net_alloc(n);
}

void nn_free(struct nn *nn, float *values)
{
	if (!values)
		return;
	if (nn->device)
		nn->device->free(nn, values);
	else
		free(values);
}

float *nn_host_alloc(struct nn *nn, size_t n)
{
	return nn->device ? nn->device->host_alloc(nn, net_padded(n ? n : 1)) : net_alloc(n);
}

void nn_host_free(struct nn *nn, float *values)
{
	if (!values)
		return;
	if (nn->device)
		nn->device->host_free(nn, values);
	else
		free(values);
}

void nn_range(struct nn *nn, const char *name)
{
	if (nn->device)
		nn->device->range(nn, name);
}

void nn_range_end(struct nn *nn)
{
	nn_range(nn, NULL);
}

psgd_status nn_upload(
	struct nn *nn, float *to, const float *host, size_t n, struct image_error *error)
{
	if (nn->device)
		return nn->device->upload(nn, to, host, n, error);
	memcpy(to, host, n * sizeof(float));
	return PSGD_OK;
}

psgd_status nn_download(
	struct nn *nn, float *host, const float *from, size_t n, struct image_error *error)
{
	if (nn->device)
		return nn->device->download(nn, host, from, n, error);
	memcpy(host, from, n * sizeof(float));
	return PSGD_OK;
}

psgd_status nn_copy(
	struct nn *nn, float *to, const float *from, size_t n, struct image_error *error)
{
	if (nn->device)
		return nn->device->copy(nn, to, from, n, error);
	memcpy(to, from, n * sizeof(float));
	return PSGD_OK;
}

psgd_status nn_view(struct nn *nn, float *values, size_t n, float **out, struct image_error *error)
{
	psgd_status status;

	*out = values;
	if (!nn->device)
		return PSGD_OK;
	*out = net_alloc(n);
	if (!*out)
		return image_fail(error, PSGD_ERR_NOMEM, "out of memory for %zu values", n);
	status = nn->device->download(nn, *out, values, n, error);
	if (status) {
		free(*out);
		*out = NULL;
	}
	return status;
}

psgd_status nn_view_end(struct nn *nn, float *view, float *values, size_t n, bool changed,
	struct image_error *error)
{
	psgd_status status = PSGD_OK;

	if (!view || !nn->device)
		return PSGD_OK;
	if (changed)
		status = nn->device->upload(nn, values, view, n, error);
	free(view);
	return status;
}
