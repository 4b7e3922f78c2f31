"""The log of a detached container: nothing lost, nothing without bound, nobody blocked."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mycontainer.cli.logs import last
from mycontainer.engine import log
from mycontainer.engine.log import STDERR, STDOUT, Reader, Row, Writer


def text(rows: list[Row], stream: bytes = STDOUT) -> bytes:
    return b"".join(row.text for row in rows if row.stream == stream)


def written(directory: Path, *pieces: bytes) -> list[Row]:
    """Write the pieces to stdout, and read all of it."""
    writer = Writer(str(directory))
    for piece in pieces:
        writer.write(STDOUT, piece)
    os.close(writer.fd)
    reader = Reader(str(directory))
    rows = reader.rows()
    reader.file.close()
    return rows


@pytest.mark.parametrize("pieces", [
    [b"line\n"], [b"two\nlines\n"], [b"no end"], [b"a pa", b"rt\n"], [b"\n\n"], [b""], [b"\0\xff\r\x1b[2J\n"],
    [b"stdout F\n", b" leading and trailing \n"], [b"x" * 100_000, b"\n"],
])
def test_what_is_written_is_read_again(tmp_path: Path, pieces: list[bytes]) -> None:
    assert text(written(tmp_path, *pieces)) == b"".join(pieces)


def test_a_row_is_as_the_cri_has_it(tmp_path: Path) -> None:
    written(tmp_path, b"whole\npart")
    first, second = (tmp_path / "log").read_text().splitlines()
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z"
    assert re.fullmatch(f"{stamp} stdout F whole", first)
    assert re.fullmatch(f"{stamp} stdout P part", second)


def test_streams_are_kept_apart(tmp_path: Path) -> None:
    script = "echo out; echo err >&2; echo out again"
    out, to_out = os.pipe()
    err, to_err = os.pipe()
    with subprocess.Popen(["sh", "-c", script], stdout=to_out, stderr=to_err) as process:
        os.close(to_out)
        os.close(to_err)
        pidfd = os.pidfd_open(process.pid)
        writer = Writer(str(tmp_path))
        writer.collect({out: STDOUT, err: STDERR}, pidfd)
    for fd in (out, err, pidfd, writer.fd):
        os.close(fd)
    reader = Reader(str(tmp_path))
    rows = reader.rows()
    reader.file.close()
    assert (text(rows), text(rows, STDERR)) == (b"out\nout again\n", b"err\n")


def test_it_ends_with_the_process_although_a_stranger_has_the_pipe_open(tmp_path: Path) -> None:
    out, to_out = os.pipe()  # to_out stays open here
    with subprocess.Popen(["sh", "-c", "echo out"], stdout=to_out) as process:
        pidfd = os.pidfd_open(process.pid)
        writer = Writer(str(tmp_path))
        writer.collect({out: STDOUT}, pidfd)
    for fd in (out, to_out, pidfd, writer.fd):
        os.close(fd)
    assert b"out" in (tmp_path / "log").read_bytes()


def test_it_is_bounded_and_keeps_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "LIMIT", 10_000)
    rows = written(tmp_path, *(b"line %d\n" % number for number in range(5000)))
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1"]
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 2 * 10_000 + 200
    kept = text(rows).split(b"\n")
    assert kept[-2] == b"line 4999"
    assert len(kept) > 10_000 // 60
    numbers = [int(line.split()[1]) for line in kept[:-1]]
    assert numbers == list(range(numbers[0], 5000))


def test_who_reads_along_misses_nothing_across_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "LIMIT", 1000)
    writer = Writer(str(tmp_path))
    writer.write(STDOUT, b"first\n")
    reader = Reader(str(tmp_path))
    seen = text(reader.rows())
    for number in range(500):
        writer.write(STDOUT, b"line %d\n" % number)
        if number % 7 == 0:
            seen += text(reader.rows())
    seen += text(reader.rows())
    assert seen == b"first\n" + b"".join(b"line %d\n" % number for number in range(500))
    for number in range(200):  # more than both files hold: a gap, and the end is there
        writer.write(STDOUT, b"more %d\n" % number)
    assert text(reader.rows()).endswith(b"more 199\n")
    os.close(writer.fd)
    reader.file.close()


def test_a_row_is_not_shown_before_it_is_whole(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"2026-11-24T11:00:00.000000000Z stdout F a\n2026-11-24T11:00:00.0000")
    reader = Reader(str(tmp_path))
    assert text(reader.rows()) == b"a\n"
    with (tmp_path / "log").open("ab") as file:
        file.write(b"00000Z stdout F b\n")
    assert text(reader.rows()) == b"b\n"
    reader.file.close()


def test_a_full_disk_stops_nobody_and_is_told(tmp_path: Path) -> None:
    writer = Writer(str(tmp_path))
    writer.write(STDOUT, b"before\n")
    disk, writer.fd = writer.fd, os.open("/dev/full", os.O_WRONLY)
    for _ in range(3):
        writer.write(STDOUT, b"x" * 100)
    os.close(writer.fd)
    writer.fd = disk
    writer.write(STDOUT, b"after\n")
    os.close(writer.fd)
    reader = Reader(str(tmp_path))
    rows = reader.rows()
    reader.file.close()
    assert text(rows) == b"before\nafter\n"
    assert text(rows, STDERR) == b"[300 bytes are missing here: the disk was full]\n"


def test_what_fits_only_in_part_is_taken_back(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys; from mycontainer.engine import log; writer = log.Writer(sys.argv[1])\n"
        "for n in range(20): writer.write(log.STDOUT, b'line %d\\n' % n)\n")

    def small_files() -> None:  # the write that meets the limit is cut off, as on a full disk
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))

    subprocess.run([sys.executable, script, tmp_path], check=True, preexec_fn=small_files,
                   env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]),
                        "PYTHONDONTWRITEBYTECODE": "1"})
    data = (tmp_path / "log").read_bytes()
    assert 400 < len(data) < 500
    assert data.endswith(b"\n")


def test_the_last_lines() -> None:
    rows = [Row(b"t stdout " + row) for row in (b"F one", b"P tw", b"F o", b"F three", b"P fo")]
    assert b"".join(row.text for row in last(rows, "all")) == b"one\ntwo\nthree\nfo"
    for count, wanted in enumerate((b"", b"fo", b"three\nfo", b"two\nthree\nfo", b"one\ntwo\nthree\nfo")):
        assert b"".join(row.text for row in last(rows, str(count))) == wanted
    assert len(last(rows, "99")) == 5
