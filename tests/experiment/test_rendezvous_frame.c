/* The decoders of what arrives from the network: any bytes, in any pieces. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "experiment/rendezvous_impl.h"
#include "experiment/stack_impl.h"
#include "support/suite.h"

static uint64_t state;

static uint32_t next_random(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t)(state >> 16);
}

/* Feeds bytes in random pieces; stops at the end of a frame or at an error. */
static psgd_status feed(struct psgd__reader *reader, const uint8_t *bytes, size_t n, size_t *used)
{
	psgd_status status = PSGD_PENDING;

	*used = 0;
	while (status == PSGD_PENDING && *used < n) {
		uint8_t *to;
		size_t want = psgd__reader_want(reader, &to);
		size_t piece = 1 + next_random() % 9;

		if (!want)
			ck_abort_msg("a whole frame wants more");
		if (piece > want)
			piece = want;
		if (piece > n - *used)
			piece = n - *used;
		memcpy(to, bytes + *used, piece);
		*used += piece;
		status = psgd__reader_got(reader, piece);
	}
	return status;
}

START_TEST(frames_come_back)
{
	state = 1;
	for (int i = 0; i < 2000; i++) {
		struct psgd__reader reader = {.limit = 300};
		size_t length = next_random() % 301, used;
		enum psgd__frame_type type = 1 + next_random() % (PSGD__FRAME_TYPES - 1);
		uint8_t bytes[12 + 300 + 5];

		psgd__frame_header(bytes, type, length);
		for (size_t b = 12; b < sizeof(bytes); b++)
			bytes[b] = (uint8_t)next_random();
		ck_assert_int_eq(feed(&reader, bytes, sizeof(bytes), &used), PSGD_OK);
		ck_assert_uint_eq(used, 12 + length);
		ck_assert_int_eq(reader.type, type);
		ck_assert_uint_eq(reader.length, length);
		ck_assert_mem_eq(reader.body, bytes + 12, length);
		psgd__reader_clear(&reader);
		ck_assert_uint_eq(reader.limit, 300);
		ck_assert_int_eq(feed(&reader, bytes, 12 + length, &used), PSGD_OK);
		psgd__reader_clear(&reader);
	}
}
END_TEST

/* Random bytes, and frames with a few bytes changed: whatever comes, memory stays within bounds. */
START_TEST(random_bytes_are_survived)
{
	size_t n_frames = 0, n_refused = 0, n_controls = 0;

	state = 0x1234567;
	for (int i = 0; i < 20000; i++) {
		struct psgd__reader reader = {.limit = 4 + PSGD__FAIL_TEXT_MAX};
		uint8_t bytes[600];
		char text[64];
		struct psgd__hello hello;
		size_t used;
		psgd_status status;

		for (size_t b = 0; b < sizeof(bytes); b++)
			bytes[b] = (uint8_t)next_random();
		if (i % 4)
			psgd__frame_header(bytes, 1 + next_random() % (PSGD__FRAME_TYPES - 1),
				next_random() % 600);
		if (i % 4 == 1)
			bytes[next_random() % 12] = (uint8_t)next_random();
		status = feed(&reader, bytes, sizeof(bytes), &used);
		if (status == PSGD_OK) {
			n_frames++;
			psgd__hello_decode(reader.body, reader.length, &hello);
			status = psgd__fail_decode(reader.body, reader.length, text, sizeof(text));
			ck_assert_int_lt(status, 0);
			ck_assert_int_ge(status, PSGD_ERR_INTERNAL);
			for (const char *c = text; *c; c++)
				n_controls += (unsigned char)*c < 0x20 || *c == 0x7f;
		} else if (status < 0) {
			n_refused++;
			ck_assert_int_eq(status, PSGD_ERR_MISMATCH);
		}
		psgd__reader_clear(&reader);
	}
	ck_assert_uint_eq(n_controls, 0);
	ck_assert_uint_gt(n_frames, 5000);
	ck_assert_uint_gt(n_refused, 4000);
}
END_TEST

START_TEST(bounds_hold)
{
	struct psgd__reader reader = {.limit = 16};
	uint8_t bytes[64] = {0};
	size_t used;

	psgd__frame_header(bytes, PSGD__BLOCK, 17);
	ck_assert_int_eq(feed(&reader, bytes, 64, &used), PSGD_ERR_MISMATCH);
	ck_assert_uint_eq(used, 12);
	psgd__reader_clear(&reader);
	psgd__frame_header(bytes, PSGD__BLOCK, 0xffffffff);
	ck_assert_int_eq(feed(&reader, bytes, 64, &used), PSGD_ERR_MISMATCH);
	psgd__reader_clear(&reader);
	psgd__frame_header(bytes, PSGD__FRAME_TYPES, 0);
	ck_assert_int_eq(feed(&reader, bytes, 64, &used), PSGD_ERR_MISMATCH);
	psgd__reader_clear(&reader);
	psgd__frame_header(bytes, 0, 0);
	ck_assert_int_eq(feed(&reader, bytes, 64, &used), PSGD_ERR_MISMATCH);
	psgd__reader_clear(&reader);
}
END_TEST

