// The Grad-CAM family on the CPU for 16-bit activations.
#include "../dispatch.h"
#include "cam_compute.h"

namespace camfast {

template void compute_cam<Half>(const CamInputs&, const Extent&, bool, void*);
template void compute_cam<BFloat16>(const CamInputs&, const Extent&, bool, void*);

} // namespace camfast
