"""Shapes of the tensors of an ONNX network, before anything is computed."""

from collections.abc import Mapping

from sppnet.nn.onnx_session import import_extra


def infer_shapes(content: bytes, size_px: int) -> Mapping[str, tuple[int, ...]]:
    """Shapes of tensors of floats by name, for square images; none where they cannot be told."""
    onnx = import_extra("onnx")
    shape_inference = import_extra("onnx.shape_inference")
    model = onnx.ModelProto.FromString(content)
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_value = size_px
    try:
        inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:  # it has errors of its own; onnxruntime says more of what is wrong
        return {}
    return {
        one.name: tuple(int(dim.dim_value) for dim in one.type.tensor_type.shape.dim)
        for one in (*inferred.value_info, *inferred.output)
        if one.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
