# SPDX-License-Identifier: Apache-2.0
"""Follow any number of faces through a video, each under one id."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from fer_perception.faces.background_search import BackgroundSearch
from fer_perception.faces.detector import FaceDetector
from fer_perception.faces.face import Box, Face
from fer_perception.faces.identifiers import Identifiers
from fer_perception.faces.landmarks import LandmarkPredictor
from fer_perception.faces.place import FacePlace

# A fit is good when its box was: it is repeated from its own result until both agree this well
# (intersection over union; a shift by 0.08 of the side), or this often.
STEADY_OVERLAP = 0.85
MAX_FITS = 3
# A face whose box agrees less than this with the last image's was not followed, but lost.
FOLLOWED_OVERLAP = 0.2
# A missing face may have moved: detections are compared with its last box, both this much larger.
# With the default overlap that reaches one face's width.
MISSING_GROWTH = 2.0
# Smaller than this, in pixels, 68 landmarks say nothing about an expression.
MIN_SIDE = 16.0


@dataclass(frozen=True)
class FaceTrackerConfig:
    """When faces are searched for, and what counts as the same face."""

    # frames from one search of the whole image to the next, while nothing is missing
    detection_interval: int = 20
    # frames from one check of a face to the next at least: one whose fits disagree is looked at,
    # which is ten times cheaper than a search
    check_interval: int = 3
    # spread of a face's fits, in sides of its box, up to which they agree and it needs no look. On
    # the shared clips the spreads on faces are below 0.010, and those beside them above 0.016
    agreed_spread: float = 0.012
    # seconds from one search to the next at most, for slow cameras
    detection_interval_s: float = 0.7
    # seconds from an image to the one that gets to know what a search of it found: meanwhile a
    # thread searches and the visible faces are followed. While none is visible, images are
    # searched at once, but only this often. 0: all searches at once, as often as they are due
    search_delay_s: float = 0.0
    # detector score from which a new face is believed
    min_score: float = 0.0
    # detector score from which a face that is already followed is believed to be there still
    keep_score: float = -0.3
    # intersection over union from which a detection and a track are the same face
    min_overlap: float = 0.3
    # intersection over union below which the landmarks are fitted anew from the detection's box,
    # unless a look at where they are now sees a clearer face
    refit_overlap: float = 0.5
    # intersection over union from which two tracks are the same face
    duplicate_overlap: float = 0.5
    # searches in a row that may miss a face before it is lost and no longer shown
    max_misses: int = 1
    # seconds for which a lost face keeps its id
    loss_tolerance_s: float = 1.0
    # landmark fits to average per face and frame: 1 is fastest, 3 jitter three quarters as much
    fits_per_frame: int = 3

    def __post_init__(self) -> None:
        for name, least in (
            ('detection_interval', 1),
            ('check_interval', 1),
            ('max_misses', 0),
            ('fits_per_frame', 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f'{name} must be {least} or more, not {getattr(self, name)}')
        for name in ('min_overlap', 'refit_overlap', 'duplicate_overlap'):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise ValueError(f'{name} must be above 0 and at most 1, not {value}')
        for name in ('detection_interval_s', 'search_delay_s', 'loss_tolerance_s'):
            if not getattr(self, name) >= 0:
                raise ValueError(f'{name} must be 0 s or more, not {getattr(self, name)}')
        if not self.agreed_spread >= 0:
            raise ValueError(f'agreed_spread must be 0 or more, not {self.agreed_spread}')
        if self.keep_score > self.min_score:
            raise ValueError(
                f'keep_score ({self.keep_score}) must not be above min_score ({self.min_score})'
            )


@dataclass(frozen=True)
class _Fit:
    """Landmarks (68, 2) float32 in pixels, their fits' spread, and the place that they tell."""

    landmarks: np.ndarray
    spread: float
    place: FacePlace


