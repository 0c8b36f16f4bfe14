"""What the benchmark with fio makes of fio's JSON, and of the runs that failed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import fio_jobs
from benchmarks.fio_figures import Figures, FioReport, FioRun, Row, read_run
from benchmarks.fio_jobs import JOBS, main

NOTHING: dict[str, Any] = {"total_ios": 0}
SLOW = Figures(requests_per_s=1000, bytes_per_s=4096e3, p50_us=900, p99_us=9000)
FAST = Figures(requests_per_s=4000, bytes_per_s=16384e3, p50_us=200, p99_us=2000)
SAID = "crc32c: verify failed at file verify.0.0 offset 315392, length 4096"


def part(count: int, **others: Any) -> dict[str, Any]:
    """What fio says of one direction in which 4 KiB were asked for `count` times in 2 s."""
    percentile = {"50.000000": 774144, "90.000000": 1, "99.000000": 4947968}
    return {
        "total_ios": count,
        "io_bytes": count * 4096,
        "runtime": 2000,
        "lat_ns": {"N": count, "percentile": percentile},
    } | others


def flushes(count: int) -> dict[str, Any]:
    """What fio says of flushes, which is less."""
    return {key: value for key, value in part(count).items() if key in ("total_ios", "lat_ns")}


def document(options: dict[str, str] | None = None, error: int = 0, **parts: Any) -> str:
    """fio's JSON on one job."""
    job = {"jobname": "job", "error": error, "job_runtime": 4000, "job options": options or {}}
    directions = {"read": NOTHING, "write": NOTHING, "trim": NOTHING, "sync": NOTHING}
    return json.dumps({"fio version": "fio-3.33", "jobs": [job | directions | parts]})


def test_figures_are_per_second_and_in_microseconds() -> None:
    run = read_run(0, document(read=part(7000), write=part(3000)), "")
    assert run.error is None
    assert run.figures == {
        "read": Figures(3500, 3500 * 4096, 774.144, 4947.968),
        "write": Figures(1500, 1500 * 4096, 774.144, 4947.968),
    }


def test_flushes_are_counted_over_the_whole_job() -> None:
    run = read_run(0, document(write=part(3000), sync=flushes(3000)), "")
    assert run.figures["sync"] == Figures(750, 0, 774.144, 4947.968)


@pytest.mark.parametrize(
    ("status", "text", "said", "expected"),
    [
        (1, document(read=part(5), write=part(9), error=84), f"\n{SAID}\n  more\n", SAID),
        (1, document(write=part(9)), "", "status 1, error 0"),
        (0, document(write=part(9), error=5), "", "status 0, error 5"),
        (1, "", "fio: nbd_connect_uri: no such file", "fio: nbd_connect_uri: no such file"),
        (0, "", "", "no JSON"),
        (0, '{"jobs": []}', "", "no JSON"),
        (None, document(write=part(9)), "", "status None"),
        (0, document(), "", "did not do"),
        (0, document({"verify": "crc32c"}, write=part(9)), "", "9 blocks were not verified"),
        (0, document({"verify": "crc32c"}, write=part(9), read=part(8)), "", "1 blocks"),
    ],
)
def test_run_that_failed_has_the_reason_and_no_figures(
    status: int | None, text: str, said: str, expected: str
) -> None:
    run = read_run(status, text, said)
    assert run.error is not None
    assert expected in run.error
    assert not run.figures


@pytest.mark.parametrize(("runtime", "expected"), [(9, {"read", "write"}), (0, {"read"})])
def test_verified_run_has_figures_of_what_it_did(runtime: int, expected: set[str]) -> None:
    wrote = part(9, runtime=runtime)
    text = document({"verify": "crc32c"}, write=wrote, read=part(9))
    run = read_run(0, text, "")
    assert run.error is None
    assert set(run.figures) == expected


def report(*rows: Row) -> FioReport:
    """A report of tgt and cStor."""
    return FioReport({"commit": "abc"}, ["tgt", "cStor RF 3"], rows)


def both(tgt: list[FioRun], cstor: list[FioRun], job: str = "randwrite") -> Row:
    """A row of the table."""
    return Row("nbd", job, {"tgt": tgt, "cStor RF 3": cstor})


def test_table_has_medians_and_their_ratio() -> None:
    middle = Figures(requests_per_s=2000, bytes_per_s=8192e3, p50_us=300, p99_us=3000)
    taken = [FioRun({"write": figures}) for figures in (FAST, SLOW, middle)]
    found = report(both([FioRun({"write": FAST})], taken))
    line = "| nbd: randwrite | 4,000 | 200 | 2,000 | 2,000 | 300 | 3,000 | 0.50 |"
    assert line in found.markdown()
    assert found.table().row_count == 1
    (_, result) = json.loads(found.json())["results"]
    assert result["medians"]["write"]["ratio"] == 0.5
    assert len(result["runs"]) == 3
    assert not found.errors()


def test_each_direction_has_a_line_and_large_requests_are_megabytes() -> None:
    large = Figures(requests_per_s=100, bytes_per_s=100 * 2**20, p50_us=1, p99_us=2)
    run = FioRun({"write": large, "sync": Figures(50, 0, 3, 4)})
    page = report(both([run], [run], "fsync")).markdown()
    assert "| nbd: fsync, write | 105 MB/s | 1 | 2 | 105 MB/s | 1 | 2 | 1.00 |" in page
    assert "| nbd: fsync, sync | 50 | 3 | 4 | 50 | 3 | 4 | 1.00 |" in page


def test_one_round_that_failed_is_named_and_takes_the_figures_away() -> None:
    good, bad = FioRun({"write": FAST}), FioRun(error=SAID)
    found = report(both([good, good], [good, bad]), both([bad], [bad], "verify"))
    page = found.markdown()
    assert "| nbd: randwrite | 4,000 | 200 | 2,000 | FAILED |  |  |  |" in page
    assert "| nbd: verify | FAILED |  |  | FAILED |  |  |  |" in page
    assert f"nbd, randwrite, cStor RF 3: FAILED: {SAID}" in page
    assert len(found.errors()) == 3
    assert found.rows[0].summary() == "tgt write 4,000; cStor RF 3 write FAILED"


@pytest.mark.parametrize(("error", "code"), [(None, 0), (SAID, 1)])
def test_exit_code_says_whether_a_run_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: str | None, code: int
) -> None:
    run = FioRun({} if error else {"write": FAST}, error)
    made = report(both([run], [run], "verify"))
    monkeypatch.setattr(fio_jobs, "run_all", lambda *_: made)
    where = ["--dir", str(tmp_path / "data"), "--results", str(tmp_path / "results")]
    assert main(["--ways", "nbd", *where]) == code
    assert (tmp_path / "results" / "fio.md").read_text() == made.markdown()


def test_every_file_is_a_job_of_the_benchmark() -> None:
    assert sorted(path.stem for path in fio_jobs.FILES.iterdir()) == sorted(JOBS)
