/* CUDA's small vectors, with its alignment, and dim3. Part of cuda_runtime.h. */
#ifndef CUDA_SHIM_VECTORS_H
#define CUDA_SHIM_VECTORS_H

#define SHIM_VECTOR2(type, name, bytes)                                                            \
	struct __attribute__((aligned(bytes))) name {                                              \
		type x, y;                                                                         \
	};                                                                                         \
	typedef struct name name;                                                                  \
	static inline name make_##name(type x, type y)                                             \
	{                                                                                          \
		name v = {x, y};                                                                   \
		return v;                                                                          \
	}

#define SHIM_VECTOR4(type, name, bytes)                                                            \
	struct __attribute__((aligned(bytes))) name {                                              \
		type x, y, z, w;                                                                   \
	};                                                                                         \
	typedef struct name name;                                                                  \
	static inline name make_##name(type x, type y, type z, type w)                             \
	{                                                                                          \
		name v = {x, y, z, w};                                                             \
		return v;                                                                          \
	}

SHIM_VECTOR2(int, int2, 8)
SHIM_VECTOR4(int, int4, 16)
SHIM_VECTOR2(unsigned int, uint2, 8)
SHIM_VECTOR4(unsigned int, uint4, 16)
SHIM_VECTOR2(float, float2, 8)
SHIM_VECTOR4(float, float4, 16)
SHIM_VECTOR2(double, double2, 16)

#undef SHIM_VECTOR2
#undef SHIM_VECTOR4

struct uint3 {
	unsigned int x, y, z;
};
typedef struct uint3 uint3;

struct dim3 {
	unsigned int x, y, z;
#ifdef __cplusplus
	constexpr dim3(unsigned int vx = 1, unsigned int vy = 1, unsigned int vz = 1)
	    : x(vx), y(vy), z(vz)
	{
	}
#endif
};
typedef struct dim3 dim3;

#endif
