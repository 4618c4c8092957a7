#include "dispatch.h"

#include <cstdlib>
#include <string_view>

namespace sccagn {
namespace {

Isa choose() {
  Isa widest = Isa::baseline;
#ifdef SCCAGN_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    widest = Isa::avx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
      widest = Isa::avx512;
  }
#endif
  const char* const variable = std::getenv("SCCAGN_ISA");
  const std::string_view wanted = variable ? variable : "";
  if (wanted == "baseline") return Isa::baseline;
  if (wanted == "avx2" && widest == Isa::avx512) return Isa::avx2;
  return widest;
}

}  // namespace

Isa isa() {
  static const Isa chosen = choose();
  return chosen;
}

}  // namespace sccagn

// For `sccagn_scale_ext.instruction_set()`.
extern "C" __attribute__((visibility("default"))) const char* sccagn_instruction_set() {
  switch (sccagn::isa()) {
    case sccagn::Isa::avx512:
      return "avx512";
    case sccagn::Isa::avx2:
      return "avx2";
    default:
      return "baseline";
  }
}
