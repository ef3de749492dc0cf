/* NCCL: what it is at, and what it refuses. That workers get their sums, others test. */
#include <nccl.h>

#include <thread>

#include "test_shim.h"

/* How a communicator is once it is through with what it was at. */
static ncclResult_t settled(ncclComm_t comm)
{
	ncclResult_t state;

	do {
		OK(ncclCommGetAsyncError(comm, &state));
		std::this_thread::yield();
	} while (state == ncclInProgress);
	return state;
}

static ncclComm_t alone()
{
	ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
	ncclComm_t comm;
	ncclUniqueId id;

	config.blocking = 0;
	OK(ncclGetUniqueId(&id));
	ck_assert_int_eq(ncclCommInitRankConfig(&comm, 1, id, 0, &config), ncclInProgress);
	return comm;
}

static ncclResult_t sum(ncclComm_t comm, float *from, float *to, cudaStream_t stream)
{
	return ncclAllReduce(from, to, 4, ncclFloat32, ncclSum, comm, stream);
}

/* The first of each kind connects the workers, and no call may come before it is through. */
START_TEST(in_progress)
{
	Array<float> data(std::vector<float>(8, 1));
	float *x = data.data;
	ncclComm_t comm = alone();

	ck_assert_int_eq(settled(comm), ncclSuccess);
	ck_assert_int_eq(sum(comm, x, x, nullptr), ncclInProgress);
	ck_assert_int_eq(sum(comm, x, x, nullptr), ncclInvalidUsage);
	ck_assert_int_eq(settled(comm), ncclSuccess);
	OK(sum(comm, x, x, nullptr));
	ck_assert_int_eq(ncclBroadcast(x, x, 4, ncclFloat32, 0, comm, nullptr), ncclInProgress);
	ck_assert_int_eq(settled(comm), ncclSuccess);
	ck_assert_int_eq(ncclCommFinalize(comm), ncclInProgress);
	ck_assert_int_eq(sum(comm, x, x, nullptr), ncclInvalidUsage);
	ck_assert_int_eq(settled(comm), ncclSuccess);
	OK(ncclCommDestroy(comm));
}
END_TEST

START_TEST(refusals)
{
	Array<float> data(8);
	float *x = data.data;
	cudaStream_t elsewhere;
	ncclComm_t comm = alone();

	ck_assert_int_eq(settled(comm), ncclSuccess);
	shim_devices(2);
	OK(cudaSetDevice(1));
	OK(cudaStreamCreateWithFlags(&elsewhere, cudaStreamNonBlocking));
	OK(cudaSetDevice(0));
	ck_assert_int_eq(sum(comm, x, x, elsewhere), ncclInvalidArgument);
	ck_assert_int_eq(sum(comm, x, x + 1, nullptr), ncclInvalidArgument);
	ck_assert_int_eq(sum(comm, x, nullptr, nullptr), ncclInvalidArgument);
	OK(cudaStreamDestroy(elsewhere));
	OK(ncclCommAbort(comm));
}
END_TEST

START_TEST(lost_device)
{
	ncclComm_t comm = alone();

	ck_assert_int_eq(settled(comm), ncclSuccess);
	shim_lose(1);
	ck_assert_int_ne(cudaStreamSynchronize(nullptr), cudaSuccess);
	ck_assert_int_eq(settled(comm), ncclUnhandledCudaError);
	ck_assert_int_ne(ncclCommAbort(comm), ncclSuccess);
	shim_lose(0);
	ck_assert_uint_eq(shim_leaks(), 0);
}
END_TEST

void add_nccl_tests(Suite *suite)
{
	TCase *tc = tcase_create("nccl");

	tcase_set_timeout(tc, 0);
	tcase_add_test(tc, in_progress);
	tcase_add_test(tc, refusals);
	tcase_add_test(tc, lost_device);
	suite_add_tcase(suite, tc);
}
