/* What bad input gets: one line that says what and where, the exit code, and nothing written. */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "integration/harness.h"
#include "support/suite.h"

#define BASE                                                                                       \
	"name: test\n"                                                                             \
	"model: {name: mlp}\n"                                                                     \
	"dataset: {name: synthetic, batch_size: 16, train_limit: 64, test_limit: 16}\n"            \
	"training: {max_iterations: 3, learning_rate: 0.05}\n"                                     \
	"save_dir: out\n"

#define SEE_RUN "\nTry `psgd run --help' or `psgd run --usage' for more information."
#define SEE(what) "\nTry `psgd " what " --help' or `psgd " what " --usage' for more information."
#define NODE "--nnodes 2 --node-rank 0 --master-addr 192.0.2.1 "
#define LIMIT "network_limits.enable=true network_limits.egress_mbps=10 network_limits."
#define SEE_APPLY "\nTry `psgd net apply --help' or `psgd net apply --usage' for more information."
#define NO_RANK "expected a rank of at least 1 (use compression.enable_powerSGD: false for dense)"

/* Files that a case may name. */
static void write_files(void)
{
	write_text("good.yaml", BASE);
	write_text("unknown.yaml", BASE "compression: {max_rnk: 3}\n");
	write_text("type.yaml", BASE "threads: two\n");
	write_text("digits.yaml", BASE "training: {epochs: 3e2}\n");
	write_text("letter.yaml", BASE "threads: 30O\n");
	write_text("power.yaml", BASE "threads: 3e2\n");
	write_text("zero.yaml", BASE "compression: {use_fixed_rank: true, fixed_rank_value: 0}\n");
	write_text("minus.yaml",
		BASE "compression:\n  use_fixed_rank: true\n  fixed_rank_value: -2\n");
	write_text("broken.yaml", "training: [\n");
}

