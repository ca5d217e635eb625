"""What an earlier run left in a result directory: it is taken up, refused, or cleared."""

import contextlib
from pathlib import Path

from elmas.bench.suite.trial import Trial, read_trial, trial_path
from elmas.errors import UserError

LOGS = "logs"
"""The folder of server logs below a result directory."""


def prepare_directory(directory: Path, *, clear: bool, resume: bool) -> None:
    """Make a result directory ready; `clear` removes what a run wrote there and nothing else.

    Raises UserError when there are results and neither `clear` nor `resume` says what to do with them.
    """
    if directory.exists() and not directory.is_dir():
        raise UserError(f"--result-dir {directory} is a file: name a directory")
    trials = sorted(directory.glob("*/*/trial-*.json"))
    if trials and not clear and not resume:
        raise UserError(
            f"{directory} holds {len(trials)} results: pass --resume, --clear-result-dir or another directory"
        )
    if clear:
        for path in (*trials, *directory.glob(f"{LOGS}/*.log"), *directory.glob("results.csv")):
            path.unlink()
        for folder in sorted({path.parent for path in trials} | {path.parent.parent for path in trials}, reverse=True):
            with contextlib.suppress(OSError):  # something else is in it
                folder.rmdir()
    directory.mkdir(parents=True, exist_ok=True)


def is_finished(directory: Path, wanted: Trial) -> bool:
    """Whether the trial `wanted` (so far without results) is there, complete; a crashed one is not.

    Raises UserError when it is there and was measured with other parameters.
    """
    path = trial_path(directory, wanted.workload.name, wanted.server.name, wanted.trial)
    if not path.exists():
        return False
    found = read_trial(path)
    for what, before, now in (
        ("workload", found.workload.parameters, wanted.workload.parameters),
        ("server", found.server.parameters, wanted.server.parameters),
    ):
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                raise UserError(
                    f"{path} was measured with another {what} ({name} was {before.get(name)}, is {now.get(name)}): "
                    "pass --clear-result-dir or another --result-dir"
                )
    return found.status == "done"
