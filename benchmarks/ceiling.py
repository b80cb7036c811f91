"""How fast this machine multiplies matrices: what no engine can be faster than.

    python -m benchmarks.ceiling [--seconds 0.5] [--json FILE]

Every library at hand (numpy, torch, ONNX Runtime, OpenVINO) multiplies matrices of several shapes in fp32, fp16, bf16
and int8; the highest rate in each arithmetic is the machine's. Measured, since data sheets mislead: there
are processors whose bf16 instruction runs at half the rate of fp32.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.hardware import machine
from benchmarks.suite import save
from transforms.embedders.cores import available_cores

Shape = tuple[int, int, int]
Product = Callable[[], object]

SHAPES: tuple[Shape, ...] = ((2048, 384, 1536), (2048, 1536, 384), (2048, 768, 3072), (2048, 2048, 2048))
"""Rows, inner and columns: those of encoders, and a large one."""


@dataclass(frozen=True, slots=True)
class Rate:
    """One arithmetic by one library.

    Args:
        gflops: the best of the repetitions, 10^9 operations a second.
    """

    arithmetic: str
    library: str
    shape: Shape
    gflops: float


def measure(shapes: tuple[Shape, ...] = SHAPES, seconds: float = 0.5) -> list[Rate]:
    """All rates of all libraries; one that is not installed or refuses an arithmetic is left out.

    Args:
        seconds: of multiplying for each rate.
    """
    rates = []
    for shape in shapes:
        for library, arithmetic, product in _products(shape):
            try:
                found = _best_gflops(product, shape, seconds)
            except Exception as error:  # each library refuses in its own words
                print(f"{library} {arithmetic} {shape}: not measured: {_line(error)}", file=sys.stderr)
                continue
            rates.append(Rate(arithmetic, library, shape, round(found, 1)))
    return rates


def ceilings(rates: list[Rate]) -> dict[str, Rate]:
    """The highest rate in each arithmetic.

    No library multiplies int16; the instruction that does (VPDPWSSD) takes half as many numbers as the one for int8
    (VPDPBUSD), so its ceiling is half of that.
    """
    best: dict[str, Rate] = {}
    for rate in rates:
        if rate.arithmetic not in best or rate.gflops > best[rate.arithmetic].gflops:
            best[rate.arithmetic] = rate
    if "int8" in best:
        whole = best["int8"]
        half = round(whole.gflops / 2, 1)
        best["int16"] = replace(
            whole, arithmetic="int16", gflops=half, library=f"half of {whole.library} in int8"
        )
    return best


def _best_gflops(product: Product, shape: Shape, seconds: float) -> float:
    product()
    product()
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        started = time.perf_counter()
        product()
        finished = time.perf_counter()
        best = min(best, finished - started)
        if finished > end:
            return 2 * shape[0] * shape[1] * shape[2] / best / 1e9


def _products(shape: Shape) -> Iterator[tuple[str, str, Product]]:
    """Library, arithmetic and what multiplies once."""
    rows, inner, columns = shape
    chance = np.random.default_rng(0)
    left = chance.standard_normal((rows, inner), dtype=np.float32)
    right = chance.standard_normal((inner, columns), dtype=np.float32)
    yield "numpy", "fp32", partial(np.matmul, left, right)
    for family in (_torch_products, _onnx_products, _openvino_products):
        try:
            yield from family(left, right)
        except ImportError:
            continue
        except Exception as error:  # each library refuses in its own words
            print(f"{family.__name__} {shape}: not measured: {_line(error)}", file=sys.stderr)


Floats = npt.NDArray[np.float32]


def _torch_products(left: Floats, right: Floats) -> Iterator[tuple[str, str, Product]]:
    import torch

    torch.set_num_threads(available_cores())
    for arithmetic, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        a, b = torch.from_numpy(left).to(kind), torch.from_numpy(right).to(kind)
        yield "torch", arithmetic, partial(torch.matmul, a, b)
    ints = [torch.from_numpy((values * 30).astype(np.int8)) for values in (left, right)]
    yield "torch", "int8", partial(torch._int_mm, *ints)


def _onnx_products(left: Floats, right: Floats) -> Iterator[tuple[str, str, Product]]:
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_cores()

    def session(
        operator: str, weights: npt.NDArray[np.generic], given: int, got: int
    ) -> onnxruntime.InferenceSession:
        graph = helper.make_graph(
            [helper.make_node(operator, ["x", "w"], ["y"])],
            "product",
            [helper.make_tensor_value_info("x", given, list(left.shape))],
            [helper.make_tensor_value_info("y", got, [left.shape[0], right.shape[1]])],
            [numpy_helper.from_array(weights, "w")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.checker.check_model(model)
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    plain = session("MatMul", right, TensorProto.FLOAT, TensorProto.FLOAT)
    yield "onnxruntime", "fp32", partial(plain.run, None, {"x": left})
    bytes_in = np.clip(left * 30 + 128, 0, 255).astype(np.uint8)
    whole = session("MatMulInteger", (right * 30).astype(np.int8), TensorProto.UINT8, TensorProto.INT32)
    yield "onnxruntime", "int8", partial(whole.run, None, {"x": bytes_in})


def _openvino_products(left: Floats, right: Floats) -> Iterator[tuple[str, str, Product]]:
    import openvino
    from openvino import opset13 as ops

    core = openvino.Core()
    threads = {"INFERENCE_NUM_THREADS": available_cores()}

    def request(output: openvino.Node, given: openvino.Node, hint: str) -> openvino.InferRequest:
        model = openvino.Model([output], [given])
        ready = core.compile_model(model, "CPU", {**threads, "INFERENCE_PRECISION_HINT": hint})
        return ready.create_infer_request()

    for arithmetic, hint in (("fp32", "f32"), ("bf16", "bf16"), ("fp16", "f16")):
        given = ops.parameter(left.shape, np.float32)
        ready = request(ops.matmul(given, ops.constant(right), False, False), given, hint)
        taken = ready.get_compiled_model().get_property("INFERENCE_PRECISION_HINT").to_string()
        if taken == hint:  # else the processor does not have it, and another would be measured
            yield "openvino", arithmetic, partial(ready.infer, [left], share_inputs=True, share_outputs=True)
    given = ops.parameter(left.shape, np.float32)
    edges = [np.float32(edge) for edge in (-4.0, 4.0, -4.0, 4.0)]
    squeezed = ops.fake_quantize(given, *edges, 256)
    weights = ops.multiply(
        ops.convert(ops.constant((right * 30).astype(np.int8)), "f32"), ops.constant(np.float32(1 / 30))
    )
    ints = request(ops.matmul(squeezed, weights, False, False), given, "f32")
    yield "openvino", "int8", partial(ints.infer, [left], share_inputs=True, share_outputs=True)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0][:200]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=0.5, help="of multiplying for each rate")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    rates = measure(seconds=options.seconds)
    best = ceilings(rates)
    for arithmetic, rate in best.items():
        shape = " x ".join(map(str, rate.shape))
        print(f"{arithmetic:5} {rate.gflops:8.1f} GFLOP/s  {rate.library}, {shape}")
    result = {
        "benchmark": "ceiling",
        "machine": machine(),
        "ceilings": {name: asdict(rate) for name, rate in best.items()},
        "rates": [asdict(rate) for rate in rates],
    }
    save(options.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
