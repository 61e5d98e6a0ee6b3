# SPDX-License-Identifier: Apache-2.0
"""How good the recognition and its uncertainty are, for training and the runtime alike."""
