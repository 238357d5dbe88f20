"""What the daemons have in common in the way they are told things: configuration files before the command line."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, NamedTuple

from tracefleet_common.errors import InvalidArgument, Unsupported
from tracefleet_common.options import Occurrence, Option, Parsed, parse
from tracefleet_common.runtime.config_file import parse_switch, read_section

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

log = logging.getLogger("tracefleet.daemon-options")

ROOT_RUN_DIRECTORY = "/var/run/lttng"
SYSTEM_CONFIG_FILE = "/etc/lttng/lttng.conf"
DEFAULT_TRACING_GROUP = "tracing"

INFORMATION_OPTIONS = (
    Option("help", "h", None, "Show this help and quit."),
    Option("list-options", None, None, "List the options and quit."),
    Option("version", "V", None, "Show the version and quit."),
)
# What a person asks for; in a file it would have no sense.
_COMMAND_LINE_ONLY = ("config", "help", "list-options", "version")


class DaemonOptions(NamedTuple):
    """The options of one daemon, and its section in configuration files.

    `refused`: options whose feature is not there, and why. To ignore one would leave its user believing that it works.
    """

    section: str
    known: tuple[Option, ...]
    refused: tuple[tuple[Option, str], ...] = ()

    def parse_command_line(self, arguments: Sequence[str]) -> Parsed:
        """Sort the words of the command line. Raises OptionError, InvalidArgument, Unsupported."""
        parsed = parse((*self.known, *(option for option, _ in self.refused)), arguments)
        if parsed.operands:
            raise InvalidArgument(f"{parsed.operands[0]}: unexpected argument")
        for occurrence in parsed.occurrences:
            self._refuse(occurrence.long, f"--{occurrence.long}")
        return parsed

    def with_config_files(self, command_line: Parsed, default_paths: Iterable[str]) -> Parsed:
        """What the default files (those that can be read), the files of --config, and the command line say.

        What is read later overrides. Raises InvalidArgument, Unsupported.
        """
        occurrences: list[Occurrence] = []
        for path in default_paths:
            if os.access(path, os.R_OK):
                self._apply(path, occurrences)
        for path in command_line.values("config"):
            self._apply(path, occurrences)
        return Parsed((*occurrences, *command_line.occurrences), ())

    def _refuse(self, key: str, where: str) -> None:
        for option, reason in self.refused:
            if option.long == key:
                raise Unsupported(f"{where}: {reason}")

    def _apply(self, path: str, occurrences: list[Occurrence]) -> None:
        """Append what the file says; a switch that it turns off is taken back out."""
        try:
            entries = read_section(path, self.section)
        except OSError as error:
            raise InvalidArgument(f"Failed to open daemon configuration file at {path}: {error.strerror}") from None
        options = {option.long: option for option in self.known}
        for key, value, line_number in entries:
            self._refuse(key, f"{path}, line {line_number}: {key}")
            option = options.get(key)
            if option is None:
                log.warning("Unrecognized option in configuration file: option=%s, path=%s", key, path)
            elif key in _COMMAND_LINE_ONLY:
                log.warning("Option belongs on the command line, ignored: option=%s, path=%s", key, path)
            elif option.argument is not None:
                occurrences.append(Occurrence(key, value))
            elif (count := parse_switch(value)) is None:
                log.warning("Invalid value in configuration file: option=%s, value=%s, path=%s", key, value, path)
            else:
                occurrences[:] = [occurrence for occurrence in occurrences if occurrence.long != key]
                occurrences += [Occurrence(key, None)] * count


def home_directory(environment: Mapping[str, str], user_id: int) -> str | None:
    """Where the user's configuration, run directory and traces are."""
    return environment.get("LTTNG_HOME") or environment.get("HOME") or _home_from_user_database(user_id)


def _home_from_user_database(user_id: int) -> str | None:
    import pwd  # the rare case: neither variable is set

    try:
        return pwd.getpwuid(user_id).pw_dir
    except KeyError:
        return None


def run_directory(home: str | None, *, is_root: bool) -> str:
    """Where daemons and clients find each other. Raises InvalidArgument for a user without a home."""
    if is_root:
        return ROOT_RUN_DIRECTORY
    if home is None:
        raise InvalidArgument("Cannot find the home directory: set LTTNG_HOME or HOME")
    return absolute_path(f"{home}/.lttng")


def absolute_path(path: str) -> str:
    """Relative paths mean the directory that the daemon was started in, which a Unix daemon leaves.

    Raises InvalidArgument.
    """
    if "\0" in path or not path:
        raise InvalidArgument("A path is empty or contains a null byte")
    return os.path.abspath(path)
