"""The tracefleet command."""
