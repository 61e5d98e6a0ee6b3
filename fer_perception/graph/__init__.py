# SPDX-License-Identifier: Apache-2.0
"""The face as a moving graph: landmarks, edges, normalisation and time."""
