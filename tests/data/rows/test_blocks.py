from hypothesis import given
from hypothesis import strategies as st

from marin_sft.data.rows.blocks import count_of, cut, plan_blocks, rows_of
from marin_sft.data.rows.source_rows import SourceFile, Span

A, B, C = (SourceFile(name, name) for name in "abc")


def test_cut():
    assert cut([Span(A, 4, 7), Span(B, 2, 2), Span(C, 1, 9)], 5) == [
        (Span(A, 4, 7), Span(C, 1, 3)),
        (Span(C, 3, 8),),
        (Span(C, 8, 9),),
    ]
    assert cut([], 5) == cut([Span(A, 3, 3)], 5) == []
    assert plan_blocks([A, B], [2, 4], 3) == cut([Span(A, 0, 2), Span(B, 0, 4)], 3)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=6), st.integers(1, 7))
def test_no_row_is_lost_or_moved(spans, size):
    given_spans = [Span(A, start, start + rows) for start, rows in spans]
    blocks = cut(given_spans, size)
    assert [i for block in blocks for span in block for i in range(span.start, span.stop)] == [
        i for span in given_spans for i in range(span.start, span.stop)
    ]
    assert all(count_of(block) == size for block in blocks[:-1]) and all(count_of(block) for block in blocks[-1:])


def test_rows_of(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("".join(f"{i}\n" for i in range(9)))
    file = SourceFile(str(path), "x.jsonl")
    assert [row.row for row in rows_of([Span(file, 7, 9), Span(file, 0, 2)])] == [7, 8, 0, 1]
