"""Where data lives: views of an engine's memory, and events that order work on it."""

from alchemi_bridge.device.buffers import DeviceBuffer
from alchemi_bridge.device.events import Event
from alchemi_bridge.device.select import cuda_devices, select_device

__all__ = ["DeviceBuffer", "Event", "cuda_devices", "select_device"]
