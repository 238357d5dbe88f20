"""What a command works with: the terminal, the daemon, the current session."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracefleet_cli import current_session, exit_status
from tracefleet_common.client.run_directory import home_directory
from tracefleet_common.errors import InvalidArgument

if TYPE_CHECKING:
    from tracefleet_cli.general_options import Settings
    from tracefleet_cli.terminal import Terminal
    from tracefleet_common.client.plain import Client
    from tracefleet_common.options import Parsed


class CommandEnded(Exception):
    """The command ends here with `status`; the terminal was told why."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Context:
    """Made once, for the one command of this process."""

    def __init__(self, settings: Settings, terminal: Terminal) -> None:
        self.settings = settings
        self.terminal = terminal
        self._client: Client | None = None

    def client(self) -> Client:
        """The connection to the daemon, made when first asked for. Raises TransportError, InvalidArgument."""
        if self._client is None:
            from tracefleet_common.client.plain import Client

            self._client = Client(tracing_group=self.settings.tracing_group)
            if self.settings.verbosity:
                self.terminal.detail(f"Session daemon: {self._client.link.address}")
        return self._client

    def session(self, given: str | None) -> str:
        """The name given, or that of the current session. Raises CommandEnded."""
        if given is not None:
            return given
        try:
            return current_session.read(home_directory())
        except current_session.NoCurrentSession as error:
            if error.is_missing:
                self.terminal.error(f"Can't find valid lttng config {error.path}")
                self.terminal.message("Did you create a session? (tracefleet create <my_session>)")
            else:
                self.terminal.error("Missing session=NAME in config file.")
        except InvalidArgument as error:
            self.terminal.failure(error)
        raise CommandEnded(exit_status.ERROR)

    def set_current_session(self, name: str) -> None:
        """Remember `name` for the commands to come. Raises CommandEnded."""
        try:
            current_session.write(home_directory(), name)
        except (OSError, InvalidArgument) as error:
            self.terminal.error(f"Unable to create config file: {error}")
            raise CommandEnded(exit_status.ERROR) from None

    def end(self, text: str, status: int = exit_status.ERROR) -> CommandEnded:
        """Say what is wrong; the exception to raise."""
        self.terminal.error(text)
        return CommandEnded(status)

    def at_most_operands(self, parsed: Parsed, count: int) -> tuple[str | None, ...]:
        """The operands, made up to `count` with None. Raises CommandEnded when there are more."""
        if len(parsed.operands) > count:
            raise self.end(f"Unknown argument: {parsed.operands[count]}")
        return (*parsed.operands, *(None,) * (count - len(parsed.operands)))
