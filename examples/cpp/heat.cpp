// Loads a network with its heat from a .pt2 that camfast.export wrote, and runs it: no Python.
//
//   heat cat.pt2            random numbers, 224 x 224
//   heat cat.pt2 64 80      of another size
//   heat cat.pt2 64 80 in.bin out.bin    images from and heat to files of raw floats

// --8<-- [start:program]
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

int main(int count, char** words) {
  if (count < 2) return std::fprintf(stderr, "heat FILE.pt2 [HEIGHT WIDTH [IN OUT]]\n"), 2;
  const int64_t height = count > 3 ? std::stoll(words[2]) : 224, width = count > 3 ? std::stoll(words[3]) : 224;
  c10::InferenceMode mode;
  torch::inductor::AOTIModelPackageLoader network(words[1]);

  at::Tensor images = at::randn({1, 3, height, width});
  if (count > 4) std::ifstream(words[4], std::ios::binary).read(static_cast<char*>(images.data_ptr()), images.nbytes());
  std::vector<at::Tensor> found = network.run({images});
  at::Tensor scores = found[0], heat = found[1].contiguous();

  const int64_t warmest = heat[0].flatten().argmax().item<int64_t>();
  std::printf("class %lld, warmest at row %lld, column %lld\n", (long long)scores[0].argmax().item<int64_t>(),
              (long long)(warmest / heat.size(-1)), (long long)(warmest % heat.size(-1)));
  if (count > 5) std::ofstream(words[5], std::ios::binary).write(static_cast<char*>(heat.data_ptr()), heat.nbytes());
}
// --8<-- [end:program]
