import jax
import jax.numpy as jnp

from crlm_jax.system.profiling import Profiler


def traced_steps(folder) -> list[int]:
    (file,) = folder.glob("plugins/profile/*/*.xplane.pb")
    events = [
        event
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes
        for line in plane.lines
        for event in line.events
        if event.name == "train"
    ]
    return sorted({int(dict(event.stats)["step_num"]) for event in events})


def do(folder, steps: int, start: int, end: int) -> None:
    square = jax.jit(jnp.square)
    with Profiler(folder, steps, start) as profiler:
        for step in range(start + 1, end + 1):
            with profiler.step(step):
                square(2.0)


def test_the_third_step_and_those_after_it_are_traced(tmp_path):
    do(tmp_path, steps=2, start=5, end=12)
    assert traced_steps(tmp_path) == [8, 9]


def test_a_training_too_short_for_it_leaves_what_there_is(tmp_path):
    do(tmp_path, steps=10, start=0, end=4)
    assert traced_steps(tmp_path) == [3, 4]


def test_nothing_is_traced_unasked(tmp_path):
    do(tmp_path, steps=0, start=0, end=4)
    assert not any(tmp_path.iterdir())
