"""The report says what the trials say: ratios of pairs, what is missing, what went wrong; nothing from elsewhere."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elmas.bench.report import plots, tables
from elmas.bench.report.colors import looks
from elmas.bench.report.findings import findings, missing, problems
from elmas.bench.report.markdown import markdown
from elmas.bench.report.page import ABLATION, ablations, headline, page
from elmas.bench.report.results import TIERS, collect
from elmas.bench.report.scales import Scale, apart, distribution_path, from_zero, logarithmic
from elmas.bench.suite.trial import CounterCheck, Trial, write_trial
from elmas.cli import app
from elmas.errors import UserError
from elmas.serve.configurations import CONFIGURATIONS
from tests.bench.report_trials import failed, make_trial, make_trials, without_result


def _with_jct(trial: Trial, seconds: float) -> Trial:
    assert trial.metrics is not None
    return replace(trial, metrics=replace(trial.metrics, jct_s=seconds))


def test_ratios_are_of_trials_with_the_same_number() -> None:
    # The machine was half as fast in the second trial, for both servers: the ratio does not see it.
    trials = [
        _with_jct(make_trial("w", server, number), seconds)
        for server, number, seconds in [("apc", 0, 10.0), ("apc", 1, 20.0), ("mt-apc", 0, 5.0), ("mt-apc", 1, 10.0)]
    ]
    server = collect(trials).workloads[0].of("mt-apc")
    assert server is not None
    ratio = server.ratios["jct"]
    assert (ratio.value, ratio.low, ratio.high, ratio.n) == pytest.approx((0.5, 0.5, 0.5, 2))
    head = headline(collect(trials))
    assert head is not None
    assert (head.ratio, head.base, head.interval) == ("2.00×", "apc", "95% interval 2.00 to 2.00")


def test_the_headline_needs_more_than_one_trial_and_says_when_nothing_is_shown() -> None:
    def trials(*seconds: float) -> list[Trial]:
        made = [_with_jct(make_trial("w", "apc", number), 10.0) for number in range(len(seconds))]
        return made + [_with_jct(make_trial("w", "mt-apc", number), each) for number, each in enumerate(seconds)]

    assert headline(collect(trials(5.0))) is None
    head = headline(collect(trials(8.0, 12.0, 11.0, 9.0)))
    assert head is not None
    assert head.interval.endswith("which shows no difference")


def test_a_busy_machine_is_said_first() -> None:
    trials = make_trials(["w"], ["apc", "mt-apc"], n_trials=1)
    usage = trials[0].usage
    assert usage is not None
    trials[0] = replace(trials[0], usage=replace(usage, other_cpu_s=usage.wall_s))
    assert findings(collect(trials))[0].text.startswith("Other programs used up to 50% of the processors")


def test_a_trial_without_partner_has_no_ratio() -> None:
    trials = [make_trial("w", "apc", 0), make_trial("w", "mt-apc", 1)]
    server = collect(trials).workloads[0].of("mt-apc")
    assert server is not None
    assert server.ratios == {}
    assert headline(collect(trials)) is None


def test_the_baseline_can_be_chosen_and_must_have_run() -> None:
    trials = make_trials(["w"], ["no-apc", "noop", "mt-apc"], n_trials=1)
    assert collect(trials).baseline == "noop"
    assert collect(trials, "no-apc").baseline == "no-apc"
    with pytest.raises(UserError, match="choose one of no-apc, noop, mt-apc"):
        collect(trials, "lmcache")
    with pytest.raises(UserError, match="run a benchmark first"):
        collect([])


def test_shares_add_up_and_come_from_all_trials() -> None:
    results = collect(make_trials(["w"]))
    for row in plots.stacks(results.workloads[0]):
        assert sum(part.width for part in row.parts) == pytest.approx(100, abs=0.02)
        assert [part.tier for part in row.parts] == [
            tier for tier in TIERS if tier in {part.tier for part in row.parts}
        ]
        assert row.mark == pytest.approx(88)


def test_answers_that_differ_are_counted_against_the_same_trial_of_the_baseline() -> None:
    trials = [make_trial("w", "apc", 0), make_trial("w", "mt-apc", 0)]
    other = trials[1].requests
    assert other is not None
    changed = replace(trials[1], output_digest="other", requests=replace(other, answer=["other", *other.answer[1:]]))
    server = collect([trials[0], changed]).workloads[0].of("mt-apc")
    assert server is not None
    assert (server.n_answers_differ, server.n_answers_compared) == (1, 200)
    assert any("1 of 200 answers differ" in each.text for each in findings(collect([trials[0], changed])))
    assert any("All answers equal" in each.text for each in findings(collect(trials)))


def test_what_is_missing_or_wrong_is_said_with_its_reason() -> None:
    good = make_trial("w", "apc", 0)
    trials = [
        replace(good, failures=[failed("agent 3")], violations=["the caches were not empty"]),
        replace(make_trial("w", "noop", 0), counters_check=[CounterCheck("prompt_tokens", 10, 11, False)]),
        without_result(make_trial("w", "mt-apc", 0), "crashed", "out of memory"),
        without_result(make_trial("w", "mt-apc", 1), "crashed", "out of memory"),
    ]
    results = collect(trials)
    assert [(each.server, each.trials, each.reason) for each in missing(results)] == [
        ("mt-apc", "1, 2", "out of memory")
    ]
    assert {each.text for each in problems(results)} == {
        "trial 1: the caches were not empty",
        "trial 1: prompt_tokens is 10 by the client and 11 by the server",
    }
    levels = [each.level for each in findings(results)]
    assert levels == sorted(levels, key=["bad", "note", "good"].index)
    text = page(results)
    assert "out of memory" in text
    assert "&lt;html&gt;503" in text  # what a server answers is not markup of the page
    assert "<html>503" not in text


def test_the_ablation_is_normalised_to_the_least_that_ran() -> None:
    found = ablations(collect(make_trials(["w"], n_trials=1)))
    assert [each.base for each in found] == ["mt-apc-only-mt"]
    for drawn in found[0].bars:
        assert [row.server for row in drawn.rows] == [
            name for name in ABLATION if name in {row.server for row in drawn.rows}
        ]
        assert drawn.rows[0].ratio == "1.00×"
    assert ablations(collect(make_trials(["w"], ["apc", "mt-apc"], n_trials=1))) == []


def test_one_trial_has_no_intervals_and_says_so() -> None:
    results = collect(make_trials(["w"], ["apc", "mt-apc"], n_trials=1))
    drawn = plots.bars(results.workloads[0], "jct")
    assert drawn is not None
    assert all(row.low is None for row in drawn.rows)
    assert any("no intervals" in each.text for each in findings(results))


def test_a_page_needs_nothing_from_elsewhere() -> None:
    text = page(collect(make_trials(["w", "v"], n_trials=2)))
    loaded = _Loaded()
    loaded.feed(text)
    assert loaded.urls <= {"data:,"}
    assert not re.search(r"@import|url\(", text)
    assert "src=" not in text
    assert "fetch(" not in text


def test_a_run_without_any_result_has_a_page_with_the_reasons() -> None:
    results = collect([without_result(make_trial("w", "lmcache", 0), "skipped", "needs CUDA")])
    assert "needs CUDA" in page(results)
    assert "needs CUDA" in markdown(results)


def test_a_run_without_rounds_has_a_timeline_over_its_requests() -> None:
    workload = collect(make_trials(["w"], ["apc", "mt-apc"], n_rounds=1)).workloads[0]
    lines = plots.timelines(workload)
    assert [each.x_heading for each in lines] == ["requests sent, %"]
    assert len(plots.timelines(collect(make_trials(["w"], ["apc"])).workloads[0])) == 2


def test_markdown_has_a_row_per_server_and_a_column_per_workload() -> None:
    trials = [*make_trials(["w", "v"], ["apc", "mt-apc"], n_trials=2)]
    trials.append(without_result(make_trial("w", "lmcache", 0), "skipped", "needs CUDA"))
    lines = markdown(collect(trials)).splitlines()
    header = lines.index("| server | w | v |")
    assert lines[header + 2].startswith("| `apc` | 1 | 1 |")
    assert re.fullmatch(r"\| `mt-apc` \| 1\.\d\d× \(.*\) \| 1\.\d\d× \(.*\) \|", lines[header + 3])
    assert lines[header + 4] == "| `lmcache` | skipped | – |"
    assert "- `lmcache` on w: skipped, needs CUDA" in lines


def test_the_table_has_every_figure_of_every_server() -> None:
    workload = collect(make_trials(["w"], ["apc", "mt-apc"], n_trials=2)).workloads[0]
    table = tables.figure_table(workload)
    assert table.columns == ("apc", "mt-apc")
    headings = [heading for heading, _ in table.rows]
    assert {"TTFT, median, ms", "TTFT, standard deviation, ms", "E2EL, P99, ms", "Requests/s"} <= set(headings)
    assert all(len(cells) == 2 for _, cells in table.rows)


def test_every_configuration_has_a_look_of_its_own() -> None:
    found = looks((*CONFIGURATIONS, "mt-apc:policy=lru", "endpoint"))
    assert len({(look.light, look.dashes) for look in found.values()}) == len(found)


def test_the_command_writes_both_files(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    for trial in make_trials(["w"], ["apc", "mt-apc"], n_trials=1):
        write_trial(tmp_path, trial)
    done = CliRunner().invoke(app, ["bench", "report", str(tmp_path), "--markdown", str(tmp_path / "r.md")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert "Baseline: `apc`" in (tmp_path / "r.md").read_text()


@given(st.lists(st.floats(0, 100), max_size=12), st.floats(1, 20))
def test_labels_stay_in_order_inside_and_apart(places: list[float], distance: float) -> None:
    found = apart(places, distance)
    room = min(distance, 100 / max(1, len(places) - 1))
    assert all(-0.1 <= place <= 100.1 for place in found)
    for (before, moved_before), (after, moved_after) in pairwise(sorted(zip(places, found, strict=True))):
        assert before <= after
        assert moved_after - moved_before >= room - 0.05


@given(st.lists(st.floats(1e-4, 1e4), min_size=1, max_size=50))
def test_scales_hold_all_values_and_have_ticks(values: list[float]) -> None:
    for scale in (from_zero(values), logarithmic(values)):
        places = [scale.at(value) for value in sorted(values)]
        assert places == sorted(places)
        assert all(0 <= place <= 100 for place in places)
        ticks = scale.ticks(6)
        assert len(ticks) <= 10
        assert all(0 <= tick.at <= 100 for tick in ticks)


@given(st.lists(st.floats(0.001, 100), min_size=1, max_size=600))
def test_a_distribution_rises_from_nothing_to_all(values: list[float]) -> None:
    path = distribution_path(np.sort(values), Scale(0.0005, 200, is_log=True))
    heights = [float(text) for text in re.findall(r"V([-\d.e]+)", path)]
    assert heights == sorted(heights, reverse=True)
    assert heights[-1] == 0
    assert path.endswith("H100")
    assert len(heights) <= 240


class _Loaded(HTMLParser):
    """Collects the addresses that a page would load or lead to, but those of its own places."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.urls |= {
            value for name, value in attrs if name in ("src", "href", "srcset", "action") and value and value[0] != "#"
        }
