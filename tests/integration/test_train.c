/* What training does, seen from outside: steps of several batches, stages, norms, calibration. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "integration/harness.h"
#include "support/suite.h"

#define ROWS 512

static struct ended ended;

static void write_config(const char *model, const char *rest)
{
	char text[2048];

	snprintf(text, sizeof(text),
		"name: test\n"
		"seed: 7\n"
		"model: {name: %s}\n"
		"dataset: {name: synthetic, batch_size: 16, train_limit: 512, test_limit: 64}\n"
		"training: {epochs: 2, learning_rate: 0.02}\n"
		"%s",
		model, rest);
	write_text("train.yaml", text);
}

static void train(unsigned n_workers, const char *run_dir, const char *arguments)
{
	char line[1024];

	snprintf(line, sizeof(line),
		"run train.yaml --standalone --nproc-per-node %u save_dir=%s %s", n_workers,
		run_dir, arguments);
	ended = run_psgd(line, 100);
	ck_assert_msg(ended.code == 0, "code %d\n%s%s", ended.code, ended.out, ended.err);
}

/* A column of numbers; how many there are. */
static size_t column(const char *run_dir, const char *name, double *out)
{
	static char text[TEXT_BYTES];
	size_t n = 0;

	read_column(run_dir, name, text, sizeof(text));
	for (char *save = NULL, *word = strtok_r(text, "\n", &save); word && n < ROWS;
		word = strtok_r(NULL, "\n", &save))
		out[n++] = strcmp(word, "dense") == 0 ? 0.0 : strtod(word, NULL);
	return n;
}

/* Field `field` of epoch `epoch`'s row in the table of accuracies. */
static double of_epoch(const char *run_dir, unsigned epoch, unsigned field)
{
	char path[128];
	const char *text;

	snprintf(path, sizeof(path), "%s/accuracy/accuracy_results.csv", run_dir);
	text = read_text(path);
	for (unsigned i = 0; i <= epoch; i++) {
		text = strchr(text, '\n');
		ck_assert_ptr_nonnull(text);
		text++;
	}
	for (unsigned i = 0; i < field; i++)
		text = strchr(text, ',') + 1;
	return strtod(text, NULL);
}

enum { EPOCH_LOSS = 1, SAMPLES = 4 };

static char *hash_of(const char *run_dir)
{
	static char hash[17];
	char path[128];
	const char *at;

	snprintf(path, sizeof(path), "%s/events.jsonl", run_dir);
	at = strstr(read_text(path), "(hash ");
	ck_assert_ptr_nonnull(at);
	memcpy(hash, at + 6, 16);
	return hash;
}

static const char dense[] = "compression: {enable_powerSGD: false}\n";

/* Two batches of 16 make the step that one of 32 makes, with half the bytes of single ones. */
START_TEST(batches_make_a_step)
{
	double losses[2][ROWS], bytes[3][ROWS];
	char rest[512];

	snprintf(rest, sizeof(rest),
		"compression: {enable_powerSGD: false, enable_adaptive_sync: true}\n"
		"adaptive_training: {enable: true, stages: [{name: all, start_epoch: 0, "
		"end_epoch: 9, base_sync_frequency: 2}]}\n");
	write_config("mlp", rest);
	train(2, "two", "");
	train(2, "one", "compression.enable_adaptive_sync=false dataset.batch_size=32");
	train(2, "single", "compression.enable_adaptive_sync=false");
	ck_assert_uint_eq(column("two", "loss", losses[0]), 16);
	ck_assert_uint_eq(column("one", "loss", losses[1]), 16);
	/* Rounding grows from step to step. */
	for (size_t i = 0; i < 8; i++)
		ck_assert_double_eq_tol(losses[0][i] / losses[1][i], 1.0, 1e-4);
	ck_assert_uint_eq(column("two", "payload_bytes", bytes[0]), 16);
	ck_assert_uint_eq(column("one", "payload_bytes", bytes[1]), 16);
	ck_assert_uint_eq(column("single", "payload_bytes", bytes[2]), 32);
	for (size_t i = 0; i < 16; i++) {
		ck_assert(bytes[0][i] == bytes[1][i]);
		ck_assert(bytes[0][i] == bytes[2][i]);
	}
	for (unsigned epoch = 0; epoch < 2; epoch++) {
		ck_assert(of_epoch("two", epoch, SAMPLES) == 512.0 * (epoch + 1));
		ck_assert(of_epoch("single", epoch, SAMPLES) == 512.0 * (epoch + 1));
	}
}
END_TEST

