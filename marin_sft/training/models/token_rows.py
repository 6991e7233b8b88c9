"""An embedding or a head with some rows of its own, which are trained while the others are not.

That is how an adapter trains new tokens, as PEFT's `trainable_token_indices` does.
"""

from __future__ import annotations

import functools

import equinox as eqx
import haliax as hax
import haliax.nn as hnn
import jax
import jax.numpy as jnp
from haliax.state_dict import ModuleWithStateDictSerialization
from levanter.models.lm_model import LmHeadModel

TOKEN = "trained_token"


class EmbeddingRows(ModuleWithStateDictSerialization):
    """`wrapped`, whose rows `ids` are `rows` [trained token, embed].

    Levanter's weight decay leaves out what is in a class with this word in its name: new tokens may be rare.
    """

    wrapped: hnn.Embedding | hnn.Linear
    rows: hax.NamedArray
    ids: tuple[int, ...] = eqx.field(static=True)

    @property
    def Vocab(self) -> hax.Axis:
        return self.wrapped.Vocab if isinstance(self.wrapped, hnn.Embedding) else self.wrapped.Out

    @property
    def Embed(self) -> hax.Axis:
        return self.wrapped.Embed if isinstance(self.wrapped, hnn.Embedding) else self.wrapped.In

    @property
    def weight(self) -> hax.NamedArray:
        """All rows, in the type of `wrapped`."""
        weight = self.wrapped.weight
        whole = weight.rearrange((self.Vocab, self.Embed)).array
        whole = whole.at[jnp.array(self.ids)].set(self.rows.array.astype(whole.dtype))
        return hax.named(whole, (self.Vocab, self.Embed)).rearrange(weight.axes)

    def __call__(self, x: hax.NamedArray, *, key: jax.Array | None = None) -> hax.NamedArray:
        return self.embed(x) if isinstance(self.wrapped, hnn.Embedding) else self.unembed(x)

    def embed(self, tokens: hax.NamedArray) -> hax.NamedArray:
        # Without a copy of the whole matrix.
        others, trained = self.wrapped.embed(tokens), self.rows.axes[0]
        here = tokens.broadcast_axis(trained) == hax.named(jnp.array(self.ids), trained)
        own = hax.dot(here.astype(others.dtype), self.rows.astype(others.dtype), axis=trained)
        return hax.where(hax.any(here, trained), own, others)

    def unembed(self, x: hax.NamedArray) -> hax.NamedArray:
        return hax.dot(x, self.weight, axis=self.Embed)

    def _state_dict_key_map(self) -> dict[str, str | None]:
        return {"wrapped": None, "rows": "token_adapter.trainable_tokens_delta"}  # PEFT's name


def with_token_rows(model: LmHeadModel, ids: tuple[int, ...]) -> LmHeadModel:
    """The eval_shape `model` with rows of its own for the tokens `ids`, in the embedding and in a head of its own."""
    if not ids:
        return model
    wrap = functools.partial(_wrapped, ids=ids)

    def wrapped(model: LmHeadModel) -> LmHeadModel:
        model = eqx.tree_at(lambda tree: tree.embeddings.token_embeddings, model, replace_fn=wrap)
        return model if model.lm_head is None else eqx.tree_at(lambda tree: tree.lm_head, model, replace_fn=wrap)

    return eqx.filter_eval_shape(wrapped, model)


def _wrapped(matrix: hnn.Embedding | hnn.Linear, ids: tuple[int, ...]) -> EmbeddingRows:
    embed = matrix.Embed if isinstance(matrix, hnn.Embedding) else matrix.In
    return EmbeddingRows(matrix, hax.zeros((hax.Axis(TOKEN, len(ids)), embed)), ids)


def token_ids_of(model: LmHeadModel) -> tuple[int, ...]:
    """The ids of the tokens that have rows of their own."""
    embedding = model.embeddings.token_embeddings
    return embedding.ids if isinstance(embedding, EmbeddingRows) else ()
