/* Laws of the CUDA that runs on a CPU: what it computes, and that it notices what it is for. */
#include "test_shim.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/suite.h"

bool dies(void (*what)(void))
{
	pid_t child = fork();
	int status = 0;

	ck_assert_int_ge(child, 0);
	if (child == 0) {
		/* The message is for a person who did not expect it. */
		dup2(open("/dev/null", O_WRONLY), STDERR_FILENO);
		what();
		_exit(0);
	}
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

int main()
{
	Suite *suite = suite_create("cuda shim");

	add_kernel_tests(suite);
	add_stream_tests(suite);
	add_memory_tests(suite);
	add_nccl_tests(suite);
	return run_suite(suite);
}
