# SPDX-License-Identifier: Apache-2.0
"""The ranges that synthetic sequences are drawn from."""

from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class SynthesisConfig:
    """Set the ranges that sequences are drawn from; pairs are (lowest, highest).

    Raises ValueError for a share outside 0 to 1, a pair the wrong way round, a negative spread, or
    a rate, distance, size or duration that is not above 0.
    """

    duration_s: float = 2.0
    frame_rate: tuple[float, float] = (5.0, 60.0)
    usual_rate_share: float = 0.6  # rates that cameras have; the others lie anywhere between

    # The expression.
    full_level: tuple[float, float] = (0.65, 1.3)  # strength of the whole expression
    subtle_level: tuple[float, float] = (0.35, 0.6)
    subtle_share: float = 0.35  # of happiness and sadness, which people often show so
    other_subtle_share: float = 0.15  # of the other classes
    unit_level: tuple[float, float] = (0.7, 1.1)  # strength of each action unit in it
    shape_spread: float = 0.2  # of one shape's weight against the unit's
    companion_share: float = 0.5  # how often a unit's companions come along
    held_share: float = 0.4  # share of expressions that are there from the first frame on
    offset_share: float = 0.25  # share of expressions that vanish again
    asymmetry: float = 0.15  # spread of the strength of one side against the other
    lowered_head_share: float = 0.4  # of sadness, with head and eyes down: AU54 and AU64 of EFH

    # What faces do beside it, in shares of the sequences.
    speech_share: float = 0.3  # over an expression
    neutral_speech_share: float = 0.5
    act_share: float = 0.1  # over an expression: of lip wetting, chewing, squints, ...
    neutral_act_share: float = 0.6
    second_act_share: float = 0.4  # of neutral sequences with one
    gesture_brows_share: float = 0.6  # of neutral head gestures that brows go with
    blinks_per_second: float = 0.4
    resting_level: float = 0.14  # highest weight of the shapes of a resting face
    resting_mood_share: float = 0.2  # of people who look friendly, sullen or stern by anatomy
    resting_mood_level: tuple[float, float] = (0.08, 0.22)

    # The person.
    identity_spread: float = 1.0  # standard deviations of the identity modes
    part_scale: float = 0.08  # spread of the size of mouth, eyes, ... against the face
    mobility: tuple[float, float] = (0.75, 1.2)  # how far a person's brows, eyes, mouth move
    brow_mobility: tuple[float, float] = (0.8, 1.8)  # the basis' own brows move little
    highest_weight: float = 1.3  # of any shape, all causes together, before mobility

    # Head and camera.
    yaw_degrees: float = 20.0  # standard deviation of the head's mean pose
    pitch_degrees: float = 11.0
    roll_degrees: float = 8.0
    highest_turn_degrees: float = 42.0  # of yaw, pitch or roll, all causes together
    movement_degrees: tuple[float, float] = (0.5, 5.0)  # spread of the movement about it
    gesture_share: float = 0.35  # of nods, shakes, tilts, turns, bows, leaning forward
    distance_cm: tuple[float, float] = (35.0, 300.0)  # camera to head
    face_size_pixels: tuple[float, float] = (12.0, 90.0)

    # The detector. A basis and a detector put landmarks on different places of one contour:
    # share of the way from a landmark to its neighbour nearer the middle, drawn once for each
    # part and track.
    contour_slide: tuple[float, float] = (-0.1, 0.4)
    inner_lip_slide: tuple[float, float] = (0.0, 0.6)
    nose_wing_rise: tuple[float, float] = (0.0, 0.2)  # of dlib's against the basis', face sizes
    jaw_slide: tuple[float, float] = (0.6, 1.0)  # share of the way to the visible contour
    landmark_bias: float = 0.03  # fixed error of one landmark in one sequence, face sizes
    part_bias: float = 0.07  # fixed shift of brows, eyes, nose or mouth as a whole, face sizes
    noise_level: tuple[float, float] = (0.4, 2.2)  # times the measured noise
    smooth_share: float = 0.3  # of detectors that filter over time, as OpenFace's landmarks are
    smooth_noise_level: tuple[float, float] = (0.1, 0.4)
    pixel_noise: tuple[float, float] = (0.0, 0.25)  # of every frame, in pixels
    slow_noise: tuple[float, float] = (0.0, 0.02)  # over half a second and longer, face sizes
    turned_noise: float = 1.0  # added share of noise on the far side at a yaw of 45 degrees
    lost_share: float = 0.35  # of sequences with frames without a face
    lost_frames: tuple[float, float] = (0.02, 0.15)  # share of such frames in them
    lost_gap_s: tuple[float, float] = (0.1, 0.5)

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            pair = value if isinstance(value, tuple) else (value, value)
            if len(pair) != 2 or not pair[0] <= pair[1]:
                raise ValueError(f'{name} must be (lowest, highest), not {value}')
            if name.endswith('_share') and not 0.0 <= value <= 1.0:
                raise ValueError(f'{name} must lie between 0 and 1, not {value}')
            if name in POSITIVE and not 0.0 < pair[0] <= pair[1] < float('inf'):
                raise ValueError(f'{name} must be above 0 and finite, not {value}')
            if pair[0] < 0.0 and name != 'contour_slide':
                raise ValueError(f'{name} must not be negative: {value}')
        if self.distance_cm[0] < NEAREST_CM:
            raise ValueError(
                f'distance_cm must be {NEAREST_CM:g} or more, not {self.distance_cm[0]:g}: the '
                'camera must stay before the face'
            )
        if not self.highest_turn_degrees < 80.0:
            raise ValueError(
                f'highest_turn_degrees must be below 80, not {self.highest_turn_degrees}: '
                'landmarks of a face seen from the side say nothing'
            )


POSITIVE = frozenset({'duration_s', 'frame_rate', 'distance_cm', 'face_size_pixels', 'mobility'})
NEAREST_CM = 25.0