/* Refused by psgd itself: stderr is the message and no more, no folder appears. */
static const struct refused {
	const char *arguments, *message;
} refused[] = {
	{"run unknown.yaml --standalone",
		"unknown.yaml:6:15: compression: unknown key 'max_rnk', did you mean 'max_rank'?"},
	{"run type.yaml --standalone",
		"type.yaml:6:10: threads: expected a whole number, got 'two'"},
	{"run digits.yaml --standalone",
		"digits.yaml:6:1: duplicate key 'training', the first one is in line 4"},
	{"run letter.yaml --standalone",
		"letter.yaml:6:10: threads: expected a whole number, got '30O'"},
	{"run power.yaml --standalone",
		"power.yaml:6:10: threads: expected a whole number, got '3e2'"},
	{"run zero.yaml --standalone", "zero.yaml:6:55: compression.fixed_rank_value: " NO_RANK},
	{"run minus.yaml --standalone", "minus.yaml:8:21: compression.fixed_rank_value: " NO_RANK},
	{"run broken.yaml --standalone",
		"broken.yaml:2:1: not valid YAML: did not find expected node content while parsing "
		"a flow node"},
	{"run missing.yaml --standalone", "missing.yaml: cannot read: No such file or directory"},
	{"run good.yaml traning.epochs=3",
		"override 'traning.epochs=3': unknown key 'traning', did you mean 'training'?"},
	{"run good.yaml training.epochs=30O",
		"override 'training.epochs=30O': expected a whole number, got '30O'"},
	{"run good.yaml training.learning_rate=0.1x",
		"override 'training.learning_rate=0.1x': expected a number, got '0.1x'"},
	{"run good.yaml dataset.batch_size=0",
		"override 'dataset.batch_size=0': expected a whole number of at least 1, got '0'"},
	{"run good.yaml compression.fixed_rank_value=0",
		"override 'compression.fixed_rank_value=0': " NO_RANK},
	{"run good.yaml --rank 2 --world-size 2",
		"psgd: --rank 2 is out of range: --world-size is 2 (0 .. 1)"},
	{"run good.yaml --rank=-1 --world-size=2",
		"psgd run: --rank: '-1' is not a whole number from 0 to 4095" SEE_RUN},
	{"run good.yaml --rank 0", "psgd: --rank is given but --world-size is not"},
	{"run good.yaml --nnodes 2 --node-rank 2",
		"psgd: --node-rank 2: nodes are 0 to 1 (--nnodes 2)"},
	{"run good.yaml --nnodes 2", "psgd: --nnodes needs --node-rank"},
	{"run good.yaml --nnodes 1:4",
		"psgd run: --nnodes: '1:4' is not a whole number from 1 to 4096" SEE_RUN},
	{"run good.yaml --standalone --rank 0",
		"psgd: --standalone is one node with an address of its own: of the identity flags "
		"it takes only --nproc-per-node"},
	{"run good.yaml --nnodes 1 --rank 0",
		"psgd: --rank, --world-size and --local-rank name one worker; --nnodes, "
		"--node-rank "
		"and --nproc-per-node name a node's workers: give one kind"},
	{"run good.yaml --rdzv-endpoint host:port",
		"psgd: --rdzv-endpoint: 'host:port' is not HOST:PORT"},
	{"run good.yaml --master-port 70000",
		"psgd run: --master-port: '70000' is not a whole number from 1 to 65535" SEE_RUN},
	{"run good.yaml --rdzv-timeout soon",
		"psgd run: --rdzv-timeout: 'soon' is not a whole number from 1 to 86400" SEE_RUN},
	{"run good.yaml --resume", "psgd run: option '--resume' requires an argument" SEE_RUN},
	{"run good.yaml --network-test --smoke",
		"psgd run: --network-test makes no run; --smoke has no meaning with it" SEE_RUN},
	{"run good.yaml --resume=auto --network-test",
		"psgd run: --network-test makes no run; --resume has no meaning with it" SEE_RUN},
	{"run good.yaml other.yaml",
		"psgd run: 'other.yaml' is not key=value (a trainer goes after --)" SEE_RUN},
	{"run", "psgd run: CONFIG is missing" SEE_RUN},
	{"rnu good.yaml", "psgd: unknown command 'rnu'; did you mean 'run'?"},
	{"frobnicate", "psgd: unknown command 'frobnicate'; there are run, batch, validate, info, "
		       "bench, net, lab and selftest"},
	{"--frobnicate", "psgd: unrecognized option '--frobnicate'\n"
			 "Try `psgd --help' or `psgd --usage' for more information."},
	{"validate unknown.yaml",
		"unknown.yaml:6:15: compression: unknown key 'max_rnk', did you mean 'max_rank'?"},
	{"run good.yaml --standalone device=gpu",
		"override 'device=gpu': expected one of auto, cpu, cuda, got 'gpu'"},
	{"run good.yaml --standalone device=cpu communication.transport=nccl",
		"override 'communication.transport=nccl': nccl is for device: cuda, expected gloo "
		"or auto with device: cpu"},
	{"selftest --device gpu",
		"psgd selftest: --device: 'gpu' is none of cpu, cuda" SEE("selftest")},
	{"selftest cuda", "psgd selftest: 'cuda': no argument is expected" SEE("selftest")},
	{"selftest --groups 0", "psgd selftest: --groups: '0' is not a whole number from 1 to "
				"100000" SEE("selftest")},
	{"info all", "psgd info: 'all': no argument is expected" SEE("info")},
	/* limits of the network: before anything is looked for in the kernel */
	{"run good.yaml --standalone " LIMIT "loss_pct=100",
		"override 'network_limits.loss_pct=100': expected a number of at least 0 and below "
		"100, got '100'"},
	{"run good.yaml " NODE "network_limits.enable=true network_limits.method=tc",
		"override 'network_limits.method=tc': tc needs a limit: egress_mbps, ingress_mbps, "
		"latency_ms and loss_pct are 0, which is none"},
	{"run good.yaml " NODE LIMIT "interface=nowhere0",
		"psgd: network_limits.interface: there is no network interface 'nowhere0' here"},
	{"run good.yaml " NODE LIMIT "interface=nowhere0 network_limits.method=tc",
		"psgd: network_limits.interface: there is no network interface 'nowhere0' here"},
	{"run good.yaml --ifname nowhere0 " NODE LIMIT "method=auto",
		"psgd: --ifname: there is no network interface 'nowhere0' here"},
	{"run good.yaml communication.interface=nowhere0 " NODE LIMIT "method=auto",
		"psgd: communication.interface: there is no network interface 'nowhere0' here"},
	{"net test --standalone --nproc-per-node 2 --ifname nowhere0",
		"psgd: --ifname: there is no network interface 'nowhere0' here"},
	{"batch good.yaml 0 1 --list",
		"psgd: '0' after good.yaml is a worker's number: set WORLD_SIZE, or give "
		"--world-size"},
	{"batch good.yaml 2 --world-size 2 --list",
		"psgd: '2' after good.yaml is a worker's number, and there are 2 workers (0 .. "
		"1)"},
	{"run good.yaml --standalone --nproc-per-node 2 " LIMIT "method=tc",
		"psgd: network_limits.method: tc limits the network between nodes, but all workers "
		"are on this node: use auto or model"},
	{"run good.yaml --nnodes 2 --node-rank 0 " LIMIT "method=tc",
		"psgd: network_limits.method: tc limits the network between nodes, but the "
		"loopback "
		"leads to no other node: use auto or model"},
	{"net test good.yaml --nnodes 2 --node-rank 0 " LIMIT "method=tc",
		"psgd: network_limits.method: tc limits the network between nodes, but the "
		"loopback "
		"leads to no other node: use auto or model"},
	{"net apply --egress 10", "psgd net apply: --interface is missing" SEE_APPLY},
	{"net apply good.yaml", "psgd net apply: --interface is missing, and good.yaml names none"},
	{"net apply good.yaml --interface lo",
		"psgd net apply: good.yaml limits nothing: give --egress, --ingress, --latency or "
		"--loss"},
	{"net apply --interface lo --egress 0", "psgd net apply: this limits nothing: give "
						"--egress, --ingress, --latency or --loss"},
	{"net apply --interface lo --egress 10 --loss 100",
		"psgd net apply: --loss: '100' is not 0 or a number from 0.0001 to "
		"99.9999" SEE_APPLY},
	{"net apply --interface lo --ingress 10m",
		"psgd net apply: --ingress: '10m' is not 0 or a number from 0.001 to "
		"1000000000" SEE_APPLY},
	{"net apply --interface lo --egress 10 --jitter 1",
		"psgd net apply: the jitter is above the latency"},
	{"net apply --interface lo --egress 10 --unshaped-port 0",
		"psgd net apply: --unshaped-port: '0' is not a whole number from 1 to "
		"65535" SEE_APPLY},
	{"net apply --interface nowhere0 --egress 10",
		"psgd net apply: there is no network interface 'nowhere0' here"},
	{"net show nowhere0", "psgd net show: there is no network interface 'nowhere0' here"},
	{"net clear nowhere0", "psgd net clear: there is no network interface 'nowhere0' here"},
};

