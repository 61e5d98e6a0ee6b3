# SPDX-License-Identifier: Apache-2.0
"""Faces in camera images: detection, 68 landmarks, and tracks with stable ids. Free of ROS."""

from fer_perception.faces.detector import FaceDetector
from fer_perception.faces.face import Box, Face
from fer_perception.faces.landmarks import LandmarkPredictor
from fer_perception.faces.tracker import FaceTracker, FaceTrackerConfig

__all__ = ['Box', 'Face', 'FaceDetector', 'FaceTracker', 'FaceTrackerConfig', 'LandmarkPredictor']
