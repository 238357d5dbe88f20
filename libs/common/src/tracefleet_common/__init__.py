"""What every tracefleet service shares: messages, codecs, transport, client."""

__version__ = "0.1.0"
