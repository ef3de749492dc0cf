/* psgd info: what this build and this machine have. SPDX-License-Identifier: MIT */
#include <argp.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <psgd/psgd.h>

#include "info.h"
#include "net_limits.h"

static json_t *versions(void)
{
	struct utsname system;
	json_t *all = json_object();

	json_object_set_new(all, "psgd",
		json_sprintf(
			"%d.%d.%d", PSGD_VERSION_MAJOR, PSGD_VERSION_MINOR, PSGD_VERSION_PATCH));
	json_object_set_new(all, "library", json_string(psgd_version_string()));
#if defined(__clang__)
	json_object_set_new(all, "compiler", json_string("clang " __clang_version__));
#else
	json_object_set_new(all, "compiler", json_string("gcc " __VERSION__));
#endif
	if (uname(&system) == 0)
		json_object_set_new(all, "system",
			json_sprintf("%s %s %s", system.sysname, system.release, system.machine));
	return all;
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

static json_t *features(char *flags)
{
	static const char *const interesting[] = {"sse4_2", "avx", "f16c", "fma", "avx2", "avx512f",
		"avx512bw", "avx512_bf16", "amx_bf16", "asimd", "asimdhp", "sve", "bf16"};
	json_t *list = json_array();
	char *save = NULL;

	for (char *flag = strtok_r(flags, " ", &save); flag; flag = strtok_r(NULL, " ", &save)) {
		for (size_t i = 0; i < CLI_COUNT(interesting); i++) {
			if (strcmp(flag, interesting[i]) == 0)
				json_array_append_new(list, json_string(flag));
		}
	}
	return list;
}

static json_t *processor(void)
{
	char *model = proc_value("/proc/cpuinfo", "model name");
	char *flags = proc_value("/proc/cpuinfo", "flags");
	char *memory = proc_value("/proc/meminfo", "MemTotal");
	struct psgd_device cpu = {0};
	json_t *all;

	if (!flags)
		flags = proc_value("/proc/cpuinfo", "Features");
	all = json_pack("{s:s, s:I, s:I}", "model", model ? model : "unknown", "cores_online",
		(json_int_t)sysconf(_SC_NPROCESSORS_ONLN), "memory_bytes",
		memory ? (json_int_t)strtoll(memory, NULL, 10) * 1024 : 0);
	if (flags)
		json_object_set_new(all, "features", features(flags));
	if (psgd_device_cpu(NULL, &cpu) == PSGD_OK)
		json_object_set_new(all, "kernels", json_string(cpu.ops->variant(cpu.self)));
	psgd_device_destroy(&cpu);
	free(model);
	free(flags);
	free(memory);
	return all;
}

/* What is not there has `why`. */
static json_t *absent(psgd_status status, const char *error)
{
	return json_pack(
		"{s:b, s:s}", "found", 0, "why", *error ? error : psgd_status_text(status));
}

static psgd_status alone(void *self, const void *send, void *recv, size_t bytes)
{
	(void)self;
	memcpy(recv, send, bytes);
	return PSGD_OK;
}

/* A group of one worker says whether the module is there and works. */
static json_t *gloo(void)
{
	struct psgd_oob oob = {.allgather = alone, .worker = 0, .n_workers = 1};
	struct psgd_gloo_options options = PSGD_INIT(psgd_gloo_options);
	struct psgd_transport transport = {0};
	char error[512] = "";
	psgd_status status;

	options.oob = &oob;
	options.module_dir = cli_module_dir();
	options.error = error;
	options.error_bytes = sizeof(error);
	status = psgd_transport_gloo(&options, &transport);
	psgd_transport_destroy(&transport);
	return status == PSGD_OK ? json_pack("{s:b}", "found", 1) : absent(status, error);
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
static json_t *tc_can(const struct psgd_link *link)
{
	char error[CLI_LIMITS_ERROR_BYTES];
	struct psgd_tc_options options = cli_tc_options("lo", error, sizeof(error));
	psgd_status status = psgd_tc_check(&options, link);

	if (status == PSGD_OK)
		return json_string("yes");
	return json_string(*error ? error : psgd_status_text(status));
}

static json_t *tc(void)
{
	char error[CLI_LIMITS_ERROR_BYTES];
	struct psgd_tc_options options = cli_tc_options("lo", error, sizeof(error));
	struct psgd_link rates = PSGD_INIT(psgd_link), delay = PSGD_INIT(psgd_link);
	struct psgd_tc_state state = PSGD_INIT(psgd_tc_state);
	size_t n = 0;
	psgd_status status = psgd_tc_show(&options, &state, 1, &n);

	if (status != PSGD_OK)
		return absent(status, error);
	rates.egress_bps = rates.ingress_bps = 1000000000;
	delay.delay_ns = 1000000;
	return json_pack("{s:b, s:b, s:o, s:o}", "found", 1, "net_admin", has_net_admin(), "rates",
		tc_can(&rates), "delay_and_loss", tc_can(&delay));
}

static json_t *cuda_device(uint32_t ordinal, const struct psgd_cuda_device *info)
{
	return json_pack("{s:I, s:s, s:o, s:I}", "ordinal", (json_int_t)ordinal, "name", info->name,
		"compute_capability", json_sprintf("%u.%u", info->major, info->minor),
		"memory_bytes", (json_int_t)info->memory_bytes);
}

/* Versions also where there is no device, if they are known. */
static json_t *cuda(void)
{
	struct psgd_cuda_device info = PSGD_INIT(psgd_cuda_device);
	char error[512] = "", version[16];
	uint32_t count = 0;
	psgd_status status =
		psgd_cuda_info(0, cli_module_dir(), &info, &count, error, sizeof(error));
	json_t *all =
		status ? absent(status, error)
		       : json_pack("{s:b, s:[o]}", "found", 1, "devices", cuda_device(0, &info));

	if (info.runtime)
		json_object_set_new(
			all, "runtime", json_string(cli_cuda_version(version, info.runtime)));
	if (info.driver)
		json_object_set_new(
			all, "driver", json_string(cli_cuda_version(version, info.driver)));
	for (uint32_t i = 1; !status && i < count; i++) {
		status = psgd_cuda_info(i, cli_module_dir(), &info, &count, error, sizeof(error));
		json_array_append_new(json_object_get(all, "devices"),
			status ? absent(status, error) : cuda_device(i, &info));
	}
	return all;
}

/* NCCL counts 22809 where it says 2.28.9. */
static json_t *nccl(void)
{
	char error[512] = "";
	uint32_t version = 0;
	psgd_status status = psgd_nccl_info(cli_module_dir(), &version, error, sizeof(error));

	if (status != PSGD_OK)
		return absent(status, error);
	return json_pack("{s:b, s:o}", "found", 1, "version",
		json_sprintf("%u.%u.%u", version / 10000, version / 100 % 100, version % 100));
}

static json_t *data_sets(void)
{
	static const struct {
		const char *name, *folder;
	} known[] = {{"fashion-mnist", "/usr/share/datasets/fashion-mnist"}};
	json_t *list = json_array();
	char path[PATH_MAX];

	for (size_t i = 0; i < CLI_COUNT(known); i++) {
		snprintf(path, sizeof(path), "%s/train-images-idx3-ubyte.gz", known[i].folder);
		json_array_append_new(
			list, json_pack("{s:s, s:s, s:b}", "name", known[i].name, "folder",
				      known[i].folder, "found", access(path, R_OK) == 0));
	}
	return list;
}

static json_t *collect(void)
{
	char trainer[PATH_MAX];
	json_t *all = versions();

	json_object_set_new(all, "processor", processor());
	json_object_set_new(all, "modules",
		json_pack("{s:o, s:o, s:o, s:o}", "gloo", gloo(), "tc", tc(), "cuda", cuda(),
			"nccl", nccl()));
	json_object_set_new(all, "trainer",
		cli_find_trainer(trainer, sizeof(trainer)) ? json_string(trainer) : json_null());
	json_object_set_new(all, "data_sets", data_sets());
	return all;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	if (key == 'j')
		*(bool *)state->input = true;
	else if (key == ARGP_KEY_ARG)
		argp_error(state, "'%s': no argument is expected", arg);
	else
		return ARGP_ERR_UNKNOWN;
	return 0;
}

int cli_info(int argc, char **argv)
{
	static const struct argp_option options[] = {{"json", 'j', 0, 0, "Print JSON", 0}, {0}};
	static const struct argp argp = {.options = options,
		.parser = parse,
		.doc = "Prints versions, the processor, and the modules and data sets found."};
	bool as_json = false;
	json_t *all;

	if (argp_parse(&argp, argc, argv, 0, NULL, &as_json))
		return CLI_USAGE;
	all = collect();
	if (as_json) {
		json_dumpf(all, stdout, JSON_INDENT(2));
		putchar('\n');
	} else {
		cli_info_print(all);
	}
	json_decref(all);
	return CLI_OK;
}
