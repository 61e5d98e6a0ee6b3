# SPDX-License-Identifier: Apache-2.0
"""What the Monte Carlo samples say about an expression, and when to believe it."""
