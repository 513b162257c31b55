"""The case of the report: its log, and that its process is measured."""

from benchmarks.tracking_report import events, make_run, report
from pipelines.history import read_history


def test_the_log_has_as_many_events_as_asked_with_deaths_and_steps_done_again(tmp_path):
    assert sum(1 for _ in events(5000)) == 5000
    history = read_history(make_run(tmp_path / "run", 5000).events)
    account = history.ledger.result()
    assert account is not None
    assert (len(history.restarts) >= 9, account.lost_steps > 0, history.damaged) == (True, True, 0)
    assert len(history.series) >= 12


def test_a_report_is_written_in_a_process_of_its_own_and_its_memory_is_told():
    lines: list[str] = []
    seconds, peak = report(2000, lines.append)
    assert 0 < seconds < 120
    assert 2**25 < peak < 2**31
    assert "2,000 events" in lines[0]
