"""Which kernels take the time: out of made-up traces, and of a real one on this machine."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from cfg_jax.perf import profiler


def plane(name, **lines):
    return SimpleNamespace(
        name=name,
        lines=[
            SimpleNamespace(
                name=line.replace('_', ' '),
                events=[SimpleNamespace(name=n, duration_ns=t) for n, t in events],
            )
            for line, events in lines.items()
        ],
    )


def test_streams_of_a_gpu_count_and_nothing_else(monkeypatch):
    planes = [
        plane('/host:CPU', tf_XLAEigen=[('fusion', 1e9)]),
        plane(
            '/device:GPU:0',
            Stream_1=[('conv.1', 3e6), ('fusion_2', 1e6), ('conv.22', 1e6), ('Thunk:#1', 9e9)],
            XLA_Modules=[('jit_step', 7e9)],
        ),
    ]
    data = SimpleNamespace(from_file=lambda path: SimpleNamespace(planes=planes))
    monkeypatch.setattr(jax.profiler, 'ProfileData', data)
    rows = profiler.top_kernels(lambda: None, count=2)
    assert rows == [
        {'kernel': 'conv', 'milliseconds': 4.0, 'share': 0.8, 'calls': 2},
        {'kernel': 'fusion', 'milliseconds': 1.0, 'share': 0.2, 'calls': 1},
    ]


def test_a_real_trace():
    step = jax.jit(lambda x: jnp.sort(jnp.tanh(x @ x)))
    x = jnp.ones((300, 300))
    step(x)
    rows = profiler.top_kernels(lambda: jax.block_until_ready(step(x)))
    assert rows
    assert [row['share'] for row in rows] == sorted((row['share'] for row in rows), reverse=True)
    assert sum(row['share'] for row in rows) == pytest.approx(1.0)
