"""The network as an ONNX file, built node by node: equal weights give equal bytes.

torch.onnx.export would write source paths and the build of torch into the file.
"""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mnist_pipeline.mnist import CLASSES, DEVIATION, MEAN, SHAPE
from mnist_pipeline.model import Net

OPSET, IR = 17, 8  # old enough for every runtime of today


def onnx_bytes(net: Net) -> bytes:
    """uint8 images (N, 28, 28) → log-probabilities (N, 10), with the normalisation inside.

    Format: https://onnx.ai/onnx/intro/concepts.html
    """
    constants = {
        "white": np.float32(255),
        "mean": np.float32(MEAN),
        "deviation": np.float32(DEVIATION),
        "axis": np.array([1]),
        **{name: tensor.numpy() for name, tensor in net.state_dict().items()},
    }
    graph = helper.make_graph(
        nodes(),
        "mnist_cnn",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", *SHAPE])],
        [helper.make_tensor_value_info("log_probabilities", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    model = helper.make_model(
        graph,
        producer_name="mnist_pipeline",
        ir_version=IR,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def nodes() -> list[onnx.NodeProto]:
    """The layers of Net.forward in evaluation mode, each reading what the one before wrote."""
    layers: list[tuple[str, list[str], dict[str, Any]]] = [
        ("Cast", [], {"to": TensorProto.FLOAT}),
        ("Div", ["white"], {}),
        ("Sub", ["mean"], {}),
        ("Div", ["deviation"], {}),
        ("Unsqueeze", ["axis"], {}),  # (N, 1, 28, 28)
        ("Conv", ["conv1.weight", "conv1.bias"], {}),  # (N, 32, 26, 26)
        ("Relu", [], {}),
        ("Conv", ["conv2.weight", "conv2.bias"], {}),  # (N, 64, 24, 24)
        ("MaxPool", [], {"kernel_shape": [2, 2], "strides": [2, 2]}),  # (N, 64, 12, 12)
        ("Relu", [], {}),
        ("Flatten", [], {}),  # (N, 9216)
        ("Gemm", ["fc1.weight", "fc1.bias"], {"transB": 1}),  # (N, 128)
        ("Relu", [], {}),
        ("Gemm", ["fc2.weight", "fc2.bias"], {"transB": 1}),
        ("LogSoftmax", [], {"axis": 1}),  # (N, 10)
    ]
    names = ["images", *(f"{kind}_{i}" for i, (kind, _, _) in enumerate(layers[:-1]))]
    names.append("log_probabilities")
    return [
        helper.make_node(kind, [before, *constants], [after], name=after, **attributes)
        for (kind, constants, attributes), before, after in zip(
            layers, names, names[1:], strict=False
        )
    ]
