/* Photographs for tests: JPEG images of any size, and a folder of them. */
#ifndef TESTS_IMAGE_PHOTO_FILES_H
#define TESTS_IMAGE_PHOTO_FILES_H

#include "pack_files.h"

enum photo_kind { PHOTO_COLOUR, PHOTO_GREY, PHOTO_INKS, PHOTO_PROGRESSIVE };

struct photo {
	uint8_t *bytes;
	size_t n;
};

/* The value that was encoded at a pixel: 0 .. 2 of PHOTO_COLOUR, 0 of grey, 0 .. 3 of inks. */
uint8_t photo_value(unsigned number, size_t col, size_t row, size_t channel);

/* Smooth and detailed enough to tell one part from another. Freed by photo_free. */
struct photo photo_encode(enum photo_kind kind, size_t cols, size_t rows, unsigned number);

/* Of one shade, as good as exact. */
struct photo photo_flat(size_t cols, size_t rows, uint8_t value);
void photo_free(struct photo *photo);

/* Into a file below work. */
void photo_write(const char *name, const struct photo *photo);

#endif
