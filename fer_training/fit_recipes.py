# SPDX-License-Identifier: Apache-2.0
"""Recipes of fitting and growing by name."""

from dataclasses import dataclass, replace

from fer_training.fitting import FitConfig
from fer_training.topology_search import GrowthLimits


@dataclass(frozen=True, kw_only=True)
class FitRecipe:
    """Hold how networks are fitted, and when their growth stops."""

    fit: FitConfig  # of a network of fixed width, and after growth of all parameters
    step: FitConfig  # of each candidate of growth
    final_epochs: int  # after growth, of all parameters together
    limits: GrowthLimits


_PAPER_FIT = FitConfig(
    epochs=400,
    batch_size=128,
    optimizer='sgd',
    learning_rate=0.1,
    weight_decay=5e-4,
    schedule='step',
    max_gradient_norm=0.0,
)
_PRACTICAL_FIT = FitConfig(
    epochs=40, batch_size=32, learning_rate=0.03, weight_decay=0.1, label_smoothing=0.1,
    precise_norms=True,
)

# Of a streaming network of fixed width.
FROM_SCRATCH = FitConfig(epochs=12)

# From a fitted model on: an epoch of 1000 sequences of 60 frames takes about 20 s of one core.
FINE_TUNING = FitConfig(epochs=5, batch_size=32, learning_rate=0.003)

FIT_RECIPES = {
    # A candidate inherits the weights of the accepted network, so that a short cycle of the
    # learning rate is enough to judge it. Label smoothing gives the loss a floor: once it is
    # reached no block and no layer earns its tenth, and growth ends before it learns by heart.
    # The networks that the paper grew have no more than three blocks a layer and six layers.
    'practical': FitRecipe(
        fit=_PRACTICAL_FIT,
        step=replace(_PRACTICAL_FIT, epochs=10, precise_norms=False),
        final_epochs=_PRACTICAL_FIT.epochs,
        limits=GrowthLimits(
            block_threshold=0.1, layer_threshold=0.1, max_blocks=3, max_layers=6
        ),
    ),
    # PST-BLN, IV-B: CK+ and Oulu-CASIA.
    'paper': FitRecipe(
        fit=_PAPER_FIT, step=_PAPER_FIT, final_epochs=_PAPER_FIT.epochs, limits=GrowthLimits()
    ),
}
