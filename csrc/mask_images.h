// The arguments of mask_images, checked and laid out, for the CPU and the CUDA kernel.
#pragma once

#include "layout.h"

namespace camfast {

struct MaskInputs {
  Tensor images, maps; // dense
  Tensor out;
  int64_t N, C, planes; // images, maps per image, planes per image (its channels)
  bool channels_last;   // images and out
  Extent map, size;
};

inline MaskInputs mask_inputs(const Tensor& images, const Tensor& maps) {
  check_floating(images, "images");
  const int64_t rank = images.dim() - 2;
  STD_TORCH_CHECK(rank >= 1 && rank <= kMaxMapRank, "images must have shape [N, P, *size] with 1 to 3 dimensions of size, got ",
                  shape_string(images));
  STD_TORCH_CHECK(maps.scalar_type() == accumulation_type(images.scalar_type()), "maps must be ",
                  torch::headeronly::toString(accumulation_type(images.scalar_type())), " for these images, got ",
                  torch::headeronly::toString(maps.scalar_type()));
  STD_TORCH_CHECK(maps.dim() == images.dim() && maps.size(0) == images.size(0), "maps must fit images ", shape_string(images),
                  ", got ", shape_string(maps));
  for (int64_t d = 2; d < images.dim(); ++d) {
    STD_TORCH_CHECK(maps.size(d) > 0 && images.size(d) > 0, "maps and images must not be empty, got ", shape_string(maps), " and ",
                    shape_string(images));
  }
  MaskInputs in{images,
                torch::stable::contiguous(maps),
                images,
                images.size(0),
                maps.size(1),
                images.size(1),
                false,
                extent_of(maps, 2),
                extent_of(images, 2)};
  if (!images.is_contiguous()) {
    in.channels_last = rank > 1 && is_channels_last(images);
    if (!in.channels_last) in.images = torch::stable::contiguous(images);
  }
  Sizes shape{in.N * in.C};
  for (int64_t d = 1; d < images.dim(); ++d) shape.push_back(images.size(d));
  if (in.channels_last) {
    Sizes strides(shape.size(), 1);
    int64_t stride = in.planes;
    for (int64_t d = images.dim() - 1; d >= 2; --d) {
      strides[d] = stride;
      stride *= shape[d];
    }
    strides[0] = stride;
    in.out = allocate(shape, strides, images.scalar_type(), images);
  } else {
    in.out = allocate(shape, images.scalar_type(), images);
  }
  return in;
}

} // namespace camfast
