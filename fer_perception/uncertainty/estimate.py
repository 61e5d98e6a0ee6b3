# SPDX-License-Identifier: Apache-2.0
"""The expression of one face with its uncertainty and the state that says when to act on it."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from fer_perception.uncertainty.measures import Uncertainty


class ExpressionState(IntEnum):
    """Say how an expression may be used; the values are those of fer_msgs/Expression."""

    UNKNOWN = 0  # nothing is known
    WARMING_UP = 1  # too little evidence yet
    CONFIDENT = 2  # the robot may act on it
    UNCERTAIN = 3  # the robot should not act on it


@dataclass(frozen=True, kw_only=True)
class DecisionRule:
    """Decide the state of an expression from its confidence and its evidence."""

    abstention_threshold: float  # lowest confidence that counts as CONFIDENT, 0 to 1
    warm_up_s: float  # seconds of evidence before any answer counts
    # To become CONFIDENT the confidence must be this much above the threshold, 0 to 1, ...
    confidence_margin: float = 0.1
    # ... for so many seconds, in one expression: see StateHysteresis
    confidence_hold_s: float = 0.15

    def __post_init__(self) -> None:
        """Refuse values outside of their ranges."""
        for name in ('abstention_threshold', 'confidence_margin'):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f'{name} must be 0 to 1, not {getattr(self, name)}')
        for name in ('warm_up_s', 'confidence_hold_s'):
            if not getattr(self, name) >= 0.0:
                raise ValueError(f'{name} must be 0 or more seconds, not {getattr(self, name)}')

    @property
    def entry_confidence(self) -> float:
        """The confidence from which an expression may become CONFIDENT.

        The margin above the threshold, but at most half the way to 1, which always leaves a way.
        """
        threshold = self.abstention_threshold
        return threshold + min(self.confidence_margin, (1.0 - threshold) / 2)

    def state(self, *, confidence: float, evidence_s: float) -> ExpressionState:
        """Return the state of an answer by itself: its confidence, and its evidence in seconds."""
        if evidence_s + 1e-6 < self.warm_up_s:
            return ExpressionState.WARMING_UP
        if confidence >= self.abstention_threshold:
            return ExpressionState.CONFIDENT
        return ExpressionState.UNCERTAIN


@dataclass(frozen=True, kw_only=True)
class ExpressionEstimate:
    """Hold the expression of one face at one moment."""

    state: ExpressionState
    labels: tuple[str, ...]  # class names, in the order of the probabilities
    probabilities: np.ndarray  # (C,) mean over the samples
    standard_deviations: np.ndarray  # (C,)
    predictive_entropy: float  # nats
    expected_entropy: float  # nats
    mutual_information: float  # nats
    mc_samples: int
    window_s: float  # seconds of evidence in the window

    @classmethod
    def from_uncertainty(
        cls,
        uncertainty: Uncertainty,
        *,
        labels: tuple[str, ...],
        state: ExpressionState,
        window_s: float,
    ) -> 'ExpressionEstimate':
        """Make the estimate of one face from the uncertainty of one window, batch shape ()."""
        return cls(
            state=state,
            labels=labels,
            probabilities=uncertainty.probabilities,
            standard_deviations=uncertainty.standard_deviations,
            predictive_entropy=float(uncertainty.predictive_entropy),
            expected_entropy=float(uncertainty.expected_entropy),
            mutual_information=float(uncertainty.mutual_information),
            mc_samples=uncertainty.mc_samples,
            window_s=window_s,
        )

    @property
    def expression(self) -> str:
        """The label of the highest mean probability."""
        return self.labels[int(self.probabilities.argmax())]

    @property
    def confidence(self) -> float:
        """The highest mean probability."""
        return float(self.probabilities.max())
