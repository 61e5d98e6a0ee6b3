# SPDX-License-Identifier: Apache-2.0
"""Running networks: Monte Carlo dropout on clips, streaming frame by frame, faces in time."""
