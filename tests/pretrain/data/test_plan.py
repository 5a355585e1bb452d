"""The plan is a function of the config: any step's samples follow from the stages before it."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumbre.config import load
from lumbre.errors import ConfigError
from pretrain.data.config import DataConfig
from pretrain.data.plan import Plan, Stage, StageConfig

FIRST = Stage(0, 0, 128, 16, 4, (3.0, 1.0))
CHANGES = st.lists(
    st.tuples(
        st.integers(1, 50),
        st.sampled_from([None, 64, 512]),
        st.sampled_from([None, 8, 32]),
        st.sampled_from([None, {"code": 1.0}, {"web": 1.0, "code": 2.0}]),
    ),
    max_size=5,
)


def plan_of(changes):
    step, stages = 0, []
    for after, length, batch, weights in changes:
        step += after
        stages.append(
            StageConfig(after_step=step, seq_length=length, global_batch_size=batch, weights=weights)
        )
    return Plan.of(FIRST, stages, ["web", "code"])


@settings(deadline=None, max_examples=80)
@given(CHANGES)
def test_steps_follow_each_other_without_gap_and_samples_know_their_stage(changes):
    plan = plan_of(changes)
    sample = 0
    for step in range(plan.stages[-1].after_step + 3):
        taken = plan.step(step)
        assert taken.first == sample
        stage = plan.stage_of_step(step)
        assert taken.global_batch_size == stage.global_batch_size
        for k in (sample, sample + taken.global_batch_size - 1):
            assert plan.stages[plan.number_of(k)] is stage
        sample += taken.global_batch_size


def test_what_a_stage_does_not_state_stays_as_it_was():
    plan = plan_of([(5, 512, None, None), (5, None, 32, {"code": 1.0}), (5, None, None, None)])
    lengths = [stage.seq_length for stage in plan.stages]
    assert lengths == [128, 512, 512, 512]
    assert [stage.global_batch_size for stage in plan.stages] == [16, 16, 32, 32]
    assert [stage.weights for stage in plan.stages] == [(3.0, 1.0)] * 2 + [(0.0, 1.0)] * 2


def test_a_step_in_a_trillion_is_found_at_once():
    plan = plan_of([(10**6, None, 32, None), (10**9, 64, None, None)])
    assert plan.step(10**12).first == 16 * 10**6 + 32 * (10**12 - 10**6)


def test_only_begun_stages_bind_a_checkpoint():
    plan = plan_of([(10, 512, None, None), (10, 64, None, None)])
    assert [len(plan.begun(steps)) for steps in (0, 1, 10, 11, 20, 21)] == [1, 1, 1, 2, 2, 3]


FAULTS = [
    ("mixture: {web: {sources: [{type: stdlib}], weight: 0}}", "mixture.web.weight: .*greater than 0"),
    ("mixture: {web: {sources: [{type: stdlib}], weight: -1}}", "mixture.web.weight: .*greater than 0"),
    ("mixture: {web: {sources: [{type: stdlib}], weight: .inf}}", "mixture.web.weight"),
    ("mixture: {web: {sources: [{type: stdlib}]}}", "mixture: no set has a weight"),
    (
        "mixture: {a: {sources: [{type: stdlib}], weight: 1}, b: {sources: [{type: stdlib}]}}",
        "mixture.b.weight: has no weight, and no stage names it",
    ),
    (
        "{sources: [{type: stdlib}], mixture: {a: {sources: [{type: stdlib}], weight: 1}}}",
        "sources: with a mixture, each set has its own; move it to mixture.NAME.sources",
    ),
    ("mixture: {a/b: {sources: [{type: stdlib}], weight: 1}}", "mixture: 'a/b' cannot be a set's name"),
    ("mixture: {a: {sources: [], weight: 1}}", "mixture.a.sources: there is no source"),
    (
        "{sources: [{type: stdlib}], stages: [{after_step: 5, weights: {b: 1}}]}",
        "stages.0.weights.b: no set of the mixture; there is no mixture",
    ),
    (
        "{sources: [{type: stdlib}], stages: [{after_step: 5}, {after_step: 5}]}",
        "stages.1.after_step: 5 does not come after 5",
    ),
    (
        "{mixture: {a: {sources: [{type: stdlib}], weight: 1}}, stages: [{after_step: 5, weights: {}}]}",
        "stages.0.weights: no set takes part",
    ),
    (
        "{mixture: {a: {sources: [{type: stdlib}], weight: 1}}, stages: [{after_step: 5, weights: {a: 0}}]}",
        "stages.0.weights.a: .*greater than 0",
    ),
]


@pytest.mark.parametrize(("text", "message"), FAULTS)
def test_a_mixture_or_stage_that_cannot_be_is_explained_before_anything_is_read(tmp_path, text, message):
    file = tmp_path / "data.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        load(DataConfig, file)
    assert any(re.search(message, str(problem)) for problem in error.value.problems), error.value.problems
