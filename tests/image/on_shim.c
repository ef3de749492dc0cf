/* Where the tests of layers run: on the CUDA that runs on a CPU, which is always there. */
#include "pair.h"

bool pair_has_device(void)
{
	return true;
}
