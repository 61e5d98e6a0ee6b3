# SPDX-License-Identifier: Apache-2.0
"""The subcommands of fer_train, one module each: `add_parser` declares it, `run` does it."""
