// The instruction set that this processor is given, chosen once.
#pragma once

namespace sccagn {

enum class Isa { baseline, avx2, avx512 };

// The widest that the processor has, or a narrower one that the environment variable SCCAGN_ISA names.
Isa isa();

}  // namespace sccagn

// `SCCAGN_DISPATCH(f(x))` calls f of the namespace of that instruction set.
#ifdef SCCAGN_X86
#define SCCAGN_DISPATCH(...)                      \
  [&]() -> decltype(auto) {                       \
    switch (::sccagn::isa()) {                    \
      case ::sccagn::Isa::avx512:                 \
        return ::sccagn::avx512::__VA_ARGS__;     \
      case ::sccagn::Isa::avx2:                   \
        return ::sccagn::avx2::__VA_ARGS__;       \
      default:                                    \
        return ::sccagn::baseline::__VA_ARGS__;   \
    }                                             \
  }()
#else
#define SCCAGN_DISPATCH(...) ::sccagn::baseline::__VA_ARGS__
#endif
