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
