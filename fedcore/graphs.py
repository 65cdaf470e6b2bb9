"""ONNX graphs of training and inference: what exporter and client agree on, without torch or onnx.

Their inputs and outputs are those of `fedcore.nn.export`; their metadata are named here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fedcore.errors import ConfigError
from fedcore.plan import Training
from fedcore.strict import canonical_json, parse

__all__ = [
    "FORMAT",
    "FORMAT_KEY",
    "LAYERS_KEY",
    "MODEL_KEY",
    "OPERATORS",
    "GraphKind",
    "GraphLayer",
    "layers_from_text",
    "layers_to_text",
    "training_kind",
]

FORMAT = "1"
"""Version of the graphs' inputs, outputs and metadata."""
FORMAT_KEY = "leakwatt.format"
"""Of the metadata that holds it."""
MODEL_KEY = "leakwatt.model"
"""Of the digest of the `ModelSpec`."""
LAYERS_KEY = "leakwatt.layers"
"""Of an inference graph's layers with weights, in order."""

GraphKind = Literal["training", "local_step", "inference", "int8"]

_OPERATORS = """
Abs Add And Atan Cast Ceil Clip Concat Constant ConstantOfShape Conv ConvInteger ConvTranspose
Cos CumSum DequantizeLinear Div Equal Erf Exp Expand Floor Gather Gemm Greater GreaterOrEqual
Identity Less LessOrEqual Log LogSoftmax MatMul MatMulInteger Max Min Mul Neg Not Or Pad Pow
QuantizeLinear Range Reciprocal ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape Round
Shape Sigmoid Sign Sin Slice Softmax Split Sqrt Squeeze Sub Tanh Transpose Unsqueeze Where
"""
OPERATORS = frozenset(_OPERATORS.split())
"""ONNX's own operators that a graph may hold: arithmetic without loops, files or chance."""


@dataclass(frozen=True, kw_only=True)
class GraphLayer:
    """One layer with weights, as an inference graph runs it.

    Attributes:
        name: of its parameters, and of the output "received/NAME".
        kind: fully connected, or a convolution over two axes.
        neurons: behind its synapses.
        spiking: whether these spike.
        stride: of a convolution, in both directions.
        padding: of a convolution, on every side.
    """

    name: str
    kind: Literal["dense", "conv"]
    neurons: int
    spiking: bool
    stride: int = 1
    padding: int = 0


def training_kind(training: Training) -> GraphKind:
    """The graph that a client trains with."""
    return "training" if training.update == "gradient" else "local_step"


def layers_to_text(layers: Sequence[GraphLayer]) -> str:
    """For a graph's metadata."""
    return canonical_json(layers).decode()


def layers_from_text(text: str) -> tuple[GraphLayer, ...]:
    """Read them back.

    Raises:
        ConfigError: these are no layers.
    """
    try:
        tables = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{LAYERS_KEY}: not JSON ({error})") from error
    if not isinstance(tables, list):
        raise ConfigError(f"{LAYERS_KEY}: got {type(tables).__name__}, expected a list of layers")
    return tuple(parse(GraphLayer, table, where=LAYERS_KEY) for table in tables)
