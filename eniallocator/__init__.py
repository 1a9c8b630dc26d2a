"""The books: which ENIs and addresses this node has, who holds them, and what to ask the cloud for next."""

from eniallocator.books import Books
from eniallocator.careers import Kernel
from eniallocator.clock import Clock, SystemClock
from eniallocator.devices import Device
from eniallocator.opening import Opening, open_ledger

__all__ = ["Books", "Clock", "Device", "Kernel", "Opening", "SystemClock", "open_ledger"]
