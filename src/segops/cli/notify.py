"""`segops notify`: tries the channels that people are told through, and looks for silence."""

from __future__ import annotations

import typer

from segops.cli.common import checkout, console, flow_module
from segops.runtime.errors import SegopsError

app = typer.Typer(no_args_is_help=True, help="Tell people what happens: try it, look for silence.")
SILENT = 3
"""Exit status where schedules are silent; 1 is an error."""


@app.command()
def test() -> None:
    """Send a test message to each channel of SEGOPS_NOTIFY, and say what became of it.

    The exit status is 1 when a channel did not take it.
    """
    from segops.operate import notify
    from segops.operate.messages import Message

    channels = notify.required_channels()
    message = Message("promoted", "A test of segops", ("Nothing happened: this is a test.",))
    results = notify.send(channels, message)
    for one in results:
        console.say(f"{one.channel}: {one.problem or 'has the message.'}")
    if any(one.problem for one in results):
        raise typer.Exit(1)


@app.command()
def silent() -> None:
    """Tell if no run of a schedule has ended for `notify.silent_hours`, or no server answers.

    For a timer or cron, best of another machine. The exit status is 3 where it is so.
    """
    from segops.operate import notify, schedules, silence

    root = checkout()
    hours = notify.Settings.read(root).notify.silent_hours
    if hours is None:
        raise SegopsError(
            "params.yaml: notify.silent_hours is null. Set the hours after which a schedule "
            "without an ended run is silent, such as 200 for a weekly one."
        )
    try:
        with flow_module(root, "server").for_questions(), schedules.client() as server:
            sentences = silence.silent(server, hours)
        message = silence.message(sentences, hours)
    except SegopsError as error:
        sentences, message = [str(error)], silence.unknown(str(error), hours)
    if not sentences:
        console.say(f"A run of every schedule has ended within the last {hours:g} hours.")
        return
    for one in sentences:
        console.say(one)
    notify.tell(root, message, by_hand=False)
    raise typer.Exit(SILENT)
