/* Configuration files in a folder of their own; every test runs in it. */
#ifndef TESTS_CONFIG_SUPPORT_H
#define TESTS_CONFIG_SUPPORT_H

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <psgd/experiment/config.h>

/* Seven lines: a key that a test adds behind it stands in line 8. */
#define SMALLEST                                                                                   \
	"model:\n"                                                                                 \
	"  name: mlp\n"                                                                            \
	"dataset: {name: synthetic, batch_size: 8}\n"                                              \
	"training:\n"                                                                              \
	"  epochs: 2\n"                                                                            \
	"  learning_rate: 0.1\n"                                                                   \
	"seed: 7\n"

static char config_folder[] = "/tmp/psgd-config-XXXXXX";

static inline void enter_folder(void)
{
	ck_assert_ptr_nonnull(mkdtemp(config_folder));
	ck_assert_int_eq(chdir(config_folder), 0);
}

static inline void leave_folder(void)
{
	static const char *const names[] = {"t.yaml", "again.yaml", "events.jsonl"};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		unlink(names[i]);
	ck_assert_int_eq(rmdir(config_folder), 0);
}

static inline void write_bytes(const char *name, const char *text, size_t n)
{
	FILE *file = fopen(name, "w");

	ck_assert_ptr_nonnull(file);
	ck_assert_uint_eq(fwrite(text, 1, n, file), n);
	ck_assert_int_eq(fclose(file), 0);
}

static inline void write_text(const char *name, const char *text)
{
	write_bytes(name, text, strlen(text));
}

/* Loads a file that must be right, with at most one override. */
static inline struct psgd_config *load_file(const char *name, const char *override)
{
	struct psgd_config *config;
	char error[500];
	psgd_status status =
		psgd_config_load(name, &override, override ? 1 : 0, &config, error, sizeof(error));

	ck_assert_msg(status == PSGD_OK, "%d: %s", status, error);
	ck_assert_str_eq(error, "");
	return config;
}

static inline struct psgd_config *load_text(const char *text, const char *override)
{
	write_text("t.yaml", text);
	return load_file("t.yaml", override);
}

struct refusal {
	const char *text;     /* of the file, behind SMALLEST unless whole */
	const char *override; /* NULL: none */
	const char *message;
};

/* Each of them gets exactly its one line. */
static inline void refused(const struct refusal *cases, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct psgd_config *config = (void *)&i;
		char error[600], text[1000];
		psgd_status status;

		snprintf(text, sizeof(text), SMALLEST "%s\n", cases[i].text);
		write_text("t.yaml", text);
		status = psgd_config_load("t.yaml", &cases[i].override, cases[i].override ? 1 : 0,
			&config, error, sizeof(error));
		ck_assert_str_eq(error, cases[i].message);
		ck_assert_int_eq(status, PSGD_ERR_CONFIG);
		ck_assert_ptr_null(config);
	}
}

#endif
