from marin_sft.execution.differences import ABSENT, difference_text, leaf_differences, with_names


def test_leaf_differences_name_the_fields():
    old = {"optimizer": {"lr": 0.1}, "files": ["a", "b"], "gone": 1}
    new = {"optimizer": {"lr": 0.2}, "files": ["a", "c", "d"]}
    assert leaf_differences(old, new) == [
        ("optimizer.lr", 0.1, 0.2),
        ("files[1]", "b", "c"),
        ("files[2]", ABSENT, "d"),
        ("gone", 1, ABSENT),
    ]


def test_none_is_something_else_than_nothing():
    assert leaf_differences({"a": None}, {}) == [("a", None, ABSENT)]
    assert leaf_differences({}, {"a": "(absent)"}) == [("a", ABSENT, "(absent)")]
    assert leaf_differences([None], [None, None]) == [("[1]", ABSENT, None)]
    assert difference_text(("a", None, ABSENT)) == "a None -> (absent)"
    assert difference_text(("runs[2]", ABSENT, {"point": 3})) == "runs[2] added"
    assert difference_text(("rows", ["a"], ABSENT)) == "rows removed"


def test_a_file_in_place_of_a_step_is_one_difference():
    step, file = {"$input": "0123456789abcdef", "name": "a.txt"}, {"$content": "abc", "suffix": ".txt"}
    (difference,) = leaf_differences({"data": step}, {"data": file})
    assert with_names(difference[1], {"0123456789": "raw/a-0123456789"}) == "raw/a-0123456789/a.txt"
    assert with_names([{"x": step}], {}) == [{"x": "0123456789/a.txt"}]
