# SPDX-License-Identifier: Apache-2.0
"""Offline tools of fer_perception: data, synthesis and fitting of models."""