/* 16 batches of each worker: five steps of three and one of the last. */
START_TEST(last_batches_count)
{
	double epochs[ROWS], rates[ROWS];
	size_t n;

	write_config("mlp",
		"compression: {enable_adaptive_sync: true, use_fixed_rank: true, "
		"fixed_rank_value: 2, start_power_iterations: 0}\n"
		"adaptive_training: {enable: true, stages: [{name: first, start_epoch: 0, "
		"end_epoch: 0, base_sync_frequency: 3, learning_rate: 0.001}]}\n");
	train(2, "a", "");
	n = column("a", "epoch", epochs);
	ck_assert_uint_eq(n, 6 + 16);
	ck_assert_uint_eq(column("a", "learning_rate", rates), n);
	for (size_t i = 0; i < n; i++) {
		ck_assert(epochs[i] == (i < 6 ? 0.0 : 1.0));
		ck_assert(rates[i] == (i < 6 ? 0.001 : 0.02));
	}
	ck_assert(of_epoch("a", 0, SAMPLES) == 512.0);
	ck_assert(of_epoch("a", 1, SAMPLES) == 1024.0);
	ck_assert_ptr_nonnull(strstr(ended.out, "22 iterations"));
	/* And steps are what max_iterations counts. */
	train(2, "b", "training.max_iterations=7");
	ck_assert_uint_eq(column("b", "epoch", epochs), 7);
	ck_assert(of_epoch("b", 1, SAMPLES) == 512.0 + 32.0);
}
END_TEST

/* The rank of a range is in force from the first iteration of its first epoch to its last. */
START_TEST(ranks_by_epoch)
{
	static const double by_range[] = {4.0, 1.0, 0.0, 2.0}, by_stage[] = {4.0, 2.0, 8.0, 2.0};
	double ranks[ROWS];

	write_config("mlp", "compression: {max_rank: 8, start_power_iterations: 0, rank_schedule: "
			    "{default_rank: 2, ranges: [{start_epoch: 0, end_epoch: 0, rank: 4}, "
			    "{start_epoch: 1, end_epoch: 1, rank: 1}, "
			    "{start_epoch: 2, end_epoch: 2, rank: dense}]}}\n");
	train(2, "ranges", "training.epochs=4 dataset.train_limit=128");
	ck_assert_uint_eq(column("ranges", "current_rank", ranks), 16);
	for (size_t i = 0; i < 16; i++)
		ck_assert_msg(ranks[i] == by_range[i / 4], "r=%g in iteration %zu", ranks[i], i);
	write_config("mlp", "compression: {max_rank: 8, base_rank: 2, start_power_iterations: 0, "
			    "enable_stage_adjust: true}\n"
			    "adaptive_training: {enable: true, stages: ["
			    "{name: a, start_epoch: 0, end_epoch: 0, base_matrix_rank: 4}, "
			    "{name: b, start_epoch: 2, end_epoch: 2, base_matrix_rank: 8}]}\n");
	train(2, "stages", "training.epochs=4 dataset.train_limit=128");
	ck_assert_uint_eq(column("stages", "current_rank", ranks), 16);
	for (size_t i = 0; i < 16; i++)
		ck_assert_msg(ranks[i] == by_stage[i / 4], "r=%g in iteration %zu", ranks[i], i);
}
END_TEST

/* Two workers whose norms are joined train as one that has both batches; others do not. */
START_TEST(norms_are_joined)
{
	double bytes[ROWS], times[ROWS], one, joined, apart;
	size_t n;

	write_config("cnn", dense);
	train(1, "one", "dataset.batch_size=32 training.epochs=1");
	train(2, "joined", "training.epochs=1");
	train(2, "apart", "training.epochs=1 model.sync_batchnorm=false");
	one = of_epoch("one", 0, EPOCH_LOSS);
	joined = of_epoch("joined", 0, EPOCH_LOSS);
	apart = of_epoch("apart", 0, EPOCH_LOSS);
	ck_assert_msg(fabs(joined - one) < 1e-3 * one, "%.9g, not %.9g", joined, one);
	ck_assert_msg(fabs(apart - one) > 1e-3 * one, "%.9g, like %.9g", apart, one);
	/* Two values of 16 + 32 + 64 channels, forward and backward; in few steps more. */
	n = column("joined", "sync_bytes", bytes);
	ck_assert_uint_eq(n, 16);
	ck_assert_uint_eq(column("joined", "sync_time", times), n);
	for (size_t i = 0; i < n; i++) {
		ck_assert(bytes[i] >= 1792.0 && (i < 8 || bytes[i] == 1792.0));
		ck_assert(times[i] > 0.0);
	}
	ck_assert_uint_eq(column("apart", "sync_bytes", bytes), n);
	for (size_t i = 0; i < n; i++)
		ck_assert(bytes[i] == 0.0);
}
END_TEST

