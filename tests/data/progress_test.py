import io

from rich.console import Console

from eln_jax.data.progress import Progress, size_text


def duration(seconds):
    return f"{seconds:.0f} s"


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_plain_lines_come_now_and_then_with_the_time_that_is_left():
    file, clock = io.StringIO(), Clock()
    with Progress(duration, Console(file=file, width=20), clock) as progress:
        progress.message("a [line] that is longer than the screen")
        progress.start("Writing", 1200, "images")
        for _ in range(12):
            clock.now += 2
            progress.advance(100)
        clock.now = 100
        progress.start("Fetching", 3_000_000, "bytes", done=1_000_000)
        clock.now = 110
        progress.update(2_000_000)
    assert file.getvalue().splitlines() == [
        "a [line] that is longer than the screen",
        "Writing: 500 of 1,200 images, 14 s left",
        "Writing: 1,000 of 1,200 images, 4 s left",
        "Writing: 1,200 images in 24 s",
        "Fetching: 2.0 MB of 3.0 MB, 10 s left",
    ]


def test_a_terminal_has_a_bar_and_keeps_one_line_a_task():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100)
    with Progress(duration, console, Clock()) as progress:
        progress.start("Writing", 2, "images")
        progress.advance()
        progress.advance()
        progress.start("Left", 2, "images")  # an error comes in between
    assert "Writing: 2 images in 0 s\n" in file.getvalue()
    assert file.getvalue().count("\x1b[?25h") == 2  # both bars have let go of the cursor


def test_sizes_are_told_as_a_person_does():
    assert [size_text(n) for n in (0, 999, 34_100_000, 1.2e9, 7e12)] == [
        "0 B", "999 B", "34.1 MB", "1.2 GB", "7000.0 GB"
    ]  # fmt: skip
