/* The shipped configurations, with the real constructors; and that their README is complete. */
#include <glob.h>

#include "experiment/config_schema.h"
#include "experiment/config_support.h"
#include "support/suite.h"

/* Makes all objects of a file, as psgd_stack_open does. */
static void check_file(const char *path)
{
	struct psgd_config *config = load_file(path, NULL);
	struct psgd_compressor compressor;
	struct psgd_controller controller;
	struct psgd_link link;
	struct psgd_shaper shaper;
	bool limited;
	char error[300];
	psgd_status status;

	ck_assert_int_eq(psgd_config_compressor(config, &compressor), PSGD_OK);
	ck_assert_str_eq(
		compressor.ops->name, config->compression.enable_powerSGD ? "powersgd" : "dense");
	status = psgd_config_controller(config, &controller, error, sizeof(error));
	ck_assert_msg(status == PSGD_OK, "%s: %s", path, error);
	ck_assert((controller.ops != NULL) == config->compression.enable_powerSGD);
	ck_assert_int_eq(psgd_config_link(config, &link, &limited), PSGD_OK);
	if (limited) {
		ck_assert_int_eq(psgd_shaper_model(&link, &shaper), PSGD_OK);
		psgd_shaper_destroy(&shaper);
	}
	psgd_controller_destroy(&controller);
	psgd_compressor_destroy(&compressor);
	psgd_config_free(&config);
}

START_TEST(shipped_files)
{
	glob_t found = {0};

	ck_assert_int_eq(glob(CONFIGS "/*.yaml", 0, NULL, &found), 0);
	ck_assert_int_eq(glob(CONFIGS "/*/*.yaml", GLOB_APPEND, NULL, &found), 0);
	ck_assert_uint_ge(found.gl_pathc, 12);
	for (size_t i = 0; i < found.gl_pathc; i++)
		check_file(found.gl_pathv[i]);
	globfree(&found);
}
END_TEST

/* The older tool's keys: what they mean together, and what is said of those that do nothing. */
START_TEST(older_keys_load)
{
	struct psgd_config *c = load_file(CONFIGS "/seed_all_keys.yaml", NULL);
	char summary[300];

	ck_assert_str_eq(c->name, "seed_all_keys");
	ck_assert_uint_eq(c->model.num_classes, 100);
	ck_assert_uint_eq(c->training.epochs, 300);
	ck_assert(c->powerSGD.orthogonalization_epsilon == 1e-8);
	ck_assert_uint_eq(c->compression.start_power_iterations, 10);
	ck_assert_uint_eq(c->compression.calibration.ranks_count, 8);
	ck_assert(!c->compression.calibration.use_fixed_rank_after_calibration);
	ck_assert_ptr_null(c->compression.rank_schedule.ranges);
	ck_assert_uint_eq(c->adaptive_training.stages_count, 2);
	ck_assert_ptr_null(c->network_limits.target_ip);
	ck_assert_int_eq(psgd_config_summary(c, summary, sizeof(summary)), PSGD_OK);
	ck_assert_str_eq(summary,
		"dense while the gradient changes by 50 % or more in 10 epochs, else r=1, at most "
		"the largest of r=1, r=2, r=3, r=4, r=5, r=6, r=7, r=8 or dense that leaves at "
		"most 50 % of a step exposed, measured once at step 0");
	ck_assert_str_eq(psgd_config_notices(c),
		"accordion.ema_beta: inactive, it acts with accordion.rule: ema\n"
		"accordion.critical_factor: inactive, it acts with accordion.rule: ema\n"
		"accordion.relaxed_factor: inactive, it acts with accordion.rule: ema\n"
		"accordion.update_interval: inactive, it acts with accordion.rule: ema\n"
		"adaptive_training.stages: inactive, adaptive_training.enable is false\n");
	ck_assert_int_eq(psgd_config_summary(c, NULL, 0), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_config_summary(NULL, summary, 9), PSGD_ERR_INVALID);
	psgd_config_free(&c);
}
END_TEST

/* Files that are compared with each other: they may differ in what they compare. */
struct family {
	const char *folder, *prefix;
	struct {
		const char *method;
		unsigned rank, max_iterations;
	} file[6]; /* ended by NULL */
};

static const struct family families[] = {
	{"quickstart", "",
		{{"dense", 0, 40}, {"fixed_r1", 1, 0}, {"fixed_r4", 4, 0}, {"fixed_r8", 8, 0},
			{"adaptive", 0, 0}}},
	{"cifar10", "resnet20_",
		{{"dense", 0, 300}, {"r1", 1, 300}, {"r4", 4, 300}, {"adaptive", 0, 300}}},
};

