/* State of caps and choices: as arrays of bytes, and what choices hold of each tensor. */
#include "base/state.h"
#include "control/control.h"

#include <string.h>

static size_t length(const struct psgd__state_piece *piece)
{
	return piece->n ? *piece->n : 1;
}

static void *memory(const struct psgd__state_piece *piece)
{
	return piece->n ? *(void **)piece->at : piece->at;
}

psgd_status psgd__state_save(const struct psgd__state_owner *owners, size_t n_owners,
	const struct psgd_state_writer *writer)
{
	struct psgd__state_piece pieces[PSGD__MAX_PIECES];

	for (size_t o = 0; o < n_owners; o++) {
		size_t n = owners[o].pieces(owners[o].self, pieces);

		for (size_t i = 0; i < n; i++)
			PSGD__TRY(psgd__state_put(writer, pieces[i].name, PSGD_U8,
				(int64_t)length(&pieces[i]), (int64_t)pieces[i].bytes,
				memory(&pieces[i])));
	}
	return PSGD_OK;
}

/* A piece as it was read; the next ones follow it. */
struct loaded {
	struct psgd__state_piece piece;
	void *self;
	void *data;
	size_t n;
};

static psgd_status load_piece(const struct psgd_state_reader *reader, struct loaded *out)
{
	const struct psgd__state_piece *piece = &out->piece;
	struct psgd_state_array array = PSGD_INIT(psgd_state_array);

	PSGD__TRY(reader->find(reader->user, piece->name, &array));
	if (array.dtype != PSGD_U8 || array.n_dims != 2 || array.dims[0] < 0 ||
		array.dims[1] != (int64_t)piece->bytes || (!piece->n && array.dims[0] != 1))
		return PSGD_ERR_MISMATCH;
	out->n = (size_t)array.dims[0];
	out->data = psgd__calloc(out->n, piece->bytes);
	if (!out->data)
		return PSGD_ERR_NOMEM;
	PSGD__TRY(reader->read(reader->user, piece->name, out->data, out->n * piece->bytes));
	if (piece->possible && !piece->possible(out->self, out->data, out->n))
		return PSGD_ERR_MISMATCH;
	return PSGD_OK;
}

static void put_back(struct loaded *loaded)
{
	const struct psgd__state_piece *piece = &loaded->piece;

	if (!piece->n) {
		memcpy(piece->at, loaded->data, piece->bytes);
		return;
	}
	free(*(void **)piece->at);
	*(void **)piece->at = loaded->data;
	*piece->n = loaded->n;
	loaded->data = NULL;
}

psgd_status psgd__state_load(const struct psgd__state_owner *owners, size_t n_owners,
	const struct psgd_state_reader *reader)
{
	struct psgd__state_piece pieces[PSGD__MAX_PIECES];
	struct loaded loaded[3 * PSGD__MAX_PIECES] = {0};
	psgd_status status = PSGD_OK;
	size_t n = 0;

	for (size_t o = 0; o < n_owners && status >= 0; o++) {
		size_t own = owners[o].pieces(owners[o].self, pieces);

		for (size_t i = 0; i < own && status >= 0; i++) {
			loaded[n] = (struct loaded){pieces[i], owners[o].self, NULL, 0};
			status = load_piece(reader, &loaded[n++]);
		}
	}
	for (size_t i = 0; i < n; i++) {
		if (status >= 0)
			put_back(&loaded[i]);
		free(loaded[i].data);
	}
	return status;
}

psgd_status psgd__fit_layers(
	const struct psgd_observation *seen, void *layers, size_t *n, size_t size, bool *fresh)
{
	void *list;

	*fresh = false;
	if (!seen->tensors || !seen->n_tensors)
		return PSGD_ERR_INVALID;
	if (*n)
		return *n == seen->n_tensors ? PSGD_OK : PSGD_ERR_MISMATCH;
	memcpy(&list, layers, sizeof(list));
	free(list); /* of no elements, as a state may have left it */
	list = psgd__calloc(seen->n_tensors, size);
	memcpy(layers, &list, sizeof(list));
	if (!list)
		return PSGD_ERR_NOMEM;
	*n = seen->n_tensors;
	*fresh = true;
	return PSGD_OK;
}
