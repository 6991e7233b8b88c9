"""The step that looks for what is wrong with rows. It changes none.

{output_path}/findings.json   per component: rows, and of each finding how many and which share; what is usual in it;
                              copies across components; of each test set how many of its prompts are in the rows
{output_path}/findings.jsonl  the first few rows of each finding in each component: file, line, what is wrong, the text
{output_path}/metrics.json    the totals

The same rows give the same bytes, however the work is split up. In memory are a few rows, and some 500 bytes of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from marin_sft import progress
from marin_sft.data.chat.special_tokens import special_tokens
from marin_sft.data.files import Json, write_json, write_json_lines
from marin_sft.data.lint.compare import Counted, Seen, Together
from marin_sft.data.lint.findings import FINDINGS, REPORT, SAMPLE_ROWS, Tally
from marin_sft.data.lint.leaks import TestPrompts
from marin_sft.data.lint.rows import CHAT_TOKENS, Block, Rows, lint_rows
from marin_sft.data.lint.samples import RowName, Wanted, samples_of
from marin_sft.data.lint.test_sets import read_test_sets
from marin_sft.data.rows.blocks import COPIES, count_files, count_of, cut
from marin_sft.data.rows.row_files import find_files
from marin_sft.data.rows.source_rows import Span
from marin_sft.data.step_configs import LintConfig, RowSource
from marin_sft.data.tokenizer import load_tokenizer
from marin_sft.errors import DataError
from marin_sft.execution.shards import map_shards
from marin_sft.paths import remove_all

ROWS_PER_BLOCK = 20_000


@dataclass
class _Component:
    """What is known of the rows of one component. leaked: numbers of the test prompts in them, by test set."""

    spans: list[Span]
    rows: list[Rows]
    tally: Tally
    textless: int
    leaked: dict[str, set[int]]


def lint(config: LintConfig) -> None:
    """Write the findings in the rows of `config`.

    Raises:
        DataError: as `findings_in` does, or there are more findings than `fail_above` allows. Then they are written
            all the same.
    """
    special = frozenset() if config.tokenizer is None else special_tokens(load_tokenizer(config.tokenizer))
    report, samples = findings_in(config, special)
    write_findings(config.output_path, report, samples)
    check_findings(config.fail_above, report, samples, f"{config.output_path}/{SAMPLE_ROWS}")


def findings_in(config: LintConfig, special: frozenset[str]) -> tuple[Json, list[Json]]:
    """The content of findings.json, and the samples. Writes nothing but copies of rows, which are removed.

    special: tokens that no text should hold, besides those of common chat formats.

    Raises:
        DataError: unreadable files, a component without rows, or a test set without prompts.
    """
    tests = read_test_sets(config.test_sets, config.leak_words)
    try:
        components = {
            name: _component(config, name, source, special | CHAT_TOKENS, tests)
            for name, source in sorted(config.components.items())
        }
        report, samples = _compared(config, components)
    finally:
        remove_all(f"{config.output_path}/{COPIES}")
    for name, index in tests.items():
        leaked = set().union(*(component.leaked[name] for component in components.values()))
        report["test_sets"][name] = {"prompts": len(index.sizes), "leaked": len(leaked)}
    return report, samples


def write_findings(directory: str, report: Json, samples: list[Json]) -> None:
    write_json(f"{directory}/{REPORT}", report)
    write_json_lines(f"{directory}/{SAMPLE_ROWS}", samples)
    found = [one["findings"] for one in report["components"].values()]
    totals = {name: total for name in FINDINGS if (total := sum(one[name]["count"] for one in found if name in one))}
    write_json(f"{directory}/metrics.json", {"rows": report["rows"], **totals})


def _component(
    config: LintConfig, name: str, source: RowSource, special: frozenset[str], tests: dict[str, TestPrompts]
) -> _Component:
    """Look at each row by itself."""
    files = find_files(source.paths)
    spans = count_files(files, f"{config.output_path}/{COPIES}/{name}")
    total = count_of(spans)
    if not total:
        raise DataError(f"{name}: no rows in {', '.join(source.paths)}; expected at least one")
    progress.report(0, total, f"{name} rows")
    blocks = [
        Block(name, source.format, some, i * ROWS_PER_BLOCK, total, special, tests, config.leak_share)
        for i, some in enumerate(cut(spans, ROWS_PER_BLOCK))
    ]
    parts = map_shards(lint_rows, blocks, f"{name} rows", [count_of(block.spans) for block in blocks])
    return _Component(
        spans,
        [part.rows for part in parts],
        Tally.together(part.tally for part in parts),
        sum(part.textless for part in parts),
        {test: set().union(*(part.leaked[test] for part in parts)) for test in tests},
    )


def _compared(config: LintConfig, components: Mapping[str, _Component]) -> tuple[Json, list[Json]]:
    """The content of findings.json, and the samples."""
    together = Together({name: component.rows for name, component in components.items()})
    copies = together.copies(config.near_similarity)
    names = together.names
    report: Json = {"rows": 0, "components": {}, "test_sets": {}}
    report["across"] = [
        {"finding": finding, "component": names[copy], "of": names[original], "count": count}
        for finding, found in copies.items()
        for copy, original, count in found.across
    ]
    samples: list[Json] = []
    wanted: list[Wanted] = []
    for group, (name, component) in enumerate(components.items()):
        total = count_of(component.spans)
        outliers, facts = together.outliers(group)
        seen = {finding: together.copies_in(group, finding, found) for finding, found in copies.items()} | outliers
        findings = _findings(component.tally, seen, total)
        report["rows"] += total
        report["components"][name] = {"rows": total, "textless": component.textless, "findings": findings, **facts}
        samples += [{**one, "component": name} for one in component.tally.samples]
        wanted += [_wanted(together, finding, one) for finding, found in seen.items() for one in found.first]
    formats = {name: config.components[name].format for name in components}
    samples += samples_of(wanted, {name: component.spans for name, component in components.items()}, formats)
    order = {finding: index for index, finding in enumerate(FINDINGS)}
    return report, sorted(samples, key=lambda one: (one["component"], order[one["finding"]]))


def _findings(tally: Tally, seen: Mapping[str, Counted], total: int) -> Json:
    """Count and share of each finding in a component of `total` rows; of copies, also those within it."""
    counts = {**tally.counts, **{finding: found.rows for finding, found in seen.items()}}
    found: Json = {}
    for finding in FINDINGS:
        if count := counts.get(finding):
            found[finding] = {"count": count, "share": count / total}
            if finding in seen and seen[finding].within is not None:
                found[finding]["within"] = seen[finding].within
    return found


def _wanted(together: Together, finding: str, seen: Seen) -> Wanted:
    row, other = (None if at < 0 else RowName(*together.name_of(at)) for at in (seen.row, seen.other))
    assert row is not None
    return Wanted(finding, seen.message, row, other)


def check_findings(fail_above: Mapping[str, float], report: Json, samples: list[Json], where: str) -> None:
    """Raises DataError for each share that is above its threshold. where: the samples are."""
    wrong = []
    for finding, most in fail_above.items():
        for name, component in report["components"].items():
            found = component["findings"].get(finding)
            share = component.get(finding, 0.0) if found is None else found["share"]
            if share > most:
                first = (one for one in samples if (one["component"], one["finding"]) == (name, finding))
                shown = "".join(f", as {one['file']}:{one['line']}: {one['message']}" for one in list(first)[:1])
                wrong.append(f"\n  {name}: {finding} {share:.2%}, at most {most:.2%} allowed{shown}")
    if wrong:
        raise DataError(
            f"more findings than fail_above allows:{''.join(wrong)}\nSamples are in {where}. Mend the rows, or raise "
            "fail_above"
        )