START_TEST(hello_and_fail_come_back)
{
	struct psgd__hello hello = {PSGD__PROTOCOL, 102, 4, 3, 1, {1, 2, 3}}, other;
	uint8_t bytes[PSGD__HELLO_BYTES], body[4 + PSGD__FAIL_TEXT_MAX];
	char text[PSGD__FAIL_TEXT_MAX];
	size_t n;

	psgd__hello_encode(&hello, bytes);
	ck_assert_int_eq(psgd__hello_decode(bytes, sizeof(bytes), &other), PSGD_OK);
	ck_assert_mem_eq(&hello, &other, sizeof(hello));
	ck_assert_int_eq(psgd__hello_decode(bytes, sizeof(bytes) - 1, &other), PSGD_ERR_MISMATCH);
	bytes[0]++;
	ck_assert_int_eq(psgd__hello_decode(bytes, sizeof(bytes), &other), PSGD_ERR_MISMATCH);
	n = psgd__fail_encode(PSGD_ERR_TIMEOUT, "worker 1 \x1b[31m\n", body);
	ck_assert_int_eq(psgd__fail_decode(body, n, text, sizeof(text)), PSGD_ERR_TIMEOUT);
	ck_assert_str_eq(text, "worker 1 ?[31m?");
	memset(body, 0, 4);
	ck_assert_int_eq(psgd__fail_decode(body, n, text, sizeof(text)), PSGD_ERR_TRANSPORT);
	ck_assert_int_eq(psgd__fail_decode(body, 3, text, sizeof(text)), PSGD_ERR_TRANSPORT);
	ck_assert_str_eq(text, "");
}
END_TEST

/* The two proofs differ in every input that they bind. */
START_TEST(proofs_bind_role_nonce_and_hello)
{
	struct psgd__token token = {.bytes = 16, .data = "0123456789abcdef"}, other = token;
	uint8_t nonce[PSGD__NONCE_BYTES] = {0}, hello[PSGD__HELLO_BYTES] = {0};
	uint8_t mac[PSGD__MAC_BYTES], again[PSGD__MAC_BYTES];

	psgd__token_mac(&token, PSGD__ROLE_WORKER, nonce, hello, mac);
	psgd__token_mac(&token, PSGD__ROLE_WORKER, nonce, hello, again);
	ck_assert(psgd__mac_equal(mac, again));
	psgd__token_mac(&token, PSGD__ROLE_MASTER, nonce, hello, again);
	ck_assert(!psgd__mac_equal(mac, again));
	nonce[31] = 1;
	psgd__token_mac(&token, PSGD__ROLE_WORKER, nonce, hello, again);
	ck_assert(!psgd__mac_equal(mac, again));
	nonce[31] = 0;
	for (size_t b = 0; b < sizeof(hello); b++) {
		hello[b] = 1;
		psgd__token_mac(&token, PSGD__ROLE_WORKER, nonce, hello, again);
		ck_assert(!psgd__mac_equal(mac, again));
		hello[b] = 0;
	}
	other.data[15] = 'F';
	psgd__token_mac(&other, PSGD__ROLE_WORKER, nonce, hello, again);
	ck_assert(!psgd__mac_equal(mac, again));
}
END_TEST

START_TEST(loopback_and_wildcard)
{
	static const struct {
		int family;
		const char *text;
		bool loopback, wildcard;
	} cases[] = {
		{AF_INET, "127.0.0.1", true, false},
		{AF_INET, "127.255.0.9", true, false},
		{AF_INET, "128.0.0.1", false, false},
		{AF_INET, "10.0.0.127", false, false},
		{AF_INET, "0.0.0.0", false, true},
		{AF_INET6, "::1", true, false},
		{AF_INET6, "::", false, true},
		{AF_INET6, "::ffff:127.0.0.1", true, false},
		{AF_INET6, "::ffff:0.0.0.0", false, true},
		{AF_INET6, "fe80::1", false, false},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct sockaddr_storage address = {.ss_family = (sa_family_t)cases[i].family};
		void *to = cases[i].family == AF_INET
				   ? (void *)&((struct sockaddr_in *)&address)->sin_addr
				   : (void *)&((struct sockaddr_in6 *)&address)->sin6_addr;

		ck_assert_int_eq(inet_pton(cases[i].family, cases[i].text, to), 1);
		ck_assert_int_eq(psgd__is_loopback(&address), cases[i].loopback);
		ck_assert_int_eq(psgd__is_wildcard(&address), cases[i].wildcard);
	}
}
END_TEST

/* --- the table of differences --- */

