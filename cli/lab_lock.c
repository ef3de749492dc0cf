/* Who may make and remove labs, and who is in one. SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lab.h"

int lab_check_rights(void)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3] = {0};
	const uint32_t needed = 1U << CAP_NET_ADMIN | 1U << CAP_SYS_ADMIN;

	if (syscall(SYS_capget, &header, sets) == 0 && (sets[0].effective & needed) == needed)
		return CLI_OK;
	cli_complain_as("lab",
		"needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN); without it `psgd run "
		"--standalone --nproc-per-node N' emulates the link of network_limits");
	return CLI_ENVIRONMENT;
}

/* Shared, so that namespaces come and go in all mount namespaces. It stays, as `ip' leaves it. */
static bool make_folder(void)
{
	bool bound = false;

	if (mkdir(LAB_FOLDER, 0755) < 0 && errno != EEXIST)
		return false;
	while (mount("", LAB_FOLDER, "none", MS_SHARED | MS_REC, NULL) < 0) {
		if (errno != EINVAL || bound ||
			mount(LAB_FOLDER, LAB_FOLDER, "none", MS_BIND | MS_REC, NULL) < 0)
			return false;
		bound = true;
	}
	return true;
}

int lab_lock(bool make, int *lock)
{
	*lock = -1;
	if (!make && access(LAB_FOLDER, F_OK) != 0 && errno == ENOENT)
		return CLI_OK;
	if (make_folder())
		*lock = open(LAB_FOLDER, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (*lock >= 0 && flock(*lock, LOCK_EX) == 0)
		return CLI_OK;
	cli_complain_as("lab", "%s: %s", LAB_FOLDER, strerror(errno));
	return CLI_ENVIRONMENT;
}

bool lab_hold(const struct lab_space *hub)
{
	return flock(hub->fd, LOCK_EX | LOCK_NB) == 0;
}

bool lab_is_left_over(const struct lab *lab)
{
	const struct lab_space *hub = lab_hub(lab);

	if (lab->n == 0)
		return false;
	if (!hub || hub->fd < 0 || !hub->mark.built)
		return true;
	return !hub->mark.kept && lab_hold(hub);
}
