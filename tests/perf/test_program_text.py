"""XLA's text, read: small programs whose bytes, counts and loops are counted by hand."""

import re

import pytest

from cfg_jax.perf import program_text, traffic

GPU = """\
HloModule step, is_scheduled=true

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add.1 = f32[] add(%a, %b)
}

%slicing (p: f32[1000]) -> f32[8] {
  %p = f32[1000]{0} parameter(0)
  ROOT %s = f32[8]{0} slice(%p), slice={[0:8]}
}

%scaling (q: bf16[4,8], r: bf16[8]) -> bf16[4,8] {
  %q = bf16[4,8]{1,0} parameter(0)
  %r = bf16[8]{0} parameter(1)
  %spread = bf16[4,8]{1,0} broadcast(%r), dimensions={1}
  ROOT %m = bf16[4,8]{1,0} multiply(%q, %spread)
}

%placing (big: f32[100,8], one: f32[1,8], i: s32[]) -> f32[100,8] {
  %big = f32[100,8]{1,0} parameter(0)
  %one = f32[1,8]{1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %d = f32[100,8]{1,0} dynamic-update-slice(%big, %one, %i, %i)
}

%body (state: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %state = (s32[], bf16[4,8]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%state), index=0
  %h = bf16[4,8]{1,0} get-tuple-element(%state), index=1
  %w = bf16[8]{0} constant({...})
  %scaled = bf16[4,8]{1,0} fusion(%h, %w), kind=kLoop, calls=%scaling
  ROOT %next = (s32[], bf16[4,8]{1,0}) tuple(%n, %scaled)
}

%condition (state.1: (s32[], bf16[4,8])) -> pred[] {
  %state.1 = (s32[], bf16[4,8]{1,0}) parameter(0)
  %n.1 = s32[] get-tuple-element(%state.1), index=0
  %limit = s32[] constant(5)
  ROOT %less = pred[] compare(%n.1, %limit), direction=LT
}

ENTRY %main (x: f32[1000], z: bf16[4,8], g: f32[100,8], j: s32[]) -> f32[8] {
  %x = f32[1000]{0} parameter(0)
  %z = bf16[4,8]{1,0} parameter(1)
  %g = f32[100,8]{1,0} parameter(2)
  %j = s32[] parameter(3)
  %zero = s32[] constant(0)
  %conv = (bf16[4,8], u8[9999]) custom-call(%z, %x), custom_call_target="__cudnn$convForward"
  %fmha = (bf16[4,8]{1,0}, u8[0]{0}) custom-call(%z), custom_call_target="__cudnn$fmhaSoftmax"
  %reduced = f32[1000]{0} all-reduce-start(%x), replica_groups={{0,1}}, to_apply=%sum
  %start = (s32[], bf16[4,8]{1,0}) tuple(%zero, %z)
  %loop = (s32[], bf16[4,8]{1,0}) while(%start), condition=%condition, body=%body%TRIPS%
  %row = f32[1,8]{1,0} copy(%g)
  %placed = f32[100,8]{1,0} fusion(%g, %row, %j), kind=kLoop, calls=%placing
  %done = f32[1000]{0} all-reduce-done(%reduced)
  ROOT %few = f32[8]{0} fusion(%done), kind=kLoop, calls=%slicing
}
"""
TRIPS = ', backend_config={"known_trip_count":{"n":"3"}}'

VIEWS = """\
HloModule views

%converting (u: bf16[100,8]) -> f32[8] {
  %u = bf16[100,8]{1,0} parameter(0)
  %view = bf16[10,10,8]{2,1,0} bitcast(%u)
  %wide = f32[10,10,8]{2,1,0} convert(%view)
  ROOT %cut = f32[1,1,8]{2,1,0} slice(%wide), slice={[0:1], [0:1], [0:8]}
}

%widening (t: bf16[4,8]) -> f32[4,8] {
  %t = bf16[4,8]{1,0} parameter(0)
  ROOT %wider = f32[4,8]{1,0} convert(%t)
}

ENTRY %main (x: bf16[100,8], y: bf16[4,8]) -> (f32[8], f32[4,8]) {
  %x = bf16[100,8]{1,0} parameter(0)
  %y = bf16[4,8]{1,0} parameter(1)
  %few = f32[1,1,8]{2,1,0} fusion(%x), kind=kLoop, calls=%converting
  %all = f32[4,8]{1,0} fusion(%y), kind=kLoop, calls=%widening
  ROOT %both = (f32[1,1,8]{2,1,0}, f32[4,8]{1,0}) tuple(%few, %all)
}
"""

