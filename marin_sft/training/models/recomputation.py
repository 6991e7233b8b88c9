"""What the backward pass recomputes, of what a layer computed in the forward pass."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import equinox as eqx
import haliax as hax
import jax
from haliax.jax_utils import tree_checkpoint_name
from haliax.nn.scan import BlockSeq, ScanCheckpointPolicy
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Primitive

from marin_sft.training.models.model_config import Fields, head_size

if TYPE_CHECKING:
    from jaxtyping import PyTree
    from levanter.models.lm_model import LmHeadModel

ATTENTION = "attention"
# The kernels of attention on accelerators, and what tokamax wraps its own in.
_KERNELS = ("pallas_call", "custom_vmap_call")


def named_attention(output: jax.Array) -> jax.Array:
    """The output of an attention kernel, so that policies know it."""
    return checkpoint_name(output, ATTENTION)


@dataclass(frozen=True)
class SavedParts(ScanCheckpointPolicy):
    """Some parts of each layer are saved, in addition to what enters it.

    products: outputs of products with weights. Otherwise, only those of attention are saved.
    """

    products: bool = False

    def checkpoint(self, carry_name: str, input_name: str, callable: Callable[..., Any]) -> Callable[..., Any]:
        policies = jax.checkpoint_policies
        saved = policies.save_from_both_policies(policies.save_only_these_names(ATTENTION), _is_kernel)
        if self.products:
            saved = policies.save_from_both_policies(saved, policies.dots_with_no_batch_dims_saveable)
        checkpointed: Callable[..., Any] = eqx.filter_checkpoint(callable, policy=saved, prevent_cse=self.prevent_cse)
        return checkpointed


_POLICIES = {
    "save_attention": SavedParts(),
    "save_products": SavedParts(products=True),
    # Haliax's "offload" copies the weights to the host, too, and XLA's compiler for several GPUs fails on that.
    "offload": ScanCheckpointPolicy(save_carries="offload"),
}


def policy_for(gradient_checkpointing: bool | str) -> bool | str | ScanCheckpointPolicy:
    """For Levanter's model configs. `gradient_checkpointing`: a value of that setting."""
    return _POLICIES.get(str(gradient_checkpointing), gradient_checkpointing)


class RecomputedBlocks(BlockSeq[eqx.Module]):
    """Haliax's BlockSeq, which keeps the gradient_checkpointing that it is given, but saves everything."""

    def fold(self, init: PyTree, *args: PyTree, unroll: int | bool | None = None, **kwargs: PyTree) -> PyTree:
        name = self._carry_ckpt_name

        def layer(block: eqx.Module, carry: PyTree, args: PyTree, kwargs: PyTree) -> PyTree:
            return block(tree_checkpoint_name(carry, name), *args, **kwargs)

        # Outside a loop, XLA would find that a layer is computed twice, and save all of its values.
        policy = dataclasses.replace(self.gradient_checkpointing, prevent_cse=True)
        recomputed = policy.checkpoint(name, f"{name}, inputs", layer)
        carry = init
        for index, block in enumerate(self.blocks):
            of_block = functools.partial(self._slice_out, self.Block, index)
            carry = recomputed(block, carry, *hax.tree_util.tree_map(of_block, (args, kwargs)))
        return carry


def with_recomputed_blocks(model: LmHeadModel) -> LmHeadModel:
    """The same model, whose layers do what `gradient_checkpointing` says even where each is compiled on its own."""

    def is_blocks(leaf: object) -> bool:
        return isinstance(leaf, BlockSeq)

    def recomputed(leaf: Any) -> Any:
        return RecomputedBlocks(**vars(leaf)) if is_blocks(leaf) else leaf

    return jax.tree_util.tree_map(recomputed, model, is_leaf=is_blocks)


def chosen(config: Fields, tokens: int, itemsize: int, state: float, limit: int | None) -> bool | str:
    """As little as possible of the layers' work is recomputed, as far as memory allows: a value of the setting
    `gradient_checkpointing`.

    config: the fields of a config.json.
    tokens: that a device takes at once.
    itemsize: bytes of a value that layers compute.
    state: bytes of weights, their gradients and the optimizer's state on a device.
    limit: bytes of memory of a device. None: not known.
    """
    if limit is None:
        return True
    room = USED_AT_MOST * limit - state - tokens * itemsize * config["num_hidden_layers"] * config["hidden_size"]
    products = tokens * itemsize * config["num_hidden_layers"] * _outputs_of_products(config)
    if _ALL * products <= room:
        return False
    return "save_products" if products <= room else True


# A layer computes about three times as many values as its products with weights: norms, activations, rotations.
_ALL = 3.2
USED_AT_MOST = 0.75  # the logits of some tokens and one layer's values in the backward pass need memory, too


def _outputs_of_products(config: Fields) -> int:
    """Values per token and layer, including the output of attention."""
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    size, keys = head_size(config), config.get("num_key_value_heads") or heads
    return 2 * (heads + keys) * size + 2 * hidden + 2 * config["intermediate_size"]


def _is_kernel(primitive: Primitive, *_: object, **__: object) -> bool:
    return primitive.name in _KERNELS
