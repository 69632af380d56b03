"""The command line: `popoto-async demo` opens a server and cleans up behind itself; the others are in `upkeep.py`."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated, Any, NoReturn
from urllib.parse import urlsplit

from popoto_async import Database, DatabaseError, OutcomeUnknown, PopotoError, Unavailable, connect

try:
    import typer

    from popoto_async.demo.airports import FEWEST, Airport, Pilot, airports
    from popoto_async.demo.screen import Screen
    from popoto_async.demo.story import tell
    from popoto_async.upkeep import COMMANDS
except ModuleNotFoundError as error:
    if error.name not in ("typer", "rich"):
        raise
    missing: str | None = error.name
else:
    missing = None

NAMESPACE = "popoto-demo"
"""What the keys of the demo begin with; everything below it is the demo's to remove."""

TEMPORARY = "embedded://"
"""The URL of a server that takes everything with it when it stops."""

CLEANUP = 30.0
"""Seconds that removing the demo's records may take."""

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it: 128 and the number of the signal."""


def main() -> None:
    """Run the command that the arguments name."""
    if missing is not None:
        hint = "Run: pip install 'popoto_async[cli]', or 'popoto_async[demo]' for the demo"
        _fail(PopotoError(f"the command line needs {missing}, which is not installed", hint=hint))
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal without accents shows ? in their place
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    app.callback()(about)
    for command in (demo, *COMMANDS):
        app.command()(command)
    app(prog_name="popoto-async")


def about() -> None:
    """popoto_async: an async-first ORM for Redis and Valkey."""


def demo(
    url: Annotated[
        str,
        typer.Option(envvar="REDIS_URL", help="The server: redis:// rediss:// unix:// valkey:// or embedded://."),
    ] = TEMPORARY,
    plain: Annotated[bool, typer.Option("--plain", help="No colours, no moving bar, 80 columns.")] = False,
    limit: Annotated[int | None, typer.Option(min=FEWEST, help="Load so many airports in place of all.")] = None,
) -> None:
    """Load 28,298 airports and show what can be asked of them, and what each question costs.

    Without a URL a private server is started, which ends with the demo. On a server of yours the demo's keys begin
    with popoto-demo: and are removed at the end.
    """
    try:
        asyncio.run(_demo(url, Screen(plain=plain), airports(limit)))
    except KeyboardInterrupt:
        typer.echo("\nStopped.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except PopotoError as error:
        if isinstance(error, (OutcomeUnknown, Unavailable)) and not url.startswith(TEMPORARY):
            error.hint = f"start a server there, check the URL, or: popoto-async demo --url {TEMPORARY}"
        _fail(error)


async def _demo(url: str, screen: Screen, found: list[dict[str, Any]]) -> None:
    async with connect(url, namespace=NAMESPACE) as database:
        screen.title("popoto_async", await _where(url, database))
        if url != TEMPORARY:
            await _remove(database)  # what a demo left that was killed
        try:
            await tell(screen, database, found)
        except DatabaseError:
            raise  # the server or the way to it is lost; the next demo cleans up
        except BaseException:
            await _clean(url, database, screen)
            raise
        await _clean(url, database, screen)


async def _where(url: str, database: Database) -> str:
    """The server in a line, without what is secret in its URL."""
    said = (await database.execute("INFO", "server")).decode(errors="replace")
    known = dict(line.split(":", 1) for line in said.splitlines() if ":" in line)
    kind = "Valkey" if "valkey_version" in known else "Redis"
    version = known.get(f"{kind.lower()}_version", "?")
    if url == TEMPORARY:
        return f"{kind} {version}, a private server that ends with this demo"
    parts = urlsplit(url)
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return f"{kind} {version} at {address}; all keys begin with {NAMESPACE}: and are removed at the end"


async def _clean(url: str, database: Database, screen: Screen) -> None:
    if url == TEMPORARY:
        return
    try:
        async with asyncio.timeout(CLEANUP):
            # These counts stand in line behind what is still under way, such as the saves of a load that was stopped.
            await asyncio.gather(Airport.query.count(), Pilot.query.count())
            removed = await _remove(database)
    except (PopotoError, TimeoutError) as error:
        raise PopotoError(
            f"keys of the demo remain on the server: {str(error) or 'it took too long'}",
            hint=f"The next demo removes them, or: redis-cli --scan --pattern '{NAMESPACE}:*' | xargs redis-cli unlink",
        ) from error
    screen.say(f"The {removed:,} keys of the demo have been removed from the server.")


async def _remove(database: Database) -> int:
    """Remove every key of the demo, those that the library keeps for itself among them; how many there were."""
    removed, cursor = 0, b"0"
    while True:
        cursor, keys = await database.execute("SCAN", cursor, "MATCH", f"{NAMESPACE}:*", "COUNT", 1000)
        if keys:
            removed += await database.execute("UNLINK", *keys)
        if cursor == b"0":
            return removed


def _fail(error: PopotoError) -> NoReturn:
    """Tell an error and what to do about it, and end."""
    hint = f" ({error.hint})" if error.hint else ""
    sys.stderr.write(f"popoto-async: {error}{hint}\n")
    sys.exit(1)


if __name__ == "__main__":
    main()
