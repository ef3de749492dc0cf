#include <string.h>

#include "experiment/rendezvous_impl.h"

static const uint8_t magic[4] = {0x89, 'P', 'S', 'G'};

static void put_u32(uint8_t *to, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		to[i] = (uint8_t)(value >> (8 * i));
}

static uint32_t get_u32(const uint8_t *from)
{
	uint32_t value = 0;

	for (int i = 0; i < 4; i++)
		value |= (uint32_t)from[i] << (8 * i);
	return value;
}

void psgd__frame_header(uint8_t out[PSGD__FRAME_HEADER], enum psgd__frame_type type, size_t length)
{
	memcpy(out, magic, sizeof(magic));
	put_u32(out + 4, (uint32_t)type);
	put_u32(out + 8, (uint32_t)length);
}

size_t psgd__reader_want(struct psgd__reader *reader, uint8_t **to)
{
	if (reader->have < PSGD__FRAME_HEADER) {
		*to = reader->header + reader->have;
		return PSGD__FRAME_HEADER - reader->have;
	}
	*to = reader->body + (reader->have - PSGD__FRAME_HEADER);
	return PSGD__FRAME_HEADER + reader->length - reader->have;
}

static psgd_status take_header(struct psgd__reader *reader)
{
	uint32_t type = get_u32(reader->header + 4);
	uint32_t length = get_u32(reader->header + 8);

	if (memcmp(reader->header, magic, sizeof(magic)) != 0 || type < PSGD__HELLO ||
		type >= PSGD__FRAME_TYPES || length > reader->limit)
		return PSGD_ERR_MISMATCH;
	reader->body = malloc(length ? length : 1);
	if (!reader->body)
		return PSGD_ERR_NOMEM;
	reader->type = (enum psgd__frame_type)type;
	reader->length = length;
	return PSGD_OK;
}

psgd_status psgd__reader_got(struct psgd__reader *reader, size_t n)
{
	reader->have += n;
	if (reader->have < PSGD__FRAME_HEADER)
		return PSGD_PENDING;
	if (!reader->body)
		PSGD__TRY(take_header(reader));
	return reader->have == PSGD__FRAME_HEADER + reader->length ? PSGD_OK : PSGD_PENDING;
}

void psgd__reader_clear(struct psgd__reader *reader)
{
	free(reader->body);
	*reader = (struct psgd__reader){.limit = reader->limit};
}

void psgd__hello_encode(const struct psgd__hello *hello, uint8_t out[PSGD__HELLO_BYTES])
{
	put_u32(out, hello->protocol);
	put_u32(out + 4, hello->version);
	put_u32(out + 8, hello->n_workers);
	put_u32(out + 12, hello->worker);
	put_u32(out + 16, hello->has_token);
	memcpy(out + 20, hello->nonce, PSGD__NONCE_BYTES);
}

psgd_status psgd__hello_decode(const uint8_t *body, size_t length, struct psgd__hello *out)
{
	if (length != PSGD__HELLO_BYTES)
		return PSGD_ERR_MISMATCH;
	out->protocol = get_u32(body);
	out->version = get_u32(body + 4);
	out->n_workers = get_u32(body + 8);
	out->worker = get_u32(body + 12);
	out->has_token = get_u32(body + 16);
	memcpy(out->nonce, body + 20, PSGD__NONCE_BYTES);
	if (out->protocol != PSGD__PROTOCOL || out->has_token > 1)
		return PSGD_ERR_MISMATCH;
	return PSGD_OK;
}

size_t psgd__fail_encode(psgd_status status, const char *text, uint8_t *out)
{
	size_t length = strnlen(text, PSGD__FAIL_TEXT_MAX);

	put_u32(out, (uint32_t)status);
	memcpy(out + 4, text, length);
	return 4 + length;
}

psgd_status psgd__fail_decode(const uint8_t *body, size_t length, char *text, size_t text_bytes)
{
	psgd_status status = PSGD_ERR_TRANSPORT;
	size_t n = 0;

	if (length >= 4) {
		int32_t sent = (int32_t)get_u32(body);

		if (sent < 0 && sent >= PSGD_ERR_INTERNAL)
			status = (psgd_status)sent;
		for (size_t i = 4; i < length && n + 1 < text_bytes; i++)
			text[n++] = body[i] >= 0x20 && body[i] != 0x7f ? (char)body[i] : '?';
	}
	if (text_bytes)
		text[n] = '\0';
	return status;
}