START_TEST(refused_by_psgd)
{
	const struct refused *c = &refused[_i];
	struct ended ended;
	char expected[1024];

	write_files();
	ended = run_psgd(c->arguments, 20);
	snprintf(expected, sizeof(expected), "%s\n", c->message);
	ck_assert_str_eq(ended.err, expected);
	ck_assert_str_eq(ended.out, "");
	ck_assert_int_eq(ended.code, 2);
	ck_assert(!exists("out"));
}
END_TEST

START_TEST(all_files_are_validated)
{
	struct ended ended;

	write_files();
	ended = run_psgd("validate zero.yaml good.yaml type.yaml", 20);
	ck_assert_int_eq(ended.code, 2);
	ck_assert_str_eq(ended.err,
		"zero.yaml:6:55: compression.fixed_rank_value: " NO_RANK "\n"
		"type.yaml:6:10: threads: expected a whole number, got 'two'\n");
	ck_assert_ptr_nonnull(strstr(ended.out, "good.yaml: ok\n"));
	/* a 0 that was given is no limit, whatever the bandwidth says */
	ended = run_psgd("validate good.yaml network_limits.enable=true "
			 "network_limits.bandwidth_mbps=100 network_limits.egress_mbps=0 "
			 "network_limits.ingress_mbps=7",
		20);
	ck_assert_msg(strstr(ended.out, ", out unlimited, in 7 Mbit/s, ") != NULL, "%s", ended.out);
}
END_TEST

