#include "support/resnet18.h"

static size_t add(
	struct psgd_tensor *out, size_t k, uint32_t n_dims, int64_t a, int64_t b, int64_t c)
{
	out[k] = (struct psgd_tensor){
		.id = (uint32_t)k, .dtype = PSGD_F32, .n_dims = n_dims, .dims = {a, b, c, c}};
	return k + 1;
}

static size_t add_convolution(
	struct psgd_tensor *out, size_t k, int64_t to, int64_t from, int64_t size)
{
	k = add(out, k, 4, to, from, size);
	k = add(out, k, 1, to, 0, 0);
	return add(out, k, 1, to, 0, 0);
}

void resnet18_tensors(struct psgd_tensor out[RESNET18_TENSORS])
{
	static const int64_t widths[] = {64, 128, 256, 512};
	size_t k = add_convolution(out, 0, 64, 3, 3);
	int64_t in = 64;

	for (int layer = 0; layer < 4; layer++) {
		for (int block = 0; block < 2; block++) {
			int64_t width = widths[layer];

			k = add_convolution(out, k, width, in, 3);
			k = add_convolution(out, k, width, width, 3);
			if (in != width)
				k = add_convolution(out, k, width, in, 1);
			in = width;
		}
	}
	k = add(out, k, 2, 10, 512, 0);
	add(out, k, 1, 10, 0, 0);
}
