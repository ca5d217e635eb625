"""A comparison has all that was planned, and verdicts say what falls short."""

import pytest

from elmas.errors import UserError
from elmas.sim.compare import Cell, ComparePlan, Comparison, compare, compare_on_trace
from elmas.sim.gates import judge

CLASSICS = {"lru": 10.0, "arc": 12.0, "s3fifo": 11.0}


def comparison(family: str, capacity: float, *cells: dict[str, float]) -> Comparison:
    """Return a comparison of one family and capacity with these hits by seed."""
    plan = ComparePlan(families=(family,), capacities=(capacity,), seeds=tuple(range(len(cells))))
    return Comparison(plan, tuple(Cell(family, seed, capacity, 1, 1, hits) for seed, hits in enumerate(cells)))


def hits(ours: float, correct: float, wrong: float, optimal: float) -> dict[str, float]:
    """Return the hits of all arms."""
    hinted = {"next-use, correct hints": correct, "next-use, wrong hints": wrong}
    return CLASSICS | {"next-use": ours} | hinted | {"optimal": optimal, "infinite": 90.0}


def test_a_comparison_has_every_family_capacity_seed_and_arm_within_the_bounds() -> None:
    plan = ComparePlan(families=("cyclic", "swarm"), capacities=(0.25, 0.5), seeds=(1, 2), n_sessions=8)
    n_traces = 0

    def on_trace() -> None:
        nonlocal n_traces
        n_traces += 1

    result = compare(plan, 2, on_trace)
    assert n_traces == 4
    expected = [(f, c, s) for f in plan.families for c in plan.capacities for s in plan.seeds]
    assert [(cell.family, cell.capacity, cell.seed) for cell in result.cells] == expected
    for cell in result.cells:
        assert set(cell.hit_percent) == {
            *plan.policies,
            "next-use, correct hints",
            "next-use, wrong hints",
            "optimal",
            "infinite",
        }
        assert max(cell.hit_percent.values()) == cell.hit_percent["infinite"]
        assert all(cell.hit_percent["optimal"] >= cell.hit_percent[policy] for policy in plan.policies)
    assert [cell for cell in result.cells if (cell.family, cell.seed) == ("swarm", 2)] == compare_on_trace(
        plan, "swarm", 2
    )


def test_means_are_over_the_seeds() -> None:
    result = comparison("chats", 0.5, {"lru": 10.0}, {"lru": 14.0})
    assert result.mean_percent("chats", 0.5) == {"lru": 12.0}


@pytest.mark.parametrize(
    ("family", "capacity", "figures", "short"),
    [
        ("cyclic", 0.5, hits(47.5, 48.5, 44.5, 50.0), set()),
        ("cyclic", 0.5, hits(47.4, 48.4, 44.3, 50.0), {"optimal", "correct", "wrong"}),
        ("cyclic-shuffled", 0.25, hits(45.0, 50.0, 45.0, 50.0), set()),
        ("cyclic-churn", 0.25, hits(39.0, 50.0, 39.0, 50.0), {"optimal"}),
        ("tool-agents", 0.5, hits(11.5, 50.0, 11.5, 50.0), set()),
        ("tool-agents", 0.5, hits(11.4, 50.0, 11.4, 50.0), {"classic"}),
        ("tool-agents", 0.25, hits(14.9, 50.0, 14.9, 50.0), {"classic"}),
        ("chats", 0.5, hits(15.0, 50.0, 15.0, 50.0), set()),
        ("scans", 0.25, hits(13.9, 50.0, 13.9, 50.0), {"classic"}),
    ],
)
def test_verdicts_follow_what_is_demanded(
    family: str, capacity: float, figures: dict[str, float], short: set[str]
) -> None:
    verdicts = judge(comparison(family, capacity, figures))
    found = {verdict.demand for verdict in verdicts if not verdict.holds}
    words = {"optimal": "percent of optimal", "classic": "points above the best classic"}
    words |= {"correct": "percent of optimal, correct hints", "wrong": "points above no hints, wrong hints"}
    assert found == {words[word] for word in short}


def test_the_mean_decides_and_the_worst_seed_is_shown() -> None:
    cells = (hits(50.0, 50.0, 50.0, 50.0), hits(46.0, 50.0, 46.0, 50.0))
    verdict = judge(comparison("cyclic", 0.5, *cells))[0]
    assert verdict.mean == pytest.approx(96.0)
    assert verdict.worst == pytest.approx(92.0)
    assert verdict.holds


@pytest.mark.parametrize(
    "given", [{"families": ("robots",)}, {"policies": ("magic",)}, {"capacities": (0.0,)}, {"seeds": ()}]
)
def test_a_plan_that_cannot_be_carried_out_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(UserError):
        ComparePlan(**given)  # type: ignore[arg-type]
