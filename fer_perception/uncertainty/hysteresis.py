# SPDX-License-Identifier: Apache-2.0
"""States that do not flicker: an expression is CONFIDENT only once it has held."""

import numpy as np

from fer_perception.uncertainty.estimate import DecisionRule, ExpressionState

TOLERANCE_S = 1e-6  # of sums of frame periods


class StateHysteresis:
    """Withholds CONFIDENT from one face until one expression has been clear for a while.

    A face becomes CONFIDENT when the same class has had the highest probability, at or above the
    rule's `entry_confidence`, for its `confidence_hold_s`; evidence gathered while warming up
    counts. It stays so while that class stays highest and at or above the abstention threshold,
    and is UNCERTAIN at once when it does not: so nothing is ever CONFIDENT that would not be by
    itself, and the expression of CONFIDENT answers changes only by way of UNCERTAIN, which then
    lasts for the hold or longer. The probabilities themselves are left as they are.
    """

    def __init__(self) -> None:
        """Begin without an answer."""
        self.reset()

    def reset(self) -> None:
        """Forget all answers, as after a gap."""
        self._rule: DecisionRule | None = None
        self._clear_class: int | None = None  # highest, and clear enough to become CONFIDENT
        self._clear_since_s = 0.0
        self._confident_class: int | None = None

    def update(
        self, probabilities: np.ndarray, *, time_s: float, evidence_s: float, rule: DecisionRule
    ) -> ExpressionState:
        """Take the next answer of the face and return its state.

        probabilities: (C,) mean over the samples; time_s: seconds, ascending, from any start;
        evidence_s: seconds of evidence in the window. Under another rule than before the hold
        starts anew.
        """
        if rule != self._rule:
            self._rule, self._clear_class = rule, None
        highest = int(probabilities.argmax())
        confidence = float(probabilities[highest])
        if confidence < rule.entry_confidence:
            self._clear_class = None
        elif highest != self._clear_class:
            self._clear_class, self._clear_since_s = highest, time_s
        state = rule.state(confidence=confidence, evidence_s=evidence_s)
        if state != ExpressionState.CONFIDENT:
            self._confident_class = None
            return state
        if highest != self._confident_class:
            held = (
                self._clear_class is not None
                and time_s - self._clear_since_s + TOLERANCE_S >= rule.confidence_hold_s
            )
            self._confident_class = highest if held else None
        if self._confident_class is None:
            return ExpressionState.UNCERTAIN
        return ExpressionState.CONFIDENT