/* An idx pair of 28 x 28 images for both splits. */
struct idx {
	unsigned magic, n_images, n_labels;
	size_t cut; /* bytes missing at the end of the images */
};

static void put_words(FILE *file, const unsigned *words, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint32_t word = htonl(words[i]);

		fwrite(&word, sizeof(word), 1, file);
	}
}

static void write_idx(const char *dir, struct idx idx)
{
	static const char *const splits[] = {"train", "t10k"};
	static const char zeros[784 * 64];
	const unsigned images[] = {idx.magic, idx.n_images, 28, 28};
	const unsigned labels[] = {0x801, idx.n_labels};
	char path[128];
	FILE *file;

	ck_assert_int_eq(mkdir(dir, 0777), 0);
	for (size_t i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s/%s-images-idx3-ubyte", dir, splits[i]);
		file = fopen(path, "w");
		put_words(file, images, 4);
		fwrite(zeros, 1, (size_t)784 * idx.n_images - idx.cut, file);
		fclose(file);
		snprintf(path, sizeof(path), "%s/%s-labels-idx1-ubyte", dir, splits[i]);
		file = fopen(path, "w");
		put_words(file, labels, 2);
		fwrite(zeros, 1, idx.n_labels, file);
		fclose(file);
	}
}

static void write_data(void)
{
	write_idx("short", (struct idx){0x803, 64, 64, 784});
	write_idx("magic", (struct idx){0x1234, 64, 64, 0});
	write_idx("labels", (struct idx){0x803, 64, 63, 0});
	write_text("short/data_batch_1.bin", "");
	write_text("short/data_batch_2.bin", "");
	ck_assert_int_eq(truncate("short/data_batch_1.bin", 3073), 0);
	ck_assert_int_eq(truncate("short/data_batch_2.bin", 3072), 0);
}

/* Every PORT in a text becomes the number. */
static void put_port(const char *text, unsigned port, char *out, size_t bytes)
{
	size_t used = 0;

	for (; *text; text++) {
		if (strncmp(text, "PORT", 4) == 0) {
			used += (size_t)snprintf(out + used, bytes - used, "%u", port);
			text += 3;
		} else {
			used += (size_t)snprintf(out + used, bytes - used, "%c", *text);
		}
		ck_assert_uint_lt(used, bytes);
	}
	out[used] = '\0';
}

/* Nothing half-written: no folder, none with records, or one that says "failed". */
static void check_folder(const char *dir)
{
	char state[32], path[64];

	snprintf(path, sizeof(path), "%s/status.json", dir);
	if (!exists(path))
		return;
	read_state(dir, state, sizeof(state));
	ck_assert_str_eq(state, "failed");
}

static void check_ended(const struct ended *ended, const char *message, unsigned port, int code)
{
	char expected[1024], line[1024];

	put_port(message, port, expected, sizeof(expected));
	snprintf(line, sizeof(line), "%.*s", (int)strcspn(ended->err, "\n"), ended->err);
	ck_assert_str_eq(line, expected);
	ck_assert_int_eq(ended->code, code);
	ck_assert_uint_eq(count_trainers(), 0);
}

