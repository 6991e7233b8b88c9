import pytest

from marin_sft.data.formats import ChatLmDatasetFormat, PrebuiltLmDatasetFormat
from marin_sft.data.messages.examples import Segments, Tokens
from marin_sft.data.messages.reading import BadRow, example_of

FORMAT = ChatLmDatasetFormat()
IDS = [5, 6, 7, 8]


@pytest.mark.parametrize(
    "beside, mask",
    [
        ({}, [1, 1, 1, 1]),
        ({"token_type_ids": [0, 0, 0, 0], "messages": [], "text": "x"}, [1, 1, 1, 1]),
        ({"labels": [-100, -100, 7, 8]}, [0, 0, 1, 1]),
        ({"completion_mask": [0, 1, 1, 1]}, [0, 1, 1, 1]),
        ({"assistant_masks": [False, True, False, True]}, [0, 1, 0, 1]),
        ({"completion_mask": [0, 1, 1, 1], "assistant_masks": [1, 1, 0, 1], "labels": None}, [0, 1, 0, 1]),
        # Levanter's stand one earlier: at 1 for the token at 2.
        ({"loss_weights": [0.0, 1.0, 1.0, 1.0]}, [0, 0, 1, 1]),
        ({"attention_mask": [1, 1, 1, 1]}, [1, 1, 1, 1]),
    ],
)
def test_tokens(beside, mask):
    assert example_of({"input_ids": IDS, **beside}, FORMAT) == Tokens(IDS, mask)


def test_padding_is_left_out():
    row = {
        "input_ids": [0, 0, *IDS, 0],
        "attention_mask": [0, 0, 1, 1, 1, 1, 0],
        "labels": [-100] * 3 + [6, 7, 8, -100],
    }
    assert example_of(row, FORMAT) == Tokens(IDS, [0, 1, 1, 1])


def test_prebuilt():
    row = {"ids": IDS, "w": [1, 0, 0, 1], "labels": [-100] * 4}
    format = PrebuiltLmDatasetFormat(input_ids_key="ids", loss_weights_key="w")
    assert example_of(row | {"labels": None}, format) == Tokens(IDS, [0, 1, 0, 0])


def test_segments():
    pieces = [{"text": "<s>a", "label": False}, {"text": "b", "label": True}, {"text": "c", "label": False}]
    assert example_of({"segments": pieces}, FORMAT) == Segments([("<s>a", False), ("b", True), ("c", False)])
    for bad in ([], "x", ["x"], [{"text": "a"}], [{"label": True}], [{"text": "a", "label": 1}]):
        with pytest.raises(BadRow, match="^bad_segments"):
            example_of({"segments": bad}, FORMAT)


@pytest.mark.parametrize(
    "row",
    [
        {"input_ids": []},
        {"input_ids": "5 6"},
        {"input_ids": [IDS]},
        {"input_ids": [5, -1]},
        {"input_ids": [5, 2**31]},
        {"input_ids": [5, True]},
        {"input_ids": [5, 6.0]},
        {"input_ids": IDS, "labels": [5, 6, 7]},
        {"input_ids": IDS, "labels": [6, 7, 8, -100]},
        {"input_ids": IDS, "labels": "x"},
        {"input_ids": IDS, "completion_mask": [0, 1, 2, 1]},
        {"input_ids": IDS, "loss_weights": [0, 0.5, 1, 1]},
        {"input_ids": IDS, "attention_mask": [0, 0, 0, 0]},
        {"input_ids": IDS, "attention_mask": [1, 0, 1, 1]},
    ],
)
def test_bad_tokens(row):
    with pytest.raises(BadRow, match="^bad_tokens"):
        example_of(row, FORMAT)
