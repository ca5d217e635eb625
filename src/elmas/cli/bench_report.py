"""`elmas bench report`: results as a page and as Markdown. Reads files and starts nothing."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="the --result-dir of elmas bench run")],
    baseline: Annotated[
        str | None,
        typer.Option(help="server that ratios refer to; default: apc, else noop, else the first", show_default=False),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="the page; default: DIR/report.html", show_default=False)] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="also write tables for a README", show_default=False)
    ] = None,
) -> None:
    """Make a page from the results in DIR: one file that any browser shows, without network."""
    from elmas.bench.report.markdown import markdown as render_markdown
    from elmas.bench.report.page import page
    from elmas.bench.report.results import collect
    from elmas.bench.suite.trial import read_trials
    from elmas.errors import UserError

    if not directory.is_dir():
        raise UserError(f"there is no directory {directory}: give the --result-dir of elmas bench run")
    results = collect(read_trials(directory), baseline)
    files = {out or directory / "report.html": page(results)}
    if markdown is not None:
        files[markdown] = render_markdown(results)
    for path, text in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from None
        print(f"wrote {path}")
