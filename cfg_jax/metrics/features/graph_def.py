"""Constants of a frozen TensorFlow graph, read without TensorFlow.

Of TensorFlow's messages only the fields read here are declared; protobuf skips the rest.
"""

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from cfg_jax.errors import UserError

_PACKAGE = 'cfg_jax.graph_def'
_FLOAT32 = 1  # DT_FLOAT
_BATCH_NORM = 'BatchNormWithGlobalNormalization'

# message -> field -> (number, type, repeated); a type that is no scalar names a message
_FIELDS: dict[str, dict[str, tuple[int, str, bool]]] = {
    'GraphDef': {'node': (1, 'NodeDef', True)},
    'NodeDef': {
        'name': (1, 'string', False),
        'op': (2, 'string', False),
        'attr': (5, 'NodeDef.AttrEntry', True),
    },
    'NodeDef.AttrEntry': {'key': (1, 'string', False), 'value': (2, 'AttrValue', False)},
    'AttrValue': {
        'f': (4, 'float', False),
        'b': (5, 'bool', False),
        'tensor': (8, 'TensorProto', False),
    },
    'TensorProto': {
        'dtype': (1, 'int32', False),
        'tensor_shape': (2, 'TensorShapeProto', False),
        'tensor_content': (4, 'bytes', False),
        'float_val': (5, 'float', True),
    },
    'TensorShapeProto': {'dim': (2, 'TensorShapeProto.Dim', True)},
    'TensorShapeProto.Dim': {'size': (1, 'int64', False)},
}


class BatchNorm(NamedTuple):
    """Attributes of one batch-norm node; None where the graph leaves one out."""

    epsilon: float | None
    scaled: bool | None


class Graph(NamedTuple):
    """What `read` finds: float32 constants and batch-norm nodes, both by node name."""

    constants: dict[str, np.ndarray]
    batch_norms: dict[str, BatchNorm]


def read(path: epath.PathLike) -> Graph:
    """Constants of other types than float32 are left out.

    Raises:
      UserError: the file is cut off or no GraphDef.
    """
    path = epath.Path(path)
    graph = _graph_class()()
    try:
        graph.ParseFromString(path.read_bytes())
        constants = {
            node.name: _array(node.attr['value'].tensor)
            for node in graph.node
            if node.op == 'Const' and node.attr['value'].tensor.dtype == _FLOAT32
        }
    except (message.DecodeError, ValueError, OverflowError) as error:
        raise UserError(f'{path} is cut off or no frozen TensorFlow graph; get it again') from error
    if not constants:
        raise UserError(f'{path} holds no float32 constants; give a frozen TensorFlow graph')
    norms = {node.name: _batch_norm(node) for node in graph.node if node.op == _BATCH_NORM}
    return Graph(constants, norms)


@functools.cache
def _graph_class() -> Any:
    """The GraphDef class; its own pool keeps it apart from TensorFlow's, if that is loaded."""
    file = descriptor_pb2.FileDescriptorProto(
        name='cfg_jax/graph_def.proto', package=_PACKAGE, syntax='proto3'
    )
    messages: dict[str, descriptor_pb2.DescriptorProto] = {}
    for name, fields in _FIELDS.items():
        outer, _, inner = name.rpartition('.')
        place = messages[outer].nested_type if outer else file.message_type
        messages[name] = place.add(name=inner)
        messages[name].options.map_entry = inner == 'AttrEntry'
        for field, description in fields.items():
            _add_field(messages[name], field, *description)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f'{_PACKAGE}.GraphDef'))


def _add_field(
    owner: descriptor_pb2.DescriptorProto, name: str, number: int, kind: str, repeated: bool
) -> None:
    kinds = descriptor_pb2.FieldDescriptorProto
    field = owner.field.add(name=name, number=number)
    field.label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
    if kind in _FIELDS:
        field.type = kinds.TYPE_MESSAGE
        field.type_name = f'.{_PACKAGE}.{kind}'
    else:
        field.type = kinds.Type.Value(f'TYPE_{kind.upper()}')


def _array(tensor: Any) -> np.ndarray:
    """A float32 TensorProto as an array; ValueError where shape and content do not agree."""
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    if min(shape, default=0) < 0:
        raise ValueError(f'open shape {shape}')
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, '<f4').reshape(shape)
    values = np.array(tensor.float_val, np.float32)
    if values.size == 1 and math.prod(shape) != 1:  # one value stands for them all
        return np.broadcast_to(values, shape)
    return values.reshape(shape)


def _batch_norm(node: Any) -> BatchNorm:
    attr = node.attr
    return BatchNorm(
        attr['variance_epsilon'].f if 'variance_epsilon' in attr else None,
        attr['scale_after_normalization'].b if 'scale_after_normalization' in attr else None,
    )
