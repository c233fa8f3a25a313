"""The `ontogeny` command: its subcommands, by name."""

from __future__ import annotations

import os
import sys

import typer

from ontogeny.cli.audit import audit
from ontogeny.cli.bench import bench
from ontogeny.cli.demo import demo
from ontogeny.cli.errors import DEBUG, INTERRUPTED, heed_signals, reported
from ontogeny.cli.events import events
from ontogeny.cli.fit import fit
from ontogeny.cli.predict import predict
from ontogeny.cli.report import report
from ontogeny.cli.scan import scan
from ontogeny.cli.simulate import simulate
from ontogeny.cli.verify import verify
from ontogeny.version import __version__

KEPT = "checkpoints that were measured are kept, and the same command goes on from there"
NOT_KEPT = "it was not finished; run it again"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="How attention sinks and massive activations come to be while a transformer trains.",
    epilog=f"Every command also takes {DEBUG}: show the traceback of an error.",
)
for command in (scan, audit, fit, events, predict, report, verify, simulate, bench, demo):
    app.command()(reported(command, KEPT if command in (scan, demo) else NOT_KEPT))


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ontogeny {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", is_eager=True, callback=_print_version, help="Print the version."),
) -> None:
    del version


def main() -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage, 3 in part (see README), 130 interrupted."""
    heed_signals()
    try:
        app([argument for argument in sys.argv[1:] if argument != DEBUG], prog_name="ontogeny")
    except SystemExit as end:
        if end.code != INTERRUPTED:
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED)  # threads in the middle of a download would be waited for
