/* Shaping "left", the first interface of a pair, and looking at it. */
#ifndef TESTS_NET_LEFT_H
#define TESTS_NET_LEFT_H

#include <psgd/tc.h>

/* Options for "left" whose error text is `said`. */
extern char said[512];
struct psgd_tc_options left_options(void);

struct psgd_link link_of(struct psgd_link link); /* with its size */

/* All that ip and tc say of this namespace and of "left". The caller frees. */
char *left_everything(void);
void left_same(char *before, char *after); /* fails unless equal, and frees both */

/* These must succeed. */
struct psgd_tc_state left_show(const char *name);
size_t left_n_shaped(void); /* interfaces that psgd shapes here */
size_t left_clear(const char *name, int orphans);

#endif
