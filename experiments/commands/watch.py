"""A running sweep, live: in the terminal, and as a page of this machine. Only looks; Ctrl-C leaves.

example: kleiber watch out/quickstart
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from kleiber.experiments.exit_codes import EXIT_DONE

LOOK_SECONDS = 2.0


@dataclass(frozen=True)
class Options:
    """Options of `kleiber watch`."""

    directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Of `kleiber sweep` or `kleiber train`, running or not."""
    page: bool = True
    """Also serve a page, with curves and forecasts that zoom."""
    host: str = "127.0.0.1"
    """Address that the page is served on; on any but this machine's own, it asks for a token."""
    port: int = 0
    """Of the page; 0 takes a free one."""
    export: Path | None = None
    """Write the page as it is now into a file, and leave."""
    once: bool = False
    """Show the terminal view once, and leave."""
    json: bool = False
    """Print one JSON object with all that there is to show, and leave."""


def run(options: Options) -> int:
    """Looks at the directory until it is told to leave."""
    from rich.console import Console
    from rich.live import Live

    from kleiber.experiments.terminal import tell
    from kleiber.experiments.watching.page import Server, page
    from kleiber.experiments.watching.screen import screen
    from kleiber.experiments.watching.state import Watch
    from kleiber.files import write_whole

    watch = Watch(options.directory)
    if options.json:
        print(json.dumps(watch.look(), indent=1))
        return EXIT_DONE
    if options.export:
        write_whole(options.export, page(watch.look(), is_live=False))
        tell(f"wrote {options.export}")
        return EXIT_DONE
    if options.once:
        Console().print(screen(watch.look()))
        return EXIT_DONE
    server, look = None, watch.look
    if options.page:
        server = Server(watch, options.host, options.port)
        look = server.look
        server.serve()
        tell(f"page: {server.address}")
    address = server.address if server else ""
    try:
        if not sys.stdout.isatty():
            while True:
                tell(look()["said"])
                time.sleep(10 * LOOK_SECONDS)
        with Live(screen(look(), address), auto_refresh=False) as live:
            while True:
                time.sleep(LOOK_SECONDS)
                live.update(screen(look(), address), refresh=True)
    except KeyboardInterrupt:
        return EXIT_DONE
