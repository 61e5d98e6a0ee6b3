# SPDX-License-Identifier: Apache-2.0
"""A bank of dropout masks: drawn beforehand, read at random places, renewed all the time.

Drawing a mask costs more than the products that it is for. A mask read from the bank is as
random in itself: its elements are different, independently drawn elements of the bank. Two masks
can share elements, at places shifted by a random distance. As each step renews a part of the bank,
none of them lives longer than `RENEWAL_STEPS` steps.
"""

import random

import torch
from torch import Tensor

from fer_perception.models.dropout import keep_mask
from fer_perception.models.pst_bln import PstBlnConfig

LEAST_SIZE = 2**22  # elements
LEAST_MASKS = 8  # as many of the largest masks fit in without sharing an element
ALIGNMENT = 32  # masks begin at multiples of it, where the processor likes to read
RENEWAL_STEPS = 256


class MaskBank:
    """Gives masks of 0 and 1, each element 1 with probability 1 - rate."""

    def __init__(
        self,
        rate: float,
        *,
        largest: int,
        dtype: torch.dtype,
        generator: torch.Generator,
    ) -> None:
        """Fill a bank for masks of up to `largest` elements."""
        self.largest = largest
        self._rate = rate
        self._generator = generator
        size = max(LEAST_SIZE, LEAST_MASKS * largest)
        self._part = -(-size // RENEWAL_STEPS)
        size = self._part * RENEWAL_STEPS
        self._bank = torch.empty(size, dtype=dtype, device=generator.device)
        self._places = random.Random(
            int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
        )
        self._next_part = 0
        for _ in range(RENEWAL_STEPS):
            self.renew()

    @property
    def nbytes(self) -> int:
        """Memory of the bank in bytes."""
        return self._bank.nbytes

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """Return a mask that may be used until the next renewal."""
        count = 1
        for size in shape:
            count *= size
        places = (len(self._bank) - count) // ALIGNMENT + 1
        start = self._places.randrange(places) * ALIGNMENT
        return self._bank[start : start + count].view(shape)

    def renew(self) -> None:
        """Draw the next part of the bank anew."""
        start = self._next_part * self._part
        self._bank[start : start + self._part] = keep_mask(
            (self._part,), self._rate, device=self._bank.device, generator=self._generator
        )
        self._next_part = (self._next_part + 1) % RENEWAL_STEPS


class StreamMasks:
    """Draws the masks of a network's dropouts for one frame of a stream."""

    def __init__(
        self, config: PstBlnConfig, *, dtype: torch.dtype, generator: torch.Generator
    ) -> None:
        """Prepare masks of the network's kind; the bank is filled when it is first read."""
        self._config = config
        self._dtype = dtype
        self._generator = generator
        self._bank: MaskBank | None = None

    def shapes(self, samples: int) -> list[tuple[int, int, int]]:
        """List the shape (C or 1, S, E or 1) of the mask of each dropout."""
        shapes = self._config.mask_shapes(clips=samples, frames=1)  # (S, C, 1, E) each
        return [(channels, clips, edges) for clips, channels, _, edges in shapes]

    def draw(self, samples: int) -> list[Tensor]:
        """Read masks of 0 and 1 from the bank; they may be used until the next are drawn."""
        shapes = self.shapes(samples)
        largest = max(channels * streams * edges for channels, streams, edges in shapes)
        if self._bank is None or largest > self._bank.largest:
            self._bank = MaskBank(
                self._config.dropout,
                largest=largest,
                dtype=self._dtype,
                generator=self._generator,
            )
        self._bank.renew()
        return [self._bank.draw(shape) for shape in shapes]

    def draw_lasting(self, samples: int) -> list[Tensor]:
        """Draw masks of 0 and 1 that a stream keeps for all its frames."""
        return [
            keep_mask(
                shape,
                self._config.dropout,
                device=self._generator.device,
                generator=self._generator,
            ).to(self._dtype)
            for shape in self.shapes(samples)
        ]
