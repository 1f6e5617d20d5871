"""The console command ``onerec``. Commands import what they need when they run, so that mistakes are told at once."""

from __future__ import annotations

import sys

import typer

from deploy.cli import arms, bench, data, evaluate, experiment, export, loop, operate, replay, tail, tokenize, watch, workers
from deploy.cli.console import fail
from deploy.local.processes import StackError

HELP = """Online learning for generative recommendation: the OneRec post-training loop.

`onerec up` runs the whole loop on this machine and ends with a report. The other commands are its parts, to be used
alone: make or import a session log, put it on Kafka, run one worker against the endpoints of a run, judge, report.
`onerec doctor` says what is wrong with this machine or a run; `onerec --install-completion` lets the shell complete.
"""
app = typer.Typer(help=HELP, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown")
loop.register(app)
data.register(app)
export.register(app)
replay.register(app)
tail.register(app)
evaluate.register(app)
tokenize.register(app)
workers.register(app)
operate.register(app)
watch.register(app)
arms.register(app)
bench.register(app)
experiment.register(app)


def main() -> None:
    """Run the command line. Exit codes: 0 done, 2 used or configured wrongly or a part failed, 130 interrupted."""
    try:
        app(prog_name="onerec")
    except (ValueError, OSError, StackError) as error:
        sys.exit(fail(error))
    except RuntimeError as error:
        if _told_by_us(error):
            sys.exit(fail(error))
        raise


def _told_by_us(error: RuntimeError) -> bool:
    """Whether it is one of the errors that say what is wrong at the other side of a connection."""
    stream = sys.modules.get("common.stream")  # not imported: nothing of it was raised
    return stream is not None and isinstance(error, stream.StreamError)


if __name__ == "__main__":
    main()
