/* psgd info: what this build and this machine have. SPDX-License-Identifier: MIT */
#include <argp.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <psgd/psgd.h>

#include "net_limits.h"

static void print_versions(void)
{
	struct utsname system;

	printf("psgd        %d.%d.%d, library %s\n", PSGD_VERSION_MAJOR, PSGD_VERSION_MINOR,
		PSGD_VERSION_PATCH, psgd_version_string());
#if defined(__clang__)
	printf("compiler    clang %s\n", __clang_version__);
#else
	printf("compiler    gcc %s\n", __VERSION__);
#endif
	if (uname(&system) == 0)
		printf("system      %s %s %s\n", system.sysname, system.release, system.machine);
}

/* The first value of a key in /proc/cpuinfo or /proc/meminfo, NULL if there is none. */
static char *proc_value(const char *path, const char *key)
{
	FILE *file = fopen(path, "re");
	char *line = NULL, *found = NULL;
	size_t size = 0, length = strlen(key);

	while (file && !found && getline(&line, &size, file) > 0) {
		char *colon = strchr(line, ':');

		if (!colon || strncmp(line, key, length) != 0 ||
			strcspn(line + length, " \t:") != 0)
			continue;
		colon += 1 + strspn(colon + 1, " \t");
		colon[strcspn(colon, "\n")] = '\0';
		found = strdup(colon);
	}
	free(line);
	if (file)
		fclose(file);
	return found;
}

static void print_features(char *flags)
{
	static const char *const interesting[] = {"sse4_2", "avx", "f16c", "fma", "avx2", "avx512f",
		"avx512bw", "avx512_bf16", "amx_bf16", "asimd", "asimdhp", "sve", "bf16"};
	char *save = NULL;

	printf("            features:");
	for (char *flag = strtok_r(flags, " ", &save); flag; flag = strtok_r(NULL, " ", &save)) {
		for (size_t i = 0; i < CLI_COUNT(interesting); i++) {
			if (strcmp(flag, interesting[i]) == 0)
				printf(" %s", flag);
		}
	}
	putchar('\n');
}

static void print_machine(void)
{
	char *model = proc_value("/proc/cpuinfo", "model name");
	char *flags = proc_value("/proc/cpuinfo", "flags");
	char *memory = proc_value("/proc/meminfo", "MemTotal");

	if (!flags)
		flags = proc_value("/proc/cpuinfo", "Features");
	printf("processor   %s, %ld cores online\n", model ? model : "unknown",
		sysconf(_SC_NPROCESSORS_ONLN));
	if (flags)
		print_features(flags);
	printf("memory      %.1f GiB\n", memory ? strtod(memory, NULL) / 1048576 : 0.0);
	free(model);
	free(flags);
	free(memory);
}

static void print_kernels(void)
{
	struct psgd_device cpu = {0};

	if (psgd_device_cpu(NULL, &cpu) == PSGD_OK)
		printf("kernels     %s\n", cpu.ops->variant(cpu.self));
	psgd_device_destroy(&cpu);
}

static psgd_status alone(void *self, const void *send, void *recv, size_t bytes)
{
	(void)self;
	memcpy(recv, send, bytes);
	return PSGD_OK;
}

/* A group of one worker says whether the module is there and works. */
static void print_gloo(void)
{
	struct psgd_oob oob = {.allgather = alone, .worker = 0, .n_workers = 1};
	struct psgd_gloo_options options = PSGD_INIT(psgd_gloo_options);
	struct psgd_transport transport = {0};
	char error[512] = "";
	psgd_status status;

	options.oob = &oob;
	options.error = error;
	options.error_bytes = sizeof(error);
	status = psgd_transport_gloo(&options, &transport);
	if (status == PSGD_OK)
		printf("  gloo      found\n");
	else
		printf("  gloo      %s\n", *error ? error : psgd_status_text(status));
	psgd_transport_destroy(&transport);
}

/* May this process change the network? */
static bool has_net_admin(void)
{
	char *effective = proc_value("/proc/self/status", "CapEff");
	bool has = effective && (strtoull(effective, NULL, 16) >> CAP_NET_ADMIN & 1);

	free(effective);
	return has;
}

/* Could this process limit the loopback, which is always there? "yes", or why not. */
static const char *tc_can(const struct psgd_link *link, char *error, size_t bytes)
{
	struct psgd_tc_options options = cli_tc_options("lo", error, bytes);
	psgd_status status = psgd_tc_check(&options, link);

	if (status == PSGD_OK)
		return "yes";
	return *error ? error : psgd_status_text(status);
}

static void print_tc(void)
{
	char error[CLI_LIMITS_ERROR_BYTES];
	struct psgd_tc_options options = cli_tc_options("lo", error, sizeof(error));
	struct psgd_link rates = PSGD_INIT(psgd_link), delay = PSGD_INIT(psgd_link);
	struct psgd_tc_state state = PSGD_INIT(psgd_tc_state);
	size_t n = 0;
	psgd_status status = psgd_tc_show(&options, &state, 1, &n);

	if (status != PSGD_OK) {
		printf("  tc        %s\n", *error ? error : psgd_status_text(status));
		return;
	}
	rates.egress_bps = rates.ingress_bps = 1000000000;
	delay.delay_ns = 1000000;
	printf("  tc        found, %s CAP_NET_ADMIN; rates: %s", has_net_admin() ? "with" : "no",
		tc_can(&rates, error, sizeof(error)));
	printf("; delay and loss: %s\n", tc_can(&delay, error, sizeof(error)));
}

static void print_modules(void)
{
	static const char *const absent[] = {"cuda", "nccl"};
	char trainer[PATH_MAX];

	printf("modules\n");
	print_gloo();
	print_tc();
	for (size_t i = 0; i < CLI_COUNT(absent); i++)
		printf("  %-9s not in this build\n", absent[i]);
	printf("trainer     %s\n", cli_find_trainer(trainer, sizeof(trainer))
					   ? trainer
					   : "psgd-train-image: not found");
}

static void print_data_sets(void)
{
	static const struct {
		const char *name, *folder;
	} known[] = {{"fashion-mnist", "/usr/share/datasets/fashion-mnist"}};
	char path[PATH_MAX];

	printf("data sets\n  synthetic      always there\n");
	for (size_t i = 0; i < CLI_COUNT(known); i++) {
		snprintf(path, sizeof(path), "%s/train-images-idx3-ubyte.gz", known[i].folder);
		printf("  %-14s %s%s\n", known[i].name, known[i].folder,
			access(path, R_OK) == 0 ? ""
						: " (not there: apt-get install "
						  "dataset-fashion-mnist)");
	}
}

int cli_info(int argc, char **argv)
{
	static const struct argp argp = {
		.doc = "Prints versions, the processor, and the modules and data sets found."};

	if (argp_parse(&argp, argc, argv, 0, NULL, NULL))
		return CLI_USAGE;
	print_versions();
	print_machine();
	print_kernels();
	print_modules();
	print_data_sets();
	return CLI_OK;
}
