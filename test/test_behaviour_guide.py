# SPDX-License-Identifier: Apache-2.0
"""The program in docs/behaviour.md runs as it stands there, and does what the page says."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

rclpy = pytest.importorskip('rclpy', reason='ROS is neither installed nor sourced')
pytest.importorskip('fer_msgs', reason='fer_msgs is not built or not sourced')

from expressions_made import made_array, made_record  # noqa: E402

from fer_msgs.msg import ExpressionArray  # noqa: E402
from fer_perception.uncertainty.estimate import ExpressionState  # noqa: E402

GUIDE = Path(__file__).parents[1] / 'docs' / 'behaviour.md'
LIMIT_S = 10.0


@pytest.fixture
def program() -> Iterator[dict[str, Any]]:
    """Run the page's only block of Python up to its main."""
    blocks = re.findall(r'^```python\n(.*?)^```', GUIDE.read_text('utf-8'), re.M | re.S)
    assert len(blocks) == 1
    names: dict[str, Any] = {}
    exec(compile(blocks[0], str(GUIDE), 'exec'), names)
    rclpy.init()
    yield names
    rclpy.try_shutdown()


def test_the_program_nods_at_a_smile_that_holds_until_it_is_doubted(
    program: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    host = program['Host']()
    camera = rclpy.create_node('camera')
    publisher = camera.create_publisher(ExpressionArray, '/fer/expressions', 10)

    def wait(condition: Callable[[], bool]) -> bool:
        end = time.monotonic() + LIMIT_S
        while not condition() and time.monotonic() < end:
            rclpy.spin_once(host, timeout_sec=0.02)
        return condition()

    def see(time_s: float, state: ExpressionState) -> None:
        stamp_ns = round(time_s * 1e9)
        record = made_record('annie', state=state, stamp_ns=stamp_ns)
        publisher.publish(made_array(stamp_ns, record))
        assert wait(
            lambda: 'annie' in host.client.faces
            and host.client.faces['annie'].record.stamp_ns == stamp_ns
        )

    assert wait(lambda: publisher.get_subscription_count() == 1)
    assert wait(lambda: host.count_publishers('/fer/expressions') == 1)
    see(1.0, ExpressionState.CONFIDENT)
    see(1.4, ExpressionState.CONFIDENT)
    assert host.nodding_at == set()
    see(1.5, ExpressionState.CONFIDENT)
    assert host.nodding_at == {'annie'}
    see(1.6, ExpressionState.UNCERTAIN)
    assert host.nodding_at == set()
    text = capfd.readouterr().err
    assert 'annie is here' in text and 'nod at (10, 20, 100, 120), sure to 75%' in text
    host.destroy_node()
    camera.destroy_node()
