"""What a person sees on the terminal: tables and progress bars."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import IO, TYPE_CHECKING, Literal, TypeVar

from mtl_speech.core.distributed import is_main

if TYPE_CHECKING:
    from rich.table import Table

T = TypeVar("T")
Kind = Literal["figure", "word", "text"]  # of what stands in a column of a table
_BARS: ContextVar[bool] = ContextVar("bars", default=False)


def show(table: Table, file: IO[str] | None = None) -> None:
    """Print a table to `file` (standard output by default): drawn on a terminal, else as `plain_text`."""
    from rich.console import Console

    console = Console(file=file)
    if console.is_terminal:
        console.print(table)
    else:
        print(plain_text(table), file=file)


def plain_text(table: Table) -> str:
    """A table as text without colour, lines or wrapping."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=1000, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().strip("\n").split("\n"))


def new_table(title: str, stamp: str = "") -> Table:
    """An empty table in the style of all tables on the terminal."""
    from rich.table import Table
    from rich.text import Text

    text = Text(f"{title} ({stamp})\n" if stamp else f"{title}\n", style="bold")
    return Table(
        title=text, title_justify="left", caption_justify="left", box=None, collapse_padding=True, pad_edge=False
    )


def filled_table(
    title: str, columns: Mapping[str, Kind], rows: Iterable[Sequence[object]], caption: str = "", stamp: str = ""
) -> Table:
    """A table of `rows`, with what stands in its columns by their names; of figures and words none is broken over two lines.

    Nothing in the cells is markup. A row without cells is an empty line.
    """
    from rich.text import Text

    table = new_table(title, stamp)
    for name, kind in columns.items():
        table.add_column(name, justify="right" if kind == "figure" else "left", no_wrap=kind != "text")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    table.caption = Text(f"\n{caption}") if caption else None
    return table


def bars_shown() -> bool:
    """Whether `progress` draws: inside `show_bars`, and of several processes in the main one."""
    return _BARS.get() and is_main()


@contextmanager
def show_bars(shown: bool = True) -> Iterator[None]:
    """Inside, long loops draw a bar (or none, with `shown` false)."""
    token = _BARS.set(shown)
    try:
        yield
    finally:
        _BARS.reset(token)


def progress(items: Iterable[T], description: str) -> Iterable[T]:
    """The same items; where bars are shown, with one on standard error, for a loop of more than two seconds. It leaves a line."""
    if not bars_shown():
        return items
    from tqdm import tqdm

    return tqdm(items, desc=description, delay=2.0, dynamic_ncols=True)
