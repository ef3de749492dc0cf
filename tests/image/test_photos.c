/*
 * A data set of photographs through its loader: the same samples for any number of threads and
 * workers, in any order of asking, with bad files among them or not.
 */
#include "examples/image/crop.h"
#include "examples/image/folder.h"
#include "examples/image/loader.h"
#include "photo_files.h"
#include "support/suite.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <turbojpeg.h>
#include <unistd.h>

#define SIDE 16
#define VALUES ((size_t)SIDE * SIDE * 3)
#define TRAIN 26
#define TEST 9
#define BATCH 6 /* of all workers */
#define STEPS (TRAIN / BATCH)
#define EPOCHS 3

static struct image_error error;
static char root[256];

static const char *const names[] = {"c/%02u.JPEG", "a/%02u.jpg", "b/%02u.JpEg"};

/* Three classes, in turn; number 4 of the training images is larger than the others by far. */
static void files_create(void)
{
	pack_files_create();
	work_path("in", root);
	for (unsigned i = 0; i < TRAIN + TEST; i++) {
		unsigned number = i < TRAIN ? i : i - TRAIN;
		char file[32], name[64];
		struct photo photo = photo_encode(i % 5 == 1 ? PHOTO_GREY : PHOTO_COLOUR,
			i == 4 ? 160 : 20 + i * 7 % 11, i == 4 ? 140 : 18 + i * 5 % 13, i);

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
		(void)snprintf(file, sizeof(file), names[number % 3], number);
#pragma GCC diagnostic pop
		(void)snprintf(name, sizeof(name), "in/%s/%s", i < TRAIN ? "train" : "val", file);
		photo_write(name, &photo);
		photo_free(&photo);
	}
	write_bytes("in/train/a/notes.txt", "no image", 8);
	write_bytes("in/train/b/.hidden.jpg", "no image", 8);
}

struct setting {
	unsigned threads, ahead;
	uint32_t n_workers;
	bool skip_bad;
	char *augment;
};

static char imagenet[] = "imagenet", resized[] = "resized_crop_flip", none[] = "none";

static struct psgd_config config_of(const struct setting *setting)
{
	struct psgd_config config = {.seed = 7, .model = {.num_classes = 3}};

	config.dataset = (struct psgd_config_dataset){.name = imagenet,
		.root = root,
		.augment = setting->augment,
		.batch_size = BATCH / setting->n_workers,
		.image_size = SIDE,
		.loader_threads = setting->threads,
		.prefetch_batches = setting->ahead,
		.skip_bad = setting->skip_bad};
	return config;
}

static const struct setting plain = {1, 1, 1, false, resized};

/* All that a run sees: EPOCHS epochs, the test split after each. */
struct seen {
	float train[EPOCHS * STEPS * BATCH][VALUES];
	uint16_t labels[EPOCHS * STEPS * BATCH];
	float test[TEST][VALUES]; /* of the last epoch; good ones, those of worker 0 first */
	uint16_t test_labels[TEST];
	size_t n_test;
	uint64_t skipped;
};

static struct seen one, more;

/* One worker's part of it, at its places in the global batches. */
static void run_worker(const struct setting *setting, uint32_t worker, struct seen *seen)
{
	static float images[TEST * BATCH][VALUES];
	struct psgd_config config = config_of(setting);
	uint16_t labels[TEST * BATCH];
	struct loader loader;
	size_t n_good;

	ck_assert_msg(loader_open(&loader, &config, worker, setting->n_workers, &error) == PSGD_OK,
		"%s", error.text);
	ck_assert_uint_eq(loader.sampler.iterations, STEPS);
	for (size_t step = 0; step < EPOCHS * STEPS; step++) {
		ck_assert_msg(loader_train(&loader, step / STEPS, step % STEPS, images[0], labels,
				      &error) == PSGD_OK,
			"%s", error.text);
		for (size_t i = 0; i < BATCH / setting->n_workers; i++) {
			size_t at = step * BATCH + i * setting->n_workers + worker;

			memcpy(seen->train[at], images[i], sizeof(images[i]));
			seen->labels[at] = labels[i];
		}
		for (size_t i = 0; step % STEPS == STEPS - 1 && loader_test_size(&loader, i) > 0;
			i++) {
			ck_assert_int_eq(
				loader_test(&loader, i, images[0], labels, &n_good, &error),
				PSGD_OK);
			if (step / STEPS < EPOCHS - 1)
				continue;
			memcpy(seen->test[seen->n_test], images, n_good * sizeof(images[0]));
			memcpy(&seen->test_labels[seen->n_test], labels,
				n_good * sizeof(labels[0]));
			seen->n_test += n_good;
		}
	}
	seen->skipped += loader.skipped;
	loader_close(&loader);
}

