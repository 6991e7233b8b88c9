import json

from marin_sft.data.messages.examples import BadRow
from marin_sft.data.rows.dropped import SAMPLE_CHARACTERS, Dropped, write_dropped
from marin_sft.data.rows.row_files import SourceFile, SourceRow

FILE = SourceFile("/somewhere/a.jsonl", "a.jsonl")


def dropping(lines, reason="bad"):
    dropped = Dropped()
    for line in lines:
        dropped.add(SourceRow(FILE, line, {"text": "é" * 5000}), BadRow(reason, f"row {line}"))
    return dropped


def test_the_first_rows_of_each_reason_are_kept():
    whole = Dropped.together([dropping(range(4)), dropping(range(4, 20)), dropping(range(20, 22), "worse")])
    assert whole.counts == {"bad": 20, "worse": 2}
    assert [sample["line"] for sample in whole.samples] == [0, 1, 2, 3, 4, 20, 21]


def test_samples_say_where_and_what(tmp_path):
    unreadable = Dropped()
    unreadable.add(SourceRow(FILE, 3, BadRow("invalid_json", "x")), BadRow("invalid_json", "x"), split="train")
    write_dropped(str(tmp_path), [dropping([1]), Dropped(), unreadable])
    first, second = [json.loads(line) for line in (tmp_path / "dropped.jsonl").read_text().splitlines()]
    assert first.pop("row") == ('{"text": "' + "é" * 5000)[:SAMPLE_CHARACTERS]
    assert first == {"file": "a.jsonl", "line": 1, "reason": "bad", "message": "row 1"}
    expected = {"file": "a.jsonl", "line": 3, "reason": "invalid_json", "message": "x", "row": "", "split": "train"}
    assert second == expected


def test_nothing_dropped_writes_nothing(tmp_path):
    write_dropped(str(tmp_path), [Dropped()])
    assert list(tmp_path.iterdir()) == []
