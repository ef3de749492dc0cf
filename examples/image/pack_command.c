/* psgd-train-image --pack. SPDX-License-Identifier: MIT */
#include "pack_command.h"

#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

#include "pack.h"

#define SHOW_EVERY 500

struct watch {
	bool terminal;
	struct image_error *error;
};

/* Signals wait until now, so that an interrupted packing leaves nothing, too. */
static psgd_status on_progress(void *user, size_t done, size_t total)
{
	const struct watch *watch = user;
	sigset_t pending;

	(void)sigpending(&pending);
	if (sigismember(&pending, SIGINT) || sigismember(&pending, SIGTERM) ||
		sigismember(&pending, SIGHUP))
		return image_fail(watch->error, PSGD_ERR_FAILED, "interrupted");
	if (watch->terminal && done % SHOW_EVERY == 0)
		fprintf(stderr, "\rpacking image %zu of %zu", done + 1, total);
	return PSGD_OK;
}

/* What the caller ignores, as nohup does with SIGHUP, stays ignored. */
static void hold(sigset_t *held, int number)
{
	struct sigaction now;

	if (!sigaction(number, NULL, &now) && now.sa_handler != SIG_IGN)
		(void)sigaddset(held, number);
}

psgd_status pack_command(const char *from, const char *to, struct image_error *error)
{
	struct watch watch = {.terminal = isatty(STDERR_FILENO) == 1, .error = error};
	struct pack_summary packed;
	sigset_t held, before;
	psgd_status status;

	(void)sigemptyset(&held);
	hold(&held, SIGINT);
	hold(&held, SIGTERM);
	hold(&held, SIGHUP);
	(void)sigprocmask(SIG_BLOCK, &held, &before);
	status = pack_images(from, to, on_progress, &watch, &packed, error);
	if (watch.terminal)
		fputs("\r\033[K", stderr);
	/* One that has come ends the process here. */
	(void)sigprocmask(SIG_SETMASK, &before, NULL);
	if (status)
		return status;
	printf("packed %zu training and %zu test images of %zu classes, %" PRIu64 " bytes\n"
	       "use it with: dataset.name=cifar10 dataset.root=%s model.num_classes=%zu\n",
		packed.n_train, packed.n_test, packed.n_classes, packed.bytes, to,
		packed.n_classes);
	if (fflush(stdout) != 0 || ferror(stdout))
		return image_fail(error, PSGD_ERR_IO, "cannot write the summary");
	return PSGD_OK;
}
