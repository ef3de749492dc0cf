/*
 * Where the tests of layers run: on a device of the machine, if there is one. Of what a test asks
 * of the CUDA that runs on a CPU, nothing is to be done here.
 */
#include "pair.h"

#include <shim.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "examples/image/cuda_open.h"

/* In a process of its own: what CUDA begins does not survive a fork, and each test is one. */
bool pair_has_device(void)
{
	struct image_error error = {""};
	struct nn *nn;
	pid_t child = fork();
	int ended = 1;

	if (child == 0) {
		if (!cuda_open(0, "none", &nn, &error))
			_exit(0);
		printf("1..0 # SKIP %s\n", error.text);
		(void)fflush(stdout);
		_exit(1);
	}
	return child > 0 && waitpid(child, &ended, 0) == child && ended == 0;
}

void shim_reset(void)
{
}

void shim_order(enum shim_order order, uint64_t seed)
{
	(void)order;
	(void)seed;
}

void shim_lazy(bool lazy)
{
	(void)lazy;
}

size_t shim_leaks(void)
{
	return 0;
}
