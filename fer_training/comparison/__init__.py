# SPDX-License-Identifier: Apache-2.0
"""The graph networks that the paper compares with: ST-GCN, AGCN and DGNN, on the same graph."""
