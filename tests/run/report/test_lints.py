"""Findings of lint steps in a report."""

from marin_sft.run.report import lints
from marin_sft.run.report.page import page
from tests.run.report.conftest import HOSTILE


def test_findings_by_component(linted):
    assert linted["problems"] == []
    fine, _ = linted["lints"]
    assert fine["name"] == "lint/fine" and fine["rows"] == 92 and fine["components"].keys() == {"more", "rows"}
    assert fine["components"]["rows"]["findings"]["empty_answers"] == {"count": 1, "share": 1 / 61}
    assert fine["across"][0] == {"finding": "duplicate_prompts", "component": "rows", "of": "more", "count": 3}
    assert fine["test_sets"]["exam"] == {"prompts": 31, "leaked": 31}
    (sample,) = [one for one in fine["samples"] if one["finding"] == "empty_answers"]
    assert (sample["file"], sample["line"], sample["text"]) == ("rows.jsonl", 61, HOSTILE)


def test_a_step_that_failed_by_its_threshold_shows_why(linted):
    _, broken = linted["lints"]
    assert broken["fail_above"] == {"duplicate_prompts": 0.1, "empty_answers": 0.5}
    assert broken["components"]["rows"]["findings"]["duplicate_prompts"]["count"] == 40
    (step,) = [step for step in linted["steps"] if step["name"] == "lint/broken"]
    assert step["outcome"] == "failed" and "duplicate_prompts 65.57%, at most 10.00%" in step["failure"]["error"]


def test_texts_stay_texts(linted):
    text = page(linted)
    assert text.count("<script") == text.count("</script>") == page({**linted, "lints": []}).count("<script")
    assert HOSTILE not in text


def test_many_findings_share_the_room(linted, monkeypatch):
    samples = [{"component": f"c{n}", "finding": f, "line": k} for n in range(4) for f in "ab" for k in range(5)]
    monkeypatch.setattr(lints, "_SHOWN", 16)
    shown = lints._evenly(samples)
    assert len(shown) == 16 and {one["line"] for one in shown} == {0, 1}
