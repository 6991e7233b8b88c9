import equinox as eqx
import haliax as hax
import jax
import numpy as np
import pytest
from haliax.state_dict import from_torch_compatible_state_dict

from marin_sft.training.models.architectures import levanter_config
from marin_sft.training.models.levanter_model import state_shapes
from marin_sft.training.models.tensor_names import map_tensors, names_of_config
from tests.training.models.test_architectures import MODELS


@pytest.mark.parametrize("family", MODELS)
def test_each_array_of_each_family_has_its_names(family):
    config = MODELS[family].to_dict()
    vocab = hax.Axis("vocab", config["vocab_size"])
    template = eqx.filter_eval_shape(levanter_config(config).build, vocab, key=jax.random.PRNGKey(0))
    shapes = state_shapes(template)
    numbers = {name: i for i, name in enumerate(shapes)}
    tensors = {name: np.full(shape, numbers[name], np.float32) for name, shape in shapes.items()}
    model = from_torch_compatible_state_dict(template, tensors)

    def difference(expected, array):
        return float(hax.max(hax.abs(array - expected)).array)

    found = map_tensors(difference, names_of_config(config), numbers.__getitem__, model)
    assert set(jax.tree_util.tree_leaves(found)) == {0.0}
