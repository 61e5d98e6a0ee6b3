# SPDX-License-Identifier: Apache-2.0
"""The papers' protocols: from data sets as distributed to folds of clips."""
