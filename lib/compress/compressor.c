#include <psgd/compressor.h>

#include <string.h>

#include "base/base.h"

void psgd_compressor_destroy(struct psgd_compressor *compressor)
{
	if (!compressor || !compressor->ops)
		return;
	if (PSGD__HAS(compressor->ops, destroy))
		compressor->ops->destroy(compressor->self);
	memset(compressor, 0, sizeof(*compressor));
}