static void run(const struct setting *setting, struct seen *seen)
{
	memset(seen, 0, sizeof(*seen));
	for (uint32_t worker = 0; worker < setting->n_workers; worker++)
		run_worker(setting, worker, seen);
}

static const struct setting settings[] = {
	{2, 1, 1, false, resized},
	{4, 3, 1, false, resized},
	{1, 7, 1, false, resized},
	{3, 40, 1, false, resized},
	{1, 2, 2, false, resized},
	{2, 3, 3, false, resized},
	{4, 4, 6, false, resized},
};

#define N_SETTINGS ((int)(sizeof(settings) / sizeof(settings[0])))

START_TEST(test_threads_and_workers)
{
	run(&plain, &one);
	run(&settings[_i], &more);
	ck_assert_uint_eq(one.n_test, TEST);
	ck_assert_mem_eq(&one, &more, sizeof(one));
}
END_TEST

/* Two in an epoch's middle, one at its end, some beside each other, and two of the test split. */
static void spoil(void)
{
	static const char *const text[] = {"train/c/00.JPEG", "train/a/13.jpg", "train/b/08.JpEg",
		"train/b/23.JpEg", "val/a/01.jpg", "val/c/06.JPEG"};
	char name[64], path[256];

	for (size_t i = 0; i < 6; i++) {
		(void)snprintf(name, sizeof(name), "in/%s", text[i]);
		write_bytes(name, "not an image", i % 2 ? 12 : 0);
	}
	work_path("in/train/b/11.JpEg", path);
	ck_assert_int_eq(truncate(path, 300), 0);
}

static bool is_bad(uint32_t id, const struct tree_split *split)
{
	static const char *const bad[] = {"00.JPEG", "13.jpg", "08.JpEg", "23.JpEg", "11.JpEg"};

	for (size_t i = 0; i < 5; i++)
		if (strcmp(split->entries[id].name, bad[i]) == 0)
			return true;
	return false;
}

START_TEST(test_bad_for_all)
{
	struct setting alone = plain, many = settings[_i];

	alone.skip_bad = many.skip_bad = true;
	spoil();
	run(&alone, &one);
	run(&many, &more);
	ck_assert_uint_eq(one.n_test, TEST - 2);
	ck_assert_mem_eq(&one, &more, sizeof(one));
}
END_TEST

/* The pixels of one image, step by step from its file. */
static void expose(const struct data *data, const char *name, const struct crop *part,
	const struct crop *within, float *out)
{
	static uint8_t file[65536], pixels[160 * 140 * 3], square[VALUES];
	tjhandle decoder = tjInitDecompress();
	struct resizer resizer = {0};
	int cols, rows, subsampling, colours;
	size_t n = read_bytes(name, file, sizeof(file));
	struct picture picture = {.pixels = pixels};

	ck_assert_int_eq(
		tjDecompressHeader3(decoder, file, n, &cols, &rows, &subsampling, &colours), 0);
	ck_assert_int_eq(tjDecompress2(decoder, file, n, pixels, cols, 0, rows, TJPF_RGB,
				 TJFLAG_ACCURATEDCT),
		0);
	picture.cols = (size_t)cols;
	picture.rows = (size_t)rows;
	ck_assert_int_eq(resize(&resizer, &picture, part, within, SIDE, square), PSGD_OK);
	data_normalise(data, square, (size_t)SIDE * SIDE, out);
	resizer_finish(&resizer);
	(void)tjDestroy(decoder);
}

static void size_of(const char *name, size_t *cols, size_t *rows)
{
	static uint8_t file[65536];
	struct encoded image = {name, file, read_bytes(name, file, sizeof(file))};
	struct decoder decoder = {0};

	ck_assert_int_eq(decode_size(&decoder, &image, cols, rows, &error), PSGD_OK);
	decoder_finish(&decoder);
}

/* Of strong waves, three pixels of the result long: a wrong place makes ten times as much. */
static void expect_near(const float *got, const float *expected)
{
	double square = 0.0;

	for (size_t i = 0; i < VALUES; i++)
		square += pow((double)(got[i] - expected[i]) * 255.0 * 0.225, 2);
	ck_assert_double_lt(sqrt(square / VALUES), 4.0);
}

/*
 * By the rules: the epoch's order, from it the next good image at each place, its part by the
 * place. With nothing bad these are simply the images in order.
 */
