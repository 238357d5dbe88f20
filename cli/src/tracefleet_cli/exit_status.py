"""Exit statuses, lttng(1). Besides these, some commands exit with the error code of the daemon."""

from __future__ import annotations

SUCCESS = 0
ERROR = 1
UNDEFINED_COMMAND = 2
FATAL = 3
WARNING = 4
UNSUPPORTED = 5
MI_OUTPUT_TYPE = -91  # modulo 256: 165
