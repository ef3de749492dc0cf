/* Each experiment is `psgd run`, as a process of its own. SPDX-License-Identifier: MIT */
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "batch.h"
#include "child.h"

static int become_run(void *user)
{
	char **arguments = user;

	execv("/proc/self/exe", arguments);
	cli_complain("cannot start psgd: %s", strerror(errno));
	return CLI_ENVIRONMENT;
}

int batch_process(char **arguments, int *signal)
{
	struct cli_held held;
	int code;

	cli_hold_signals(&held);
	code = cli_in_child(&held, become_run, arguments, signal);
	if (code < 0) {
		cli_complain("cannot start psgd: %s", strerror(errno));
		code = CLI_ENVIRONMENT;
	}
	cli_release_signals(&held);
	return code;
}

bool batch_port_is_free(const struct psgd_launch *launch, uint32_t port)
{
	const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
	struct addrinfo *list = NULL;
	char service[16];
	bool in_use = false;

	snprintf(service, sizeof(service), "%u", port);
	if (getaddrinfo(launch->master_addr, service, &hints, &list) != 0)
		return true;
	for (const struct addrinfo *a = list; a && !in_use; a = a->ai_next) {
		const int on = 1;
		int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

		if (fd < 0)
			continue;
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
		in_use = (bind(fd, a->ai_addr, a->ai_addrlen) < 0 || listen(fd, 1) < 0) &&
			 errno == EADDRINUSE;
		close(fd);
	}
	freeaddrinfo(list);
	return !in_use;
}