TPU = """\
HloModule step

%fused (p: bf16[16,128], k: bf16[128,128]) -> bf16[16,128] {
  %p = bf16[16,128]{1,0:T(8,128)(2,1)} parameter(0)
  %k = bf16[128,128]{1,0:T(8,128)(2,1)} parameter(1)
  ROOT %c = bf16[16,128]{1,0:T(8,128)(2,1)} convolution(%p, %k), dim_labels=bf_io->bf
}

%windows (p.1: f32[1,4,4,8], k.1: f32[3,3,8,8]) -> f32[1,4,4,8] {
  %p.1 = f32[1,4,4,8]{3,2,1,0} parameter(0)
  %k.1 = f32[3,3,8,8]{3,2,1,0} parameter(1)
  ROOT %c.1 = f32[1,4,4,8]{3,2,1,0} convolution(%p.1, %k.1), dim_labels=b01f_01io->b01f
}

ENTRY %main (x: bf16[16,128], w: bf16[128,128], y: f32[1,4,4,8], v: f32[3,3,8,8]) -> bf16[16,128] {
  %x = bf16[16,128]{1,0:T(8,128)(2,1)} parameter(0)
  %w = bf16[128,128]{1,0:T(8,128)(2,1)S(1)} parameter(1)
  %y = f32[1,4,4,8]{3,2,1,0:T(8,128)} parameter(2)
  %v = f32[3,3,8,8]{3,2,1,0} parameter(3)
  %f.1 = f32[1,4,4,8]{3,2,1,0:S(3)} fusion(%y, %v), calls=%windows, %CYCLES 70%
  ROOT %f = bf16[16,128]{1,0:T(8,128)(2,1)} fusion(%x, %w), calls=%fused, %CYCLES 1026%
}
"""
CYCLES = r'backend_config={"window_config":{"estimated_cycles":"\1"}}'

FETCHED = """\
ENTRY %main (x: f32[8,128]) -> f32[2,128] {
  %x = f32[8,128]{1,0:T(8,128)} parameter(0)
  %s = ((f32[8,128]{1,0:T(8,128)}), f32[2,128]{1,0:T(2,128)S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[0:2], [0:128]}
  %here = f32[2,128]{1,0:T(2,128)S(1)} slice-done(%s)
  %t = ((f32[8,128]{1,0:T(8,128)}), f32[4,128]{1,0:T(4,128)}, s32[]{:S(2)}) slice-start(%x), slice={[0:4], [0:128]}
  %there = f32[4,128]{1,0:T(4,128)} slice-done(%t)
  %room = f32[64,128]{1,0:T(8,128)} custom-call(), custom_call_target="AllocateBuffer"
  ROOT %both = f32[6,128]{1,0:T(8,128)S(1)} custom-call(%here, %there), custom_call_target="ConcatBitcast"
}
"""  # noqa: E501


def measured(trips=TRIPS):
    return traffic.measure(program_text.parse(GPU.replace('%TRIPS%', trips)))


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('f32[]', 4),
        ('bf16[16,128]{1,0:T(8,128)(2,1)}', 16 * 128 * 2),
        ('pred[32]{0:T(512)(128)(4,1)}', 32),
        ('s4[8]{0}', 4),
        ('f8e4m3fn[8]{0}', 8),
        ('f32[8]{0:T(128)S(3)}', 0),
        ('(f32[2]{0:T(128)}, /*index=1*/u32[3]{0:S(0)}, f32[9]{0:S(1)})', 8 + 12),
        ('token[]', 0),
    ],
)
def test_bytes_of_a_type(text, expected):
    assert program_text.array_bytes(text) == expected


