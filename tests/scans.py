"""What the tests of scans share: a small request, and a progress that remembers what it was told."""

from __future__ import annotations

from ontogeny.dynamics.progress import Progress

STEPS = (0, 1, 16, 128)
SMALL = {"sequences": 3, "length": 20}


class Count(Progress):
    def __init__(self):
        self.checkpoints, self.notes, self.blocks, self.seen = [], [], [], 0

    def checkpoint(self, name):
        self.checkpoints.append(name)

    def note(self, text):
        self.notes.append(text)

    def block(self, index):
        self.blocks.append(index)

    def tokens(self, count):
        self.seen += count
