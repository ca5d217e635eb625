"""Trials of one workload on two servers, side by side. Those with one number belong together: they ran next to each
other in time. Pure functions."""

from collections.abc import Callable, Sequence

from elmas.bench.suite.trial import Trial


def paired(
    trials: Sequence[Trial], base: Sequence[Trial], figure: Callable[[Trial], float | None]
) -> tuple[list[float], list[float]]:
    """Return a figure of all trials whose partner in `base` has it too, and the partners'; zeros are left out, since
    they have no ratio."""
    partners = {trial.trial: figure(trial) for trial in base}
    pairs = [(value, other) for trial in trials if (other := partners.get(trial.trial)) and (value := figure(trial))]
    return [value for value, _ in pairs], [other for _, other in pairs]


def count_different_answers(trials: Sequence[Trial], base: Sequence[Trial]) -> tuple[int, int]:
    """Return how many answers differ from those in `base`, and how many were compared.

    Requests are matched by agent and turn; one that only one of two trials has differs too. Trials without answers, or
    without a partner, are not compared.
    """
    partners = {trial.trial: trial for trial in base}
    n_different = n_compared = 0
    for trial in trials:
        other = partners.get(trial.trial)
        if other is None or trial.requests is None or other.requests is None:
            continue
        if trial.output_digest is not None and trial.output_digest == other.output_digest:
            n_compared += len(trial.requests.agent)
            continue
        ours, theirs = _answers(trial), _answers(other)
        keys = ours.keys() | theirs.keys()
        n_compared += len(keys)
        n_different += sum(ours.get(key) != theirs.get(key) for key in keys)
    return n_different, n_compared


def _answers(trial: Trial) -> dict[tuple[str, int], str]:
    columns = trial.requests
    assert columns is not None
    return dict(zip(zip(columns.agent, columns.turn, strict=True), columns.answer, strict=True))
