"""RECIST 1.1 on lesions of known diameters: targets, each response at its limits."""

import numpy as np
import pytest

from crlm_jax.imaging.lesions import Lesion
from crlm_jax.recist import rules
from crlm_jax.recist.matching import match_lesions
from crlm_jax.recist.rules import Response, TimePoint
from tests.imaging.test_lesions import grid
from tests.recist.bodies import ball

BASELINE = (30.0, 20.0)  # mm


def lesion(diameter, place=0.0, volume=100.0) -> Lesion:
    ends = ((0.0, 0.0), (0.0, diameter))
    return Lesion(10, volume, diameter, 0, (place, 0.0, 0.0), diameter / 2, ends)


def point(*diameters, spacing=5.0, places=None) -> TimePoint:
    """Lesions 100 mm apart: the first of one point lies where the first of another does."""
    places = places or [100.0 * i for i in range(len(diameters))]
    return TimePoint(tuple(map(lesion, diameters, places)), spacing)


def compare(before, after, *, same_frame) -> Response:
    """Compares time points whose lesions are balls."""
    match = match_lesions(bodies(before), bodies(after)) if same_frame else None
    return rules.compare(before, after, match)


def bodies(at):
    return [ball(lesion.diameter, *lesion.centre) for lesion in at.lesions]


# One time point


@pytest.mark.parametrize(
    ("diameter", "slices", "expected"),
    [
        (10.0, 5.0, True),
        (9.99, 5.0, False),
        (10.0, 1.0, True),
        (10.0, 5.1, False),
        (14.0, 7.0, True),
        (13.99, 7.0, False),
        (float(np.float32(0.1)) * 100 - 2e-6, 3.0, True),  # 10 mm but for the spacing's float32
        (3 * 4.2, 6.3, True),  # 12.600000000000001 and 12.6
    ],
)
def test_measurable_from_10_mm_and_from_twice_the_slice_thickness(diameter, slices, expected):
    known, unknown = TimePoint((), 3.0, slices), TimePoint((), slices)
    assert rules.is_measurable(lesion(diameter), known) is expected
    assert (known.measurable_by, unknown.measurable_by) == ("slice thickness", "slice spacing")
    # The spacing stands for a thickness that is not known.
    assert rules.is_measurable(lesion(diameter), unknown) is expected


def test_the_thickness_decides_also_where_slices_overlap_or_lie_apart():
    for thickness, spacing, targets in ((8.0, 4.0, []), (4.0, 8.0, [0]), (None, 8.0, [])):
        assert rules.choose_targets(TimePoint((lesion(12.0),), spacing, thickness)) == targets


def test_targets_are_the_two_largest_measurable_lesions():
    assert rules.choose_targets(point(12.0, 40.0, 9.0, 25.0, 24.9)) == [1, 3]
    assert rules.sum_of_diameters(point(12.0, 40.0, 9.0, 25.0, 24.9)) == 65
    assert rules.choose_targets(point(9.0, 12.0)) == [1]
    assert rules.choose_targets(point(9.0, 12.0, spacing=7.0)) == []
    assert rules.sum_of_diameters(point(9.0)) == rules.sum_of_diameters(point()) == 0
    alike = TimePoint((lesion(20, volume=5), lesion(20, volume=7), lesion(20, volume=6)), 5.0)
    assert rules.choose_targets(alike) == [1, 2]


def test_a_mask_is_measured():
    mask = np.zeros((5, 40, 60), bool)
    mask[1, 5, 5:25] = True  # 20 px
    mask[2, 6, 25:30] = True  # touches it by a corner: one lesion
    mask[4, 5, 5:15] = True  # in the same place beyond a slice's gap: another
    mask[3, 30:38, 50] = True
    found = rules.measure_time_point(mask, grid(mask.shape, (0.8, 0.8, 6.0)))
    assert found.slice_spacing == 6
    assert [part.diameter for part in found.lesions] == pytest.approx([16, 6.4, 8])
    assert [part.short_axis for part in found.lesions] == pytest.approx([0.8, 0.8, 0.8])
    assert found.patient_volume == pytest.approx(mask.sum() * 0.8 * 0.8 * 6)
    assert rules.choose_targets(found) == [0]
    empty = rules.measure_time_point(np.zeros_like(mask), grid(mask.shape, (1, 1, 1)))
    assert (empty.lesions, empty.patient_volume) == ((), 0)
    with pytest.raises(ValueError, match="on a grid of"):
        rules.measure_time_point(mask[1:], grid(mask.shape, (1, 1, 1)))


# Responses


