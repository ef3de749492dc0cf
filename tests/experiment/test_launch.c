/* Identity: which source wins, and what is refused with which words. */
#include <string.h>

#include <psgd/experiment/launch.h>

#include "support/suite.h"

#define MAX_VARIABLES 8

static const char *const all_variables[] = {"PSGD_RANK", "PSGD_WORLD_SIZE", "PSGD_LOCAL_RANK",
	"PSGD_LOCAL_SIZE", "PSGD_MASTER_ADDR", "PSGD_MASTER_PORT", "RANK", "WORLD_SIZE",
	"LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMPI_COMM_WORLD_RANK",
	"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE",
	"PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", "SLURM_PROCID",
	"SLURM_NTASKS", "SLURM_LOCALID", "SLURM_STEP_ID", "TORCHELASTIC_RUN_ID"};

#define NO_FLAGS                                                                                   \
	{                                                                                          \
		sizeof(struct psgd_launch_flags), -1, -1, -1, -1, -1, NULL                         \
	}
#define FLAGS(...)                                                                                 \
	{                                                                                          \
		sizeof(struct psgd_launch_flags), __VA_ARGS__                                      \
	}

static void set_environment(const char *const variables[MAX_VARIABLES][2])
{
	for (size_t i = 0; i < sizeof(all_variables) / sizeof(all_variables[0]); i++)
		unsetenv(all_variables[i]);
	for (size_t i = 0; i < MAX_VARIABLES && variables[i][0]; i++)
		setenv(variables[i][0], variables[i][1], 1);
}

static const struct {
	const char *variables[MAX_VARIABLES][2];
	struct psgd_launch_flags flags;
	uint32_t worker, n_workers, local_rank, local_size;
	const char *addr;
	uint16_t port;
	const char *source;
} good[] = {
	{{{0}}, NO_FLAGS, 0, 1, 0, 1, "127.0.0.1", 29500, "default"},
	{{{"RANK", "1"}, {"WORLD_SIZE", "2"}}, NO_FLAGS, 1, 2, 0, 1, "127.0.0.1", 29500,
		"torchrun"},
	{{{"RANK", "3"}, {"WORLD_SIZE", "4"}, {"LOCAL_RANK", "1"}, {"LOCAL_WORLD_SIZE", "2"},
		 {"MASTER_ADDR", "node0"}, {"MASTER_PORT", "1234"}},
		NO_FLAGS, 3, 4, 1, 2, "node0", 1234, "torchrun"},
	{{{"PSGD_RANK", "0"}, {"PSGD_WORLD_SIZE", "2"}, {"PSGD_MASTER_ADDR", "::1"},
		 {"PSGD_MASTER_PORT", "65535"}},
		NO_FLAGS, 0, 2, 0, 1, "::1", 65535, "PSGD_*"},
	{{{"OMPI_COMM_WORLD_RANK", "5"}, {"OMPI_COMM_WORLD_SIZE", "6"},
		 {"OMPI_COMM_WORLD_LOCAL_RANK", "2"}, {"OMPI_COMM_WORLD_LOCAL_SIZE", "3"}},
		NO_FLAGS, 5, 6, 2, 3, "127.0.0.1", 29500, "Open MPI"},
	{{{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}, {"MPI_LOCALRANKID", "1"}, {"MPI_LOCALNRANKS", "2"}},
		NO_FLAGS, 1, 2, 1, 2, "127.0.0.1", 29500, "Hydra"},
	{{{"SLURM_PROCID", "1"}, {"SLURM_NTASKS", "2"}, {"SLURM_LOCALID", "0"},
		 {"SLURM_STEP_ID", "0"}},
		NO_FLAGS, 1, 2, 0, 1, "127.0.0.1", 29500, "Slurm"},
	/* sbatch without srun: the script is no task of a step */
	{{{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "2"}}, NO_FLAGS, 0, 1, 0, 1, "127.0.0.1", 29500,
		"default"},
	{{{0}}, FLAGS(1, 2, 1, -1, 4000, "10.0.0.1"), 1, 2, 1, 2, "10.0.0.1", 4000, "flags"},
	/* two sources that agree; a half one under a whole one */
	{{{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"PMI_RANK", "1"}, {"PMI_SIZE", "2"}}, NO_FLAGS, 1, 2,
		0, 1, "127.0.0.1", 29500, "torchrun"},
	{{{"WORLD_SIZE", "2"}, {"MASTER_ADDR", "node0"}}, FLAGS(0, 2, -1, -1, -1, NULL), 0, 2, 0, 1,
		"node0", 29500, "flags"},
	/* a torchrun agent under srun has the agent's numbers in Slurm's variables */
	{{{"RANK", "9"}, {"WORLD_SIZE", "16"}, {"TORCHELASTIC_RUN_ID", "none"},
		 {"SLURM_PROCID", "1"}, {"SLURM_NTASKS", "2"}, {"SLURM_STEP_ID", "0"}},
		NO_FLAGS, 9, 16, 0, 1, "127.0.0.1", 29500, "torchrun"},
};

START_TEST(resolves)
{
	struct psgd_launch launch = PSGD_INIT(psgd_launch);
	char error[256] = "old";
	psgd_status status;

	set_environment(good[_i].variables);
	status = psgd_launch_resolve(&good[_i].flags, &launch, error, sizeof(error));
	ck_assert_msg(status == PSGD_OK, "%s", error);
	ck_assert_str_eq(error, "");
	ck_assert_uint_eq(launch.worker, good[_i].worker);
	ck_assert_uint_eq(launch.n_workers, good[_i].n_workers);
	ck_assert_uint_eq(launch.local_rank, good[_i].local_rank);
	ck_assert_uint_eq(launch.local_size, good[_i].local_size);
	ck_assert_str_eq(launch.master_addr, good[_i].addr);
	ck_assert_uint_eq(launch.master_port, good[_i].port);
	ck_assert_str_eq(launch.source, good[_i].source);
}
END_TEST