static const struct {
	const char *first, *own, *table;
} tables[] = {
	{"a: 1\n", "a: 1\n", ""},
	{"a: 1\nb: {c: x, d: [1, 2]}\n", "a: 1\nb: {c: y, d: [1, 3]}\n",
		"b.c: worker 0 has x, worker 3 has y\n"
		"b.d: worker 0 has [1, 2], worker 3 has [1, 3]"},
	{"a: 1\n", "b: 2\n",
		"a: worker 0 has 1, worker 3 has no such key\n"
		"b: worker 0 has no such key, worker 3 has 2"},
	{"r: [{s: 1, e: 2}]\n", "r: [{s: 1, e: 3}]\n",
		"r: worker 0 has [{s: 1, e: 2}], worker 3 has [{s: 1, e: 3}]"},
	{"network_limits: {interface: a}\nmodel: {weights: a}\n"
	 "compression: {calibration: {csv_name: a}}\n",
		"network_limits: {interface: b}\nmodel: {weights: b}\n"
		"compression: {calibration: {csv_name: b}}\n",
		""},
	{"threads: 1\ndataset: {root: /a, loader_threads: 1, prefetch_batches: 1}\nsave_dir: "
	 "x\nname: q\n",
		"threads: 2\ndataset: {root: /b, loader_threads: 2, prefetch_batches: "
		"3}\nsave_dir: y\nname: p\n",
		""},
	{"compression: {calibration: {save_dir: /a, warmup_iters: 1}}\n",
		"compression: {calibration: {save_dir: /b, warmup_iters: 2}}\n",
		"compression.calibration.warmup_iters: worker 0 has 1, worker 3 has 2"},
};

START_TEST(differences_are_listed)
{
	char *table;

	ck_assert_int_eq(psgd__compare_yaml(tables[_i].first, tables[_i].own, 3, &table), PSGD_OK);
	ck_assert_str_eq(table, tables[_i].table);
	free(table);
	ck_assert_int_eq(psgd__compare_yaml(tables[_i].first, "a: [", 3, &table), PSGD_ERR_CONFIG);
	ck_assert_ptr_null(table);
	ck_assert_int_eq(psgd__compare_yaml("[1]", "a: 1", 3, &table), PSGD_ERR_CONFIG);
	ck_assert_int_eq(psgd__compare_yaml("", "a: 1", 3, &table), PSGD_ERR_CONFIG);
}
END_TEST

/* Short texts of aliases that stand for endless ones are refused, at once. */
START_TEST(alias_bombs)
{
	static const char *const forms[] = {"[*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]",
		"{a: *%c, b: *%c, c: *%c, d: *%c, e: *%c, f: *%c, g: *%c, h: *%c}"};
	char text[2048], item[128], *table;
	size_t n;

	for (size_t form = 0; form < 2; form++) {
		n = (size_t)snprintf(text, sizeof(text), "a: &a x\n");
		for (char c = 'b'; c < 'm'; c++) {
			char p = (char)(c - 1);

			snprintf(item, sizeof(item), forms[form], p, p, p, p, p, p, p, p);
			n += (size_t)snprintf(
				text + n, sizeof(text) - n, "%c: &%c %s\n", c, c, item);
		}
		ck_assert_int_eq(psgd__compare_yaml(text, "a: 1\n", 1, &table), PSGD_ERR_CONFIG);
		ck_assert_int_eq(psgd__compare_yaml("a: 1\n", text, 1, &table), PSGD_ERR_CONFIG);
		ck_assert_ptr_null(table);
	}
	snprintf(text, sizeof(text), "a: %.40s1%.40s\n", "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
		"]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]");
	ck_assert_int_eq(psgd__compare_yaml(text, "a: 1\n", 1, &table), PSGD_ERR_CONFIG);
}
END_TEST

/* A hostile worker 0 shares what is no configuration. */
START_TEST(random_yaml_is_survived)
{
	static const char alphabet[] = "ab:- \n[]{},&*!|>\"'#?%1";

	state = 99;
	for (int i = 0; i < 3000; i++) {
		char text[80], *table = NULL;

		for (size_t c = 0; c + 1 < sizeof(text); c++)
			text[c] = alphabet[next_random() % (sizeof(alphabet) - 1)];
		text[next_random() % sizeof(text)] = '\0';
		text[sizeof(text) - 1] = '\0';
		psgd__compare_yaml(text, "a: 1\n", 1, &table);
		free(table);
	}
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("rendezvous_frame");
	TCase *t = tcase_create("decoders");

	tcase_add_test(t, frames_come_back);
	tcase_add_test(t, random_bytes_are_survived);
	tcase_add_test(t, bounds_hold);
	tcase_add_test(t, hello_and_fail_come_back);
	tcase_add_test(t, proofs_bind_role_nonce_and_hello);
	tcase_add_test(t, loopback_and_wildcard);
	tcase_add_loop_test(t, differences_are_listed, 0, sizeof(tables) / sizeof(tables[0]));
	tcase_add_test(t, alias_bombs);
	tcase_add_test(t, random_yaml_is_survived);
	tcase_set_timeout(t, 30);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