@dataclass(eq=False)
class _Track:
    # where the landmarks are; of a lost track, where its face was last confirmed
    place: FacePlace
    # where the last search saw the face: landmarks of a face that has gone drift elsewhere
    confirmed_place: FacePlace
    face_id: str = ''
    landmarks: np.ndarray = field(default_factory=lambda: np.zeros((68, 2), np.float32))
    # of the fits that these landmarks are the mean of, in sides of the box
    spread: float = math.inf
    # since a search or a look checked that the face is there
    frames_unchecked: int = 0
    last_seen_s: float = -math.inf
    misses: int = 0
    lost: bool = False

    def show(self, fit: _Fit, time_s: float) -> None:
        """Take new landmarks and their place at a time in seconds."""
        self.landmarks = fit.landmarks
        self.spread = fit.spread
        self.place = fit.place
        self.last_seen_s = time_s
        self.lost = False

    def lose(self) -> None:
        """Show the face no longer, until it is found again."""
        self.place = self.confirmed_place
        self.lost = True

    def confirm(self, place: FacePlace) -> None:
        """Take note that a search saw the face at a place."""
        self.confirmed_place = place
        self.misses = 0
        self.frames_unchecked = 0


@dataclass(frozen=True)
class _PendingSearch:
    """What the search of an image has to be compared with, once it is done."""

    time_s: float
    # where the visible faces were in that image
    places: dict[_Track, FacePlace]


