#include "transport/crew.h"

#include <check.h>
#include <cuda_runtime.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_shim/shim.h"

static psgd_status gather(void *self, const void *send, void *recv, size_t bytes)
{
	struct member *m = self;

	REQUIRE(bytes <= sizeof(m->crew->blocks[0]));
	memcpy(m->crew->blocks[m->worker], send, bytes);
	pthread_barrier_wait(&m->crew->barrier);
	for (uint32_t w = 0; w < m->crew->n; w++)
		memcpy((char *)recv + w * bytes, m->crew->blocks[w], bytes);
	pthread_barrier_wait(&m->crew->barrier);
	return PSGD_OK;
}

static void *member_main(void *arg)
{
	struct member *m = arg;
	struct crew *c = m->crew;
	const struct psgd_oob oob = {gather, m, m->worker, c->n};
	struct psgd_nccl_options options = PSGD_INIT(psgd_nccl_options);

	if (c->before)
		c->before(m);
	options.oob = &oob;
	options.timeout_ns = c->timeout_ns ? c->timeout_ns : 20000 * MS;
	options.module_dir = NCCL_MODULE_DIR;
	options.error = m->reason;
	options.error_bytes = sizeof(m->reason);
	options.ordinal = c->ordinals[m->worker] + m->worker;
	m->transport = (struct psgd_transport){.self = m};
	m->status = psgd_transport_nccl(&options, &m->transport);
	if (m->status)
		REQUIRE(!m->transport.ops && !m->transport.self && m->reason[0]);
	else if (c->run)
		c->run(m);
	psgd_transport_destroy(&m->transport);
	return NULL;
}

void run_crew(struct crew *crew)
{
	ck_assert(!pthread_barrier_init(&crew->barrier, NULL, crew->n));
	for (uint32_t w = 0; w < crew->n; w++) {
		struct member *m = &crew->members[w];

		*m = (struct member){.crew = crew, .worker = w};
		ck_assert(!pthread_create(&m->id, NULL, member_main, m));
	}
	for (uint32_t w = 0; w < crew->n; w++)
		pthread_join(crew->members[w].id, NULL);
	pthread_barrier_destroy(&crew->barrier);
}

psgd_status collect(struct psgd_transport *t, const struct psgd_collective *c)
{
	psgd_status status;
	void *request;

	status = t->ops->post(t->self, c, &request);
	if (status)
		return status;
	do
		status = t->ops->test(t->self, request, 100 * MS, NULL);
	while (status == PSGD_PENDING);
	return status;
}

static void require_sums(const float *data, int64_t count, uint32_t n)
{
	for (int64_t i = 0; i < count; i++)
		REQUIRE(data[i] == (float)(n * (n + 1) / 2));
}

static float *values(const struct psgd_transport *t, int64_t count)
{
	float *data = malloc((size_t)count * sizeof(*data));

	REQUIRE(data);
	for (int64_t i = 0; i < count; i++)
		data[i] = (float)(t->worker + 1);
	return data;
}

psgd_status sum_host(struct psgd_transport *t, int64_t count)
{
	struct psgd_collective c = PSGD_INIT(psgd_collective);
	float *data = values(t, count);
	psgd_status status;

	c.kind = PSGD_ALLREDUCE_SUM;
	c.dtype = PSGD_F32;
	c.count = count;
	c.data = data;
	status = collect(t, &c);
	if (status == PSGD_OK)
		require_sums(data, count, t->n_workers);
	free(data);
	return status;
}

/* A failure of CUDA's here is the test's own: it is told as the transport would. */
psgd_status sum_device(struct psgd_transport *t, uint32_t ordinal, int64_t count)
{
	const size_t bytes = (size_t)count * sizeof(float);
	struct psgd_collective c = PSGD_INIT(psgd_collective);
	float *data = values(t, count);
	psgd_status status = PSGD_ERR_DEVICE;
	cudaStream_t stream = NULL;
	void *device = NULL;

	if (cudaSetDevice((int)ordinal) || cudaMalloc(&device, bytes) ||
		cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) ||
		cudaMemcpyAsync(device, data, bytes, cudaMemcpyHostToDevice, stream))
		goto out;
	c.kind = PSGD_ALLREDUCE_SUM;
	c.dtype = PSGD_F32;
	c.count = count;
	c.data = device;
	c.stream = stream;
	status = collect(t, &c);
	if (status == PSGD_OK &&
		(cudaMemcpyAsync(data, device, bytes, cudaMemcpyDeviceToHost, stream) ||
			cudaStreamSynchronize(stream)))
		status = PSGD_ERR_DEVICE;
	if (status == PSGD_OK)
		require_sums(data, count, t->n_workers);
out:
	/* Freeing what is in use ends the process, so whatever failed has let go of it. */
	while (stream && cudaStreamQuery(stream) == cudaErrorNotReady)
		sleep_ms(1);
	(void)cudaFree(device);
	if (stream)
		(void)cudaStreamDestroy(stream);
	free(data);
	return status;
}

void require_no_leaks(void)
{
	const int64_t deadline = now_ns() + 10000 * MS;

	while (shim_leaks() && now_ns() < deadline)
		sleep_ms(1);
	ck_assert_uint_eq(shim_leaks(), 0);
}