/* Refused by the trainer, or just before: the first line on stderr is the message. */
static const struct {
	const char *arguments, *message;
	int code;
} failed[] = {
	{"run good.yaml --standalone --ifname nowhere0",
		"psgd: --ifname: there is no network interface 'nowhere0' here", 2},
	{"run good.yaml --standalone communication.interface=nowhere0",
		"psgd: communication.interface: there is no network interface 'nowhere0' here", 2},
	{"run good.yaml --standalone network_limits.interface=nowhere0",
		"psgd: network_limits.interface: there is no network interface 'nowhere0' here", 2},
	{"run good.yaml --standalone --nproc-per-node 2 --token-file nowhere",
		"worker 0: psgd-train-image: cannot open token file nowhere: No such file or "
		"directory",
		2},
	{"run good.yaml --standalone --nproc-per-node 2 --token-file good.yaml",
		"worker 0: psgd-train-image: token file good.yaml is open to other users (mode "
		"0644): chmod 600 it",
		2},
	{"run good.yaml --standalone dataset.name=idx dataset.root=nowhere",
		"worker 0: psgd-train-image: nowhere/train-images-idx3-ubyte is missing, with or "
		"without .gz: dataset.root is for the four files "
		"{train,t10k}-{images-idx3,labels-idx1}-ubyte",
		2},
	{"run good.yaml --standalone dataset.name=idx dataset.root=short",
		"worker 0: psgd-train-image: short/train-images-idx3-ubyte: truncated: 49392 of "
		"50176 bytes after the header",
		2},
	{"run good.yaml --standalone dataset.name=idx dataset.root=magic",
		"worker 0: psgd-train-image: magic/train-images-idx3-ubyte: wrong magic number "
		"0x00001234, expected 0x00000803 (idx images)",
		2},
	{"run good.yaml --standalone dataset.name=idx dataset.root=labels",
		"worker 0: psgd-train-image: labels/train-images-idx3-ubyte has 64 images but "
		"labels/train-labels-idx1-ubyte has 63 labels",
		2},
	{"run good.yaml --standalone dataset.name=cifar100",
		"worker 0: psgd-train-image: data/train.bin is missing, also in cifar-100-binary: "
		"dataset.root is for the binary version of cifar100 "
		"(https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz)",
		2},
	{"run good.yaml --standalone dataset.name=cifar dataset.root=short",
		"worker 0: psgd-train-image: short/data_batch_2.bin: 3072 bytes, expected records "
		"of 3073 bytes",
		2},
	{"run good.yaml --standalone dataset.batch_size=65",
		"worker 0: psgd-train-image: dataset.batch_size 65 is more than the 64 samples "
		"that "
		"each of 1 workers has (64 training samples)",
		2},
	{"run good.yaml --standalone --nproc-per-node 2 dataset.batch_size=33",
		"worker 0: psgd-train-image: dataset.batch_size 33 is more than the 32 samples "
		"that "
		"each of 2 workers has (64 training samples)",
		2},
	{"run good.yaml --standalone training.learning_rate=1e30 training.max_iterations=40",
		"worker 0: psgd-train-image: gradients were not finite in 10 iterations in a row, "
		"the last is 10; try a lower training.learning_rate",
		1},
	{"run good.yaml --standalone rank_control.choice=replay rank_control.replay=none",
		"worker 0: psgd-train-image: none: cannot read: No such file or directory", 2},
	{"run good.yaml --rank 0 --world-size 2 --master-port PORT --rdzv-timeout 2",
		"worker 0: psgd-train-image: worker 1 of 2 did not come to 127.0.0.1:PORT within 2 "
		"s",
		4},
	{"run good.yaml --rank 0 --world-size 3 --master-port PORT --rdzv-timeout 2",
		"worker 0: psgd-train-image: workers 1, 2 of 3 did not come to 127.0.0.1:PORT "
		"within "
		"2 s",
		4},
	{"run good.yaml --rank 1 --world-size 2 --master-port PORT --rdzv-timeout 2",
		"worker 1: psgd-train-image: worker 0 of 2 did not come to 127.0.0.1:PORT within 2 "
		"s "
		"(the last try: Connection refused)",
		4},
	{"run good.yaml --rank 0 --world-size 2 --master-addr 192.0.2.1 --master-port PORT",
		"worker 0: psgd-train-image: cannot listen on 192.0.2.1:PORT: Cannot assign "
		"requested "
		"address (it is no address of this machine)",
		5},
};

