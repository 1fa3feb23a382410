"""The files that networks are shipped in: how each is written, and how it is run to see that it says the same.

.onnx   ONNX Runtime, TensorRT, browsers    needs the extra "onnx"
.xml    OpenVINO, its weights beside it     needs the extra "openvino"
.pt2    AOTInductor: machine code for this kind of machine, for Python and C++; or the exported program itself
.pte    ExecuTorch, for phones and boards   needs the extra "executorch"
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..errors import require

__all__ = ["RUNTIMES", "AOTInductor", "ExecuTorch", "Onnx", "OpenVino", "Program", "Runtime"]

OPSETS = range(18, 24)
OPSET = 20
_FEWEST = 4096  # numbers; smaller matrices may be kept twice


class Runtime:
    """One kind of file."""

    name: ClassVar[str]
    packages: ClassVar[Sequence[tuple[str, str]]] = ()  # and the extra that brings each
    suffixes: ClassVar[Sequence[str]]  # of the files it is written as, the one that is asked for last
    narrows: bool = False  # whether it keeps weights as float16 by itself
    fixed: ClassVar[bool] = False  # whether it takes as many images as the example, and no other number

    def check(self) -> None:
        """Raises ``ImportError``, naming the extra, where a package is missing."""
        for package, extra in self.packages:
            require(package, extra)

    @abstractmethod
    def write(self, program: Any, path: Path, names: Mapping[str, Sequence[str]], notes: Mapping[str, str]) -> None:
        """Writes ``program``, of ``torch.export``, to ``path``; ``names`` are those of inputs and outputs."""

    @abstractmethod
    def load(self, path: Path) -> Callable[[Tensor], list[Tensor]]:
        """The file in its own runtime, with as many threads as PyTorch has."""

    def run(self, path: Path, images: Tensor) -> list[Tensor]:
        """What the file gives for ``images``, in tensors of their own."""
        return self.load(path)(images)


class Onnx(Runtime):
    """ONNX, run in ONNX Runtime."""

    name = "ONNX Runtime"
    packages = (("onnx", "onnx"), ("onnxscript", "onnx"), ("onnxruntime", "onnx"))
    suffixes = (".onnx",)

    def __init__(self, opset: int = OPSET) -> None:
        if not isinstance(opset, int) or opset not in OPSETS:
            raise ValueError(f"opset must be a number from {OPSETS[0]} to {OPSETS[-1]}, got {opset!r}")
        self.opset = opset

    def write(self, program: Any, path: Path, names: Mapping[str, Sequence[str]], notes: Mapping[str, str]) -> None:
        converted = onnx_program(program, names, self.opset)
        converted.model.metadata_props.update(notes)
        converted.save(str(path), external_data=_bytes(program) > 2**31 - 2**27)  # a lone file holds 2 GB at most

    def load(self, path: Path) -> Callable[[Tensor], list[Tensor]]:
        runtime: Any = require("onnxruntime", "onnx")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        name = given.name
        return lambda images: [torch.from_numpy(value) for value in session.run(None, {name: images.cpu().numpy()})]


class OpenVino(Runtime):
    """OpenVINO's own files, converted from ONNX in memory; the weights lie in a second file, ``.bin``."""

    name = "OpenVINO"
    packages = (("openvino", "openvino"), ("onnx", "openvino"), ("onnxscript", "openvino"))
    suffixes = (".bin", ".xml")

    def __init__(self, narrows: bool = False) -> None:
        self.narrows = narrows

    def write(self, program: Any, path: Path, names: Mapping[str, Sequence[str]], notes: Mapping[str, str]) -> None:
        openvino: Any = require("openvino", "openvino")
        between = path.with_suffix(".onnx")
        onnx_program(program, names, OPSET).save(str(between), external_data=_bytes(program) > 2**31 - 2**27)
        model = openvino.convert_model(str(between))
        keep_once(model)
        for key, value in notes.items():
            model.set_rt_info(value, ["camfast", key])
        # Where weights are int8, OpenVINO would round activations to int8 too, which moves heat by 1e-2.
        model.set_rt_info("0", ["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"])
        openvino.save_model(model, str(path), compress_to_fp16=self.narrows)

    def load(self, path: Path) -> Callable[[Tensor], list[Tensor]]:
        openvino: Any = require("openvino", "openvino")
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        model = openvino.Core().compile_model(str(path), "CPU", settings)

        def call(images: Tensor) -> list[Tensor]:
            found = model(images.cpu().numpy())
            return [torch.from_numpy(found[i].copy()) for i in range(len(model.outputs))]

        return call


