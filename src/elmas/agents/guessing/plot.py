"""The guesses of a game as a picture."""

import math
from pathlib import Path

from elmas.agents.guessing.game import GameResult
from elmas.errors import UserError


def write_guesses_plot(result: GameResult, path: Path) -> None:
    """Write every guess by round, the average and the target; the suffix of `path` says PNG or SVG.

    Raises UserError for a file that cannot be written, or another suffix.
    """
    import matplotlib

    matplotlib.use("Agg")  # a server or a CI job has no display
    from matplotlib import pyplot as plt

    if path.suffix not in (".png", ".svg"):
        raise UserError(f"the plot {path} has no known suffix: name it .png or .svg")
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    rounds = range(1, len(result.rounds) + 1)
    n_players = result.settings.n_participants
    # Side by side, so that equal guesses do not hide each other.
    points = [
        (number + 0.6 * ((player + 0.5) / n_players - 0.5), guess)
        for number, guesses in zip(rounds, result.guesses, strict=True)
        for player, guess in enumerate(guesses)
        if guess is not None
    ]
    opacity = min(0.8, max(0.05, 40 / n_players))
    axes.scatter(
        [x for x, _ in points],
        [y for _, y in points],
        s=14,
        alpha=opacity,
        color="#1f6feb",
        label="a guess",
        linewidths=0,
    )
    lines = (
        ("average", "#57606a", [each.average for each in result.rounds]),
        ("target", "#cf222e", [each.target for each in result.rounds]),
    )
    for label, color, values in lines:
        heights = [math.nan if value is None else value for value in values]
        axes.plot(rounds, heights, marker="o", color=color, label=label)
    axes.set(
        title=f"{n_players} players, target {result.settings.ratio:.2g} of the average",
        xlabel="round",
        ylabel="number",
        xticks=list(rounds),
        ylim=(-2, result.settings.max_number * 1.02 + 2),
    )
    axes.grid(alpha=0.3)
    axes.legend()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise UserError(f"cannot write the plot {path} ({error.strerror}): choose another file") from None
    finally:
        plt.close(figure)