static void check_alike(const struct psgd_config *a, const struct psgd_config *b)
{
	ck_assert_uint_eq(a->seed, b->seed);
	ck_assert_str_eq(a->model.name, b->model.name);
	ck_assert_str_eq(a->dataset.name, b->dataset.name);
	ck_assert_str_eq(a->dataset.augment, b->dataset.augment);
	ck_assert_uint_eq(a->dataset.batch_size, b->dataset.batch_size);
	ck_assert_uint_eq(a->training.epochs, b->training.epochs);
	ck_assert(a->training.learning_rate == b->training.learning_rate);
	ck_assert(a->training.weight_decay == b->training.weight_decay);
	ck_assert_str_eq(a->training.scheduler, b->training.scheduler);
	ck_assert(a->network_limits.egress_mbps == b->network_limits.egress_mbps);
	ck_assert(a->network_limits.latency_ms == b->network_limits.latency_ms);
}

START_TEST(families_are_fair)
{
	const struct family *f = &families[_i];
	struct psgd_config *first = NULL;

	for (size_t i = 0; f->file[i].method; i++) {
		struct psgd_config *c;
		char path[500], dir[100], name[50];

		snprintf(name, sizeof(name), "%s%s", f->prefix, f->file[i].method);
		snprintf(path, sizeof(path), CONFIGS "/%s/%s.yaml", f->folder, name);
		snprintf(dir, sizeof(dir), "results/%s/%s", f->folder, name);
		c = load_file(path, NULL);
		ck_assert_str_eq(c->name, name);
		ck_assert_str_eq(c->save_dir, dir);
		ck_assert_uint_eq(c->training.max_iterations, f->file[i].max_iterations);
		ck_assert_uint_eq(
			c->compression.use_fixed_rank ? c->compression.fixed_rank_value : 0,
			f->file[i].rank);
		if (first)
			check_alike(first, c);
		else
			first = c;
		if (c != first)
			psgd_config_free(&c);
	}
	psgd_config_free(&first);
}
END_TEST

/* One row of a table of README.md: "| `key` | type | default | unit | meaning |". */
struct row {
	char key[100], preset[200];
};

static bool row_of(const char *line, struct row *out)
{
	const char *at = line;

	if (sscanf(line, "| `%99[A-Za-z0-9_]` |", out->key) != 1)
		return false;
	/* Words in a type's list are apart by commas, so " | " ends a column. */
	for (int column = 0; at && column < 2; column++)
		at = strstr(at + 1, " | ");
	return at && sscanf(at, " | %199[^|]", out->preset) == 1;
}

/* Counts the rows of a key in its section, and compares the default. */
static int rows_of(const char *section, const char *name, const char *preset)
{
	FILE *file = fopen(CONFIGS "/README.md", "r");
	char line[500], heading[200] = "";
	int n = 0;

	ck_assert_ptr_nonnull(file);
	while (fgets(line, sizeof(line), file)) {
		struct row row;

		if (sscanf(line, "## %199[^\n]", heading) == 1 || strcmp(heading, section) != 0 ||
			!row_of(line, &row) || strcmp(row.key, name) != 0)
			continue;
		n++;
		row.preset[strcspn(row.preset, "\n")] = '\0';
		while (*row.preset && row.preset[strlen(row.preset) - 1] == ' ')
			row.preset[strlen(row.preset) - 1] = '\0';
		if (preset)
			ck_assert_msg(strcmp(preset, row.preset) == 0, "%s.%s: README says '%s'",
				section, name, row.preset);
	}
	fclose(file);
	return n;
}

static void documented(const cyaml_schema_value_t *schema, const char *path)
{
	for (const cyaml_schema_field_t *f = schema->mapping.fields; f->key; f++) {
		const struct psgd__key *key;
		const char *preset = NULL;
		char child[200], section[200];

		snprintf(child, sizeof(child), "%s%s%s", path, *path ? "." : "", f->key);
		snprintf(section, sizeof(section), "%s", *path ? path : "top");
		section[strcspn(section, "[")] = '\0';
		if (f->value.type == CYAML_MAPPING) {
			documented(&f->value, child);
			continue;
		}
		key = psgd__config_key(child);
		if (key->preset)
			preset = key->preset;
		else if (key->flags & PSGD__KEY_REQUIRED)
			preset = "required";
		ck_assert_msg(rows_of(section, f->key, preset) == 1,
			"README.md must have one row for %s", child);
		if (f->value.type == CYAML_SEQUENCE &&
			f->value.sequence.entry->type == CYAML_MAPPING) {
			strcat(child, "[]");
			documented(f->value.sequence.entry, child);
		}
	}
}

START_TEST(readme_has_every_key)
{
	documented(&psgd__config_schema, "");
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("config files");
	TCase *t = tcase_create("shipped");

	tcase_add_test(t, shipped_files);
	tcase_add_test(t, older_keys_load);
	tcase_add_loop_test(t, families_are_fair, 0, 2);
	tcase_add_test(t, readme_has_every_key);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
