/*
 * Sums that are the same bits in every instruction set: PSGD__LANES virtual lanes, each the sum of
 * every PSGD__LANES-th product in order, and one tree over the lanes.
 */
#ifndef PSGD_DEVICE_CPU_LANES_H
#define PSGD_DEVICE_CPU_LANES_H

#include "device/cpu.h"

#define LANES PSGD__LANES
#define TOGETHER 4 /* columns of a basis that are removed from a column together */

/* Halves are added until one lane is left. */
static inline float lanes_sum(float lane[LANES])
{
	for (int width = LANES / 2; width > 0; width /= 2) {
		for (int i = 0; i < width; i++)
			lane[i] = lane[i] + lane[i + width];
	}
	return lane[0];
}

/* What divides a column of this length; 0: the column is zero in effect, and stays or becomes so.
 */
float psgd__inverse_norm(float squares, float eps);

#endif