START_TEST(test_law)
{
	struct setting setting = plain;
	struct psgd_config config;
	struct sampler sampler;
	struct loader loader;
	uint64_t skipped = 0;

	setting.skip_bad = _i == 1;
	setting.augment = _i == 2 ? none : resized;
	if (_i == 1)
		spoil();
	config = config_of(&setting);
	run(&setting, &one);
	ck_assert_int_eq(loader_open(&loader, &config, 0, 1, &error), PSGD_OK);
	ck_assert_int_eq(sampler_init(&sampler, TRAIN, BATCH, 0, 1, 7, &error), PSGD_OK);
	for (size_t place = 0; place < EPOCHS * STEPS * BATCH; place++) {
		const struct tree_split *split = &loader.data.folder->tree.train;
		size_t epoch = place / (STEPS * BATCH), at = place % (STEPS * BATCH), cols, rows;
		static float expected[VALUES];
		struct crop part, within;
		char name[64];
		uint32_t id;

		sampler_start(&sampler, epoch);
		for (size_t k = at; is_bad(id = sampler.order[k % TRAIN], split) && _i == 1; k++)
			skipped++;
		(void)snprintf(name, sizeof(name), "in/train/%c/%s",
			"abc"[split->entries[id].class], split -> entries[id].name);
		size_of(name, &cols, &rows);
		within = part = crop_draw(crop_key(7, epoch), at, cols, rows);
		if (_i == 2) {
			part = crop_middle(SIDE, cols, rows);
			within = (struct crop){0, 0, (double)cols, (double)rows, false};
		}
		ck_assert_uint_eq(one.labels[place], split->entries[id].class);
		expose(&loader.data, name, &part, &within, expected);
		if (cols == 160) /* decoded smaller on the way */
			expect_near(one.train[place], expected);
		else
			ck_assert_mem_eq(one.train[place], expected, sizeof(expected));
	}
	if (_i == 1)
		skipped += (uint64_t)2 * EPOCHS; /* of the test split */
	ck_assert_uint_eq(one.skipped, skipped);
	sampler_finish(&sampler);
	loader_close(&loader);
}
END_TEST

/* Any batch again, and then on as if nothing had been. */
START_TEST(test_seek)
{
	static float images[BATCH][VALUES];
	struct setting setting = {2, 3, 1, false, resized};
	struct psgd_config config = config_of(&setting);
	uint16_t labels[BATCH];
	struct loader loader;

	run(&plain, &one);
	ck_assert_int_eq(loader_open(&loader, &config, 0, 1, &error), PSGD_OK);
	for (size_t k = 0; k < 60; k++) {
		size_t step = k % 3 == 0 ? k * 5 % (EPOCHS * STEPS) : (k / 2) % (EPOCHS * STEPS);

		ck_assert_int_eq(loader_train(&loader, step / STEPS, step % STEPS, images[0],
					 labels, &error),
			PSGD_OK);
		ck_assert_mem_eq(images, one.train[step * BATCH], sizeof(images));
		ck_assert_mem_eq(labels, &one.labels[step * BATCH], sizeof(labels));
	}
	loader_close(&loader);
}
END_TEST

/* Without skip_bad: the first bad image in order ends the run, whoever meets another before it. */
START_TEST(test_bad_stops)
{
	static float images[BATCH][VALUES];
	struct setting setting = {4, 3, 1, false, resized};
	char lines[2][sizeof(error.text)];
	uint16_t labels[BATCH];

	spoil();
	for (int k = 0; k < 2; k++) {
		struct psgd_config config = config_of(k ? &setting : &plain);
		psgd_status status = PSGD_OK;
		struct loader loader;

		ck_assert_int_eq(loader_open(&loader, &config, 0, 1, &error), PSGD_OK);
		for (size_t step = 0; !status; step++)
			status = loader_train(&loader, 0, step, images[0], labels, &error);
		ck_assert_int_eq(status, PSGD_ERR_CONFIG);
		memcpy(lines[k], error.text, sizeof(lines[k]));
		ck_assert(!loader_bad(&loader, &error));
		loader_close(&loader);
	}
	ck_assert_str_eq(lines[0], lines[1]);
	ck_assert_msg(strncmp(lines[0], root, strlen(root)) == 0, "%s", lines[0]);
}
END_TEST

/* Each bad file is named once, though it is met in every epoch. */
START_TEST(test_bad_named)
{
	static float images[BATCH][VALUES];
	struct setting setting = {3, 2, 1, true, resized};
	struct psgd_config config = config_of(&setting);
	size_t named = 0, empty = 0, text = 0, cut = 0;
	uint16_t labels[BATCH];
	struct loader loader;

	spoil();
	ck_assert_int_eq(loader_open(&loader, &config, 0, 1, &error), PSGD_OK);
	for (size_t step = 0; step < 6 * STEPS; step++) {
		ck_assert_int_eq(loader_train(&loader, step / STEPS, step % STEPS, images[0],
					 labels, &error),
			PSGD_OK);
		for (; loader_bad(&loader, &error); named++) {
			ck_assert(strncmp(error.text, root, strlen(root)) == 0);
			empty += strstr(error.text, "the file is empty") != NULL;
			text += strstr(error.text, "neither JPEG nor PNG") != NULL;
			cut += strstr(error.text, "train/b/11.JpEg: damaged JPEG image") != NULL;
		}
	}
	loader_close(&loader);
	ck_assert_uint_eq(text, named - cut);
	ck_assert_uint_eq(cut, 1);
	/* Those of the test split are met only if the threads were as far ahead. */
	ck_assert(named >= 5 && named <= 7 && empty >= 2 && empty <= 3);
}
END_TEST