@pytest.mark.parametrize("same_frame", [True, False])
@pytest.mark.parametrize(
    ("before", "after", "category"),
    [
        ((50.0, 50.0), (35.0, 35.0), "PR"),  # −30 % exactly
        ((50.0, 50.0), (35.0, 35.01), "SD"),  # −29.99 %
        ((10.1,), (7.07,), "PR"),  # −30 %, but for rounding
        ((12.0,), (2.0,), "PR"),  # below 10 mm it counts as measured
        ((50.0, 50.0), (60.0, 60.0), "PD"),  # +20 %
        ((50.0, 50.0), (60.0, 59.99), "SD"),
        ((24.95,), (29.94,), "SD"),  # +20 % and 4.99 mm
        ((25.0,), (30.0,), "PD"),  # +20 % and 5 mm, both exactly
        ((33.7,), (40.44,), "PD"),  # +20 %, but for rounding
        ((12.0,), (16.9,), "SD"),  # +40 %, but less than 5 mm
        ((50.0, 50.0), (52.5, 52.5), "SD"),  # +5 mm, but 5 %
        (BASELINE, BASELINE, "SD"),
        ((30.0, 20.0, 8.0), (), "CR"),
    ],
)
def test_response_at_its_limits(before, after, category, same_frame):
    response = compare(point(*before), point(*after), same_frame=same_frame)
    assert response.category == category
    assert category in rules.CATEGORIES
    assert response.change_mm == pytest.approx(response.follow_up_sum - response.baseline_sum)
    assert response.change_percent == pytest.approx(
        100 * (response.follow_up_sum / response.baseline_sum - 1)
    )
    assert response.paired == ("by position" if same_frame else "sums only")


def test_volumes_are_of_all_lesions():
    before = TimePoint((lesion(30, 0, 900), lesion(20, 100, 500), lesion(5, 200, 100)), 5.0)
    after = TimePoint((lesion(28, 0, 700), lesion(19, 100, 50)), 5.0)
    response = compare(before, after, same_frame=True)
    assert (response.volume_baseline, response.volume_follow_up) == (1500, 750)
    assert response.volume_change_percent == -50
    assert (response.baseline_sum, response.follow_up_sum, response.category) == (50, 47, "SD")


@pytest.mark.parametrize(
    ("before", "after", "shared", "sums_only"),
    [
        ((9.0, 5.0), (), "CR", "CR"),
        ((9.0, 5.0), (3.0,), "non-CR/non-PD", "non-CR/non-PD"),
        ((9.0,), (20.0,), "non-CR/non-PD", "non-CR/non-PD"),
        ((9.0,), (9.0, 40.0), "PD", "non-CR/non-PD"),  # new lesions are known on a shared frame
        ((), (), "NE", "NE"),
        ((), (9.0,), "PD", "PD"),  # there was none: whatever is there is new
        ((), (40.0, 9.0), "PD", "PD"),
    ],
)
def test_without_a_measurable_lesion_the_response_is_that_of_table_2(
    before, after, shared, sums_only
):
    for same_frame, category in ((True, shared), (False, sums_only)):
        response = compare(point(*before), point(*after), same_frame=same_frame)
        assert (response.category, response.change_percent) == (category, None)
        assert category in rules.CATEGORIES
        assert (response.baseline_sum, response.follow_up_sum) == (0, 0)
        said = "no lesion is measurable" if before else "no lesion at baseline"
        assert any(said in note for note in response.notes)
        assert (response.volume_change_percent is None) == (not before)
        assert bool(response.new) == (category == "PD")


# Pairing by position


def test_a_vanished_target_counts_nothing_and_a_shrunk_one_its_diameter():
    before = point(40.0, 30.0, 20.0)
    after = point(6.0, 18.0, places=[5.0, 200.0])  # the second vanished
    response = compare(before, after, same_frame=True)
    assert response.pairs == ((0, 0), (2, 1))
    assert (response.targets, response.counted) == ((0, 1), (0,))
    assert (response.baseline_sum, response.follow_up_sum, response.category) == (70, 6, "PR")


def test_vanished_targets_beside_a_non_target_are_a_partial_response():
    after = point(5.0, places=[200.0])
    response = compare(point(30.0, 20.0, 8.0), after, same_frame=True)
    assert (response.category, response.follow_up_sum) == ("PR", 0)
    assert response.change_percent == -100
    assert any("non-target" in note for note in response.notes)


@pytest.mark.parametrize(("new", "said"), [(12.0, "12.0 mm"), (4.0, "4.0 mm")])
def test_a_new_lesion_is_progression_however_the_sum_changed(new, said):
    after = point(10.0, 10.0, new, places=[0.0, 100.0, 500.0])
    response = compare(point(*BASELINE), after, same_frame=True)
    assert (response.category, response.new, response.follow_up_sum) == ("PD", (2,), 20)
    (note,) = response.notes
    assert "lesion 3" in note
    assert said in note
    assert "without it, PR" in note


