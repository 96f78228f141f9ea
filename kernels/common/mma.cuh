// Tensor-core matmuls of bf16 tiles, the loads that feed them, and asynchronous copies into shared memory.
//
// Fragments of mma.sync.m16n8k16 (PTX ISA 9.7.15.5.8, "Matrix fragments for mma.m16n8k16 with floating point type"). With
// g = lane / 4 and t = lane % 4, a lane holds, as pairs of neighbouring elements (the lower address in the lower half):
//
//   A [16, 16]: {row g, cols 2t..}, {row g + 8, cols 2t..}, {row g, cols 2t + 8..}, {row g + 8, cols 2t + 8..}
//   B [16, 8]:  {rows 2t.., col g}, {rows 2t + 8.., col g}
//   C [16, 8]:  f32 at (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
//
// ldmatrix (9.7.15.5.15) loads 8 x 8 tiles of bf16: lane i of every eight gives the address of a row of 16 bytes, and lane (g, t)
// receives elements 2t, 2t + 1 of row g; with .trans elements (2t, g), (2t + 1, g) instead. So four tiles of a row-major A are an
// A fragment, tiles of a row-major [n, k] matrix are B fragments of its transpose, and tiles of a row-major [k, n] matrix are
// B fragments when loaded with .trans.
#pragma once
#include "bf16.cuh"

// c += a . b
__device__ __forceinline__ void mma(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ unsigned shared_address(const void *at) {
    return static_cast<unsigned>(__cvta_generic_to_shared(at));
}

// Four tiles: lanes 0-7 give the rows of the first, 8-15 of the second, and so on.
__device__ __forceinline__ void load_tiles(unsigned (&tiles)[4], const bf16 *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ __forceinline__ void load_tiles_transposed(unsigned (&tiles)[4], const bf16 *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// Starts a copy of 16 bytes to shared memory that bypasses registers and the L1 cache; zeros when not `valid`, and
// `from` is then not read (it must still be an address in global memory).
__device__ __forceinline__ void copy_async(bf16 *to, const bf16 *from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(shared_address(to)), "l"(__cvta_generic_to_global(from)), "r"(valid ? 16 : 0)
                 : "memory");
}

// Closes a group of copies.
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `PENDING` of this thread's groups are in flight. Other threads see the data after a barrier.
template <int PENDING>
__device__ __forceinline__ void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Index of the 16-byte chunk `chunk` of row `row` in a tile of rows of COLS bf16, in elements. Chunks are permuted within
// a row so that the eight rows of an ldmatrix tile, and the eight chunks of a row, are in different banks.
template <int COLS>
__device__ __forceinline__ int swizzled(int row, int chunk) {
    static_assert(COLS % 32 == 0, "rows of 64 bytes or more");
    constexpr int CHUNKS = COLS / CHUNK;
    // Rows of 64 bytes: two of them fill the 32 banks, so every second row takes the next permutation.
    const int mask = CHUNKS >= 8 ? row % 8 : row / 2 % 4;
    return row * COLS + (chunk ^ mask) * CHUNK;
}
