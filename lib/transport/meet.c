#include "transport/meet.h"

#include <string.h>

bool psgd__meet_valid(const struct psgd_oob *oob, int64_t timeout_ns)
{
	return oob && oob->allgather && oob->n_workers && oob->worker < oob->n_workers &&
	       timeout_ns >= 0;
}

void psgd__meet_clean(char *text, size_t bytes)
{
	text[bytes - 1] = '\0';
	for (; *text; text++) {
		if (*text < ' ' || *text > '~')
			*text = '?';
	}
}

/* The failure of the first worker that has one; this worker's own goes first. */
static psgd_status judge(const char *blocks, size_t block, const struct psgd_oob *oob,
	uint32_t magic, char *reason, size_t bytes)
{
	psgd_status status = PSGD_OK;

	for (uint32_t i = 0; i < oob->n_workers && !status; i++) {
		uint32_t w = (oob->worker + i) % oob->n_workers;
		struct psgd__hello hello;

		memcpy(&hello, blocks + w * block, sizeof(hello));
		if (hello.magic != magic) {
			psgd__text(reason, bytes, "worker %u is of another version", w);
			return PSGD_ERR_MISMATCH;
		}
		if (!hello.status)
			continue;
		status = hello.status < 0 ? (psgd_status)hello.status : PSGD_ERR_TRANSPORT;
		psgd__meet_clean(hello.text, sizeof(hello.text));
		if (i)
			psgd__text(reason, bytes, "worker %u: %s", w, hello.text);
		else
			psgd__text(reason, bytes, "%s", hello.text);
	}
	return status;
}

psgd_status psgd__meet(const struct psgd_oob *oob, uint32_t magic, char *mine, char *blocks,
	size_t block, psgd_status status, char *reason, size_t bytes)
{
	struct psgd__hello hello = {.magic = magic, .status = status};

	psgd__text(
		hello.text, sizeof(hello.text), "%.*s", PSGD__HELLO_TEXT - 1, status ? reason : "");
	memcpy(mine, &hello, sizeof(hello));
	status = oob->allgather(oob->self, mine, blocks, block);
	if (status) {
		psgd__text(reason, bytes, "the workers cannot exchange addresses: %s",
			psgd_status_text(status));
		return status < 0 ? status : PSGD_ERR_TRANSPORT;
	}
	return judge(blocks, block, oob, magic, reason, bytes);
}
