// Candidates of Bayesian fields: Philox4x32-10 (Salmon et al. 2011) and a table of normal quantiles,
// scored as they are made (fields/bayes_blocks.py).
#pragma once

#include <cstdint>

namespace fieldpress::fields {

constexpr int NORMALS = 8;  // Of a call of the generator: 16 bits each.

// The counter's words: candidate, group of 8 dimensions, block, level. The key is 0.
struct Place {
  uint32_t level, block;
};

// out [rows, count] of candidates first, first + 1, ...: the sum over j of c[j] z_j^2 +
// c[dims + j] z_j with the coefficients c [rows, 2 dims]; table [2^16] in units of 2^-12.
void score(const int16_t* table, const float* coefficients, int64_t rows, int64_t dims, Place place,
           uint32_t first, int64_t count, float* out);

}  // namespace fieldpress::fields