/* Training behind a calibration is bit for bit what it is without one. */
START_TEST(calibration_leaves_nothing)
{
	static const char *const arguments[] = {
		"rank_control.cap=calibration rank_control.candidates=[2]",
		"rank_control.cap=calibration rank_control.candidates=[2,4,8] "
		"compression.calibration.force_start_iter=5 "
		"compression.calibration.comm_ratio_threshold=0.9999",
	};
	char without[17];

	write_config("cnn", "compression: {use_fixed_rank: true, fixed_rank_value: 2, min_rank: 2, "
			    "max_rank: 8, start_power_iterations: 3, "
			    "calibration: {warmup_iters: 1, measure_iters: 2}}\n"
			    "rank_control: {dense_candidate: true}\n"
			    "communication: {check_every: 1}\n");
	train(2, "without", "training.epochs=1 rank_control.cap=none");
	strcpy(without, hash_of("without"));
	for (int i = 0; i < 2; i++) {
		char line[512], dir[2] = {(char)('a' + i), 0}, path[64];
		double rows[ROWS];
		const char *text;

		snprintf(line, sizeof(line), "training.epochs=1 %s", arguments[i]);
		train(2, dir, line);
		ck_assert_str_eq(hash_of(dir), without);
		ck_assert_uint_eq(column(dir, "iteration", rows), 16);
		for (size_t k = 0; k < 16; k++)
			ck_assert(rows[k] == (double)k);
		snprintf(path, sizeof(path), "%s/calibration_rank_stats.csv", dir);
		text = read_text(path);
		ck_assert_uint_eq(count_lines(text), i ? 5 : 3);
		ck_assert_ptr_nonnull(strstr(text, "\n2,"));
		ck_assert_ptr_nonnull(strstr(text, "\ndense,"));
		/* One of them was chosen. */
		text = strstr(text, "True");
		ck_assert_ptr_nonnull(text);
		ck_assert_ptr_null(strstr(text + 1, "True"));
		snprintf(path, sizeof(path), "%s/events.jsonl", dir);
		ck_assert_ptr_nonnull(strstr(read_text(path), "\"event\":\"calibration\""));
		ck_assert_ptr_nonnull(strstr(read_text(path), "1 + 2 steps each"));
	}
}
END_TEST

/* A safetensors file of zeros for the mlp: its outputs are alike for all classes. */
static void write_zeros(const char *path)
{
	static const struct {
		const char *name, *dims;
		size_t count;
	} tensors[] = {{"fc1.weight", "1024,784", 1024 * 784}, {"fc1.bias", "1024", 1024},
		{"fc2.weight", "1024,1024", 1024 * 1024}, {"fc2.bias", "1024", 1024},
		{"fc3.weight", "10,1024", 10240}, {"fc3.bias", "10", 10}};
	char header[1024], length[8] = {0};
	size_t n = 0, offset = 0;
	FILE *file = fopen(path, "wb");

	ck_assert_ptr_nonnull(file);
	for (size_t i = 0; i < 6; i++) {
		size_t end = offset + 4 * tensors[i].count;

		n += (size_t)snprintf(header + n, sizeof(header) - n,
			"%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%s],"
			"\"data_offsets\":[%zu,%zu]}",
			i ? "," : "{", tensors[i].name, tensors[i].dims, offset, end);
		offset = end;
	}
	header[n++] = '}';
	for (size_t i = 0; i < 2; i++)
		length[i] = (char)(n >> (8 * i));
	ck_assert_uint_eq(fwrite(length, 1, 8, file), 8);
	ck_assert_uint_eq(fwrite(header, 1, n, file), n);
	ck_assert_int_eq(fseek(file, (long)offset - 1, SEEK_CUR), 0);
	ck_assert_int_eq(fputc(0, file), 0);
	ck_assert_int_eq(fclose(file), 0);
}

/* Worker 0 has the file, and all begin with it. */
START_TEST(weights_from_a_file)
{
	double losses[ROWS];

	write_config("mlp", dense);
	write_zeros("zeros");
	train(2, "a", "training.max_iterations=3 model.pretrained=true model.weights=zeros");
	ck_assert_uint_eq(column("a", "loss", losses), 3);
	ck_assert_double_eq_tol(losses[0], log(10.0), 1e-6);
	ck_assert_ptr_nonnull(hash_of("a"));
	ended = run_psgd("run train.yaml --standalone --nproc-per-node 2 save_dir=b "
			 "model.pretrained=true model.weights=zeros model.num_classes=12",
		60);
	ck_assert_int_eq(ended.code, 2);
	ck_assert_msg(strstr(ended.err, "zeros: fc3.weight is 10 x 1024, but the model's is "
					"12 x 1024") != NULL,
		"%s", ended.err);
	ck_assert_uint_eq(count_trainers(), 0);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("train");
	TCase *c = tcase_create("train");

	tcase_add_checked_fixture(c, enter_folder, leave_folder);
	tcase_set_timeout(c, 300);
	tcase_add_test(c, batches_make_a_step);
	tcase_add_test(c, last_batches_count);
	tcase_add_test(c, ranks_by_epoch);
	tcase_add_test(c, norms_are_joined);
	tcase_add_test(c, calibration_leaves_nothing);
	tcase_add_test(c, weights_from_a_file);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
