/*
 * What the tests of the CUDA device share: the device and a CPU, and memory of both with the same
 * values and guard bands. The device's memory cannot be read here; it is brought.
 */
#ifndef TESTS_CUDA_CUDA_H
#define TESTS_CUDA_CUDA_H

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "base/kernels.h"
#include "support/random.h"

#ifdef CUDA_ON_A_DEVICE
/* A real device has one order, and does not tell what is left. */
#define ORDERS 1
#define take_order(i) ((void)(i))
#define nothing_left() true
#else
#include "cuda_shim/shim.h"
#include "support/thinned.h"

/*
 * The orders that threads run in, each with streams that run at once and with streams that run when
 * something waits: loop tests run over them.
 */
#define ORDERS THINNED(6, 2)

static inline void take_order(int i)
{
	shim_reset();
	shim_order((enum shim_order)(i % 3), (uint64_t)i + 1);
	shim_lazy(i / (ORDERS / 2) % 2);
}

static inline bool nothing_left(void)
{
	return !shim_leaks();
}
#endif

#define GUARD 64
#define GUARD_VALUE 12345.0f

struct devices {
	struct psgd_device cpu, cuda;
	psgd_stream stream;
};

/* The same values on the host and on the device. */
struct twin {
	float *host, *device; /* behind the first guard band */
	size_t n, shift;
};

static inline psgd_status open_cuda(struct psgd_device *out, char *error, size_t bytes)
{
	struct psgd_device_cuda_options o = PSGD_INIT(psgd_device_cuda_options);

	o.module_dir = CUDA_MODULE_DIR;
	o.error = error;
	o.error_bytes = bytes;
	return psgd_device_cuda(&o, out);
}

static inline void devices_open(struct devices *d)
{
	char error[512] = "";

	ck_assert_int_eq(psgd_device_cpu(NULL, &d->cpu), PSGD_OK);
	ck_assert_msg(open_cuda(&d->cuda, error, sizeof(error)) == PSGD_OK, "%s", error);
	ck_assert_int_eq(d->cuda.ops->stream_create(d->cuda.self, &d->stream), PSGD_OK);
}

static inline void devices_close(struct devices *d)
{
	ck_assert_int_eq(d->cuda.ops->stream_finish(d->cuda.self, d->stream), PSGD_OK);
	d->cuda.ops->stream_destroy(d->cuda.self, d->stream);
	psgd_device_destroy(&d->cuda);
	psgd_device_destroy(&d->cpu);
	ck_assert(nothing_left());
}

/* shift: values by which the device's are beside a multiple of 16 bytes. */
static inline struct twin twin_new(struct devices *d, size_t n, size_t shift)
{
	struct twin x = {.n = n, .shift = shift};
	const size_t all = n + 2 * GUARD + shift;
	void *device;

	x.host = calloc(all, sizeof(float));
	for (size_t i = 0; i < all; i++)
		x.host[i] = GUARD_VALUE;
	ck_assert_int_eq(d->cuda.ops->alloc(d->cuda.self, all * sizeof(float), &device), PSGD_OK);
	x.host += GUARD + shift;
	x.device = (float *)device + GUARD + shift;
	return x;
}

/* The device gets what the host has, guard bands too. */
static inline void twin_send(struct devices *d, const struct twin *x)
{
	const size_t before = GUARD + x->shift;

	ck_assert_int_eq(d->cuda.ops->upload(d->cuda.self, x->device - before, x->host - before,
				 (x->n + before + GUARD) * sizeof(float), d->stream),
		PSGD_OK);
}

static inline bool guards_whole(const float *values, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (values[i] != GUARD_VALUE)
			return false;
	}
	return true;
}

/* What the device has, to be freed; its guard bands are whole. */
static inline float *twin_fetch(struct devices *d, const struct twin *x)
{
	const size_t before = GUARD + x->shift, all = x->n + before + GUARD;
	float *got = calloc(all, sizeof(float));

	ck_assert_int_eq(d->cuda.ops->download(d->cuda.self, got, x->device - before,
				 all * sizeof(float), d->stream),
		PSGD_OK);
	ck_assert(guards_whole(got, before) && guards_whole(got + before + x->n, GUARD));
	memmove(got, got + before, x->n * sizeof(float));
	return got;
}

/* Bit for bit what the CPU has. */
static inline void twin_equal(struct devices *d, const struct twin *x, const char *what)
{
	float *got = twin_fetch(d, x);

	/* One assertion, since each is told to another process. */
	for (size_t i = 0; i < x->n; i++) {
		if (memcmp(&got[i], &x->host[i], sizeof(float)) != 0)
			ck_abort_msg("%s: value %zu of %zu is %a, on the CPU %a", what, i, x->n,
				(double)got[i], (double)x->host[i]);
	}
	free(got);
}

static inline void twin_free(struct devices *d, struct twin *x)
{
	if (!x->host)
		return;
	ck_assert(guards_whole(x->host - GUARD - x->shift, GUARD + x->shift) &&
		  guards_whole(x->host + x->n, GUARD));
	d->cuda.ops->free(d->cuda.self, x->device - GUARD - x->shift,
		(x->n + 2 * GUARD + x->shift) * sizeof(float));
	free(x->host - GUARD - x->shift);
	x->host = NULL;
}

static inline void twin_fill(struct twin *x, struct rng *rng)
{
	for (size_t i = 0; i < x->n; i++)
		x->host[i] = rng_float(rng);
}

#endif