class FaceTracker:
    """
    Detect faces now and then, fit their landmarks on every frame, and keep their ids.

    Between two searches a face's landmarks are fitted in the box that its last landmarks tell. A
    search matches its detections to the tracks by overlap; a track without a detection, or off
    its detection, is looked at once more with the head made upright, as the search sees no bent
    heads and may take a part of one for a face. A track that is missed more than ``max_misses``
    times in a row is lost: not returned, and found again, under its id, within
    ``loss_tolerance_s`` near its last place.

    With a ``search_delay_s`` a search takes no time from the images: it runs in a thread, and its
    detections, by then of an older image, are compared with where the faces were in that one and
    looked at again in the newest. When they count is told by the images' times alone, so that the
    same images and times give the same faces, however fast the machine is.

    :param config: the thresholds.
    :param detector: finds the faces.
    :param predictor: fits the landmarks.
    :param identifiers: gives the ids; random ones by default.
    """

    def __init__(
        self,
        *,
        config: FaceTrackerConfig,
        detector: FaceDetector,
        predictor: LandmarkPredictor,
        identifiers: Identifiers | None = None,
    ) -> None:
        self._config = config
        self._detector = detector
        self._predictor = predictor
        self._identifiers = identifiers or Identifiers()
        self._background = BackgroundSearch(detector)
        self._pending: _PendingSearch | None = None
        self.reset()

    @property
    def tracked_ids(self) -> frozenset[str]:
        """The ids of the visible faces and of those lost so lately that they may come back."""
        return frozenset(track.face_id for track in self._tracks)

    def reset(self) -> None:
        """Forget all faces. Ids given before are not given again."""
        self._tracks: list[_Track] = []  # oldest first
        self._shape: tuple[int, int] | None = None
        self._time_s = -math.inf
        self._last_search_s = -math.inf
        self._frames_since_search = 0
        self._discard_search()

    def close(self) -> None:
        """End the thread that searches; afterwards no image may be given any more."""
        self._discard_search()
        self._background.close()

    def update(self, grey: np.ndarray, time_s: float) -> list[Face]:
        """
        Take the next image and return the faces visible in it, longest followed first.

        :param grey: the image, (H, W) uint8. Its size may change. With a ``search_delay_s`` it
            must not be written to later.
        :param time_s: the image's time in seconds. If it goes backwards all faces are forgotten;
            a gap longer than ``loss_tolerance_s`` ends every track as well.

        Raises ValueError for an empty image, another type of array, or a time that is no number,
        and what the detector raises: in its thread or here, the next image goes on.
        """
        if grey.ndim != 2 or grey.dtype != np.uint8 or grey.size == 0:
            raise ValueError(
                f'a grey image (H, W) of uint8 is needed, not {grey.shape} of {grey.dtype}'
            )
        if not math.isfinite(time_s):
            raise ValueError(f'the time of an image must be a number of seconds, not {time_s}')
        if time_s < self._time_s:
            self.reset()
        self._time_s = time_s
        self._follow_size(grey)
        self._forget()
        self._follow(grey)
        self._frames_since_search += 1
        if self._pending is not None and self._has_delay_passed(self._pending.time_s):
            self._finish_search(grey, self._pending)
        elif self._search_is_due():
            self._search(grey)
        else:
            self._check(grey)
        self._merge_duplicates()
        return [
            Face(face_id=track.face_id, box=track.place.box, landmarks=track.landmarks)
            for track in self._visible()
        ]

    def _visible(self) -> list[_Track]:
        return [track for track in self._tracks if not track.lost]

    def _follow_size(self, grey: np.ndarray) -> None:
        """After a change of the image's size the tracks are lost until found near their places."""
        height, width = grey.shape
        if self._shape is not None and self._shape != (height, width):
            for track in self._tracks:
                track.confirmed_place = track.place.scaled(
                    width / self._shape[1], height / self._shape[0]
                )
                track.lose()
            self._discard_search()
        self._shape = (height, width)

    def _forget(self) -> None:
        """Remove the tracks whose face has not been seen for too long."""
        earliest_s = self._time_s - self._config.loss_tolerance_s
        self._tracks = [track for track in self._tracks if track.last_seen_s >= earliest_s]

    def _fit(self, grey: np.ndarray, places: list[FacePlace]) -> list[_Fit | None]:
        """Fit landmarks from places; None where no face fits."""
        fits: list[_Fit | None] = [None] * len(places)
        unsteady = dict(enumerate(places))
        for _ in range(MAX_FITS):
            if not unsteady:
                break
            fitted = self._predictor.predict_all(
                grey,
                [(place.box, place.roll) for place in unsteady.values()],
                fits=self._config.fits_per_frame,
            )
            starts, unsteady = unsteady, {}
            for (index, before), points, spread in zip(
                starts.items(), fitted.points, fitted.spreads, strict=True
            ):
                place = FacePlace.from_landmarks(points)
                if not self._is_plausible(place):
                    fits[index] = None
                    continue
                fits[index] = _Fit(landmarks=points, spread=float(spread), place=place)
                if _overlap(before, place) < STEADY_OVERLAP:
                    unsteady[index] = place
        return fits

    def _follow(self, grey: np.ndarray) -> None:
        """Fit the visible tracks' landmarks to this image; lose those whose face went away."""
        tracks = self._visible()
        fits = self._fit(grey, [track.place for track in tracks])
        for track, fit in zip(tracks, fits, strict=True):
            if fit is not None and _overlap(fit.place, track.place) >= FOLLOWED_OVERLAP:
                track.show(fit, self._time_s)
                track.frames_unchecked += 1
            else:
                track.lose()

    def _is_plausible(self, place: FacePlace) -> bool:
        """Tell whether landmarks with this place can be those of a face in the image."""
        assert self._shape is not None
        height, width = self._shape
        return (
            MIN_SIDE <= place.side <= 2 * max(height, width)
            and 0 <= place.x < width
            and 0 <= place.y < height
        )

    def _has_delay_passed(self, since_s: float) -> bool:
        return self._time_s - since_s >= self._config.search_delay_s

    def _search_is_due(self) -> bool:
        if self._pending is not None or not self._has_delay_passed(self._last_search_s):
            return False
        return (
            not self._tracks
            or any(track.lost or track.misses for track in self._tracks)
            or self._frames_since_search >= self._config.detection_interval
            or self._time_s - self._last_search_s >= self._config.detection_interval_s
        )

    def _check(self, grey: np.ndarray) -> None:
        """Look at the faces whose fits disagree; one that is not clearly there is searched for."""
        config = self._config
        tracks = self._visible()
        doubtful = [
            track
            for track in tracks
            if track.spread > config.agreed_spread
            and track.frames_unchecked >= config.check_interval
        ]
        seen = [track for track in tracks if track not in doubtful]
        for track in doubtful:
            track.frames_unchecked = 0
            look = self._look(grey, track.place, seen, min_score=self._config.min_score)
            if look is None:
                track.misses += 1
            else:
                seen.append(track)
                self._refit(grey, track, look)

    def _search(self, grey: np.ndarray) -> None:
        """Search the whole image: at once, or in the background while faces are followed."""
        self._frames_since_search = 0
        self._last_search_s = self._time_s
        min_score = self._config.keep_score
        places = {track: track.place for track in self._visible()}
        if self._config.search_delay_s == 0:
            found = self._detector.detect(grey, min_score=min_score)
            self._apply(grey, found, places, is_old=False)
            return
        self._background.start(grey, min_score=min_score)
        if places:
            self._pending = _PendingSearch(self._time_s, places)
        else:
            self._apply(grey, self._background.result(), places, is_old=False)

    def _finish_search(self, grey: np.ndarray, pending: _PendingSearch) -> None:
        """Take what was found in an older image; waits if the search is not done yet."""
        self._pending = None
        self._apply(grey, self._background.result(), pending.places, is_old=True)

    def _discard_search(self) -> None:
        self._pending = None
        self._background.discard()

    def _apply(
        self,
        grey: np.ndarray,
        boxes: list[tuple[Box, float]],
        former: dict[_Track, FacePlace],
        *,
        is_old: bool,
    ) -> None:
        """
        Bring the tracks in line with the detections of an image.

        ``grey`` is the newest image; ``former`` tells where the visible tracks were in the image
        that was searched, an older one if ``is_old``.
        """
        config = self._config
        found = [(FacePlace.from_box(box), score) for box, score in boxes]
        former = {track: former[track] for track in self._visible() if track in former}
        seen = self._confirm_visible(grey, dict(found), former)
        # What is left is a face found again, or a new one.
        places = [
            place
            for place, score in found
            if score >= config.min_score and not self._is_taken(place, seen)
        ]
        if is_old:
            looks = [self._look(grey, place, seen, min_score=config.min_score) for place in places]
            places = [place for place in looks if place is not None]
        missing = {track: track.place for track in self._tracks if track not in seen}
        for track, place in self._match(missing, places, growth=MISSING_GROWTH):
            if self._fit_anew(grey, track, place):
                seen.append(track)
                track.confirm(track.place)
            places.remove(place)
        for track in missing:
            if track.lost and track not in seen:
                look = self._look(grey, track.place, seen, min_score=config.min_score)
                if look is not None and self._fit_anew(grey, track, look):
                    seen.append(track)
                    track.confirm(track.place)
        for track in self._tracks:
            if track in seen:
                continue
            track.misses += 1
            if track.misses > config.max_misses and not track.lost:
                track.lose()
        for place in places:
            if not self._is_taken(place, seen):
                seen += self._start(grey, place)

    def _confirm_visible(
        self,
        grey: np.ndarray,
        scores: dict[FacePlace, float],
        former: dict[_Track, FacePlace],
    ) -> list[_Track]:
        """
        Return the visible tracks that lay on a detection or are on a face at a second look.

        ``scores`` has the score of each detection's place, ``former`` the places of the tracks
        when it was made.
        """
        matches = self._match(former, list(scores), growth=1.0)
        seen = [track for track, _ in matches]
        for track, place in matches:
            before = former[track]
            track.confirm(before)
            if self._has_drifted(before, place):
                # Or else the search took a part of a bent head for a face.
                others = [other for other in seen if other is not track]
                look = self._look(grey, track.place, others, min_score=scores[place])
                moved = place.moved(track.place.x - before.x, track.place.y - before.y)
                self._refit(grey, track, look or moved)
                track.confirm(track.place)
        for track in self._visible():
            if track not in seen:
                look = self._look(grey, track.place, seen, min_score=self._config.keep_score)
                if look is not None:
                    seen.append(track)
                    self._refit(grey, track, look)
                    track.confirm(track.place)
        return seen

    def _match(
        self, tracks: dict[_Track, FacePlace], places: list[FacePlace], *, growth: float
    ) -> list[tuple[_Track, FacePlace]]:
        """Pair tracks, by their places, with places so that all grown boxes overlap the most."""
        if not tracks or not places:
            return []
        overlaps = np.array(
            [[_overlap(own, place, growth) for place in places] for own in tracks.values()]
        )  # (tracks, places)
        # What overlaps too little must not push aside a pair that overlaps enough.
        overlaps[overlaps < self._config.min_overlap] = 0.0
        rows, columns = linear_sum_assignment(overlaps, maximize=True)
        listed = list(tracks)
        return [
            (listed[row], places[column])
            for row, column in zip(rows, columns, strict=True)
            if overlaps[row, column] > 0
        ]

    def _look(
        self, grey: np.ndarray, where: FacePlace, seen: list[_Track], *, min_score: float
    ) -> FacePlace | None:
        """Look for a face at a place; the faces of these tracks do not count."""
        found = self._detector.look(grey, where, min_score=min_score)
        if found is None:
            return None
        place = FacePlace.from_box(found[0], roll=where.roll)
        return None if self._is_taken(place, seen) else place

    def _is_taken(self, place: FacePlace, seen: list[_Track]) -> bool:
        """Tell whether one of these tracks is the face at this place."""
        least = self._config.min_overlap
        return any(_overlap(track.place, place) >= least for track in seen)

    def _refit(self, grey: np.ndarray, track: _Track, place: FacePlace) -> None:
        """Fit a track's landmarks from a detection, but only if they have drifted off it."""
        if self._has_drifted(track.place, place):
            self._fit_anew(grey, track, place)

    def _has_drifted(self, own: FacePlace, place: FacePlace) -> bool:
        """Tell whether a track's place is off the place of a detection."""
        return _overlap(own, place) < self._config.refit_overlap

    def _fit_anew(self, grey: np.ndarray, track: _Track, place: FacePlace) -> bool:
        """Show a track at a place where its face was detected; False if no face fits there."""
        fit = self._fit(grey, [place])[0]
        if fit is not None:
            track.show(fit, self._time_s)
        return fit is not None

    def _start(self, grey: np.ndarray, place: FacePlace) -> list[_Track]:
        """Start a track on a face detected at a place; return it, or nothing if none fits."""
        track = _Track(place=place, confirmed_place=place)
        if not self._fit_anew(grey, track, place):
            return []
        track.confirm(track.place)
        track.face_id = self._identifiers.new()
        self._tracks.append(track)
        return [track]

    def _merge_duplicates(self) -> None:
        """Of visible tracks on one face, keep the oldest."""
        kept: list[_Track] = []
        for track in self._tracks:
            if track.lost or not any(
                _overlap(other.place, track.place) >= self._config.duplicate_overlap
                for other in kept
                if not other.lost
            ):
                kept.append(track)
        self._tracks = kept


def _overlap(first: FacePlace, second: FacePlace, growth: float = 1.0) -> float:
    """Return the intersection over union of two faces' squares, both grown by a factor."""
    half, other_half = first.side / 2 * growth, second.side / 2 * growth
    reach, largest = half + other_half, 2 * min(half, other_half)
    width = min(reach - abs(first.x - second.x), largest)
    height = min(reach - abs(first.y - second.y), largest)
    if not (width > 0 and height > 0):
        return 0.0
    shared = width * height
    return shared / (4 * half * half + 4 * other_half * other_half - shared)
