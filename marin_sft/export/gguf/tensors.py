"""The weights of a model as llama.cpp keeps them, computed one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import gguf
import numpy as np

from marin_sft.errors import ExportError
from marin_sft.export.gguf.architectures import Architecture
from marin_sft.export.gguf.metadata import rope_factors
from marin_sft.export.serving import EMBEDDING, HEAD
from marin_sft.training.models.model_config import Fields, head_size
from marin_sft.training.models.stored_tensors import COMPUTED, shapes_of

TYPES = {
    "f32": gguf.GGMLQuantizationType.F32,
    "f16": gguf.GGMLQuantizationType.F16,
    "bf16": gguf.GGMLQuantizationType.BF16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
}
"""Of matrices, by `gguf_type`. Everything else is f32."""

_NAMES = {architecture: id for id, architecture in gguf.MODEL_ARCH_NAMES.items()}


@dataclass(frozen=True)
class GgufTensor:
    """`source`: its name in the Hugging Face model; None: it is computed from config.json."""

    name: str
    source: str | None
    shape: tuple[int, ...]
    type: gguf.GGMLQuantizationType

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of its bytes if it is quantized."""
        if self.type != gguf.GGMLQuantizationType.Q8_0:
            return self.shape
        return tuple(gguf.quant_shape_to_byte_shape(self.shape, self.type))

    @property
    def nbytes(self) -> int:
        block, size = gguf.GGML_QUANT_SIZES[self.type]
        return int(np.prod(self.shape, dtype=np.int64)) // block * size


class GgufTensors:
    """tensors: of a Hugging Face model. config: see `metadata.with_defaults`. type: of `TYPES`.

    Raises:
        ExportError: a tensor has no place in llama.cpp.
    """

    def __init__(
        self, tensors: Mapping[str, np.ndarray], architecture: Architecture, config: Fields, type: str
    ) -> None:
        self._tensors, self._architecture, self._config = tensors, architecture, config
        self._type = TYPES[type]
        self._map = gguf.get_tensor_name_map(_NAMES[architecture.name], config["num_hidden_layers"])
        self._factors = rope_factors(config)
        self.all = list(self._found())

    def _found(self) -> Iterator[GgufTensor]:
        shapes = {name: shape for name, shape in shapes_of(self._tensors).items() if not name.endswith(COMPUTED)}
        if self._config["tie_word_embeddings"]:  # stored or not, the head is the embedding
            shapes.pop(HEAD, None)
        for source, shape in sorted(shapes.items()):
            yield GgufTensor(self._name(source), source, shape, self._type_of(shape))
        if self._architecture.needs_output and HEAD not in shapes:
            shape = shapes[EMBEDDING]
            yield GgufTensor(self._name(HEAD), EMBEDDING, shape, self._type_of(shape))
        if self._factors is not None:
            yield GgufTensor("rope_freqs.weight", None, (len(self._factors),), TYPES["f32"])

    def _name(self, source: str) -> str:
        name = self._map.get_name(source, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ExportError(
                f"formats: llama.cpp has no place for tensor {source} in a {self._architecture.name} model; leave out "
                "'gguf'"
            )
        return str(name)

    def _type_of(self, shape: tuple[int, ...]) -> gguf.GGMLQuantizationType:
        """f16 for a matrix whose rows are not whole blocks."""
        if len(shape) < 2:
            return TYPES["f32"]
        return TYPES["f16"] if shape[-1] % gguf.GGML_QUANT_SIZES[self._type][0] else self._type

    def computed(self, tensor: GgufTensor) -> np.ndarray:
        """Its values as they are stored: bytes for a quantized one.

        Raises:
            ExportError: a value is not finite in its type.
        """
        if tensor.source is None:
            return np.array(self._factors, dtype=np.float32)
        values = self._placed(tensor.source, self._tensors[tensor.source])
        if tensor.type == TYPES["bf16"] and values.dtype.name == "bfloat16":
            return values
        values = np.ascontiguousarray(values, dtype=np.float32)
        if tensor.type == TYPES["bf16"]:
            return gguf.quantize(values, tensor.type).view(np.uint16)
        with np.errstate(over="ignore"):  # reported below
            stored = gguf.quantize(values, tensor.type)
        if tensor.type == TYPES["f16"] and not np.isfinite(stored).all():
            raise ExportError(
                f"formats: tensor {tensor.source} has values that are not finite as f16: expected gguf_type "
                "bf16, f32 or q8_0"
            )
        return stored

    def _placed(self, source: str, values: np.ndarray) -> np.ndarray:
        """The same numbers where llama.cpp looks for them."""
        if self._architecture.norms_above_one and source.endswith("norm.weight"):
            return values.astype(np.float32) + 1
        if self._architecture.permuted and source.endswith(("q_proj.weight", "k_proj.weight")):
            pairs = values.reshape(-1, 2, head_size(self._config) // 2, values.shape[-1])
            return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)
        return values
