"""Builds two libraries against LibTorch's stable ABI, which one wheel then carries to every torch from 2.11 on:

- ``camfast/_C.abi3.so``: the ops' schemas and the CPU kernels;
- ``camfast/_C_cuda.abi3.so``: the CUDA kernels, with CUDA's runtime inside; loaded only where CUDA is.

The CUDA kernels are compiled for the GPUs of this machine; where it has none, for the newest GPUs, and as PTX for all others,
which the driver then compiles once. Environment:

- ``CAMFAST_ALL_ARCHITECTURES=1``: for every GPU from 7.5 on (wheels); ``TORCH_CUDA_ARCH_LIST="8.6;9.0+PTX"``: for these;
- ``CAMFAST_NO_CUDA=1``: leave CUDA out; ``FORCE_CUDA=1``: fail rather than leave it out;
- ``CAMFAST_SANITIZE=address,undefined`` or ``thread``: the CPU library with these checks (``tests/ops/sanitize.sh``);
- ``DEBUG=1``: no optimisation, assertions, symbols; ``CUDA_HOME``; ``MAX_JOBS``.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from setuptools import setup


def real_cuda_home():
    """The toolkit's root as nvcc itself reports it: nvcc on PATH may be a wrapper or a link far away from its toolkit."""
    nvcc = shutil.which("nvcc")
    if os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or nvcc is None:
        return os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    dryrun = subprocess.run([nvcc, "-v", "--dryrun", "x.cu"], capture_output=True, text=True)
    top = re.search(r"^#\$ TOP=(.+)$", dryrun.stderr, re.MULTILINE)
    return str(Path(top.group(1)).resolve()) if top else None


cuda_home = real_cuda_home()
if cuda_home:
    os.environ["CUDA_HOME"] = cuda_home  # before cpp_extension guesses its own

from torch.utils import cpp_extension  # noqa: E402

DEBUG = os.environ.get("DEBUG") == "1"
ROOT = Path(__file__).resolve().parent
ALL_ARCHITECTURES = "7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX"
NEWEST, OLDEST = (
    "12.0",
    "7.5",
)  # native code and PTX for a machine without a GPU: every GPU from the oldest on can run it

