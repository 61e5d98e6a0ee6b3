# SPDX-License-Identifier: Apache-2.0
"""Small programs to read and to begin with: docs/behaviour.md explains them."""
