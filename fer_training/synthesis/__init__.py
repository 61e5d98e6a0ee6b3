# SPDX-License-Identifier: Apache-2.0
"""Synthesis of landmark tracks of expressions from a 3D face basis and FACS recipes."""

from fer_training.synthesis.config import SynthesisConfig
from fer_training.synthesis.sequences import synthesize_tracks

__all__ = ['SynthesisConfig', 'synthesize_tracks']
