/*
 * For the sources that are compiled once for each instruction set, with PSGD__ISA as its name:
 * vectors of its width, and names of their own. GCC's and Clang's vectors, so that one text serves
 * all of them.
 */
#ifndef PSGD_DEVICE_CPU_ISA_H
#define PSGD_DEVICE_CPU_ISA_H

#include "device/cpu.h"

#define ISA_PASTE_(isa, name) psgd__##isa##_##name
#define ISA_PASTE(isa, name) ISA_PASTE_(isa, name)
#define ISA(name) ISA_PASTE(PSGD__ISA, name)

void ISA(project)(const struct psgd__matrix *x, int64_t from, int64_t to);
void ISA(back_project)(const struct psgd__matrix *x, int64_t from, int64_t to);
void ISA(reconstruct)(const struct psgd__matrix *x, int64_t from, int64_t to);
void ISA(orthonormalize)(const struct psgd__panel *x, float eps);
void ISA(absorb)(int64_t count, const float *e, float *g, float *p);
void ISA(axpby)(int64_t count, float a, const float *x, float b, float *y);
double ISA(sum_squares)(const float *x, int64_t count);
bool ISA(finite)(const float *x, int64_t count);

#endif
