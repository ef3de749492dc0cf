#include "net/left.h"

#include <check.h>
#include <stdlib.h>

#include "net/pair.h"

char said[512];

struct psgd_tc_options left_options(void)
{
	struct psgd_tc_options o = PSGD_INIT(psgd_tc_options);

	o.interface_name = "left";
	o.module_dir = TC_MODULE_DIR;
	o.error = said;
	o.error_bytes = sizeof(said);
	return o;
}

struct psgd_link link_of(struct psgd_link link)
{
	link.size = sizeof(link);
	return link;
}

char *left_everything(void)
{
	return pair_says("ip -details link show; tc qdisc show; "
			 "tc class show dev left; tc filter show dev left; "
			 "tc filter show dev left ingress 2>/dev/null; true");
}

void left_same(char *before, char *after)
{
	ck_assert_str_eq(before, after);
	free(before);
	free(after);
}

struct psgd_tc_state left_show(const char *name)
{
	struct psgd_tc_state state = PSGD_INIT(psgd_tc_state);
	struct psgd_tc_options o = left_options();
	size_t n;

	o.interface_name = name;
	ck_assert_msg(psgd_tc_show(&o, &state, 1, &n) == PSGD_OK, "%s", said);
	ck_assert_uint_eq(n, 1);
	return state;
}

size_t left_n_shaped(void)
{
	struct psgd_tc_options o = left_options();
	size_t n;

	o.interface_name = NULL;
	ck_assert_msg(psgd_tc_show(&o, NULL, 0, &n) == PSGD_OK, "%s", said);
	return n;
}

size_t left_clear(const char *name, int orphans)
{
	struct psgd_tc_options o = left_options();
	size_t n;

	o.interface_name = name;
	ck_assert_msg(psgd_tc_clear(&o, orphans, &n) == PSGD_OK, "%s", said);
	return n;
}