START_TEST(test_all_bad)
{
	static float images[BATCH][VALUES];
	struct setting setting = {2, 2, 1, true, resized};
	struct psgd_config config = config_of(&setting);
	uint16_t labels[BATCH];
	struct loader loader;
	size_t n_good = 99;

	ck_assert_int_eq(loader_open(&loader, &config, 0, 1, &error), PSGD_OK);
	for (size_t i = 0; i < TRAIN + TEST; i++) {
		const struct tree *tree = &loader.data.folder->tree;
		const struct tree_split *split = i < TRAIN ? &tree->train : &tree->test;
		char path[PATH_MAX];

		ck_assert_int_eq(
			tree_path(tree, split, &split->entries[i % TRAIN], path, &error), PSGD_OK);
		ck_assert_int_eq(truncate(path, 100), 0);
	}
	ck_assert_int_eq(loader_train(&loader, 0, 0, images[0], labels, &error), PSGD_ERR_CONFIG);
	ck_assert_str_eq(error.text, "26 training images in a row, in the order of epoch 1, cannot "
				     "be decoded");
	ck_assert_int_eq(loader_test(&loader, 0, images[0], labels, &n_good, &error), PSGD_OK);
	ck_assert_uint_eq(n_good, 0);
	loader_close(&loader);
}
END_TEST

static void expect_line(const struct psgd_config *config, const char *line)
{
	struct loader loader;
	char expected[512];

	ck_assert_int_eq(loader_open(&loader, config, 0, 1, &error), PSGD_ERR_CONFIG);
	loader_close(&loader);
	(void)snprintf(expected, sizeof(expected), "%s%s", root, line);
	ck_assert_str_eq(error.text, expected);
}

/* Classes are those of both splits, and there is an output for each; more outputs do no harm. */
START_TEST(test_classes)
{
	struct psgd_config config = config_of(&plain);
	struct photo photo = photo_flat(20, 20, 128);
	struct image_shape shape;
	struct loader loader;

	config.model.num_classes = 2;
	expect_line(&config, "/train has 3 classes, but model.num_classes is 2");
	config.model.num_classes = 1000;
	ck_assert_int_eq(loader_open(&loader, &config, 0, 1, &error), PSGD_OK);
	ck_assert_uint_eq(loader.data.folder->tree.n_classes, 3);
	ck_assert_uint_eq(loader.data.train.count, TRAIN);
	ck_assert_int_eq(data_image_shape(&config.dataset, &shape, &error), PSGD_OK);
	ck_assert_mem_eq(&shape, &loader.data.shape, sizeof(shape));
	loader_close(&loader);
	config.dataset.train_limit = 7;
	config.dataset.test_limit = 2;
	ck_assert_int_eq(loader_open(&loader, &config, 0, 1, &error), PSGD_OK);
	ck_assert_uint_eq(loader.data.train.count, 7);
	ck_assert_uint_eq(loader.data.test.count, 2);
	loader_close(&loader);
	photo_write("in/val/d/1.jpg", &photo);
	expect_line(&config, ": class 'd' is in val but not in train");
	photo_write("in/train/d/1.png", &photo);
	photo_free(&photo);
	expect_line(&config,
		"/train/d: holds no images: dataset.root is for train/CLASS/*.JPEG and "
		"val/CLASS/*.JPEG (or test), as made from the archives of ILSVRC 2012 "
		"(https://image-net.org)");
}
END_TEST

/* The test split may be called test. */
START_TEST(test_other_name)
{
	char from[256], to[256];

	run(&plain, &one);
	work_path("in/val", from);
	work_path("in/test", to);
	ck_assert_int_eq(rename(from, to), 0);
	run(&plain, &more);
	ck_assert_mem_eq(&one, &more, sizeof(one));
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("image_photos");
	TCase *c = tcase_create("photos");

	tcase_set_timeout(c, 60);
	tcase_add_checked_fixture(c, files_create, pack_files_remove);
	tcase_add_loop_test(c, test_threads_and_workers, 0, N_SETTINGS);
	tcase_add_loop_test(c, test_bad_for_all, 0, N_SETTINGS);
	tcase_add_loop_test(c, test_law, 0, 3);
	tcase_add_test(c, test_seek);
	tcase_add_test(c, test_bad_stops);
	tcase_add_test(c, test_bad_named);
	tcase_add_test(c, test_all_bad);
	tcase_add_test(c, test_classes);
	tcase_add_test(c, test_other_name);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