def test_bytes_by_kind():
    """z and what is like it have 64 bytes, x 4000, g 3200, a row 32; scratch memory counts nothing.

    Of g a row is written, of x eight numbers are read.
    """
    assert measured().bytes == {
        'convolution': 64 + 4000 + 64,
        'attention': 64 + 64,
        'collective': 4000 + 4000,
        'elementwise': 3 * (64 + 16 + 64),
        'copy': (3200 + 32) + (32 + 4 + 32) + (32 + 32),
    }


def test_slices_that_a_tpu_fetches_ahead():
    """Two rows of 512 bytes are read into the chip, four read and written; names move nothing."""
    found = traffic.measure(program_text.parse(FETCHED)).bytes
    assert found == {'copy': 2 * 512 + 2 * 4 * 512, 'other library': 0}


def test_slices_of_a_view():
    """Eight numbers of 16 bits are read and eight of 32 written; of y all are read."""
    found = traffic.measure(program_text.parse(VIEWS)).bytes
    assert sum(found.values()) == (8 * 2 + 8 * 4) + (32 * 2 + 32 * 4)


def test_collectives_and_libraries():
    found = measured()
    assert found.collectives == {'all-reduce': {'count': 1, 'bytes': 4000}}
    assert found.kernels == {'__cudnn$convForward': 1, '__cudnn$fmhaSoftmax': 1}
    assert found.cycles == 0


def test_loops():
    """As the compiler says how long they are, or else to the constant in their condition."""
    assert measured().calls['elementwise'] == 3
    assert measured('').calls['elementwise'] == 5


def test_on_chip_memory_products_and_cycles():
    found = traffic.measure(program_text.parse(re.sub(r'%CYCLES (\d+)%', CYCLES, TPU)))
    assert found.bytes == {
        'matrix product': 2 * 16 * 128 * 2,  # w lies on the chip
        'convolution': 4 * (16 * 8 + 9 * 64),  # and so does the result
    }
    assert found.cycles == 1096


def test_a_ring_of_collectives():
    """Each of n chips sends 2 (n - 1) / n of what is summed."""
    assert traffic.collective_seconds(measured(), 8, 1000.0) == pytest.approx(4 * 2 * 7 / 8)
    assert traffic.collective_seconds(measured(), 1, 1000.0) == 0.0


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('jit(_fun)/shard_map/while/body/closed_call/jvp(UNet)/UNet.encode/conv_in/add', 'conv_in'),
        ('jit(f)/vmap(UNet)/UNet.block/UNet._res/up_0_12/norm_in/reduce_sum', 'norm_in'),
        ('jit(f)/transpose(jvp(UNet))/UNet._res/up_1_0/norm_in/jvp(UNet)/up_1_0/norm_in/mul', 0),
        ('jit(f)/jvp(UNet)/UNet.block/UNet._res/down_1_resample/add', 'down_resample'),
        ('jit(_fun)/shard_map/jit(_where)/select_n', None),
        ('', 'unnamed'),
    ],
)
def test_where_an_instruction_comes_from(name, expected):
    """0: the same in reverse."""
    metadata = f', metadata={{op_name="{name}" id=3}}' if name else ''
    text = (
        f'ENTRY %m (p: f32[2]) -> f32[2] {{\n  ROOT %r = f32[2]{{0}} exponential(%p){metadata}\n}}'
    )
    found = traffic.measure(program_text.parse(text)).scopes
    scope = 'backward norm_in' if expected == 0 else f'forward {expected}'
    scope = {None: 'outside the network', 'unnamed': 'without a name'}.get(expected, scope)
    assert found == {scope: 8}


def test_what_is_no_program():
    with pytest.raises(ValueError, match='ENTRY'):
        program_text.parse('HloModule nothing\n')
