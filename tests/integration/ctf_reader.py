"""Prints a CTF trace as JSON lines, through babeltrace2's own Python bindings.

Runs under the system's Python, where Debian installs `bt2`; imports nothing of the project. One line per
message; a trace or an event class is told once, before the first message that refers to it.
"""

import json
import sys
from typing import Any

import bt2


def describe_type(field_class: Any) -> dict[str, Any]:
    kind = type(field_class).__name__.strip("_").removesuffix("Const").removesuffix("FieldClass")
    described: dict[str, Any] = {"kind": kind}
    if isinstance(field_class, bt2._IntegerFieldClassConst):
        described |= {"bits": field_class.field_value_range, "base": int(field_class.preferred_display_base)}
    if isinstance(field_class, bt2._EnumerationFieldClassConst):
        described["labels"] = {
            label: [[r.lower, r.upper] for r in mapping.ranges] for label, mapping in field_class.items()
        }
    elif isinstance(field_class, bt2._StructureFieldClassConst):
        described["members"] = [[name, describe_type(member.field_class)] for name, member in field_class.items()]
    elif isinstance(field_class, bt2._ArrayFieldClassConst):
        described["element"] = describe_type(field_class.element_field_class)
        if isinstance(field_class, bt2._StaticArrayFieldClassConst):
            described["length"] = field_class.length
    return described


def value_of(field: Any) -> Any:
    if field is None:
        return None
    if isinstance(field, bt2._EnumerationFieldConst):
        return {"value": int(field), "labels": sorted(field.labels)}
    if isinstance(field, bt2._BoolFieldConst):
        return bool(field)
    if isinstance(field, bt2._IntegerFieldConst):
        return int(field)
    if isinstance(field, bt2._RealFieldConst):
        return float(field)
    if isinstance(field, bt2._StringFieldConst):
        return str(field)
    if isinstance(field, bt2._StructureFieldConst):
        return {name: value_of(field[name]) for name in field}
    if isinstance(field, bt2._ArrayFieldConst):
        return [value_of(element) for element in field]
    if isinstance(field, bt2._VariantFieldConst):
        return value_of(field.selected_option)
    raise TypeError(type(field))


class Printer:
    def __init__(self) -> None:
        self._traces: dict[int, int] = {}
        self._classes: dict[int, int] = {}

    def print(self, **line: Any) -> None:
        print(json.dumps(line))

    def trace(self, stream: Any) -> int:
        key = stream.trace.addr
        if key not in self._traces:
            self._traces[key] = len(self._traces)
            environment = {
                name: (int(value) if isinstance(value, bt2._IntegerValueConst) else str(value))
                for name, value in stream.trace.environment.items()
            }
            uuid = stream.trace.uuid
            self.print(message="trace", name=stream.trace.name, environment=environment, uuid=str(uuid))
        return self._traces[key]

    def event_class(self, trace: int, event: Any) -> int:
        event_class = event.cls
        key = event_class.addr
        if key not in self._classes:
            self._classes[key] = len(self._classes)
            self.print(
                message="class",
                trace=trace,
                stream_class=event_class.stream_class.id,
                id=event_class.id,
                name=event_class.name,
                log_level=None if event_class.log_level is None else int(event_class.log_level),
                emf_uri=event_class.emf_uri,
                payload=describe_type(event_class.payload_field_class)
                if event_class.payload_field_class is not None
                else None,
            )
        return self._classes[key]

    def message(self, message: Any) -> None:
        if isinstance(message, bt2._EventMessageConst):
            event = message.event
            trace = self.trace(event.stream)
            self.print(
                message="event",
                event_class=self.event_class(trace, event),
                trace=trace,
                stream=event.stream.name,
                name=event.name,
                ns=message.default_clock_snapshot.ns_from_origin,
                cpu=int(event.packet.context_field["cpu_id"]),
                fields=value_of(event.payload_field) or {},
                context=value_of(event.common_context_field) or {},
            )
        elif isinstance(message, bt2._PacketBeginningMessageConst):
            self.print(
                message="packet",
                trace=self.trace(message.packet.stream),
                stream=message.packet.stream.name,
                ns=message.default_clock_snapshot.ns_from_origin,
                context=value_of(message.packet.context_field),
            )
        elif isinstance(message, (bt2._DiscardedEventsMessageConst, bt2._DiscardedPacketsMessageConst)):
            is_events = isinstance(message, bt2._DiscardedEventsMessageConst)
            self.print(
                message="discarded-events" if is_events else "discarded-packets",
                trace=self.trace(message.stream),
                stream=message.stream.name,
                count=message.count,
            )
        elif isinstance(message, bt2._StreamBeginningMessageConst):
            self.print(message="stream", trace=self.trace(message.stream), stream=message.stream.name)


def main() -> None:
    printer = Printer()
    for message in bt2.TraceCollectionMessageIterator(sys.argv[1]):
        printer.message(message)


main()
