// Runs the project's CUDA kernels under the emulator, case after case from standard input, for tests/ops/test_cuda_kernels.py.
//
// A case is a header of 64-bit integers, then its inputs' bytes; the answer on standard output is the result's bytes.
// Inputs and outputs live in guarded memory: a read or write out of bounds fails the case.
#include <stdio.h>

#include <exception>
#include <string>

#include "cuda_runtime_api.h"
#include "async_copy.cuh"
#include "cam.h"
#include "cam_backward.h"
#include "eigen_cam.h"
#include "mask_images.h"
#include "overlay.h"
#include "portable.cuh"
#include "preprocess.h"
#include "resize_normalize_backward.h"
#include "tile_maps.h"

namespace {

using namespace camfast;
using namespace camfast::cuda;

void read_exactly(void* to, size_t bytes) {
  if (fread(to, 1, bytes, stdin) != bytes) throw std::runtime_error("the case ended too early");
}

int64_t next() {
  int64_t value;
  read_exactly(&value, sizeof value);
  return value;
}

MapExtent next_extent() {
  MapExtent e{};
  e.d = int(next());
  e.h = int(next());
  e.w = int(next());
  return e;
}

Machine next_machine() {
  Machine m{};
  m.multiprocessors = int(next());
  m.shared_bytes = int(next());
  m.max_cluster = int(next());
  m.cooperative = next() != 0;
  m.copies = Copies(next());
  emu::bulk_copies() = m.copies == Copies::bulk;
  return m;
}

struct Input {
  emu::Guarded memory;
  explicit Input(size_t bytes, size_t shift) : memory(bytes, shift) { read_exactly(memory.begin(), bytes); }
};

enum DType : int64_t { float64, float32, float16, bfloat16 };
constexpr size_t kElementBytes[] = {8, 4, 2, 2};

void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

void finish(emu::Guarded& out, std::initializer_list<emu::Guarded*> others) {
  if (out.damage()) throw std::runtime_error("a write out of the output's bounds");
  for (emu::Guarded* g : others) {
    if (g && g->damage()) throw std::runtime_error("a write out of an input's or the scratch's bounds");
  }
  fwrite(out.begin(), 1, out.bytes(), stdout);
}

void run_cam() {
  const int64_t dtype = next();
  CamCall call{};
  call.rule = Rule(next());
  call.channels_adjacent = next() != 0;
  const int64_t N = next();
  call.K = int(next());
  call.C = int(next());
  call.maps = int(N * call.K);
  call.a = {next(), 0, 0};
  call.a.step = next();
  call.s.image = next();
  call.s.target = next();
  call.s.step = next();
  call.resize.in = next_extent();
  call.resize.out = next_extent();
  call.resize.normalize = next() != 0;
  const Machine machine = next_machine();
  const size_t shift = size_t(next()), a_bytes = size_t(next()), s_bytes = size_t(next());
  Input a(a_bytes, shift), s(s_bytes, shift);
  const size_t element = kElementBytes[dtype], accumulation = 4;
  call.plan = plan_cam(machine, {call.maps, call.C, call.resize.in.positions(), call.resize.out.positions(), int(element),
                                 int(accumulation), call.rule, call.channels_adjacent, true});
  emu::Guarded out(size_t(call.maps) * call.resize.out.positions() * accumulation);
  emu::Guarded scratch(size_t(call.plan.scratch_bytes));
  call.activations = a.memory.begin();
  call.second = s.memory.begin();
  call.out = out.begin();
  call.scratch = scratch.begin();
  switch (dtype) {
    case float32: check(launch_cam<float>(call)); break;
    case float16: check(launch_cam<__half>(call)); break;
    default: check(launch_cam<__nv_bfloat16>(call)); break;
  }
  // What the plan chose, so that a test can see that it reaches every path.
  const int64_t path = !call.plan.fits ? 3 : int64_t(call.plan.exchange) + (call.plan.stages ? 4 : 0);
  fwrite(&path, sizeof path, 1, stdout);
  finish(out, {&a.memory, &s.memory, &scratch});
}

void run_resize() {
  const int64_t dtype = next();
  ResizeCall call{};
  call.M = int(next());
  call.resize.in = next_extent();
  call.resize.out = next_extent();
  call.resize.normalize = next() != 0;
  call.relu = next() != 0;
  const Machine machine = next_machine();
  const size_t bytes = size_t(next());
  Input maps(bytes, 0);
  const size_t accumulation = 4;
  call.plan = plan_resize(machine, call.M, call.resize.in.positions(), call.resize.out.positions(), int(accumulation));
  emu::Guarded out(size_t(call.M) * call.resize.out.positions() * accumulation);
  emu::Guarded scratch(size_t(call.plan.scratch_bytes));
  call.maps = maps.memory.begin();
  call.out = out.begin();
  call.scratch = scratch.begin();
  switch (dtype) {
    case float32: check(launch_resize<float>(call)); break;
    case float16: check(launch_resize<__half>(call)); break;
    default: check(launch_resize<__nv_bfloat16>(call)); break;
  }
  const int64_t path = call.plan.fits ? 0 : 3;
  fwrite(&path, sizeof path, 1, stdout);
  finish(out, {&maps.memory, &scratch});
}

ResizeAxis next_axis() {
  const double start = double(next()) / 1000, end = double(next()) / 1000;
  const int64_t length = next();
  return resize_axis(start, end, length, next());
}

void run_preprocess() {
  const int64_t dtype = next();
  PreprocessCall call{};
  call.N = int(next());
  call.rows = next_axis();
  call.columns = next_axis();
  call.interleaved = next() != 0;
  const size_t shift = size_t(next());
  call.normalise = {{1.f / 64, 1.f / 32, 1.f / 16}, {-1.f, -2.f, 0.5f}};
  Input frames(size_t(call.N) * call.rows.length * call.columns.length * 3, shift);
  emu::Guarded out(size_t(call.N) * call.rows.out * call.columns.out * 3 * kElementBytes[dtype], 0);
  call.frames = frames.memory.begin();
  call.out = out.begin();
  switch (dtype) {
    case float32: check(launch_preprocess<float>(call)); break;
    case float16: check(launch_preprocess<__half>(call)); break;
    default: check(launch_preprocess<__nv_bfloat16>(call)); break;
  }
  const int64_t path = 0;
  fwrite(&path, sizeof path, 1, stdout);
  finish(out, {&frames.memory});
}

void run_overlay() {
  OverlayCall call{};
  call.N = int(next());
  call.map = next_extent();
  call.frame = next_extent();
  const int64_t percent = next();
  call.alpha = float(double(percent) / 100);
  call.frame_share = float(1.0 - double(percent) / 100);
  const Machine machine = next_machine();
  const size_t shift = size_t(next());
  const size_t pixels = size_t(call.N) * call.frame.positions();
  Input frames(pixels * 3, shift), heat(size_t(call.N) * call.map.positions() * 4, 0), colors(768, 0);
  emu::Guarded out(pixels * 3, shift);
  call.frames = frames.memory.begin();
  call.heat = reinterpret_cast<const float*>(heat.memory.begin());
  call.colors = colors.memory.begin();
  call.out = out.begin();
  call.blocks = blocks_a_map(machine, call.N, call.frame.positions() * 6LL);
  check(launch_overlay(call));
  const int64_t path = 0;
  fwrite(&path, sizeof path, 1, stdout);
  finish(out, {&frames.memory, &heat.memory, &colors.memory});
}

void run_tiles() {
  const int64_t dtype = next();
  TileCall call{};
  call.layout = {next(), 0, 0, 0, 0, 0, 0};
  call.layout.h = next();
  call.layout.w = next();
  call.layout.columns = next();
  call.layout.pad_y = next();
  call.layout.pad_x = next();
  call.layout.scale = next();
  call.background = uint8_t(next());
  call.parts = int(next());
  const bool has_limits = next() != 0;
  const size_t shift = size_t(next());
  const TileLayout& at = call.layout;
  Input maps(size_t(at.maps * at.h * at.w) * kElementBytes[dtype], 0), colors(768, 0), limits(has_limits ? 8 : 0, 0);
  emu::Guarded out(size_t(at.height() * at.width() * 3), shift);
  call.maps = maps.memory.begin();
  call.colors = colors.memory.begin();
  call.limits = has_limits ? reinterpret_cast<const float*>(limits.memory.begin()) : nullptr;
  call.out = out.begin();
  switch (dtype) {
    case float32: check(launch_tile_maps<float>(call)); break;
    case float16: check(launch_tile_maps<__half>(call)); break;
    default: check(launch_tile_maps<__nv_bfloat16>(call)); break;
  }
  const int64_t path = 0;
  fwrite(&path, sizeof path, 1, stdout);
  finish(out, {&maps.memory, &colors.memory, &limits.memory});
}

void run_eigen() {
  const int64_t dtype = next();
  EigenCall call{};
  call.shape.N = next();
  call.shape.C = int(next());
  call.image = next();
  call.channel = next();
  call.position = next();
  call.resize.in = next_extent();
  call.resize.out = next_extent();
  call.resize.normalize = next() != 0;
  call.shape.kernel = next() != 0;
  call.gamma = 1.0 / double(call.shape.C);
  const Machine machine = next_machine();
  const size_t shift = size_t(next()), bytes = size_t(next());
  Input activations(bytes, shift);
  const size_t accumulation = 4;
  call.shape.S = call.resize.in.positions();
  call.shape.area = call.resize.out.positions();
  call.shape.accumulation_bytes = int(accumulation);
  call.plan = plan_eigen(machine, call.shape);
  emu::Guarded out(size_t(call.shape.N) * size_t(call.shape.area) * accumulation);
  emu::Guarded scratch(size_t(call.plan.scratch_bytes));
  call.activations = activations.memory.begin();
  call.out = out.begin();
  call.scratch = scratch.begin();
  switch (dtype) {
    case float32: check(launch_eigen<float>(call)); break;
    case float16: check(launch_eigen<__half>(call)); break;
    default: check(launch_eigen<__nv_bfloat16>(call)); break;
  }
  const int64_t path = !call.plan.fits ? 3 : int64_t(call.plan.exchange);
  fwrite(&path, sizeof path, 1, stdout);
  finish(out, {&activations.memory, &scratch});
}

void run_masks() {
  const int64_t dtype = next();
  MaskCall call{};
  call.N = int(next());
  call.C = int(next());
  call.planes = int(next());
  call.channels_last = next() != 0;
  call.corners = next() != 0;
  call.scale_first = next() != 0;
  call.map = next_extent();
  call.size = next_extent();
  const Machine machine = next_machine();
  const size_t shift = size_t(next());
  const size_t element = kElementBytes[dtype], accumulation = 4;
  const size_t plane = size_t(call.size.positions()) * call.planes * element, map_bytes = size_t(call.map.positions()) * accumulation;
  Input images(plane * call.N, shift), maps(map_bytes * call.N * call.C, 0);
  emu::Guarded out(plane * call.N * call.C, shift);
  call.images = images.memory.begin();
  call.maps = maps.memory.begin();
  call.out = out.begin();
  call.group = blocks_a_map(machine, call.N * call.C, (long long)plane);
  call.shared_bytes = map_bytes <= size_t(machine.shared_bytes - kStaticSharedBytes) ? int(map_bytes) : 0;
  switch (dtype) {
    case float32: check(launch_masks<float>(call)); break;
    case float16: check(launch_masks<__half>(call)); break;
    default: check(launch_masks<__nv_bfloat16>(call)); break;
  }
  const int64_t path = call.shared_bytes ? 0 : 3;
  fwrite(&path, sizeof path, 1, stdout);
  finish(out, {&images.memory, &maps.memory});
}

void run_resize_backward() {
  ResizeBackwardCall call{};
  call.M = int(next());
  call.resize.in = next_extent();
  call.resize.out = next_extent();
  call.resize.normalize = next() != 0;
  call.relu = next() != 0;
  const size_t map_bytes = size_t(call.M) * call.resize.in.positions() * sizeof(float);
  Input grad(size_t(call.M) * call.resize.out.positions() * sizeof(float), 0), maps(map_bytes, 0);
  emu::Guarded out(map_bytes), scratch(call.resize.normalize ? map_bytes : 0);
  call.grad = reinterpret_cast<const float*>(grad.memory.begin());
  call.maps = reinterpret_cast<const float*>(maps.memory.begin());
  call.scaled = reinterpret_cast<float*>(scratch.begin());
  call.out = reinterpret_cast<float*>(out.begin());
  check(launch_resize_backward(call));
  const int64_t path = 0;
  fwrite(&path, sizeof path, 1, stdout);
  finish(out, {&grad.memory, &maps.memory, &scratch});
}

Walk next_walk() {
  Walk w{};
  w.image = next();
  w.target = next();
  w.channel = int(next());
  w.position = int(next());
  return w;
}

// Answers with the derivative by the activations, then that by the gradients or weights.
void run_cam_backward() {
  const int64_t dtype = next();
  CamBackwardCall call{};
  call.rule = Rule(next());
  call.N = int(next());
  call.K = int(next());
  call.C = int(next());
  call.S = int(next());
  call.a = next_walk();
  call.s = next_walk();
  call.to_a = call.a;
  call.to_s = call.s;
  const size_t shift = size_t(next()), a_bytes = size_t(next()), s_bytes = size_t(next());
  Input grad(size_t(call.N) * call.K * call.S * sizeof(float), 0), a(a_bytes, shift), s(s_bytes, shift);
  const bool summed = call.K > 1 && dtype != float32;
  emu::Guarded by_a(a_bytes, shift), by_s(s_bytes, shift);
  emu::Guarded scratch(summed ? size_t(call.N) * call.C * call.S * sizeof(float) : 0);
  call.grad = reinterpret_cast<const float*>(grad.memory.begin());
  call.activations = a.memory.begin();
  call.second = s.memory.begin();
  call.by_a = by_a.begin();
  call.by_second = by_s.begin();
  call.sums = summed ? reinterpret_cast<float*>(scratch.begin()) : nullptr;
  switch (dtype) {
    case float32: check(launch_cam_backward<float>(call)); break;
    case float16: check(launch_cam_backward<__half>(call)); break;
    default: check(launch_cam_backward<__nv_bfloat16>(call)); break;
  }
  const int64_t path = 0;
  fwrite(&path, sizeof path, 1, stdout);
  finish(by_a, {&grad.memory, &a.memory, &s.memory, &scratch});
  finish(by_s, {});
}

} // namespace

int main() {
  try {
    for (;;) {
      int64_t op;
      if (fread(&op, sizeof op, 1, stdin) != 1) return 0;
      const int64_t order = next();
      emu::config() = {emu::Order(order < 2 ? order : 2), uint64_t(order), 0};
      if (op == 0) run_cam();
      if (op == 1) run_resize();
      if (op == 2) run_overlay();
      if (op == 3) run_tiles();
      if (op == 4) run_eigen();
      if (op == 5) run_masks();
      if (op == 6) run_preprocess();
      if (op == 7) run_resize_backward();
      if (op == 8) run_cam_backward();
      fflush(stdout);
    }
  } catch (const std::exception& error) {
    fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
