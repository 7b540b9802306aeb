// How ONNX Runtime gets to know the operators, and what a build says of itself.

#include <cstdio>
#include <string>

#include "runtime.h"
#include "vector.h"

#ifndef BLOCK_SPARSE_VERSION
#define BLOCK_SPARSE_VERSION "0"
#endif
#ifndef BLOCK_SPARSE_FLAGS
#define BLOCK_SPARSE_FLAGS "unknown"
#endif

#if defined(_WIN32)
#define EXPORTED __declspec(dllexport)
#else
#define EXPORTED __attribute__((visibility("default")))
#endif

namespace block_sparse {
namespace {

constexpr const char* kDomain = "latprof.block_sparse";

const Operators& operators() {
  static const Operators all = [] {
    Operators made;
    add_operators(&made);
    add_quantised_operators(&made);
    return made;
  }();
  return all;
}

// Whether this runtime, such as 1.32.0, is of that version of the API or newer. Asking it for a newer
// one would make it print.
bool has_version(const ort::ApiBase* base, uint32_t wanted) {
  unsigned major = 0, minor = 0;
  std::sscanf(base->GetVersionString(), "%u.%u", &major, &minor);
  return major > 1 || minor >= wanted;
}

// The domain with all operators, made once: sessions hold on to it.
ort::CustomOpDomain* the_domain(const ort::ApiBase* base) {
  static ort::CustomOpDomain* const domain = [base] {
    api = ort::Api(base->GetApi(ort::kApiVersion));
    if (has_version(base, ort::kApiVersionWithSize))
      api_size = ort::Api(base->GetApi(ort::kApiVersionWithSize));
    ort::CustomOpDomain* made = nullptr;
    pass(api.CreateCustomOpDomain(kDomain, &made));
    for (const auto& op : operators()) pass(api.CustomOpDomain_Add(made, op.get()));
    return made;
  }();
  return domain;
}

}  // namespace
}  // namespace block_sparse

// What ONNX Runtime calls when a library of operators is registered with a session's options.
extern "C" EXPORTED ort::Status* RegisterCustomOps(ort::SessionOptions* options,
                                                   const ort::ApiBase* base) {
  using namespace block_sparse;
  if (!has_version(base, ort::kApiVersion)) {
    // Version 1 is in every runtime, and knows how to say so.
    const std::string message = std::string(kDomain) + " needs ONNX Runtime 1." +
                                std::to_string(ort::kApiVersion) + " or newer, this is " +
                                base->GetVersionString();
    return ort::Api(base->GetApi(1)).CreateStatus(ort::ErrorCode::kFail, message.c_str());
  }
  try {
    return ort::Api(base->GetApi(ort::kApiVersion)).AddCustomOpDomain(options, the_domain(base));
  } catch (const Passed& passed) {
    return passed.status;
  } catch (const std::exception& error) {
    return ort::Api(base->GetApi(1)).CreateStatus(ort::ErrorCode::kFail, error.what());
  }
}

// Version, instruction set, vector bytes and flags of this build, as `latprof kernels info` reads
// them.
extern "C" EXPORTED const char* BlockSparseBuild() {
  static const std::string text = std::string(BLOCK_SPARSE_VERSION) + " " +
                                  block_sparse::kInstructions + " " +
                                  std::to_string(block_sparse::kVectorBytes) + " " +
                                  BLOCK_SPARSE_FLAGS;
  return text.c_str();
}
