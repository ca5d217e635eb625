"""The demo's result for people: a table and a plot. Knows what was measured and nothing about how."""

from pathlib import Path

from rich.table import Table

from elmas.bench.demo import DemoResult
from elmas.bench.tables import share, summary_rows

_LABELS = {"noop": "vLLM prefix caching", "mt-apc": "MT-APC"}
_COLORS = {"noop": "#8a8f98", "mt-apc": "#1f6feb"}
_TIER_COLORS = {"device": "#1f6feb", "host": "#7cb7ff", "recomputed": "#d8dbe0"}


def demo_table(result: DemoResult) -> Table:
    """Return the figures of both servers side by side, the ratio of the job completion times last."""
    game = result.runs[0].game.settings
    table = Table(
        title=f"{game.n_participants} agents, {game.n_rounds} rounds of the guessing game", title_justify="left"
    )
    table.add_column("")
    for run in result.runs:
        table.add_column(_LABELS.get(run.arm, run.arm), justify="right")
    for heading, cells in summary_rows([run.summary for run in result.runs]):
        table.add_row(heading, *cells)
    rates = [run.tokens.rates for run in result.runs]
    table.add_row("prompt tokens from the device, %", *(share(rate.device) for rate in rates))
    table.add_row("prompt tokens from host memory, %", *(share(rate.host) for rate in rates))
    table.add_row("prompt tokens recomputed, %", *(share(rate.recomputed) for rate in rates))
    table.add_row("processor time of the server, s", *(f"{run.usage.server_cpu_s:.1f}" for run in result.runs))
    table.add_row("processor time of other processes, s", *(f"{run.usage.other_cpu_s:.1f}" for run in result.runs))
    table.add_row("failed answers", *(str(len(run.game.failures)) for run in result.runs))
    table.add_row("speed, from JCT", "1.00", f"{result.ratio:.2f}")
    return table


def write_plot(result: DemoResult, path: Path) -> None:
    """Write a PNG: seconds and mean TTFT per round for both servers, and where their prompt tokens came from."""
    import matplotlib

    matplotlib.use("Agg")  # a server or a CI job has no display
    from matplotlib import pyplot as plt

    figure, (seconds, ttft, shares) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    rounds = range(1, result.runs[0].game.settings.n_rounds + 1)
    for run in result.runs:
        style = {"marker": "o", "color": _COLORS.get(run.arm), "label": _LABELS.get(run.arm, run.arm)}
        seconds.plot(rounds, run.seconds_per_round, **style)
        ttft.plot(rounds, run.ttft_per_round_s, **style)
    for axes, title in ((seconds, "seconds per round"), (ttft, "mean time to first token, seconds")):
        axes.set(title=title, xlabel="round", ylim=(0, None), xticks=list(rounds))
        axes.grid(alpha=0.3)
        axes.legend()
    bottoms = [0.0] * len(result.runs)
    labels = [_LABELS.get(run.arm, run.arm) for run in result.runs]
    for tier, color in _TIER_COLORS.items():
        heights = [100 * float(getattr(run.tokens.rates, tier)) for run in result.runs]
        shares.bar(labels, heights, bottom=bottoms, color=color, label=tier, width=0.5)
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    shares.set(title="where prompt tokens came from, %", ylim=(0, 100))
    shares.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, frameon=False)
    game = result.runs[0].game.settings
    figure.suptitle(
        f"Guessing game, {game.n_participants} agents: job completion time {result.ratio:.2f} times as fast with MT-APC"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
