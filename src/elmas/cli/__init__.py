"""The command line: one module per command, each thin, with the work in the rooms it calls.

Modules import their room inside the command, so that `elmas --help` does not load PyTorch or matplotlib.
"""

import sys

import typer

from elmas.cli.agents import agents
from elmas.cli.agents_gaia import gaia
from elmas.cli.agents_games import crosswords, guessing_game, mmlu
from elmas.cli.agents_programs import chat, complete, profile
from elmas.cli.agents_town import town
from elmas.cli.bench import bench
from elmas.cli.bench_interference import interference
from elmas.cli.bench_load import client, workloads
from elmas.cli.bench_report import report
from elmas.cli.bench_suite import experiments, gpu, run, summary
from elmas.cli.disk import disk
from elmas.cli.model import model
from elmas.cli.serve import serve
from elmas.cli.simulate import simulate
from elmas.cli.simulate_studies import load, plot
from elmas.errors import UserError

app = typer.Typer(
    name="elmas",
    help="A multi-tier, prefix-aware KV cache for vLLM.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(name="serve", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(serve)
app.command(name="model", no_args_is_help=True)(model)
agents.command()(chat)
agents.command()(complete)
agents.command()(profile)
agents.command()(guessing_game)
agents.command()(mmlu)
agents.command()(crosswords)
agents.command()(town)
agents.command()(gaia)
app.add_typer(agents, name="agents")
for command in (run, experiments, gpu, interference):
    bench.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(command)
bench.command()(summary)
bench.command()(workloads)
bench.command()(client)
bench.command()(report)
app.add_typer(bench, name="bench")
app.add_typer(disk, name="disk")
simulate.command()(load)
simulate.command()(plot)
app.add_typer(simulate, name="simulate")


def main() -> None:
    """Run the command line; a UserError becomes one line on stderr and exit code 2."""
    try:
        app()
    except UserError as error:
        print(f"elmas: error: {error}", file=sys.stderr)
        sys.exit(2)
