# SPDX-License-Identifier: Apache-2.0
"""fer_view: a local web page that shows faces and how sure the recogniser is of them."""
