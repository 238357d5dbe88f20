"""What a viewer may ask for, and when."""

from __future__ import annotations

from enum import Enum, auto


class ConnectionState(Enum):
    """How far a viewer has come."""

    NEW = auto()
    CONNECTED = auto()  # may list sessions
    VIEWING = auto()  # has a viewer session: may attach sessions


class ConnectionEvent(Enum):
    CONNECT = auto()
    CREATE_VIEWER_SESSION = auto()


# Repeating either is harmless; a viewer session stays the one that it is, with what is attached to it.
NEXT_STATE: dict[tuple[ConnectionState, ConnectionEvent], ConnectionState] = {
    (ConnectionState.NEW, ConnectionEvent.CONNECT): ConnectionState.CONNECTED,
    (ConnectionState.CONNECTED, ConnectionEvent.CONNECT): ConnectionState.CONNECTED,
    (ConnectionState.CONNECTED, ConnectionEvent.CREATE_VIEWER_SESSION): ConnectionState.VIEWING,
    (ConnectionState.VIEWING, ConnectionEvent.CONNECT): ConnectionState.VIEWING,
    (ConnectionState.VIEWING, ConnectionEvent.CREATE_VIEWER_SESSION): ConnectionState.VIEWING,
}  # any other pair: the viewer broke the protocol
