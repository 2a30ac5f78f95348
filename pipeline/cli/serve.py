"""``pipeline serve``."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli import signals
from pipeline.cli.common import dataset_option, say, settings_options, workspace_from


@click.command("serve")
@dataset_option
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any that is free.")
@click.option("--open", "open_page", is_flag=True, help="Open the page in the browser.")
@settings_options
def command(dataset: str, port: int, open_page: bool, **options: Any) -> None:
    """Try photos by hand, on a page in the browser: scores and heat maps by class, for any fitted head and k.

    Where the evaluation split is labelled and scored, scores become probabilities that are learnt from it. Two heads
    can be compared.

    The page is for this machine alone (127.0.0.1); photos stay in memory. Ctrl-C ends it.

    \b
    Example:
      pipeline serve --dataset demo --open
    """
    from waitress.server import create_server

    from pipeline.io.errors import PipelineError
    from pipeline.stages.context import RunContext
    from pipeline.views.serve.app import Desk, calibrations_of, examples_of, fitted_heads, known_turns, make_app

    ws = workspace_from(options)
    run = RunContext(ws, dataset, say)
    title = run.manifest.title
    s = ws.settings
    aggregations = list(dict.fromkeys((s.main_aggregation, *s.all_aggregations)))
    heads = fitted_heads(run)
    desk = Desk(ws, heads, aggregations, known_turns(run), calibrations_of(run, heads), examples_of(run))
    try:
        server = create_server(make_app(desk, title), host="127.0.0.1", port=port)
    except OSError as error:
        raise PipelineError(f"port {port}: {error.strerror}; give another one: --port 0 takes any") from error
    address = f"http://127.0.0.1:{server.effective_port}/"
    say(f"{title}: {address} (Ctrl-C ends it)")
    if open_page:
        click.launch(address)
    try:
        # Returns on Ctrl-C, the usual end of this command, and on SIGTERM.
        server.run()
    finally:
        server.close()
    signals.raise_if_terminated()
