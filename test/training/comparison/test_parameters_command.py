# SPDX-License-Identifier: Apache-2.0
"""fer_train parameters prints the counts beside the paper's, with the reasons."""

import pytest

from fer_training.cli import main


def test_counts_stand_beside_the_papers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['parameters']) == 0
    printed = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line}
    assert rows['st_gcn'] == ['131,307', '185,928', '131.3k']
    assert rows['agcn'] == ['143,775', '198,396', '143.7k']
    assert rows['dgnn'] == ['315,235', '538,003', '538k']
    assert rows['st_bln'] == ['132,351', '2,176,575', '132.3k']
    assert rows['pst_bln'] == ['10,750', '1,762,942', '10.8k']
    assert '535,720' in printed  # the paper's second count of DGNN is explained


def test_counts_follow_classes_and_edges(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['parameters', '--classes', '8', '--edge-list', 'edges_181']) == 0
    printed = capsys.readouterr().out
    assert '8 classes and 181 edges' in printed
    assert '131,372' in printed


def test_no_classes_are_refused() -> None:
    with pytest.raises(SystemExit):
        main(['parameters', '--classes', '0'])
