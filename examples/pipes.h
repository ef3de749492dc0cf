/*
 * Worker processes that share socket pairs, and an all-gather over them: in the examples it stands
 * for what a trainer brings along, be it MPI, NCCL or torch.distributed.
 */
#ifndef EXAMPLES_PIPES_H
#define EXAMPLES_PIPES_H

#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tiny.h"

enum { WORKERS = 3 };

static int pipes[WORKERS][2]; /* between worker 0 and worker w: [0] is worker 0's end */

static inline void pipes_move(int socket, void *data, size_t bytes, int sends)
{
	char *at = (char *)data;

	while (bytes > 0) {
		ssize_t n = sends ? write(socket, at, bytes) : read(socket, at, bytes);

		if (n <= 0)
			exit(EXIT_FAILURE); /* the peer is gone */
		at += n;
		bytes -= (size_t)n;
	}
}

/* Everyone's block of `bytes` bytes, in the order of the workers: worker 0 collects and returns. */
static inline void pipes_gather(int worker, const void *mine, size_t bytes, void *blocks)
{
	char *all = (char *)blocks;

	memcpy(all + (size_t)worker * bytes, mine, bytes);
	if (worker) {
		pipes_move(pipes[worker][1], all + (size_t)worker * bytes, bytes, 1);
		pipes_move(pipes[worker][1], all, bytes * WORKERS, 0);
		return;
	}
	for (int w = 1; w < WORKERS; w++)
		pipes_move(pipes[w][0], all + (size_t)w * bytes, bytes, 0);
	for (int w = 1; w < WORKERS; w++)
		pipes_move(pipes[w][0], all, bytes * WORKERS, 1);
}

/* Keeps only this worker's ends, so that the others read the end of the stream when it is gone. */
static inline void pipes_keep(int worker)
{
	for (int w = 1; w < WORKERS; w++) {
		if (worker)
			close(pipes[w][0]);
		if (w != worker)
			close(pipes[w][1]);
	}
}

/* Every worker a process; this one is worker 0. Returns what main returns. */
static inline int pipes_workers(void (*work)(int worker))
{
	int failed = 0, status;

	for (int w = 1; w < WORKERS; w++) {
		if (socketpair(AF_UNIX, SOCK_STREAM, 0, pipes[w]))
			return EXIT_FAILURE;
	}
	for (int w = 1; w < WORKERS; w++) {
		if (fork() == 0) {
			pipes_keep(w);
			work(w);
			exit(EXIT_SUCCESS);
		}
	}
	pipes_keep(0);
	work(0);
	while (wait(&status) > 0)
		failed |= status;
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

#endif