STANDARD = "-std=c++17"  # for every torch; newer standards' headers take longer to read
STABLE_ABI = ["-DTORCH_TARGET_VERSION=0x020b000000000000"]  # torch 2.11; cpp_extension adds Py_LIMITED_API
SANITIZE = os.environ.get("CAMFAST_SANITIZE")
CHECKS = (
    [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-fno-sanitize-recover=undefined", "-g1"] if SANITIZE else []
)
OPTIMISATION = ["-O0", "-g"] if DEBUG else ["-O3", "-DNDEBUG", "-g0"]
WARNINGS = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-psabi", "-Wno-missing-field-initializers"]
# Messages carry source paths; none of this machine's may end up in the wheel.
RELATIVE_PATHS = [f"-ffile-prefix-map={ROOT}/=", f"-ffile-prefix-map={Path(torch.__file__).parent}/=torch/"]


def sources(*patterns):
    return sorted(str(p.relative_to(ROOT)) for pattern in patterns for p in ROOT.glob(pattern))


def headers():
    """What the units in ``csrc/units`` are made of: all other sources too."""
    return [name for name in sources("csrc/**/*.*") if not name.startswith("csrc/units/")]


def why_no_cuda():
    """None when the CUDA library can be built, else the reason, in a few words."""
    if os.environ.get("CAMFAST_NO_CUDA") == "1":
        return "CAMFAST_NO_CUDA=1"
    if torch.version.cuda is None:
        return "this torch was built without CUDA"
    if not cuda_home or not (Path(cuda_home) / "bin" / "nvcc").exists():
        return "no nvcc was found"
    return None


def cpu_extension():
    return cpp_extension.CppExtension(
        "camfast._C",
        sources("csrc/units/cpu_*.cpp"),
        depends=headers(),
        py_limited_api=True,
        extra_compile_args={
            "cxx": [STANDARD, *STABLE_ABI, *OPTIMISATION, *WARNINGS, *RELATIVE_PATHS, "-fvisibility=hidden", *CHECKS]
        },
        extra_link_args=CHECKS or (["-Wl,--as-needed", "-Wl,-s"] if not DEBUG else []),
    )


def architectures():
    """What to compile for, as ``camfast info`` will say: ``["9.0", "12.0+PTX"]``, or PTX without machine code, ``"7.5 PTX"``."""
    if listed := os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return listed.replace(" ", ";").split(";")
    if os.environ.get("CAMFAST_ALL_ARCHITECTURES") == "1":
        return ALL_ARCHITECTURES.split(";")
    if torch.cuda.is_available():
        found = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
        return [f"{major}.{minor}" for major, minor in sorted(found)]
    print(
        f"camfast: this machine has no GPU: compiling for {NEWEST}, and PTX of {OLDEST} for all other GPUs, where a kernel's "
        "first call waits some seconds while the driver compiles it (kept in ~/.nv/ComputeCache), and calls with few images "
        "may be slower than native code. TORCH_CUDA_ARCH_LIST=<your GPU's compute capability> compiles for yours; "
        "CAMFAST_ALL_ARCHITECTURES=1 for all.",
        file=sys.stderr,
    )
    return [f"{OLDEST} PTX", NEWEST]


def architecture_flags(listed):
    """nvcc's flags; none where torch must translate a name such as ``Hopper``."""
    flags = []
    for entry in listed:
        known = re.fullmatch(r"([\d.]+[af]?)(\+PTX| PTX|)", entry)
        if known is None:
            return []
        number, ptx = known[1].replace(".", ""), known[2]
        if ptx != " PTX":
            flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if ptx:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def cuda_extension():
    listed = architectures()
    flags = architecture_flags(listed)
    compiled_for = f'-DCAMFAST_ARCHITECTURES="{";".join(listed)}"'
    nvcc = ["-O0", "-G"] if DEBUG else ["-O3", "-DNDEBUG"]
    host = [f"-Xcompiler={flag}" for flag in [*RELATIVE_PATHS, "-fvisibility=hidden", "-Wall"]]
    extension = cpp_extension.CUDAExtension(
        "camfast._C_cuda",
        sources("csrc/units/cuda_*.cpp", "csrc/units/cuda_*.cu"),
        depends=headers(),
        py_limited_api=True,
        extra_compile_args={
            "cxx": [
                STANDARD,
                *STABLE_ABI,
                "-DUSE_CUDA",
                compiled_for,
                *OPTIMISATION,
                *WARNINGS,
                *RELATIVE_PATHS,
                "-fvisibility=hidden",
            ],
            "nvcc": [STANDARD, *STABLE_ABI, "-DUSE_CUDA", *nvcc, *host, *flags, "--expt-relaxed-constexpr"],
        },
        extra_link_args=[
            "-Wl,--as-needed",
            *(["-Wl,-s"] if not DEBUG else []),
            "-lcudart_static",
            "-ldl",
            "-lrt",
            "-lpthread",
        ],
    )
    # CUDA's runtime comes along inside; of torch only what the stable ABI names is needed.
    extension.libraries = [lib for lib in extension.libraries if lib not in ("cudart", "c10_cuda", "torch_python")]
    extension.library_dirs.append(str(Path(cuda_home) / "lib64"))
    return extension


def extensions():
    reason = why_no_cuda()
    if reason is None:
        return [cpu_extension(), cuda_extension()]
    if os.environ.get("FORCE_CUDA") == "1":
        sys.exit(f"camfast: FORCE_CUDA=1, but the CUDA library cannot be built: {reason}.")
    print(f"camfast: building the CPU library alone: {reason}.", file=sys.stderr)
    return [cpu_extension()]


setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": cpp_extension.BuildExtension.with_options(use_ninja=True)},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
