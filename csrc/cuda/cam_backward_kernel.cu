#include "cam_backward_kernel.cuh"
#include "launch.cuh"

namespace camfast::cuda {
namespace {

template <Rule rule, class In>
cudaError_t launch_rule(const CamBackwardCall& call) {
  const CamBackwardJob<In> job{call.N,
                               call.K,
                               call.C,
                               call.S,
                               call.grad,
                               static_cast<const In*>(call.activations),
                               static_cast<const In*>(call.second),
                               call.a,
                               call.s,
                               static_cast<In*>(call.by_a),
                               static_cast<In*>(call.by_second),
                               call.to_a,
                               call.to_s,
                               call.sums};
  constexpr int kChannels = kCamBackwardThreads / kWarp;
  const long long blocks = ((long long)call.N * call.C + kChannels - 1) / kChannels;
  return launch(&cam_backward_kernel<rule, In>, {dim3(unsigned(blocks)), dim3(kCamBackwardThreads), 0, call.stream}, job);
}

} // namespace

template <class In>
cudaError_t launch_cam_backward(const CamBackwardCall& call) {
  switch (call.rule) {
    case Rule::weights: return launch_rule<Rule::weights, In>(call);
    case Rule::grad_cam: return launch_rule<Rule::grad_cam, In>(call);
    case Rule::grad_cam_plus_plus: return launch_rule<Rule::grad_cam_plus_plus, In>(call);
    case Rule::xgrad_cam: return launch_rule<Rule::xgrad_cam, In>(call);
    case Rule::hires_cam: return launch_rule<Rule::hires_cam, In>(call);
    case Rule::layer_cam: return launch_rule<Rule::layer_cam, In>(call);
    default: return launch_rule<Rule::grad_cam_elementwise, In>(call);
  }
}

template cudaError_t launch_cam_backward<float>(const CamBackwardCall&);
template cudaError_t launch_cam_backward<__half>(const CamBackwardCall&);
template cudaError_t launch_cam_backward<__nv_bfloat16>(const CamBackwardCall&);

} // namespace camfast::cuda
