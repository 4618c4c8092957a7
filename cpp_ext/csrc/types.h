// Types of tensors as types of C++, for both devices.
#pragma once

#include <cstdint>

#include "checks.h"

namespace sccagn {

// Calls run(T()) with float or double, that of the tensor.
template <class Run>
auto by_type(const Tensor& t, const Run& run) {
  return t.scalar_type() == ScalarType::Float ? run(float()) : run(double());
}

// Calls run(T(), Value(), Index()) for what check_csr lets pass: types of the dense factor, the values and the indices.
template <class Run>
void by_csr_types(const Tensor& dense, const Tensor& values, const Tensor& indices, const Run& run) {
  const auto with_index = [&]<class T, class Value>(T t, Value v) {
    if (indices.scalar_type() == ScalarType::Int)
      run(t, v, int32_t());
    else
      run(t, v, int64_t());
  };
  by_type(dense, [&]<class T>(T t) {
    if (values.scalar_type() == ScalarType::Byte)
      with_index(t, uint8_t());
    else if (values.scalar_type() == ScalarType::UInt16)
      with_index(t, uint16_t());
    else
      with_index(t, t);
  });
}

}  // namespace sccagn
