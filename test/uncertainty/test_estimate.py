# SPDX-License-Identifier: Apache-2.0
"""The state follows from evidence and confidence."""

import numpy as np
import pytest

from fer_perception.uncertainty.estimate import DecisionRule, ExpressionEstimate, ExpressionState
from fer_perception.uncertainty.measures import measure_uncertainty

RULE = DecisionRule(abstention_threshold=0.7, warm_up_s=0.5)


@pytest.mark.parametrize(
    ('confidence', 'evidence_s', 'state'),
    [
        (0.99, 0.4, ExpressionState.WARMING_UP),
        (0.99, 0.5, ExpressionState.CONFIDENT),
        (0.70, 2.0, ExpressionState.CONFIDENT),
        (0.69, 2.0, ExpressionState.UNCERTAIN),
        (0.10, 0.0, ExpressionState.WARMING_UP),
    ],
)
def test_state(confidence: float, evidence_s: float, state: ExpressionState) -> None:
    assert RULE.state(confidence=confidence, evidence_s=evidence_s) == state


def test_estimate_names_the_best_class() -> None:
    samples = np.array([[0.1, 0.8, 0.1], [0.2, 0.7, 0.1]])
    estimate = ExpressionEstimate.from_uncertainty(
        measure_uncertainty(samples),
        labels=('a', 'b', 'c'),
        state=ExpressionState.CONFIDENT,
        window_s=1.0,
    )
    assert estimate.expression == 'b'
    assert estimate.confidence == pytest.approx(0.75)
    assert estimate.state == ExpressionState.CONFIDENT
    assert estimate.mc_samples == 2


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('abstention_threshold', 1.1),
        ('abstention_threshold', -0.1),
        ('warm_up_s', -1.0),
        ('confidence_margin', -0.1),
        ('confidence_margin', 1.1),
        ('confidence_hold_s', -0.1),
        ('confidence_hold_s', float('nan')),
    ],
)
def test_rules_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f'{name} must be 0'):
        DecisionRule(**{'abstention_threshold': 0.5, 'warm_up_s': 0.5, name: value})
