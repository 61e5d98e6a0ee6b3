# SPDX-License-Identifier: Apache-2.0
"""Facial-expression perception with an honest uncertainty, for social robots."""

__version__ = '0.1.0'
