# SPDX-License-Identifier: Apache-2.0
"""The RViz configuration and the Foxglove layout show what the node offers, and nothing else."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rosbags.typesys import get_types_from_msg

from fer_perception.models.model_file import LoadedModel

ROOT = Path(__file__).parents[1]

# Types of topics whose fields the layout shows.
MESSAGES = {'/fer/expression': 'Expression', '/fer/expressions': 'ExpressionArray'}
PATH = re.compile(r'(?P<topic>/[a-z_/]+)(?:\.(?P<field>[a-z_]+)(?:\[(?P<index>\d+)\])?)?')


@pytest.fixture(scope='module')
def offered_topics() -> set[str]:
    """Return the topics that the README names, which are those of the code."""
    return set(re.findall(r'`(/[a-z_/]+)`', (ROOT / 'README.md').read_text('utf-8')))


@pytest.fixture(scope='module')
def layout() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        (ROOT / 'config' / 'foxglove_layout.json').read_text('utf-8')
    )
    return content


@pytest.fixture(scope='module')
def rviz() -> dict[str, Any]:
    yaml = pytest.importorskip('ruamel.yaml', reason='there is nothing to read YAML with')
    content: dict[str, Any] = yaml.YAML(typ='safe').load(ROOT / 'config' / 'fer.rviz')
    return content


def panels(layout: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [
        panel for name, panel in layout['configById'].items() if name.startswith(f'{kind}!')
    ]


def paths_of(layout: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Iterate over the (message path, label) of every line and strip."""
    for kind in ('Plot', 'StateTransitions'):
        for panel in panels(layout, kind):
            for path in panel['paths']:
                yield path['value'], path['label']


def topics_of(layout: dict[str, Any]) -> Iterator[str]:
    for path, _ in paths_of(layout):
        found = PATH.fullmatch(path)
        assert found is not None, path
        yield found['topic']
    for panel in panels(layout, 'Image'):
        yield panel['imageMode']['imageTopic']
        yield from panel['imageMode']['annotations']
    for panel in panels(layout, 'DiagnosticSummary'):
        yield panel['topicToRender']
    for panel in panels(layout, 'RawMessages'):
        yield panel['topicPath']


def fields_of(message: str) -> set[str]:
    text = (ROOT / 'fer_msgs' / 'msg' / f'{message}.msg').read_text('utf-8')
    _, fields = get_types_from_msg(text, f'fer_msgs/msg/{message}')[f'fer_msgs/msg/{message}']
    return {name for name, _ in fields}


def test_the_layout_shows_topics_of_the_node(
    layout: dict[str, Any], offered_topics: set[str]
) -> None:
    topics = set(topics_of(layout))
    assert {'/fer/expression', '/fer/image_annotations', '/image_raw', '/diagnostics'} <= topics
    assert topics <= offered_topics


def test_the_layout_shows_fields_that_there_are(layout: dict[str, Any]) -> None:
    shown = set()
    for path, _ in paths_of(layout):
        found = PATH.fullmatch(path)
        assert found is not None
        assert found['field'] in fields_of(MESSAGES[found['topic']])
        shown.add(found['field'])
    assert {'state', 'expression', 'probabilities'} <= shown
    assert {'predictive_entropy', 'expected_entropy', 'mutual_information'} <= shown


def test_the_lines_are_named_after_the_classes_of_the_shipped_model(
    layout: dict[str, Any], shipped_model: LoadedModel
) -> None:
    lines = {
        int(found['index']): label
        for path, label in paths_of(layout)
        if (found := PATH.fullmatch(path)) and found['field'] == 'probabilities'
    }
    assert lines == dict(enumerate(shipped_model.description.classes))


def test_every_panel_of_the_layout_has_its_place(layout: dict[str, Any]) -> None:
    def names(place: Any) -> list[str]:
        if isinstance(place, str):
            return [place]
        assert place['direction'] in ('row', 'column')
        assert 0 < place['splitPercentage'] < 100
        return names(place['first']) + names(place['second'])

    placed = names(layout['layout'])
    assert sorted(placed) == sorted(layout['configById'])


def test_rviz_shows_topics_of_the_node(rviz: dict[str, Any], offered_topics: set[str]) -> None:
    displays = rviz['Visualization Manager']['Displays']
    topics = {display['Topic']['Value']: display for display in displays}
    assert set(topics) <= offered_topics
    annotated = topics['/fer/image_annotated']
    assert annotated['Enabled'] and annotated['Class'] == 'rviz_default_plugins/Image'
    # Those of other packages would not load everywhere.
    kinds = {display['Class'].partition('/')[0] for display in displays}
    assert kinds == {'rviz_default_plugins'}