class AOTInductor(Runtime):
    """A package of AOTInductor: the network as machine code, loaded from Python and from C++ without the network's code."""

    name = "AOTInductor"
    suffixes = (".pt2",)

    def write(self, program: Any, path: Path, names: Mapping[str, Sequence[str]], notes: Mapping[str, str]) -> None:
        import torch._inductor as inductor

        settings: dict[str, Any] = {"aot_inductor.metadata": dict(notes)}
        inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=settings)

    def load(self, path: Path) -> Callable[[Tensor], list[Tensor]]:
        import torch._inductor as inductor

        loaded = inductor.aoti_load_package(str(path))
        return lambda images: _listed(loaded(images))


class ExecuTorch(Runtime):
    """A program of ExecuTorch, by XNNPACK where it has the operation. It takes as many images as the example."""

    name = "ExecuTorch"
    packages = (("executorch", "executorch"),)
    suffixes = (".pte",)
    fixed = True

    def write(self, program: Any, path: Path, names: Mapping[str, Sequence[str]], notes: Mapping[str, str]) -> None:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        lowered = to_edge_transform_and_lower(
            program, partitioner=[XnnpackPartitioner()], constant_methods={"camfast": json.dumps(dict(notes))}
        )
        path.write_bytes(lowered.to_executorch().buffer)

    def load(self, path: Path) -> Callable[[Tensor], list[Tensor]]:
        from executorch.runtime import Runtime as Loader

        program = Loader.get().load_program(str(path))
        forward = program.load_method("forward")
        return lambda images: [value.clone() for value in forward.execute([images.cpu().contiguous()])]


class Program(Runtime):
    """The exported program as it is: for any device, for Python with torch alone, and for other compilers."""

    name = "torch.export"
    suffixes = (".pt2",)

    def write(self, program: Any, path: Path, names: Mapping[str, Sequence[str]], notes: Mapping[str, str]) -> None:
        torch.export.save(program, str(path), extra_files={"camfast.json": json.dumps(dict(notes))})

    def load(self, path: Path) -> Callable[[Tensor], list[Tensor]]:
        loaded = torch.export.load(str(path)).module()
        return lambda images: _listed(loaded(images))


RUNTIMES: dict[str, type[Runtime]] = {".onnx": Onnx, ".xml": OpenVino, ".pt2": AOTInductor, ".pte": ExecuTorch}
"""What a file's suffix means."""


def onnx_program(program: Any, names: Mapping[str, Sequence[str]], opset: int) -> Any:
    """``program`` as ONNX in memory. The converter's own words are not printed."""
    with quietly():
        found: Any = torch.onnx.export(
            program,
            dynamo=True,
            input_names=list(names["inputs"]),
            output_names=list(names["outputs"]),
            opset_version=opset,
            verbose=False,
            external_data=False,
        )
    _name_the_batch(found.model)
    return found


def _name_the_batch(model: Any) -> None:
    """The number of images is called "batch" wherever a shape has it, in place of PyTorch's own symbol."""
    first = model.graph.inputs[0].shape[0]
    if isinstance(first, int) or first.value is None:
        return
    symbol, kind = re.compile(rf"\b{re.escape(first.value)}\b"), type(first)
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    for value in values:
        for axis, length in enumerate(value.shape or ()):
            if not isinstance(length, int) and length.value is not None:
                value.shape[axis] = kind(symbol.sub("batch", length.value))


def keep_once(model: Any) -> None:
    """Keeps weights once that OpenVINO's conversion has as a matrix and as its transpose too.

    A linear layer multiplies by the one, its backward pass by the other. What the second one reads is transposed with a third
    dimension: a plain transpose would become a setting of the product, and OpenVINO 2026.4 takes a square matrix that is used
    with and without that setting for the same in both.
    """
    import openvino.opset13 as ops

    kept: dict[tuple[int, ...], list[Any]] = {}
    for product in model.get_ordered_ops():
        if product.get_type_name() != "MatMul":
            continue
        constant = product.input_value(1).get_node()
        if constant.get_type_name() != "Constant":
            continue
        shape = tuple(constant.get_output_shape(0))
        if len(shape) != 2 or shape[0] * shape[1] < _FEWEST:
            continue
        data = constant.get_data()
        for other in kept.get(shape[::-1], []):
            if np.array_equal(other.get_data().T, data):
                flat = ops.reshape(other, np.array([1, *shape[::-1]]), False)
                turned = ops.transpose(flat, np.array([0, 2, 1]))
                product.input(1).replace_source_output(ops.reshape(turned, np.array(shape), False).output(0))
                break
        else:
            kept.setdefault(shape, []).append(constant)
    model.validate_nodes_and_infer_types()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without what converters print and log while they work."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _listed(found: Any) -> list[Tensor]:
    return [found] if isinstance(found, Tensor) else list(found)


def _bytes(program: Any) -> int:
    return sum(t.numel() * t.element_size() for t in {id(t): t for t in program.state_dict.values()}.values())