/* Not device: auto, which has a line of its own where CUDA is installed and a device is not. */
START_TEST(failed_in_the_trainer)
{
	struct ended ended;
	char text[512], arguments[512];
	unsigned port = free_port();

	write_files();
	write_data();
	snprintf(text, sizeof(text), "%s device=cpu", failed[_i].arguments);
	put_port(text, port, arguments, sizeof(arguments));
	ended = run_psgd(arguments, 20);
	check_ended(&ended, failed[_i].message, port, failed[_i].code);
	check_folder("out");
}
END_TEST

START_TEST(port_in_use)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	socklen_t bytes = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	char arguments[512];
	struct ended ended;
	unsigned port;

	write_files();
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, bytes), 0);
	ck_assert_int_eq(listen(fd, 1), 0);
	ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&address, &bytes), 0);
	port = ntohs(address.sin_port);
	put_port("run good.yaml --rank 0 --world-size 2 --master-port PORT", port, arguments,
		sizeof(arguments));
	ended = run_psgd(arguments, 20);
	check_ended(&ended,
		"worker 0: psgd-train-image: cannot listen on 127.0.0.1:PORT: Address already in "
		"use",
		port, 5);
	check_folder("out");
	close(fd);
}
END_TEST

/* Two workers that do not belong together: each says so, with the same code. */
static const struct {
	const char *arguments[2], *message[2];
	int code;
} pairs[] = {
	{{"run good.yaml --rank 0 --world-size 3 --master-port PORT --rdzv-timeout 20",
		 "run good.yaml --rank 1 --world-size 2 --master-port PORT --rdzv-timeout 20"},
		{"worker 0: psgd-train-image: worker 1 has a world size of 2, worker 0 has 3",
			"worker 1: psgd-train-image: worker 1 has a world size of 2, worker 0 has "
			"3"},
		2},
	{{"run good.yaml --rank 0 --world-size 2 --master-port PORT --rdzv-timeout 20",
		 "run good.yaml --rank 1 --world-size 2 --master-port PORT --rdzv-timeout 20 "
		 "seed=9 "
		 "save_dir=other"},
		{"worker 0: psgd-train-image: seed: worker 0 has 42, worker 1 has 9",
			"worker 1: psgd-train-image: seed: worker 0 has 42, worker 1 has 9"},
		2},
};

START_TEST(pairs_that_disagree)
{
	static struct ended ended[2];
	struct started started[2];
	unsigned port = free_port();
	char arguments[512];

	write_files();
	for (int w = 0; w < 2; w++) {
		put_port(pairs[_i].arguments[w], port, arguments, sizeof(arguments));
		started[w] = start_psgd(arguments);
	}
	for (int w = 0; w < 2; w++)
		ended[w] = finish(started[w], 30);
	for (int w = 0; w < 2; w++)
		check_ended(&ended[w], pairs[_i].message[w], port, pairs[_i].code);
	check_folder("out");
	check_folder("other");
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("input");
	TCase *c = tcase_create("input");

	tcase_set_timeout(c, 60);
	tcase_add_checked_fixture(c, enter_folder, leave_folder);
	tcase_add_loop_test(c, refused_by_psgd, 0, sizeof(refused) / sizeof(refused[0]));
	tcase_add_test(c, all_files_are_validated);
	tcase_add_loop_test(c, failed_in_the_trainer, 0, sizeof(failed) / sizeof(failed[0]));
	tcase_add_test(c, port_in_use);
	tcase_add_loop_test(c, pairs_that_disagree, 0, sizeof(pairs) / sizeof(pairs[0]));
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
