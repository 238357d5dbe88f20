"""Rules for every test that runs real programs."""

from __future__ import annotations

import signal
from collections.abc import Generator

import pytest

_NO_REASON = {"", "Skipped", "unconditional skip"}

# A daemon leaves alone what was ignored when it started (nohup, `&` of a script); the tests start it as a terminal
# would.
for _number, _handler in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that is skipped without saying why has failed."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and isinstance(report.longrepr, tuple):
        path, line, reason = report.longrepr
        if reason.removeprefix("Skipped:").strip() in _NO_REASON:
            report.outcome = "failed"
            report.longrepr = f"{path}:{line}: skipped without a reason"
    return report