static const struct {
	const char *variables[MAX_VARIABLES][2];
	struct psgd_launch_flags flags;
	const char *text;
} bad[] = {
	{{{"RANK", "1"}}, NO_FLAGS, "RANK is set but WORLD_SIZE is not"},
	{{{"WORLD_SIZE", "1"}}, NO_FLAGS, "WORLD_SIZE is set but RANK is not"},
	{{{"SLURM_STEP_ID", "0"}, {"SLURM_NTASKS", "2"}}, NO_FLAGS,
		"SLURM_NTASKS is set but SLURM_PROCID is not"},
	{{{0}}, FLAGS(2, 2, -1, -1, -1, NULL),
		"--rank 2 is out of range: --world-size is 2 (0 .. 1)"},
	{{{0}}, FLAGS(2, -1, -1, -1, -1, NULL), "--rank is given but --world-size is not"},
	{{{0}}, FLAGS(-3, 2, -1, -1, -1, NULL), "--rank -3 is out of range (0 .. 4095)"},
	{{{0}}, FLAGS(0, 0, -1, -1, -1, NULL), "--world-size 0 is out of range (1 .. 4096)"},
	{{{0}}, FLAGS(0, 2, -1, -1, 0, NULL), "--master-port 0 is out of range (1 .. 65535)"},
	{{{0}}, FLAGS(0, 2, -1, -1, -1, ""), "--master-addr is empty"},
	{{{0}}, FLAGS(0, 2, 2, -1, -1, NULL),
		"--local-rank 2 is out of range: --world-size is 2 (0 .. 1)"},
	{{{"RANK", "2"}, {"WORLD_SIZE", "2"}}, NO_FLAGS,
		"RANK 2 is out of range: WORLD_SIZE is 2 (0 .. 1)"},
	{{{"RANK", "1x"}, {"WORLD_SIZE", "2"}}, NO_FLAGS, "RANK is \"1x\", which is no number"},
	{{{"RANK", " 1"}, {"WORLD_SIZE", "2"}}, NO_FLAGS, "RANK is \" 1\", which is no number"},
	{{{"RANK", ""}, {"WORLD_SIZE", "2"}}, NO_FLAGS, "RANK is \"\", which is no number"},
	{{{"RANK", "-1"}, {"WORLD_SIZE", "2"}}, NO_FLAGS, "RANK is \"-1\", which is no number"},
	{{{"RANK", "0x1"}, {"WORLD_SIZE", "2"}}, NO_FLAGS, "RANK is \"0x1\", which is no number"},
	{{{"RANK", "99999999999999999999"}, {"WORLD_SIZE", "2"}}, NO_FLAGS,
		"RANK is \"99999999999999999999\", which is no number"},
	{{{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_PORT", "65536"}}, NO_FLAGS,
		"MASTER_PORT 65536 is out of range (1 .. 65535)"},
	{{{"RANK", "0"}, {"WORLD_SIZE", "2"}}, FLAGS(1, 2, -1, -1, -1, NULL),
		"--rank is 1 but RANK is 0"},
	{{{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"OMPI_COMM_WORLD_RANK", "0"},
		 {"OMPI_COMM_WORLD_SIZE", "4"}},
		NO_FLAGS, "WORLD_SIZE is 2 but OMPI_COMM_WORLD_SIZE is 4"},
	{{{"MASTER_ADDR", "a"}, {"PSGD_MASTER_ADDR", "b"}}, NO_FLAGS,
		"PSGD_MASTER_ADDR is b but MASTER_ADDR is a"},
};

START_TEST(refuses)
{
	struct psgd_launch launch = PSGD_INIT(psgd_launch);
	char error[256] = "";
	psgd_status status;

	set_environment(bad[_i].variables);
	launch.worker = 77;
	status = psgd_launch_resolve(&bad[_i].flags, &launch, error, sizeof(error));
	ck_assert_int_eq(status, PSGD_ERR_CONFIG);
	ck_assert_str_eq(error, bad[_i].text);
	ck_assert_uint_eq(launch.worker, 77);
}
END_TEST

START_TEST(long_address_and_small_buffers)
{
	static const char *const none[MAX_VARIABLES][2] = {{0}};
	struct psgd_launch_flags flags = NO_FLAGS;
	struct psgd_launch launch = PSGD_INIT(psgd_launch);
	char address[300], error[12];

	set_environment(none);
	memset(address, 'a', sizeof(address));
	address[256] = '\0';
	flags.master_addr = address;
	ck_assert_int_eq(
		psgd_launch_resolve(&flags, &launch, error, sizeof(error)), PSGD_ERR_CONFIG);
	ck_assert_uint_lt(strlen(error), sizeof(error));
	address[255] = '\0';
	ck_assert_int_eq(psgd_launch_resolve(&flags, &launch, NULL, 0), PSGD_OK);
	ck_assert_str_eq(launch.master_addr, address);
	ck_assert_int_eq(psgd_launch_resolve(NULL, NULL, NULL, 0), PSGD_ERR_INVALID);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("launch");
	TCase *t = tcase_create("identity");

	tcase_add_loop_test(t, resolves, 0, sizeof(good) / sizeof(good[0]));
	tcase_add_loop_test(t, refuses, 0, sizeof(bad) / sizeof(bad[0]));
	tcase_add_test(t, long_address_and_small_buffers);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
