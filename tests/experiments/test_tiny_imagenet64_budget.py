"""The minutes that the real-images experiment may train for."""

import time

from support import experiment, logged, make_tiny_config, user_error


def test_minutes_are_of_training_alone(tmp_path, toy_networks):
    """Hours of measuring between two trainings take nothing of the second's."""
    budget_lib = experiment('tiny_imagenet64_parts.budget')
    budget = budget_lib.Budget(1)
    before = budget.seconds_left()
    time.sleep(0.02)
    assert budget.seconds_left() == before == 60.0
    assert budget_lib.train(make_tiny_config(train__steps=2), tmp_path / 'run', budget)
    spent = 60.0 - budget.seconds_left()
    assert spent > 0.0
    time.sleep(0.02)
    assert 60.0 - budget.seconds_left() == spent


def test_training_stops_when_the_minutes_are_spent_and_goes_on(tmp_path, toy_networks):
    budget_lib = experiment('tiny_imagenet64_parts.budget')
    config = make_tiny_config(train__steps=100_000, train__checkpoint_every=100_000)
    start = time.monotonic()
    budget = budget_lib.Budget(3 / 60)
    with logged() as lines:
        assert not budget_lib.train(config, tmp_path / 'run', budget)
    assert 2 < time.monotonic() - start < 60
    assert 'the minutes are spent' in lines[-1]
    (step,) = (int(path.name) for path in (tmp_path / 'run' / 'checkpoints').iterdir())
    assert f'step {step}' in lines[-1]
    config.train.steps = step + 3
    with logged() as lines:
        assert budget_lib.train(config, tmp_path / 'run', budget_lib.Budget(5))
    assert any(f'resuming from step {step}' in line for line in lines)
    config.train.steps = step + 4
    with logged() as lines:
        assert not budget_lib.train(config, tmp_path / 'run', budget_lib.Budget(0))
    assert 'no minutes left' in lines[-1]


def test_what_is_trained_needs_no_minutes(tmp_path, toy_networks):
    budget_lib = experiment('tiny_imagenet64_parts.budget')
    config, spent = make_tiny_config(train__steps=2), budget_lib.Budget(0)
    assert not budget_lib.train(config, tmp_path / 'run', spent)
    assert budget_lib.train(config, tmp_path / 'run', budget_lib.Budget(5))
    assert budget_lib.train(config, tmp_path / 'run', spent)
    other = make_tiny_config(train__steps=2, p_uncond=0.5)
    assert 'p_uncond' in user_error(budget_lib.train, other, tmp_path / 'run', spent)
