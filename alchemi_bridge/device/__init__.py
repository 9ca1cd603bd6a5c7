"""Where data lives: views of an engine's memory, and events that order work on it."""

from alchemi_bridge.device.buffers import DeviceBuffer
from alchemi_bridge.device.debug import debug_enabled
from alchemi_bridge.device.events import CountedEvent, Event
from alchemi_bridge.device.placement import Placement, place
from alchemi_bridge.device.select import cuda_devices, select_device
from alchemi_bridge.device.streams import foreign_stream, require_current, run_on

__all__ = [
    "CountedEvent",
    "DeviceBuffer",
    "Event",
    "Placement",
    "cuda_devices",
    "debug_enabled",
    "foreign_stream",
    "place",
    "require_current",
    "run_on",
    "select_device",
]