def test_a_new_lesion_after_all_others_vanished_is_progression():
    response = compare(point(*BASELINE), point(11.0, places=[500.0]), same_frame=True)
    assert (response.category, response.new, response.follow_up_sum) == ("PD", (0,), 0)
    assert any("truly share a frame" in note for note in response.notes)


def test_fragments_of_a_target_count_together_and_are_not_new():
    after = point(12.0, 10.0, places=[3.0, -14.0])
    response = compare(point(40.0), after, same_frame=True)
    assert (response.fragments, response.new, response.counted) == (((0, 1),), (), (0, 1))
    assert (response.follow_up_sum, response.category) == (22, "PR")
    assert "lesion 1 split, into lesion 2 too of the follow-up" in response.notes


def test_merged_targets_count_once():
    before = point(30.0, 20.0, places=[0.0, 26.0])
    response = compare(before, point(52.0, places=[10.0]), same_frame=True)
    assert (response.follow_up_sum, response.counted, response.category) == (52, (0,), "SD")
    assert any("merged" in note for note in response.notes)
    # Also where the lesion that they became is paired with one that is no target.
    before = point(30.0, 29.0, 28.0, places=[-9.0, 500.0, 15.0])
    response = compare(before, point(60.0, 29.0, places=[12.0, 500.0]), same_frame=True)
    assert (response.pairs, response.counted) == (((1, 1), (2, 0)), (0, 1))
    assert (response.follow_up_sum, response.category) == (89, "PD")


def test_a_new_lesion_beside_a_vanished_target_is_progression():
    response = compare(point(60.0), point(12.0, places=[38.0]), same_frame=True)
    assert (response.pairs, response.new, response.counted) == ((), (0,), ())
    assert (response.category, response.follow_up_sum) == ("PD", 0)


# More than one follow-up


def course_of(*points, same_frame=True) -> list[Response]:
    responses = []
    for after in points[1:]:
        match = match_lesions(bodies(points[0]), bodies(after)) if same_frame else None
        responses.append(rules.compare(points[0], after, match, responses))
    return responses


@pytest.mark.parametrize(
    ("sums", "categories"),
    [
        ((100, 60, 72), ["PR", "PD"]),  # +20 % and 12 mm over the smallest sum, −28 % in all
        ((100, 60, 71.9), ["PR", "SD"]),  # +19.8 % over it; −28.1 % in all
        ((100, 50, 65), ["PR", "PD"]),  # still −35 %: PD comes before PR
        ((100, 50, 59), ["PR", "PR"]),
        ((30, 12, 16.9), ["PR", "PR"]),  # +41 %, but less than 5 mm
        ((30, 12, 17), ["PR", "PD"]),
        ((50, 55, 61), ["SD", "PD"]),  # the baseline is the smallest
        ((50, 40, 45, 48), ["SD", "SD", "PD"]),  # over the first follow-up, not the last
    ],
)
def test_progression_is_over_the_smallest_sum_and_response_under_the_baseline(sums, categories):
    for same_frame in (True, False):
        found = course_of(*(point(float(size)) for size in sums), same_frame=same_frame)
        assert [response.category for response in found] == categories
        for number, response in enumerate(found, start=1):
            smallest = min(sums[:number])
            assert response.smallest_sum == smallest
            assert response.change_from_smallest_mm == pytest.approx(sums[number] - smallest)
            assert response.change_percent == pytest.approx(100 * (sums[number] / sums[0] - 1))


def test_a_lesion_after_a_complete_response_is_progression():
    for same_frame in (True, False):
        found = course_of(point(30.0), point(), point(3.0), same_frame=same_frame)
        assert [response.category for response in found] == ["CR", "PD"]
        assert any("after a complete response" in note for note in found[1].notes)
        assert found[1].change_from_smallest_percent is None
        # Of lesions that were never measurable, too.
        found = course_of(point(9.0), point(), point(3.0), same_frame=same_frame)
        assert [response.category for response in found] == ["CR", "PD"]


def test_a_target_that_comes_back_while_others_are_left_counts_in_the_sum():
    found = course_of(point(30.0, 20.0), point(20.0), point(20.0, 3.0))
    assert [(each.category, each.follow_up_sum) for each in found] == [("PR", 20), ("PR", 23)]


# Sums only


def test_without_a_shared_frame_the_largest_lesions_stand_for_the_targets():
    before, after = point(30.0, 20.0, 15.0), point(8.0, 25.0, 9.0, places=[900.0, 700.0, 500.0])
    response = compare(before, after, same_frame=False)
    assert (response.counted, response.follow_up_sum, response.category) == ((1, 2), 34, "PR")
    assert (response.pairs, response.new, response.fragments) == ((), (), ())
    assert any("new lesions cannot be told" in note for note in response.notes)
    one = compare(point(30.0), after, same_frame=False)  # as many as there were targets
    assert (one.counted, one.follow_up_sum) == ((1,), 25)
