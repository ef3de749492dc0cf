#include "base/philox.h"

#include <Random123/philox.h>

void psgd__philox(uint64_t key, const uint32_t counter[4], uint32_t out[4])
{
	philox4x32_ctr_t c = {{counter[0], counter[1], counter[2], counter[3]}};
	philox4x32_key_t k = {{(uint32_t)key, (uint32_t)(key >> 32)}};
	philox4x32_ctr_t r = philox4x32(c, k);

	for (int i = 0; i < 4; i++)
		out[i] = r.v[i];
}

float psgd__philox_normal(uint64_t key, const uint32_t counter[4])
{
	uint32_t words[4];
	int32_t sum = -8 * 65535 / 2;

	psgd__philox(key, counter, words);
	for (int i = 0; i < 4; i++)
		sum += (int32_t)(words[i] & 0xffff) + (int32_t)(words[i] >> 16);
	return (float)sum;
}
