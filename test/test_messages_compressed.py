# SPDX-License-Identifier: Apache-2.0
"""A compressed image message holds the image, in the format that image_transport names."""

from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.typesys import Stores, get_typestore

from fer_perception.images import compressed_to_bgr
from fer_perception.messages import compressed_image_message, header_message, ros_message

STORE = get_typestore(Stores.ROS2_JAZZY)
KIND = 'sensor_msgs/msg/CompressedImage'


def make(type_name: str, **fields: Any) -> Any:
    return STORE.types[type_name](**fields)


def message_of(image: np.ndarray) -> Any:
    header = header_message(make, stamp_ns=7_000_000_001, frame_id='eye')
    message = compressed_image_message(make, image, header)
    return STORE.deserialize_cdr(STORE.serialize_cdr(message, KIND), KIND)


@pytest.mark.parametrize('shape', [(48, 64, 3), (1, 1, 3), (7, 300, 3)])
def test_the_image_comes_back(shape: tuple[int, int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    # Differently bright, so that exchanged channels would be seen.
    image = (cv2.GaussianBlur(noise, (0, 0), 5) * np.array([1.0, 0.7, 0.4])).astype(np.uint8)
    message = message_of(image)
    assert message.format == 'bgr8; jpeg compressed bgr8'
    assert message.header.frame_id == 'eye' and message.header.stamp.sec == 7
    difference = compressed_to_bgr(message).astype(int) - image
    assert np.abs(difference).max() < 16


def test_part_of_an_image_may_be_given() -> None:
    image = np.zeros((50, 60, 3), np.uint8)
    image[:, 30:] = 200
    assert compressed_to_bgr(message_of(image[:, 30:])).mean() == pytest.approx(200, abs=2)


@pytest.mark.parametrize('shape', [(0, 0, 3), (1, 70_000, 3)])
def test_what_jpeg_cannot_hold_is_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=f'{shape[1]}x{shape[0]} pixels'):
        message_of(np.zeros(shape, np.uint8))


def test_the_classes_of_ros_take_it_too() -> None:
    pytest.importorskip('sensor_msgs.msg', reason='ROS is neither installed nor sourced')
    header = header_message(ros_message, stamp_ns=1, frame_id='eye')
    image = np.full((20, 30, 3), 90, np.uint8)
    message = compressed_image_message(ros_message, image, header)
    assert compressed_to_bgr(message).shape == image.shape
